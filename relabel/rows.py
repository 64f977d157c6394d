"""Rows on their way into a batch: chosen but nobody's yet, and labelled for the task that learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from relabel.store import Index


class Picks(NamedTuple):
    """Rows chosen, and the moments that their goals are read off; not yet anyone's."""

    source: Index
    """(B,) the task whose store they come from"""
    start: Index
    """(B,) slot of the first step of the row's episode"""
    left: Index
    """(B,) steps of the episode after the row"""
    slots: Index
    """(B, n + 1) of the window, which ends with the episode"""
    goal: Index
    """(B,) slot of the goal"""
    wanted: NDArray[np.bool_]
    """(B,) the goal is the one desired there, not what was achieved"""

    def take(self, index: Index) -> Picks:
        source, start, left, slots, goal, wanted = self
        return Picks(source[index], start[index], left[index], slots[index], goal[index], wanted[index])


class Rows(NamedTuple):
    """Labelled rows."""

    columns: tuple[NDArray[np.generic], ...]
    """those of Batch, in NumPy"""
    source: Index
    """(B,)"""
    hit: NDArray[np.bool_]
    """(B,) does any of its steps show reward"""

    @property
    def receiver(self) -> Index:
        task: Index = self.columns[-1]  # type: ignore[assignment]
        return task

    def take(self, index: Index) -> Rows:
        return Rows(tuple(x[index] for x in self.columns), self.source[index], self.hit[index])


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    columns = tuple(np.concatenate(column) for column in zip(*(part.columns for part in parts), strict=True))
    return Rows(columns, np.concatenate([p.source for p in parts]), np.concatenate([p.hit for p in parts]))


def counted(terminated: NDArray[np.bool_], left: Index) -> NDArray[np.bool_]:
    """Of n steps (B, n): does each lie in its episode, and has no earlier one ended it; left (B,) as in Picks."""
    ended: NDArray[np.bool_] = np.greater(np.cumsum(terminated, 1) - terminated, 0)
    return np.less_equal(np.arange(terminated.shape[1]), left[:, None]) & ~ended


def summed(
    reward: NDArray[np.float32], terminated: NDArray[np.bool_], left: Index, gamma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], Index]:
    """Of n steps (B, n): the discounted reward, the discount of what follows, and how many steps count (B,)."""
    n = reward.shape[1]
    if n == 1:
        return reward[:, 0], np.float32(gamma) * ~terminated[:, 0], np.ones_like(left)
    counts = counted(terminated, left)
    length = counts.sum(1)
    powers = (gamma ** np.arange(n + 1)).astype(np.float32)
    last = np.take_along_axis(terminated, length[:, None] - 1, 1)[:, 0]
    return (reward * counts) @ powers[:-1], powers[length] * ~last, length
