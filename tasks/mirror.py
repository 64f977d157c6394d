"""A scene that looks the same in a mirror: what was seen and done there is, reflected, what could have happened too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.task import Array


@dataclass(frozen=True)
class Flip:
    """x -> sign x[order] + shift, over the last axis: (..., D) -> (..., D). Its own inverse."""

    sign: tuple[float, ...]
    """(D,)"""
    shift: tuple[float, ...]
    """(D,) twice where the mirror stands, for what is a place"""
    order: tuple[int, ...]
    """(D,) what changes places, as left and right fingers do"""

    @staticmethod
    def of(
        size: int, negative: Sequence[int], about: float = 0.0, places: Sequence[int] = (), swap: Sequence[int] = ()
    ) -> Flip:
        """Of D = size numbers: these change sign, `places` among them are reflected at `about`, `swap` are pairs."""
        order = np.arange(size)
        order[list(swap)] = np.array(swap).reshape(-1, 2)[:, ::-1].ravel()
        sign, shift = np.ones(size), np.zeros(size)
        sign[list(negative)], shift[list(places)] = -1, 2 * about
        return Flip(tuple(sign.tolist()), tuple(shift.tolist()), tuple(order.tolist()))

    def __call__(self, x: Array) -> Array:
        if isinstance(x, np.ndarray):
            return x[..., list(self.order)] * np.asarray(self.sign, x.dtype) + np.asarray(self.shift, x.dtype)
        return x[..., list(self.order)] * x.new_tensor(self.sign) + x.new_tensor(self.shift)

    def laid(self, columns: Sequence[int], size: int) -> Flip:
        """The same where number i of x lies at columns[i] of `size`; the others stay."""
        sign, shift, order = np.ones(size), np.zeros(size), np.arange(size)
        place = np.array(columns)
        sign[place], shift[place], order[place] = self.sign, self.shift, place[list(self.order)]
        return Flip(tuple(sign.tolist()), tuple(shift.tolist()), tuple(order.tolist()))


@dataclass(frozen=True)
class Mirror:
    """The reflection of a task: of observation (O,), action (A,) and goal (G,)."""

    obs: Flip
    action: Flip
    goal: Flip

    def laid(self, columns: Sequence[int], obs_dim: int, goal_dim: int) -> Mirror:
        """The same in a common layout."""
        obs = self.obs.laid(columns or range(obs_dim), obs_dim)
        return Mirror(obs, self.action, self.goal.laid(range(len(self.goal.sign)), goal_dim))


def stacked(flips: Sequence[Flip]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Sign, shift and order of K flips: (K, D) each."""
    sign, shift = (np.array([getattr(f, name) for f in flips], np.float32) for name in ("sign", "shift"))
    return sign, shift, np.array([f.order for f in flips], np.int64)
