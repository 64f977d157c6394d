"""python -m gcrl.train: collect, relabel, learn, evaluate, save; and go on exactly where a run was cut off."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gcrl import checkpoint, machine, policy, run
from gcrl.agents.agent import load_optimizer_state, optimizer_state
from gcrl.at_once import aside, cores
from gcrl.checkpoint import Checkpoint
from gcrl.cli import guarded
from gcrl.collect import Collector
from gcrl.evaluate import Evaluator, Result, every, lanes_for
from gcrl.progress import Progress
from gcrl.run import RunError
from gcrl.settings import Plan, Settings, command_line, to_json
from relabel import goals, share
from relabel.replay import Replay
from relabel.store import slots_for
from tasks import Episode, InputError, SimulatorError

T = TypeVar("T")
RECENT = 20  # training episodes over which success is averaged


class Stopped(Exception):
    """A signal asked the run to stop; it has been saved."""


class Training:
    """One run in memory. `step()` takes it forward, `save()` writes all of it, `restore()` brings all of it back."""

    def __init__(self, plan: Plan, vectors: Tensor | None = None) -> None:
        s = plan.settings
        torch.manual_seed(s.seed)
        self.plan = plan
        self.rng = np.random.default_rng(s.seed)
        self.agent = policy.make(plan, vectors)
        if s.compile:
            self.agent.compile_losses()
        self.replay = Replay(
            plan.tasks,
            max(slots_for(s.replay // len(plan.tasks), task) for task in plan.tasks),
            goals.parse(s.relabel, plan.gamma),
            plan.gamma,
            plan.n_step,
            plan.device,
            share.parse(s.share),
            s.balance,
            s.reward_scale,
            s.reflect,
            s.moved,
        )
        spare = cores() - s.threads
        self.collector = Collector(plan.tasks, s.lanes, s.seed, s.explore == "relay", max(1, spare))
        self.begun = aside if spare > 0 else _later  # a step of the lanes, begun beside the updates or after them
        self.steps = self.updates = self.episodes = 0
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self.metrics: dict[str, Tensor] = {}

    def step(self) -> None:
        """One step in every lane and the updates that are due for it, side by side if there is a core to spare.

        The updates do not see the episodes that end with the step, so that it is the same run wherever it runs.
        """
        s = self.plan.settings
        if self.steps < s.warmup * len(self.plan.tasks):
            actions = self.rng.uniform(-1, 1, (s.lanes, self.plan.tasks[0].action_dim)).astype(np.float32)
        else:
            actions = self.agent.act(self.collector.state(self.plan.device), explore=True)[0].cpu().numpy()
        episodes = self.begun(partial(self.collector.step, actions))
        before, self.steps = self.steps, self.steps + s.lanes
        if len(self.replay):
            for _ in range(int(self.steps * s.utd) - int(before * s.utd)):
                self.metrics |= self.agent.update(self.agent.draw(self.replay, self.rng))
                self.updates += 1
        for k, episode in episodes():
            self.keep(k, episode)

    def keep(self, k: int, episode: Episode) -> None:
        """Take a finished episode of task k into the replay and the normaliser."""
        task = self.plan.tasks[k]
        self.replay.add(k, episode)
        achieved = task.goal_of(episode.observation)
        seen = np.concatenate((achieved, episode.desired))
        device = self.plan.device
        self.agent.encode.observe(
            torch.from_numpy(episode.observation).to(device), torch.from_numpy(seen).to(device), k
        )
        success = float(task.success(achieved[-1], episode.desired[-1])) if task.reward else float("nan")
        self.recent.append((success, float(episode.reward.sum())))
        self.episodes += 1
        self.weigh()

    def weigh(self) -> None:
        """Rows of a batch go where effort goes."""
        if self.collector.relay is not None:
            self.replay.pool.weight[:] = self.collector.relay.effort()

    def row(self) -> dict[str, object]:
        """A row of progress.csv."""
        success, score = np.mean(self.recent, 0) if self.recent else (float("nan"),) * 2
        counts: dict[str, object] = {"step": self.steps, "episodes": self.episodes, "updates": self.updates}
        means = {"success": float(success), "return": float(score)}
        return counts | means | {name: float(x) for name, x in self.metrics.items()}

    def save(self, folder: Path, seconds: float) -> None:
        """A checkpoint of everything. Changes nothing that training draws from."""
        tensors: dict[str, dict[str, Tensor]] = {
            "agent": dict(self.agent.state_dict()),
            "optimizers": optimizer_state(self.agent),
            "random": checkpoint.random_state(),
            "lanes": {k: torch.from_numpy(x) for k, x in self.collector.snapshot().items()},
        }
        for group, arrays in self.replay.state().items():
            tensors[group] = {name: torch.from_numpy(x) for name, x in arrays.items()}
        state = {
            "task": [task.name for task in self.plan.tasks],
            "agent": self.plan.settings.agent,
            "counts": [self.steps, self.updates, self.episodes],
            "recent": list(self.recent),
            "metrics": {name: float(x) for name, x in self.metrics.items()},
            "rng": self.rng.bit_generator.state,
            "seconds": seconds,
        }
        checkpoint.save(folder, Checkpoint(self.steps, tensors, state))

    def restore(self, saved: Checkpoint, where: Path) -> float:
        """Bring back what `save` wrote; the seconds trained so far. Raises InputError if it belongs to another run."""
        policy.restore(self.agent, saved, where, self.plan)
        try:
            return self._restore(saved.state, saved.tensors)
        except (InputError, SimulatorError, RunError):
            raise
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the checkpoint in {where} does not fit its config.json ({error}): train anew") from error

    def _restore(self, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> float:
        load_optimizer_state(self.agent, tensors["optimizers"])
        self.replay.load({group: {name: x.numpy() for name, x in g.items()} for group, g in tensors.items()})
        if not self.collector.restore({k: x.numpy() for k, x in tensors["lanes"].items()}):
            print("gcrl: this simulator does not replay exactly; the run goes on, but not to the bit", file=sys.stderr)
        self.weigh()
        self.steps, self.updates, self.episodes = state["counts"]
        self.recent = deque(map(tuple, state["recent"]), maxlen=RECENT)
        self.metrics = {name: torch.tensor(x) for name, x in state["metrics"].items()}
        self.rng.bit_generator.state = state["rng"]
        checkpoint.set_random_state(tensors["random"])
        return float(state["seconds"])


def train(settings: Settings[Any], resume: Path | None = None) -> Path:
    """Train as `settings` say, in a new run folder or on in `resume`; the folder.

    Raises InputError where nothing has begun, RunError where the run can not go on, Stopped.
    """
    plan = Plan.of(settings)
    scenes = list(dict.fromkeys(task.scene for task in plan.tasks))
    if plan.settings.share == "family" and len(scenes) > 1:
        print(
            f"gcrl: --share family: the dynamics of {', '.join(scenes)} differ, and so may the truth", file=sys.stderr
        )
    machine.prepare(plan.settings.threads)
    training = begin(plan, None if resume is None else policy.vectors(plan, resume))
    name = f"{plan.name}-{plan.settings.agent}".replace(":", "-").replace("/", "-")
    folder = resume or run.create(settings.runs, name, to_json(plan.settings))
    again = f"go on with: gcrl train --resume {shlex.quote(str(folder))}"
    with run.claimed(folder):
        try:
            seconds = 0.0 if resume is None else go_on(training, folder)
            if learn(training, folder, seconds):
                return folder
        except SimulatorError as error:
            raise RunError(f"{error}; once that is mended {again}") from error
        except OSError as error:
            raise RunError(f"cannot write to {folder} ({error.strerror or error}); once it can be, {again}") from error
    raise Stopped(f"saved at {training.steps} steps; {again}")


def begin(plan: Plan, vectors: Tensor | None = None) -> Training:
    """A run at its first step. Raises InputError if its simulator or this machine cannot carry it.

    vectors (K, D): of its sentences, where they are known already.
    """
    try:
        return Training(plan, vectors)
    except SimulatorError as error:
        raise InputError(str(error)) from error
    except (MemoryError, RuntimeError) as error:  # torch says it with a RuntimeError
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        raise InputError("too large for the memory: give less with --replay, --hidden, --critics or --lanes") from error


def go_on(training: Training, folder: Path) -> float:
    """Bring a run to its newest checkpoint; the seconds trained so far."""
    saved = checkpoint.load(folder)
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
                    progress.evaluated(training.steps, evaluate(evaluators, training), training.replay.flow)
            stopped = bool(stop)  # asked once: a signal may come at any moment
            if stopped or last or (progress.save_due() and _crossed(before, training.steps, settings.log_every)):
                training.save(folder, progress.saved())
            if stopped or last:
                return last


def evaluate(evaluators: Sequence[Evaluator], training: Training) -> dict[str, Result]:
    """The policy as it stands, task by task."""
    episodes, device = training.plan.settings.eval_episodes, training.plan.device
    return every(evaluators, training.agent, episodes, device=device)


def _later(call: Callable[[], T]) -> Callable[[], T]:
    return call


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM, noted in the list instead of killing; a second one of them kills."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, signal.SIG_DFL)

    main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield seen
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


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
