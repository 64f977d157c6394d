"""python -m gcrl.train: collect, relabel, learn, evaluate, save; and go on exactly where a run was cut off."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gcrl import checkpoint, machine, policy, run
from gcrl.cli import guarded, stop_signals
from gcrl.compiled import Compiled
from gcrl.evaluate import Evaluator, Result, every, lanes_for
from gcrl.progress import Progress
from gcrl.run import RunError
from gcrl.settings import Plan, Settings, command_line, to_json
from gcrl.training import Training
from tasks import InputError, SimulatorError


class Stopped(Exception):
    """A signal asked the run to stop; it has been saved."""


def train(settings: Settings[Any], resume: Path | str | None = None) -> Path:
    """Train as `settings` say, in a new run folder or on in `resume`; the folder.

    Raises InputError where nothing has begun, RunError where the run can not go on, Stopped.
    """
    plan, resume = Plan.of(settings), None if resume is None else Path(resume)
    scenes = list(dict.fromkeys(task.scene for task in plan.tasks))
    if plan.settings.share == "family" and len(scenes) > 1:
        print(
            f"gcrl: --share family: the dynamics of {', '.join(scenes)} differ, and so may the truth", file=sys.stderr
        )
    machine.prepare(plan.settings.threads, plan.settings.precision, plan.device.type)
    training = prepared(plan, resume)
    name = f"{plan.name}-{plan.settings.agent}".replace(":", "-").replace("/", "-")
    folder = resume or run.create(plan.settings.runs, name, to_json(plan.settings))
    again = f"go on with: gcrl train --resume {shlex.quote(str(folder))}"
    if isinstance(training.agent.update, Compiled):
        print("gcrl: the first update is compiled, which may take a minute", file=sys.stderr)
    with run.claimed(folder):
        before, kept = run.config_of(folder), set(checkpoint.folders(folder))
        try:
            seconds = 0.0 if resume is None else go_on(training, folder)
            kept = set(checkpoint.folders(folder))
            with machine.enough_memory():
                whole = learn(training, folder, seconds)
            if whole:
                return folder
        except (InputError, RunError) as error:  # bad settings, as only the updates find out
            saved = set(checkpoint.folders(folder)) - kept
            if resume is not None and not saved:
                run.restore_config(folder, before)
            if resume is None and isinstance(error, InputError) and not (saved and training.updates):
                shutil.rmtree(folder, ignore_errors=True)  # nothing has been learned
            raise
        except SimulatorError as error:
            raise RunError(f"{error}; once that is mended {again}") from error
        except OSError as error:
            raise RunError(f"cannot write to {folder} ({error.strerror or error}); once it can be, {again}") from error
    raise Stopped(f"saved at {training.steps} steps; {again}")


def prepared(plan: Plan, resume: Path | None = None) -> Training:
    """A run at its first step, with the agent that it starts from. Raises InputError."""
    init = plan.settings.init
    if resume is not None and (init is None or checkpoint.folders(resume)):  # it is brought to its own agent later
        return begin(plan, policy.vectors(plan, resume))
    training = begin(plan, None if init is None else policy.vectors(plan, Path(init)))
    if init is not None:
        policy.start_from(training.agent, Path(init), plan)
    return training


def begin(plan: Plan, vectors: Tensor | None = None) -> Training:
    """A run at its first step. Raises InputError if its simulator or this machine cannot carry it.

    vectors (K, D): of its sentences, where they are known already.
    """
    try:
        with machine.enough_memory():
            return Training(plan, vectors)
    except SimulatorError as error:
        raise InputError(str(error)) from error


def go_on(training: Training, folder: Path) -> float:
    """Bring a run to its newest checkpoint; the seconds trained so far."""
    saved = checkpoint.load(folder)
    if saved is None:
        print(f"gcrl: {folder} has no checkpoint, so it begins anew", file=sys.stderr)
    if saved is not None and saved.step >= training.plan.steps:
        raise InputError(f"{folder} is complete at {saved.step} steps: give --steps more than that to go on")
    seconds = 0.0 if saved is None else training.restore(saved, folder)
    checkpoint.cut(folder, training.steps)
    run.write_config(folder, to_json(training.plan.settings))
    return seconds


def learn(training: Training, folder: Path, seconds: float) -> bool:
    """Train to the end, or to a signal and a checkpoint: is this the end?"""
    plan = training.plan
    settings = plan.settings
    with stop_signals() as stop, Progress(folder, plan, training.steps, seconds) as progress:
        lanes = lanes_for(len(plan.tasks), settings.eval_episodes)
        evaluators = [Evaluator(task, lanes, k=k) for k, task in enumerate(plan.tasks) if settings.eval_episodes]
        while True:
            before = training.steps
            training.step()
            progress.advance(training.steps)
            last = training.steps >= plan.steps
            if _crossed(before, training.steps, settings.log_every) or last:
                progress.log(training.row())
            if evaluators and (_crossed(before, training.steps, plan.eval_every) or last):
                with progress.untimed():
                    progress.evaluated(training.steps, evaluate(evaluators, training), training.source.flow)
            stopped = bool(stop)  # asked once: a signal may come at any moment
            if stopped or last or (progress.save_due() and _crossed(before, training.steps, settings.log_every)):
                if not all(bool(p.isfinite().all()) for p in training.agent.parameters()):
                    raise RunError("the agent has diverged, a weight of it is not finite: train anew with a lower --lr")
                training.save(folder, progress.saved())
            if stopped or last:
                return last


def evaluate(evaluators: Sequence[Evaluator], training: Training) -> dict[str, Result]:
    """The policy as it stands, task by task."""
    episodes, device = training.plan.settings.eval_episodes, training.plan.device
    return every(evaluators, training.agent, episodes, device=device)


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def main(args: Sequence[str]) -> int:
    settings, resume = command_line(args)
    try:
        folder = train(settings, resume)
    except Stopped as stop:
        print(f"gcrl: {stop}", file=sys.stderr)
        return 130
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
