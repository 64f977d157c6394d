"""One run in memory: what it learns from, what it collects, and how all of it is saved and brought back."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gcrl import checkpoint, offline, policy
from gcrl.agents.agent import load_optimizer_state, optimizer_state
from gcrl.at_once import aside, cores
from gcrl.checkpoint import Checkpoint
from gcrl.collect import Collector
from gcrl.run import RunError
from gcrl.settings import Plan
from relabel import goals, share
from relabel.mix import Mixed
from relabel.prefetch import Prefetch
from relabel.replay import Replay
from relabel.store import slots_for
from tasks import Episode, InputError, SimulatorError

T = TypeVar("T")
RECENT = 20  # training episodes over which success is averaged


def replay(plan: Plan, slots: int) -> Replay:
    """An empty replay for so many observations of each task, relabelling and sharing as the settings say."""
    s = plan.settings
    return Replay(
        plan.tasks,
        slots,
        goals.parse(s.relabel, plan.gamma),
        plan.gamma,
        plan.n_step,
        plan.device,
        share.parse(s.share),
        s.balance,
        s.reward_scale,
        s.reflect,
        s.moved,
        s.offline,
        plan.end_at_goal,
    )


class Training:
    """One run in memory. `step()` takes it forward, `save()` writes all of it, `restore()` brings all of it back."""

    def __init__(self, plan: Plan, vectors: Tensor | None = None) -> None:
        s = plan.settings
        torch.manual_seed(s.seed)
        self.plan = plan
        self.rng = np.random.default_rng(s.seed)
        self.agent = policy.make(plan, vectors)
        if plan.compile:
            self.agent.compile_update(optional=s.compile is None)
        self.steps = self.updates = self.episodes = 0
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self.arrived = [deque[bool](maxlen=RECENT) for _ in plan.tasks]
        """did the newest episodes of each task come to their goal at any moment"""
        self.metrics: dict[str, Tensor] = {}
        slots = max(slots_for(s.replay // len(plan.tasks), task) for task in plan.tasks)
        self.old: Replay | None = None
        self.data = ""
        if s.data:
            found = offline.load(plan)
            self.data, self.old = offline.digest(found), replay(plan, offline.slots(found))
            for k, episode in ((k, episode) for k, mine in enumerate(found) for episode in mine):
                self.old.add(k, episode)
                self.observe(k, episode)
        self.replay = replay(plan, 1 if s.offline else slots)
        self.source = Prefetch(self.replay if self.old is None else Mixed(self.old, self.replay, s.data_share))
        if s.offline:
            return
        spare = cores() - s.threads
        self.collector = Collector(plan.tasks, s.lanes, s.seed, s.explore == "relay", max(1, spare))
        self.begun = aside if spare > 0 else _later  # a step of the lanes, begun beside the updates or after them
        self.weigh()

    def step(self) -> None:
        """One step in every lane and the updates that are due for it, side by side if there is a core to spare.

        The updates do not see the episodes that end with the step, so that it is the same run wherever it runs.
        Offline, an update is a step.
        """
        s = self.plan.settings
        if s.offline:
            self.steps += 1
            self.learn()
            return
        if s.init is None and self.steps < s.warmup * len(self.plan.tasks):
            actions = self.rng.uniform(-1, 1, (s.lanes, self.plan.tasks[0].action_dim)).astype(np.float32)
        else:
            actions = self.agent.act(self.collector.state(self.plan.device), explore=True)[0].cpu().numpy()
        episodes = self.begun(partial(self.collector.step, actions))
        before, self.steps = self.steps, self.steps + s.lanes
        if len(self.source):
            for _ in range(int(self.steps * s.utd) - int(before * s.utd)):
                self.learn()
        for k, episode in episodes():
            self.keep(k, episode)

    def learn(self) -> None:
        """One update, at the learning rate that is due."""
        left = self.plan.settings.lr_end
        if left != 1:
            self.agent.learn_at(1 - (1 - left) * min(1.0, self.steps / self.plan.steps))
        self.metrics |= self.agent.update(self.agent.draw(self.source, self.rng))
        self.updates += 1

    def keep(self, k: int, episode: Episode) -> None:
        """Take a finished episode of task k into the replay and the normaliser."""
        task = self.plan.tasks[k]
        self.replay.add(k, episode)
        self.observe(k, episode)
        success = float("nan")
        if task.reward:
            there = np.asarray(task.success(task.goal_of(episode.observation[1:]), episode.desired))
            success = float(there[-1])
            self.arrived[k].append(bool(there.any()))
        self.recent.append((success, float(episode.reward.sum())))
        self.episodes += 1
        self.weigh()

    def observe(self, k: int, episode: Episode) -> None:
        """Take an episode of task k into the normaliser."""
        seen = np.concatenate((self.plan.tasks[k].goal_of(episode.observation), episode.desired))
        device = self.plan.device
        self.agent.encode.observe(
            torch.from_numpy(episode.observation).to(device), torch.from_numpy(seen).to(device), k
        )

    def weigh(self) -> None:
        """Rows of a batch go where effort goes. Staying at the goal counts once most episodes arrive there."""
        if self.plan.settings.offline:
            return
        if self.collector.relay is not None:
            self.replay.pool.weight[:] = self.collector.relay.effort()
        for k, arrived in enumerate(self.arrived):
            rate = sum(arrived) / RECENT
            self.replay.stay[k] = max(0.0, 2 * rate - 1)
        if self.old is not None:
            self.old.pool.weight[:], self.old.stay[:] = self.replay.pool.weight, self.replay.stay

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
        }
        groups: dict[str, Mapping[str, NDArray[Any]]] = {}
        if drawn := self.source.state():
            groups["drawn"] = drawn
        if not self.plan.settings.offline:
            groups |= {"lanes": self.collector.snapshot(), **self.replay.state()}
        if self.old is not None:
            groups["old"] = {"flow": self.old.flow}
        for group, arrays in groups.items():
            tensors[group] = {name: torch.from_numpy(x) for name, x in arrays.items()}
        state = {
            "task": [task.name for task in self.plan.tasks],
            "agent": self.plan.settings.agent,
            "counts": [self.steps, self.updates, self.episodes],
            "recent": list(self.recent),
            "arrived": [list(mine) for mine in self.arrived],
            "metrics": {name: float(x) for name, x in self.metrics.items()},
            "rng": self.rng.bit_generator.state,
            "seconds": seconds,
            "data": self.data,
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
        if state.get("data", "") != self.data:
            raise InputError("--data: the files hold other episodes than the run began with: bring those back")
        self.source.load({name: x.numpy() for name, x in tensors.get("drawn", {}).items()})
        if self.old is not None:
            self.old.flow[:] = tensors["old"]["flow"].numpy()
        if not self.plan.settings.offline:
            self.replay.load({group: {name: x.numpy() for name, x in g.items()} for group, g in tensors.items()})
            if not self.collector.restore({k: x.numpy() for k, x in tensors["lanes"].items()}):
                print("gcrl: this simulator does not replay exactly; the run goes on inexactly", file=sys.stderr)
        self.steps, self.updates, self.episodes = state["counts"]
        self.recent = deque(map(tuple, state["recent"]), maxlen=RECENT)
        self.arrived = [deque(mine, maxlen=RECENT) for mine in state["arrived"]]
        self.weigh()
        self.metrics = {name: torch.tensor(x) for name, x in state["metrics"].items()}
        self.rng.bit_generator.state = state["rng"]
        checkpoint.set_random_state(tensors["random"])
        return float(state["seconds"])


def _later(call: Callable[[], T]) -> Callable[[], T]:
    return call
