"""Agents from settings, and trained ones out of run folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor

from gcrl import checkpoint, run
from gcrl.agents import AGENTS, Agent
from gcrl.agents.agent import load_optimizer_state
from gcrl.checkpoint import Checkpoint
from gcrl.encoder import Spec
from gcrl.settings import Plan, from_json
from tasks import InputError

VECTORS = "encode.vectors"
"""The name under which an agent's state holds its tasks' sentence vectors."""


def make(plan: Plan, vectors: Tensor | None = None) -> Agent:
    """A new agent for the tasks of this plan, on its device; `vectors` (K, D) spares the sentence encoder."""
    if "language" in plan.task_id and vectors is None:
        from gcrl.language import encode

        vectors = encode([task.description for task in plan.tasks], plan.settings.language_model)
    spec = Spec.of(plan.tasks, plan.gamma, plan.task_id, vectors, plan.settings.reward_scale, plan.places)
    return AGENTS[plan.settings.agent](spec, plan.settings.algorithm).to(plan.device)


def vectors(plan: Plan, folder: Path) -> Tensor | None:
    """The sentence vectors (K, D) that a run has learned with, if it has any and has come to a checkpoint."""
    saved = checkpoint.load(folder) if "language" in plan.task_id else None
    return None if saved is None else saved.tensors.get("agent", {}).get(VECTORS)


def instruct(agent: Agent, plan: Plan, sentence: str) -> None:
    """Tell the policy this sentence, whatever the task. Raises InputError if it was not trained with language."""
    if "language" not in plan.task_id:
        raise InputError(
            f"--instruction: the policy tells its tasks apart by {plan.task_id}, train with --task-id language"
        )
    if not sentence.strip():
        raise InputError("--instruction: give a sentence")
    from gcrl.language import encode

    agent.encode.vectors[:] = encode([sentence], plan.settings.language_model).to(plan.device)


def restore(agent: Agent, saved: Checkpoint, folder: Path, plan: Plan) -> None:
    """The weights of a checkpoint into an agent. Raises InputError if they are another task's or agent's."""
    for what, mine in (("task", [task.name for task in plan.tasks]), ("agent", plan.settings.agent)):
        if saved.state.get(what) != mine:
            raise InputError(
                f"the checkpoint in {folder} is of {what} {saved.state.get(what)} but its config.json says {mine}: "
                f"put the right folder back, or train anew"
            )
    try:
        agent.load_state_dict(dict(saved.tensors["agent"]))
    except (RuntimeError, KeyError):
        raise InputError(
            f"the checkpoint in {folder} does not fit its config.json: undo what was changed there, or train anew"
        ) from None


def start_from(agent: Agent, folder: Path, plan: Plan) -> None:
    """Weights and optimizers of another run's newest checkpoint, for a run of its own. Raises InputError."""
    run.config_of(folder)
    saved = checkpoint.load(folder)
    if saved is None:
        raise InputError(f"--init {folder}: it has no checkpoint yet")
    for what, mine in (("task", [task.name for task in plan.tasks]), ("agent", plan.settings.agent)):
        if saved.state.get(what) != mine:
            raise InputError(f"--init {folder}: it has --{what} {saved.state.get(what)}, not {mine}: give the same")
    try:
        restore(agent, saved, folder, plan)
    except InputError:
        raise InputError(f"--init {folder}: its networks are others: give the flags in its config.json") from None
    load_optimizer_state(agent, saved.tensors["optimizers"])
    agent.begin()


def load(folder: Path | str, device: str = "auto", at: Path | None = None) -> tuple[Agent, Plan, int]:
    """A run's newest whole policy, or that of its checkpoint `at`; its plan, its steps. Raises InputError."""
    folder = Path(folder)
    plan = Plan.of(dataclasses.replace(from_json(run.config_of(folder), folder), device=device))
    saved = checkpoint.load(folder) if at is None else checkpoint.read(at)
    if saved is None:
        raise InputError(f"{folder} has no checkpoint yet: let it train on with `gcrl train --resume {folder}`")
    agent = make(plan, saved.tensors.get("agent", {}).get(VECTORS))
    restore(agent, saved, folder, plan)
    return agent, plan, saved.step
