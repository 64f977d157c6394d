"""Easier tasks in the scenes of the stock Fetch tasks: they bring the gripper where those can begin (gcrl/relay.py)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from tasks.fetch import ALONG, PLACES_OF_STROKE, Floats
from tasks.mirror import Flip
from tasks.table import AROUND, BLOCK_FROM_GRIPPER, Aim, Table, aimed, at_gripper, under_gripper
from tasks.task import Array, Task

BESIDE = 0.06
"""Metres from the block to the gripper that stands ready to push it: they nearly touch."""
HELD = np.array([0.0, 0.0, 0.0, 0.098])
"""Block in the middle of the fingers, and twice the gap between them when they hold it (m)."""


def beside(env: Table, obs: Floats) -> Floats:
    """The block on any side of the gripper, level with it."""
    angle = env.np_random.uniform(-math.pi, math.pi)
    return BESIDE * np.array([math.cos(angle), math.sin(angle), 0.0])


def grip(observation: Array) -> Array:
    """Block from gripper and twice the gap between the fingers: (..., 25) -> (..., 4), m."""
    goal = observation[..., [6, 7, 8, 9]]
    goal[..., 3] = 2 * (observation[..., 9] + observation[..., 10])
    return goal


def held(env: Table, obs: Floats) -> Floats:
    return HELD


def at_fingers(block: Floats, goal: Floats) -> Floats:
    return at_gripper(block, goal[:3])


_approach = partial(aimed, horizon=25)

TASKS: list[Task] = [
    _approach(
        "FetchPush-v4",
        Aim(BLOCK_FROM_GRIPPER, beside, at_gripper, 0.025, ALONG()),
        name="fetch-push-beside",
        description="bring the closed fingers to a given side of the block",
        scene="fetch-push",
        budget=2_000,
    ),
    _approach(
        "FetchSlide-v4",
        Aim(BLOCK_FROM_GRIPPER, beside, at_gripper, 0.025, ALONG()),
        name="fetch-slide-beside",
        description="bring the closed fingers to a given side of the puck",
        scene="fetch-slide",
        places=PLACES_OF_STROKE,
        budget=2_000,
    ),
    _approach(
        "FetchPickAndPlace-v4",
        Aim(BLOCK_FROM_GRIPPER, partial(under_gripper, 0.0), at_gripper, AROUND, ALONG()),
        name="fetch-pick-and-place-around",
        description="put the open fingers around the block",
        scene="fetch-pick-and-place",
        budget=2_000,
    ),
    _approach(
        "FetchPickAndPlace-v4",
        Aim(grip, held, at_fingers, 0.025, Flip.of(4, [1])),
        name="fetch-pick-and-place-grip",
        description="close the fingers on the block",
        scene="fetch-pick-and-place",
        budget=5_000,
    ),
]
