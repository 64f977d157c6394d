"""Experience: several environments stepped in lanes, whole episodes out, restored to the bit after a crash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gcrl.at_once import at_once, cores
from gcrl.relay import Relay
from gcrl.run import RunError
from relabel.batch import State
from tasks.task import Episode, SimulatorError, Task, choice, simulator

Vector = NDArray[np.float32]
LARGEST = float(np.finfo(np.float32).max)


def finite(x: NDArray[Any]) -> bool:
    """Are all of x (n,)?"""
    return math.isfinite(x.dot(x)) or bool(np.isfinite(x).all())  # the first is faster, and too strict for large ones


def episode_seed(*path: int) -> int:
    """The reset seed of one episode, from a counter: (run seed, lane, number of the episode), say."""
    return int(np.random.SeedSequence(path).generate_state(1)[0])


class Lane:
    """One environment and the episode that is under way in it."""

    def __init__(self, task: Task, render_mode: str | None = None) -> None:
        self.task, self.seed, self.env = task, 0, simulator(task, render_mode)
        self.unlocked = all(hasattr(self.env.unwrapped, part) for part in ("begin", "advance", "observe"))
        """does a step let other threads run while it lasts, as that of tasks.fetch.Fetch does"""

    def reset(self, seed: int) -> None:
        """Begin the episode of this seed."""
        self.seed = seed
        self.observation: list[Vector] = []
        self.action: list[Vector] = []
        self.desired: list[Vector] = []
        self.reward: list[float] = []
        self.terminated = False
        self._see(self._ask(self.env.reset, seed=seed)[0])

    def step(self, action: Vector) -> bool:
        """Act (A,); is the episode over? Raises SimulatorError where the simulator breaks its contract."""
        if not finite(action):
            raise RunError("the policy has diverged, an action of it is not finite: train anew with a lower --lr")
        if self.task.discrete:
            action = choice(action)
        self.action.append(np.array(action, np.float32))  # a copy: the caller may use its array again
        raw, reward, terminated, truncated, _ = self._ask(self.env.step, action.copy())  # some scribble in it
        try:
            self.reward.append(float(reward))
        except (TypeError, ValueError):
            raise SimulatorError(self._where(f"a reward that is no number, {reward!r}")) from None
        self.terminated = bool(terminated)
        self._see(raw)
        if not abs(self.reward[-1]) <= LARGEST:
            raise SimulatorError(self._where(f"the reward {reward}, which is not finite in single precision"))
        return bool(self.terminated or truncated or len(self.action) >= self.task.horizon)

    def episode(self) -> Episode:
        """What has happened since reset, T steps of it."""
        n = len(self.action)
        return Episode(
            np.stack(self.observation),
            np.stack(self.action) if n else np.zeros((0, self.task.action_dim), np.float32),
            np.stack(self.desired[:n]) if n else np.zeros((0, self.task.goal_dim), np.float32),
            np.asarray(self.reward, np.float32),
            self.terminated,
        )

    def _ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The simulator's answer."""
        try:
            return question(*args, **kwargs)
        except Exception as error:
            raise SimulatorError(self._where(f"the error {type(error).__name__}: {error}")) from error

    def _see(self, raw: Any) -> None:
        goals = self.task.goal_dim > 0
        try:  # copies: a simulator may write its next observation where this one is
            observation = np.array(raw["observation"] if goals else raw, np.float32)
            desired = np.array(raw["desired_goal"] if goals else (), np.float32)
        except (LookupError, TypeError, ValueError):
            raise SimulatorError(self._where(f"an observation that cannot be read, a {type(raw).__name__}")) from None
        for name, x, n in (("an observation", observation, self.task.obs_dim), ("a goal", desired, self.task.goal_dim)):
            if x.shape != (n,):
                raise SimulatorError(self._where(f"{name} of shape {x.shape}, not ({n},)"))
            if not finite(x):
                at = int(np.argmin(np.isfinite(x)))
                raise SimulatorError(self._where(f"{name} whose number {at} is not finite, {x[at]}"))
        self.observation.append(observation)
        self.desired.append(desired)

    def _where(self, what: str) -> str:
        at = f"step {len(self.action)} of the episode with reset seed {self.seed}"
        what = " ".join(what.split())  # a simulator's own words may have many lines
        return f"the simulator of {self.task.name} gave {what}, at {at}; nothing of this episode was kept"


def seen(lanes: Sequence[Lane], task: NDArray[np.int64], device: torch.device | str = "cpu") -> State:
    """Where the lanes stand, one row each, as the policy sees it; `task` is the index of each lane's."""
    obs = np.stack([lane.observation[-1] for lane in lanes])
    goal = np.stack([lane.desired[-1] for lane in lanes])
    return State(*(torch.from_numpy(x).to(device) for x in (obs, goal, task)))


