"""Several tasks in one layout: short observations laid inside the family's longest, short goals filled with zeros."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from tasks.task import Array, Episode, InputError, Score, Task, bonus_if, cost_outside, never, within


@dataclass(frozen=True)
class Cut:
    """A function of two goals (..., G), of which it looks at the first `size` numbers."""

    score: Score
    size: int

    def __call__(self, achieved: Array, desired: Array) -> Array:
        return self.score(achieved[..., : self.size], desired[..., : self.size])


@dataclass(frozen=True)
class Spread:
    """The goal of a task in the common layout: (..., O) -> (..., G), zeros behind the task's own numbers."""

    goal_of: Callable[[Array], Array]
    columns: tuple[int, ...]
    """where the task's observation lies in the common one; empty: it is the common one"""
    size: int

    def __call__(self, observation: Array) -> Array:
        own = observation[..., list(self.columns)] if self.columns else observation
        goal = self.goal_of(own)
        missing = self.size - goal.shape[-1]
        if not missing:
            return goal
        if isinstance(goal, np.ndarray):
            return np.concatenate((goal, np.zeros((*goal.shape[:-1], missing), goal.dtype)), -1)
        return goal.new_zeros((*goal.shape[:-1], self.size)).index_copy(
            -1, goal.new_tensor(range(goal.shape[-1])).long(), goal
        )


def picked(task: Task) -> NDArray[np.int64] | None:
    """Which numbers of an observation are the task's goal, (G,), -1 for a zero; None if it does more than pick some."""
    of = task.goal_of.goal_of if isinstance(task.goal_of, Spread) else task.goal_of
    return task.goal_of(np.arange(1, task.obs_dim + 1)) - 1 if isinstance(of, operator.itemgetter) else None


class LaidOut(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that observes in the common layout."""

    def __init__(self, env: gymnasium.Env[Any, Any], task: Task, obs_dim: int, goal_dim: int) -> None:
        super().__init__(env)
        self.columns = list(task.columns if task.obs_dim < obs_dim else range(obs_dim))
        self.goals, self.sizes = task.goal_dim, (obs_dim, goal_dim)
        sizes = {"observation": obs_dim, "achieved_goal": goal_dim, "desired_goal": goal_dim}
        boxes: dict[str, Any] = {name: Box(-np.inf, np.inf, (n,), np.float64) for name, n in sizes.items()}
        self.observation_space: Any = Dict(boxes) if goal_dim else boxes["observation"]

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**options)
        return self._lay(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        return self._lay(obs), *rest

    def _lay(self, raw: Any) -> Any:
        observation, achieved, desired = np.zeros(self.sizes[0]), np.zeros(self.sizes[1]), np.zeros(self.sizes[1])
        observation[self.columns] = raw["observation"] if self.goals else raw
        if self.goals:
            achieved[: self.goals], desired[: self.goals] = raw["achieved_goal"], raw["desired_goal"]
        goals = {"achieved_goal": achieved, "desired_goal": desired}
        return {"observation": observation, **goals} if self.sizes[1] else observation


def _make(task: Task, obs_dim: int, goal_dim: int, render_mode: str | None = None) -> LaidOut:
    return LaidOut(task.make(render_mode=render_mode), task, obs_dim, goal_dim)


def laid(episode: Episode, task: Task, common: Task) -> Episode:
    """An episode of `task` in the layout of `common`, which is the same task after `together`."""
    if (task.obs_dim, task.goal_dim) == (common.obs_dim, common.goal_dim):
        return episode
    length = len(episode.action)
    columns = list(task.columns if task.obs_dim < common.obs_dim else range(common.obs_dim))
    observation = np.zeros((length + 1, common.obs_dim), np.float32)
    observation[:, columns] = episode.observation
    desired = np.zeros((length, common.goal_dim), np.float32)
    desired[:, : task.goal_dim] = episode.desired
    return episode._replace(observation=observation, desired=desired)


def together(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks in one layout, so that one policy serves them. Raises InputError if they have no body in common."""
    first = tasks[0]
    for task in tasks[1:]:
        for what in ("family", "action_dim"):
            if (mine := getattr(task, what)) != (other := getattr(first, what)):
                raise InputError(
                    f"one policy needs one body: {first.name} has {what} {other}, {task.name} {mine}; train them apart"
                )
    if len({task.name for task in tasks}) < len(tasks):
        raise InputError(f"--task {' '.join(task.name for task in tasks)}: give each task once")
    alike = len({(task.obs_dim, task.columns) for task in tasks}) == 1
    obs_dim = first.obs_dim if alike else max(max(t.columns, default=t.obs_dim - 1) + 1 for t in tasks)
    goal_dim = max(task.goal_dim for task in tasks)
    return tuple(_laid(task, obs_dim, goal_dim) for task in tasks)


def _laid(task: Task, obs_dim: int, goal_dim: int) -> Task:
    if (task.obs_dim, task.goal_dim) == (obs_dim, goal_dim):
        return task
    if task.obs_dim < obs_dim and len(task.columns) != task.obs_dim:
        raise InputError(f"{task.name} does not say where its {task.obs_dim} numbers lie in the family's {obs_dim}")
    columns = task.columns if task.obs_dim < obs_dim else ()
    mirror = task.mirror and task.mirror.laid(columns, obs_dim, goal_dim)
    cut = partial(_cut, size=task.goal_dim)
    return dataclasses.replace(
        task,
        make=partial(_make, task, obs_dim, goal_dim),
        obs_dim=obs_dim,
        goal_dim=goal_dim,
        goal_of=Spread(task.goal_of, columns, goal_dim),
        places=tuple(columns[i] for i in task.places) if columns else task.places,
        mirror=mirror,
        success=cut(task.success),
        reward=task.reward and cut(task.reward),
        terminated=cut(task.terminated),
    )


def _cut(score: Score, size: int) -> Score:
    return score if score is never or measures(score) else Cut(score, size)


def measures(score: Any) -> bool:
    """Does it look at the distance of the goals alone, to which zeros add nothing."""
    if not isinstance(score, partial) or score.keywords:
        return False
    return score.func in (within, cost_outside) or (score.func is bonus_if and measures(score.args[0]))


def places_of(chosen: Sequence[Task]) -> tuple[int, ...]:
    """The numbers of the common observation that are places and no task needs; none, if a task has no places."""
    if not all(task.places for task in chosen) or not chosen[0].goal_dim:
        return ()
    needed = {i for task in chosen for i in (task.columns or range(task.obs_dim)) if i not in task.places}
    return tuple(sorted({i for task in chosen for i in task.places} - needed))
