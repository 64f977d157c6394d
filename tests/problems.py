"""Small problems for the tests, in plain arithmetic: a point, a wheel of known value, a script. Long: all share it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict

import tasks
from gcrl import settings
from gcrl.agents import AGENTS
from gcrl.encoder import Spec
from relabel.batch import Batch
from tasks.task import Task, cost_outside, part, within


def box(n: int) -> Box:
    return Box(-np.inf, np.inf, (n,), np.float64)


def space(obs_dim: int, goal_dim: int) -> gymnasium.Space[Any]:
    goal = box(goal_dim)
    both = {"achieved_goal": goal, "desired_goal": goal}
    return Dict({"observation": box(obs_dim), **both}) if goal_dim else box(obs_dim)


class Point(gymnasium.Env[Any, Any]):
    """A point in the square [-1, 1]^2 moves by up to SPEED along each axis. Without goals it observes where to go too.

    Reward -1 farther than RADIUS from the goal, else 0; without goals, minus the distance. `axes` are those that a goal
    speaks of, in its order.
    """

    SPEED, RADIUS = 0.25, 0.2
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, goals: bool = True, render_mode: str | None = None, axes: tuple[int, ...] = (0, 1)) -> None:
        self.goals, self.render_mode, self.axes = goals, render_mode, list(axes)
        self.observation_space = space(2 if goals else 4, len(axes) * goals)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + self.SPEED * np.asarray(action, float), -1, 1)
        far = float(np.linalg.norm((self.place - self.goal)[self.axes]))
        return self.seen(), (-float(far > self.RADIUS) if self.goals else -far), False, False, {}

    def seen(self) -> Any:
        if not self.goals:
            return np.concatenate([self.place, self.goal])
        return {"observation": self.place, "achieved_goal": self.place[self.axes], "desired_goal": self.goal[self.axes]}


_task = partial(Task, action_dim=2, horizon=20, family="test-point", scene="test-point", description="go to the goal")
POINT = _task(
    name="test-point",
    make=Point,
    obs_dim=2,
    goal_dim=2,
    goal_of=part(0, 2),
    success=partial(within, Point.RADIUS),
    reward=partial(cost_outside, Point.RADIUS),
    reward_range=(-1.0, 0.0),
    budget=2000,
)
ROW, SWAP = (
    dataclasses.replace(
        POINT,
        name=f"test-{name}",
        make=partial(Point, axes=axes),
        goal_dim=len(axes),
        goal_of=itemgetter((..., list(axes))),
        description=description,
    )
    for name, axes, description in (("row", (1,), "go to the row"), ("swap", (1, 0), "go to the mirrored goal"))
)
"""Of the scene of POINT, with goal maps of their own."""
PLAIN = _task(name="test-plain", make=partial(Point, False), obs_dim=4, reward_range=(-3.0, 0.0))


class ByChoice(gymnasium.ActionWrapper[Any, Any, Any]):
    """Of an environment, one that takes one of these actions (N, A): that of the greatest number."""

    def __init__(self, task: Task, actions: tuple[tuple[float, ...], ...], render_mode: str | None = None) -> None:
        super().__init__(task.make(render_mode=render_mode))
        self.actions, self.action_space = np.float32(actions), Box(-1.0, 1.0, (len(actions),), np.float32)

    def action(self, action: Any) -> Any:
        return self.actions[np.argmax(action)]


MOVES = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
"""Of a point: stay, left, right, up, down."""


def by_choice(task: Task, actions: tuple[tuple[float, ...], ...] = MOVES) -> Task:
    """The task with these actions (N, A) to choose from."""
    return dataclasses.replace(
        task,
        name=f"{task.name}-by-choice",
        make=partial(ByChoice, task, actions),
        action_dim=len(actions),
        discrete=True,
    )


def fit_for(agent: str, task: Task) -> Task:
    """The task, by choice where that is all that the agent can."""
    return by_choice(task) if AGENTS[agent].discrete else task


class Wheel(gymnasium.Env[Any, Any]):
    """N places in a ring; every step moves to the next one, whatever the action. One-hot, so that values are a table.

    With goals: -1 but for the step that reaches the goal, which ends the episode if `ends`. Without: leaving the last
    place pays 1, and ends the episode if `ends`; every action costs COST (a - BEST)^2.
    """

    N, BEST, COST = 4, 0.3, 1.0
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, goals: bool, ends: bool, render_mode: str | None = None) -> None:
        self.goals, self.ends, self.render_mode = goals, ends, render_mode
        self.observation_space = space(self.N, self.N * goals)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.integers(0, self.N, 2)
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.place = (self.place + 1) % self.N
        there = bool(self.place == (self.goal if self.goals else 0))
        reward = there - 1.0 if self.goals else there - self.COST * (float(action[0]) - self.BEST) ** 2
        return self.seen(), reward, there and self.ends, False, {}

    def seen(self) -> Any:
        place, goal = np.eye(self.N)[[self.place, self.goal]]
        return {"observation": place, "achieved_goal": place, "desired_goal": goal} if self.goals else place

    @classmethod
    def q(cls, task: Task, gamma: float, action: float) -> np.ndarray[Any, Any]:
        """The optimal value by formula: (N, N) of place and goal, or (N,) of place."""
        ends, place = bool(task.make.keywords["ends"]), np.arange(cls.N)  # type: ignore[attr-defined]
        if task.goal_dim:
            steps = (np.arange(cls.N) - place[:, None] - 1) % cls.N  # before the one that arrives
            if ends:
                return -(1 - gamma**steps) / (1 - gamma)
            return -1 / (1 - gamma) + gamma**steps / (1 - gamma**cls.N)
        return gamma ** (cls.N - 1 - place) / (1 if ends else 1 - gamma**cls.N) - cls.COST * (action - cls.BEST) ** 2


class Corridor(gymnasium.Env[Any, Any]):
    """N places in a row, seen one-hot; a positive action goes right, a negative one left, and -1 is paid a step.

    Reaching the right end ends the episode. What the data never show is a trap: beyond |a| = SAFE a step goes left.
    If it is `wide` an action has two numbers, and the trap is in the second, which does nothing else.
    """

    N, SAFE = 6, 0.75

    def __init__(self, render_mode: str | None = None, wide: bool = False) -> None:
        self.render_mode = render_mode
        self.observation_space = box(self.N)
        self.action_space = Box(-1.0, 1.0, (1 + wide,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(0, self.N - 1))
        return np.eye(self.N)[self.place], {}

    def step(self, action: Any) -> Any:
        self.place = max(0, self.place + (1 if action[0] > 0 and abs(action[-1]) < self.SAFE else -1))
        return np.eye(self.N)[self.place], -1.0, self.place == self.N - 1, False, {}

    @classmethod
    def behaviour(cls, rng: np.random.Generator, size: int, wide: bool = False) -> np.ndarray[Any, Any]:
        """(size, 1 or 2): right in 40 % of the steps, left in the others, half of full speed give or take."""
        side = np.where(rng.random((size, 1)) < 0.4, 1.0, -1.0)
        action = [side * rng.uniform(0.4, 0.6, (size, 1)), *([rng.uniform(-0.5, 0.5, (size, 1))] if wide else [])]
        return np.hstack(action).astype(np.float32)


def same(achieved: Any, desired: Any) -> Any:
    """(..., G) x (..., G) -> (...)"""
    return (achieved == desired).all(-1)


def cost_elsewhere(achieved: Any, desired: Any) -> Any:
    """0 where `same`, else -1: (...)."""
    return 1.0 * same(achieved, desired) - 1.0


CORRIDOR = Task(
    name="test-corridor",
    make=Corridor,
    obs_dim=Corridor.N,
    action_dim=1,
    horizon=20,
    reward_range=(-1.0, -1.0),
    family="test-corridor",
    scene="test-corridor",
    description="go to the right end",
)


WIDE = dataclasses.replace(CORRIDOR, name="test-wide", make=partial(Corridor, wide=True), action_dim=2)
STEPS = by_choice(CORRIDOR, ((-0.5,), (0.5,)))
"""The same corridor, with a step to the left and one to the right to choose from."""


def wheel(goals: bool, ends: bool) -> Task:
    told = {"goal_dim": Wheel.N, "goal_of": part(0, Wheel.N), "success": same, "reward": cost_elsewhere}
    return Task(
        name=f"test-wheel-{'goals' if goals else 'plain'}-{'ends' if ends else 'goes-on'}",
        make=partial(Wheel, goals=goals, ends=ends),
        obs_dim=Wheel.N,
        action_dim=1,
        horizon=7,
        reward_range=(-1.0, 0.0) if goals else (-2.0, 1.0),
        family="test-wheel",
        scene="test-wheel",
        description="wait",
        **(told | ({"terminated": same} if ends else {}) if goals else {}),
    )


class Script(gymnasium.Env[Any, Any]):
    """Numbers that say where they come from: observation (draw of the episode, draw of the step, t, sum of actions),
    goal (draw of the episode, t): another one at every step. Reward t. Ends, stops or fails when told to.
    """

    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None, **told: Any) -> None:
        self.goals: bool = told.pop("goals", True)
        self.ends: int | None = told.pop("ends", None)
        """terminated with this step"""
        self.stops: int | None = told.pop("stops", None)
        """truncated with this step, by itself"""
        self.shared: bool = told.pop("shared", False)
        """everything is handed out in the same arrays, step after step, and the action is written into"""
        self.loose: bool = told.pop("loose", False)
        """its draws go on over resets: no seed brings them back"""
        self.fault: tuple[str, int, Any] | None = told.pop("fault", None)
        """what of step t is replaced by what: (name, t, value)"""
        if told:
            raise TypeError(f"unknown: {told}")
        self.observation_space = space(4, 2 * self.goals)
        self.rng = np.random.default_rng(0)
        self.buffers = {"observation": np.zeros(4, np.float32), "desired_goal": np.zeros(2, np.float32)}
        self.resets: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.resets.append(seed)
        if not self.loose:
            self.rng = self.np_random
        self.t, self.sum, self.draw = 0, 0.0, self.rng.random()
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        self.sum += float(np.float32(action).sum())
        if self.shared:
            action[:] = 77.0
        raw = self.seen()
        reward = self.faulty("reward", float(self.t))
        return raw, reward, self.t == self.ends, self.t == self.stops, {}

    def seen(self) -> Any:
        observation = np.array([self.draw, self.rng.random(), self.t, self.sum])
        raw = {"observation": observation, "desired_goal": np.array([self.draw, self.t], float)}
        raw = {name: self.faulty(name, x) for name, x in raw.items()}
        if self.shared:
            for name, x in raw.items():
                self.buffers[name][:] = x
            raw = dict(self.buffers)
        return {**raw, "achieved_goal": raw["observation"][:2]} if self.goals else raw["observation"]

    def faulty(self, name: str, value: Any) -> Any:
        return self.fault[2] if self.fault is not None and self.fault[:2] == (name, self.t) else value


def script(name: str = "test-script", horizon: int = 7, **told: Any) -> Task:
    goals = told.get("goals", True)
    known: dict[str, Any] = {"goal_dim": 2, "goal_of": part(0, 2), "success": same, "reward": cost_elsewhere}
    return Task(
        name=name,
        make=partial(Script, **told),
        obs_dim=4,
        action_dim=2,
        horizon=horizon,
        family="test-script",
        scene="test-script",
        description="do as you are told",
        **(known if goals else {}),
    )


def settings_of(agent: str, **wanted: Any) -> Any:
    """The settings of an agent, small; of what is `wanted`, that which it has."""
    kind = AGENTS[agent].Settings
    names = {field.name for field in dataclasses.fields(kind)}
    small = {"hidden": (32, 32), "batch": 64, "width": 32, "layers": 1, "context": 4}
    return kind(**{k: v for k, v in {**small, **wanted}.items() if k in names})


def plan(task: Task, agent: str, algorithm: dict[str, Any] | None = None, **told: Any) -> settings.Plan:
    """How to train `agent` on a task of this module."""
    return plan_of((task,), agent, algorithm, **told)


def plan_of(chosen: Sequence[Task], agent: str, algorithm: dict[str, Any] | None = None, **told: Any) -> settings.Plan:
    """How to train `agent` on several."""
    names = tuple(task.name for task in chosen)
    s = settings.Settings(names, agent=agent, algorithm=settings_of(agent, **(algorithm or {})), device="cpu")
    with mock.patch.dict(tasks.TASKS, {task.name: task for task in chosen}):
        return settings.Plan.of(dataclasses.replace(s, **told))


@dataclass(frozen=True)
class Scripted:
    """An agent that does what `do` says: (obs (B, O), goal (B, G), steps so far) -> action (B, A)."""

    do: Any

    def act(self, state: Any, carry: Any = None, explore: bool = False) -> Any:
        steps = 0 if carry is None else carry
        return self.do(state.obs, state.goal, steps), steps + 1


SPEC = Spec(obs_dim=4, action_dim=2, goal_dim=2, bounds=((-10.0, 0.0), (-1.0, 5.0)), gamma=0.9)
"""Two tasks, no simulator."""


def batch(size: int = 64, seed: int = 0, spec: Spec = SPEC, dtype: torch.dtype = torch.float32) -> Batch:
    """Random transitions of all tasks, some of which end."""
    g = torch.Generator().manual_seed(seed)
    discount = 0.9 * (torch.rand(size, generator=g) < 0.8)
    action = torch.rand(size, spec.action_dim, generator=g) * 2 - 1
    reward = torch.randn(size, generator=g)
    obs, next_obs = torch.randn(2, size, spec.obs_dim, generator=g)
    goal = torch.randn(size, spec.goal_dim, generator=g)
    task = torch.randint(spec.tasks, (size,), generator=g)
    return Batch(*(x.to(dtype) for x in (obs, action, reward, discount, next_obs, goal)), task)


def mean_by_task(x: Any, task: torch.Tensor) -> np.ndarray:
    """For each row of x (B,) the mean over the rows of its task: (B,)"""
    return np.array([np.mean([x[j] for j in range(len(x)) if task[j] == own]) for own in task])
