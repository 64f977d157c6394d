"""Controllers written by hand, to record data with: the Fetch arm reaches, pushes, picks and places.

Each is (observation (O,), goal (G,)) -> action (4,) in [-1, 1], and knows the present moment only. An action moves the
gripper's target by up to 5 cm along each axis; the last number opens the fingers (1) or closes them (-1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Controller = Callable[[Vector, Vector], Vector]

GAIN = 10.0
"""Action per metre that is missing."""
OPEN, CLOSED = 1.0, -1.0
ABOVE = 0.08
"""Metres over the block's middle in which the closed fingers pass over it."""
BEHIND = 0.075
"""From the block's middle to the fingers that go down behind it (m)."""
ASIDE = 0.03
"""How far beside the line through block and goal the fingers may push (m)."""
AROUND = 0.015
"""How far beside the block's middle the open fingers may go down, or close (m)."""


def toward(gap: NDArray[np.floating], fingers: float = 0.0, gain: float = GAIN) -> Vector:
    """The action that closes a gap (3,), m."""
    return np.append(np.clip(gain * gap, -1, 1), fingers).astype(np.float32)


def reach(obs: Vector, goal: Vector) -> Vector:
    """Straight to the goal."""
    return toward(goal - obs[:3])


def push(obs: Vector, goal: Vector) -> Vector:
    """Over the block to the far side of it, down, and along the line to the goal."""
    grip, block = obs[:3], obs[3:6]
    way = (goal - block)[:2]
    left = float(np.hypot(*way))
    if left < 0.015:
        return toward(np.zeros(3))
    ahead = way / left
    gap = grip[:2] - block[:2]
    along, aside = float(gap @ ahead), float(abs(gap[0] * ahead[1] - gap[1] * ahead[0]))
    if along < 0 and aside < ASIDE and grip[2] < block[2] + 0.03:
        step = ahead * min(left, 0.06) - (gap - along * ahead)  # and back to the line
        return toward(np.append(step, block[2] - grip[2]), gain=8.0)
    over = block[:2] - BEHIND * ahead - grip[:2]
    if math.hypot(*over) < ASIDE * 0.7:
        return toward(np.append(over, block[2] - grip[2]))
    low = grip[2] < block[2] + ABOVE - 0.02
    near = math.hypot(*gap) < 0.12
    return toward(np.append(over * (not (low and near)), block[2] + ABOVE - grip[2]))


def pick_and_place(obs: Vector, goal: Vector) -> Vector:
    """Over the block with open fingers, down, close them, and carry it to the goal."""
    gap, width = obs[6:9], float(obs[9] + obs[10])
    inside = math.hypot(*gap[:2]) < AROUND
    if inside and abs(gap[2]) < 0.02:
        if width > 0.06:
            return toward(gap, CLOSED)
        return toward(goal - obs[3:6], CLOSED)
    if inside:
        return toward(gap, OPEN)
    return toward(gap + np.array([0, 0, ABOVE]), OPEN)


CONTROLLERS: Mapping[str, Controller] = {
    "fetch-reach": reach,
    "fetch-push": push,
    "fetch-pick-and-place": pick_and_place,
}