def step(lanes: Sequence[Lane], actions: Iterable[Vector], threads: int | None = None) -> list[bool]:
    """Act, each (A,), in each lane: is its episode over? The same to the bit for any number of threads (None: cores).

    Lanes that hold the interpreter's lock for all of a step go one after the other.
    """
    calls = [partial(lane.step, action) for lane, action in zip(lanes, actions, strict=True)]
    threads = cores() if threads is None else threads
    if min(threads, len(calls)) < 2 or not all(lane.unlocked for lane in lanes):
        return [call() for call in calls]
    return at_once(calls, threads)


class Collector:
    """Lanes that start their next episode as soon as one ends, each with the next task in turn.

    With `relay` the next task is rather one that fails, and the policy may pursue an easier one first; what is stored
    is the episode of the own task all the same. `threads` (None: as many as there are cores) change nothing but the
    time that a step takes.
    """

    def __init__(
        self, tasks: Sequence[Task], lanes: int, seed: int, relay: bool = False, threads: int | None = None
    ) -> None:
        self.tasks, self.seed, self.threads = tasks, seed, threads
        self.task = np.zeros(lanes, np.int64)
        """(lanes,) whose episode each lane plays"""
        self.relay = Relay(tasks, lanes) if relay else None
        self._stages: dict[tuple[int, int], Lane] = {}  # one simulator for each lane and task, made when needed
        self.lanes: list[Lane] = [self._stage(i, i % len(tasks)) for i in range(lanes)]
        self.episodes = [0] * lanes
        for i in range(lanes):
            self._begin(i)

    def state(self, device: torch.device | str = "cpu") -> State:
        """What the policy sees now: one row a lane."""
        state = seen(self.lanes, self.task.copy(), device)
        if self.relay is None or (self.relay.first < 0).all():
            return state
        first = torch.from_numpy(self.relay.first).to(device)
        goal = torch.from_numpy(self.relay.goal).to(device)
        return State(
            state.obs, torch.where(first[:, None] < 0, state.goal, goal), torch.where(first < 0, state.task, first)
        )

    def step(self, actions: Vector) -> list[tuple[int, Episode]]:
        """One step in every lane, actions (lanes, A); the episodes that ended with it, each with its task's index."""
        finished = []
        for i, (lane, over) in enumerate(zip(self.lanes, step(self.lanes, actions, self.threads), strict=True)):
            if self.relay is not None:
                self.relay.advance(i, int(self.task[i]), lane.observation[-1], len(lane.action))
            if over:
                k, episode = int(self.task[i]), lane.episode()
                if self.relay is not None:
                    self.relay.end(i, k, episode)
                finished.append((k, episode))
                self._begin(i)
        return finished

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs: counters, and of each partial episode its actions and where they led."""
        out: dict[str, NDArray[Any]] = {"episodes": np.asarray(self.episodes), "task": self.task.copy()}
        for i, lane in enumerate(self.lanes):
            out[f"action.{i}"] = lane.episode().action
            out[f"observation.{i}"] = lane.observation[-1]
        if self.relay is not None:
            out |= {f"relay.{name}": x for name, x in self.relay.snapshot().items()}
        return out

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> bool:
        """Play the partial episodes again. Did every simulator come to the very state that it was left in?

        Raises ValueError if the snapshot is of another number of lanes.
        """
        if len(snapshot["episodes"]) != len(self.lanes):
            raise ValueError(f"{len(snapshot['episodes'])} lanes, not {len(self.lanes)}")
        exact = True
        self.episodes = [int(n) - 1 for n in snapshot["episodes"]]
        for i in range(len(self.lanes)):
            self._begin(i, int(snapshot["task"][i]))
            lane = self.lanes[i]
            for action in snapshot[f"action.{i}"]:
                lane.step(action)
            exact &= bool((lane.observation[-1] == snapshot[f"observation.{i}"]).all())
        if self.relay is not None:
            prefix = "relay."
            self.relay.restore({k.removeprefix(prefix): x for k, x in snapshot.items() if k.startswith(prefix)})
        return exact

    def _begin(self, i: int, k: int | None = None) -> None:
        """The next episode of lane i, of task k if that is known."""
        number = self.episodes[i]
        rng = np.random.default_rng(episode_seed(self.seed, i, number, 2))
        if k is None and self.relay is not None:
            k = self.relay.choose(rng)
        elif k is None:
            k = (i + number * len(self.lanes)) % len(self.tasks)
        self.task[i] = k
        self.lanes[i] = self._stage(i, k)
        self.lanes[i].reset(episode_seed(self.seed, i, number))
        if self.relay is not None:
            self.relay.begin(i, k, rng)
        self.episodes[i] += 1

    def _stage(self, i: int, k: int) -> Lane:
        if (i, k) not in self._stages:
            self._stages[i, k] = Lane(self.tasks[k])
        return self._stages[i, k]
