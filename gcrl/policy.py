"""Agents from settings, and trained ones out of run folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from gcrl import checkpoint, run
from gcrl.agents import AGENTS, Agent
from gcrl.checkpoint import Checkpoint
from gcrl.nets import Spec
from gcrl.settings import Plan, from_json
from tasks import InputError


def make(plan: Plan) -> Agent:
    """A new agent for the task of this plan, on its device."""
    kind = AGENTS[plan.settings.agent]
    return kind(Spec.of([plan.task], plan.gamma), plan.settings.algorithm).to(plan.device)


def restore(agent: Agent, saved: Checkpoint, folder: Path, plan: Plan) -> None:
    """The weights of a checkpoint into an agent. Raises InputError if they are another task's or agent's."""
    for what, mine in (("task", plan.task.name), ("agent", plan.settings.agent)):
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


def load(folder: Path, device: str = "auto") -> tuple[Agent, Plan, int]:
    """The newest whole policy of a run, its plan, and the steps that it was trained for. Raises InputError."""
    plan = Plan.of(dataclasses.replace(from_json(run.config_of(folder), folder), device=device))
    saved = checkpoint.load(folder)
    if saved is None:
        raise InputError(f"{folder} has no checkpoint yet: let it train on with `gcrl train --resume {folder}`")
    agent = make(plan)
    restore(agent, saved, folder, plan)
    return agent, plan, saved.step
