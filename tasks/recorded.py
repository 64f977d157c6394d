"""An episode as a file holds it, what is checked of it, and the same as an `Episode` of a task."""

from __future__ import annotations

import math
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.layout import Spread
from tasks.task import Episode, InputError, Task

Array = NDArray[np.float32]
LIMIT = 2**33
"""Bytes that the arrays of one file may come to."""
FLOOR, RATIO = 2**26, 100
"""Bytes that any file may unpack to, and on top as often its own size."""
OUTSIDE = 1e-3
"""How far an action may lie outside of its limits; it is then brought back to them."""
APART = 1e-4
"""How far a recorded achieved goal may lie from what the task reads off the observation (and as a share of it)."""


def shown(said: object) -> str:
    """What a file says, safe to print: one line, ASCII, not too long."""
    text = ascii(said)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass
class Budget:
    """What may still be read of a file, so that no declared size is believed."""

    path: Path
    size: int
    """of the file, bytes"""
    left: int

    @staticmethod
    def of(path: Path) -> Budget:
        """Raises InputError if there is no such file."""
        try:
            found = path.stat()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is not a file: give a data set, or the folder of one")
        return Budget(path, found.st_size, min(LIMIT, FLOOR + RATIO * found.st_size))

    def take(self, where: str, shape: tuple[int, ...], width: int) -> int:
        """Bytes of an array of so many numbers. Raises InputError if they are more than is left."""
        size = math.prod(shape) * width
        if not 0 <= size <= self.left:
            raise InputError(f"{where} declares {shown(shape)}, more than a file of {self.size} bytes may hold")
        self.left -= size
        return size


@dataclass(frozen=True)
class Actions:
    """What a file says of its actions."""

    low: NDArray[np.float64]
    """(A,)"""
    high: NDArray[np.float64]
    """(A,)"""
    first: int | None = None
    """they are choices, whole numbers from this one on"""


class Recorded(NamedTuple):
    """One episode of T steps, checked as far as that needs no task."""

    where: str
    """file and episode, for messages"""
    observation: Array
    """(T + 1, D)"""
    action: NDArray[Any]
    """(T, A) float32 in the units of the file, or (T,) int64 where they are choices"""
    reward: Array | None
    """(T,); None: the file has none"""
    terminated: bool
    desired: Array | None
    """(T, G) in force when the action was taken; None: the file does not say"""
    achieved: Array | None
    """(T + 1, G); None: the file does not say"""


def recorded(
    where: str,
    observation: NDArray[Any],
    action: NDArray[Any],
    reward: NDArray[Any] | None = None,
    terminated: bool = False,
    desired: NDArray[Any] | None = None,
    achieved: NDArray[Any] | None = None,
) -> Recorded:
    """Shapes, lengths and finiteness, once for all formats. Raises InputError."""
    steps = len(action)
    if not steps:
        raise InputError(f"{where} has no step: leave it out")
    choices = action.ndim == 1 and np.issubdtype(action.dtype, np.integer)
    return Recorded(
        where,
        _finite(where, "observations", observation, steps + 1, 2),
        action.astype(np.int64) if choices else _finite(where, "actions", action, steps, 2),
        None if reward is None else _finite(where, "rewards", reward, steps, 1),
        terminated,
        None if desired is None else _finite(where, "desired goals", desired, steps, 2),
        None if achieved is None else _finite(where, "achieved goals", achieved, steps + 1, 2),
    )


def _finite(where: str, what: str, x: NDArray[Any], rows: int, axes: int) -> Array:
    """x (rows, ...) in single precision."""
    if x.ndim != axes or len(x) != rows:
        wanted = f"({rows}, n)" if axes == 2 else f"({rows},)"
        raise InputError(f"{where} has {what} of shape {shown(x.shape)}, not {wanted}: of T steps, T + 1 are observed")
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out).reshape(rows, -1).all(1)))
        raise InputError(f"{where} has {what} that are not finite, first in row {row}: leave the episode out")
    return out


def flags(where: str, x: NDArray[Any], rows: int) -> NDArray[np.bool_]:
    """Marks (rows,) of 0 and 1. Raises InputError for anything else."""
    if x.shape != (rows,):
        raise InputError(f"{where} has shape {shown(x.shape)}, not ({rows},)")
    if not ((x == 0) | (x == 1)).all():
        raise InputError(f"{where} must hold 0 and 1 only")
    return x != 0


