"""Easier tasks in the scenes of the stock Fetch tasks: they bring the gripper where those can begin (gcrl/relay.py)."""

from __future__ import annotations

import math

import numpy as np

from tasks.fetch import ALONG, Floats
from tasks.table import BLOCK_FROM_GRIPPER, Aim, Table, aimed, at_gripper
from tasks.task import Task

BESIDE = 0.06
"""Metres from the block to the gripper that stands ready to push it: they nearly touch."""


def beside(env: Table, obs: Floats) -> Floats:
    """The block on any side of the gripper, level with it."""
    angle = env.np_random.uniform(-math.pi, math.pi)
    return BESIDE * np.array([math.cos(angle), math.sin(angle), 0.0])


TASKS: list[Task] = [
    aimed(
        "FetchPush-v4",
        Aim(BLOCK_FROM_GRIPPER, beside, at_gripper, 0.025, ALONG()),
        horizon=25,
        name="fetch-push-beside",
        description="bring the closed fingers to a given side of the block",
        scene="fetch-push",
        budget=2_000,
    ),
]