def fit(task: Task, one: Recorded, actions: Actions | None, ours: bool = False) -> Episode:
    """What a file holds as an episode of this task. Raises InputError if it is of another one.

    A file without rewards is scored by the task, and one without desired goals has the last achieved goal of each
    episode for it. `ours`: gcrl wrote it for this very task, maybe in a layout that it shared with others. In a file of
    others, an episode that stops because it succeeded is one that the clock ended, where the task itself would go on.
    """
    where, terminated = one.where, one.terminated
    observation, desired, recorded = _laid(task, one, ours)
    achieved = task.goal_of(observation)
    if recorded is not None and not np.allclose(achieved, recorded, APART, APART):
        row = int(np.argmax(~np.isclose(achieved, recorded, APART, APART).all(1)))
        raise InputError(
            f"{where}: the achieved goal in row {row} is not what {task.name} reads off the observation: "
            f"give the task that the data are of"
        )
    if task.goal_dim:
        known = desired is not None
        desired = desired if desired is not None else np.repeat(achieved[-1:], len(one.action), 0)
        reached = bool(task.terminated(achieved[-1], desired[-1]))
        if not known:
            terminated = reached
        elif terminated and not ours and not reached:
            terminated = not task.success(achieved[-1], desired[-1])
    else:
        desired = np.zeros((len(one.action), 0), np.float32)
    reward = one.reward
    if reward is None:
        if task.reward is None:
            raise InputError(f"{where} has no rewards, and {task.name} has no goals to score it by: give another task")
        reward = np.asarray(task.reward(achieved[1:], desired), np.float32)
    return Episode(observation, _acted(task, one, actions), desired, reward, terminated)


def _acted(task: Task, one: Recorded, actions: Actions | None) -> Array:
    """(T, A) in [-1, 1]"""
    action, where = one.action, one.where
    if action.ndim == 1:
        action = action - (0 if actions is None or actions.first is None else actions.first)
        if not task.discrete or ((action < 0) | (action >= task.action_dim)).any():
            raise InputError(f"{where} has choices for actions which are not those of {task.name}")
        return np.where(np.arange(task.action_dim) == action[:, None], 1, -1).astype(np.float32)
    if action.shape[1] != task.action_dim:
        raise InputError(f"{where} has actions of {action.shape[1]} numbers, {task.name} of {task.action_dim}")
    if actions is not None and actions.first is None:
        wide = actions.high - actions.low
        action = ((action.astype(np.float64) - actions.low) / wide * 2 - 1).astype(np.float32)
    outside = np.abs(action).max(1)
    if outside.max() > 1 + OUTSIDE:
        step = int(np.argmax(outside > 1 + OUTSIDE))
        raise InputError(
            f"{where}: the action of step {step} lies outside of its limits (by {outside[step] - 1:.3g} of 1): "
            f"is it in other units, or of another task than {task.name}?"
        )
    return action.clip(-1, 1)


def _laid(task: Task, one: Recorded, ours: bool) -> tuple[Array, Array | None, Array | None]:
    """Observation (T + 1, O), desired (T, G) and achieved goals (T + 1, G) in the layout of the task."""
    where, observation, desired, achieved = one.where, one.observation, one.desired, one.achieved
    if not task.goal_dim and achieved is not None:
        raise InputError(f"{where} has goals, {task.name} has none: give the task that the data are of")
    columns, own_goal = list(range(task.obs_dim)), task.goal_dim
    if isinstance(task.goal_of, Spread):
        columns = list(task.goal_of.columns) or columns
        own_goal = task.goal_of.goal_of(np.zeros(len(columns))).shape[-1]
    if achieved is not None and observation.shape[1] + achieved.shape[1] == len(columns):
        observation = np.concatenate((observation, achieved), 1)  # as tasks.gymnasium.GoalLast does
    have = observation.shape[1]
    if have == len(columns) < task.obs_dim:
        wide = np.zeros((len(observation), task.obs_dim), np.float32)
        wide[:, columns] = observation
        observation = wide
    elif ours and have > task.obs_dim == len(task.columns) and _only(observation, task.columns):
        observation = observation[:, list(task.columns)]
    elif have != task.obs_dim:
        raise InputError(f"{where} has observations of {have} numbers, {task.name} of {len(columns)}")
    if not task.goal_dim:
        return observation, None, None
    return observation, _goals(task, where, desired, own_goal, ours), _goals(task, where, achieved, own_goal, ours)


def _only(x: Array, columns: Sequence[int]) -> bool:
    """Does x (..., n) hold nothing but zeros elsewhere, as what lies in a layout with others does?"""
    rest = [i for i in range(x.shape[1]) if i not in columns]
    return max(columns) < x.shape[1] and not x[:, rest].any()


def _goals(task: Task, where: str, goals: Array | None, own: int, ours: bool) -> Array | None:
    """(..., G): zeros stand behind a short goal, as `Spread` has it."""
    if goals is None:
        return None
    if goals.shape[1] == own < task.goal_dim:
        return np.pad(goals, ((0, 0), (0, task.goal_dim - own)))
    if goals.shape[1] != task.goal_dim and not (ours and _only(goals, range(task.goal_dim))):
        raise InputError(f"{where} has goals of {goals.shape[1]} numbers, {task.name} of {own}")
    return goals[:, : task.goal_dim]
