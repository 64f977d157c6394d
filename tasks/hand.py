"""The Shadow hand reaches with its fingertips and turns a block, an egg and a pen (Plappert et al. 2018, 1802.09464).

Goals of the objects are (..., 7): a position in metres and a quaternion (w, x, y, z). Reward and success are those of
gymnasium-robotics, which tells a quaternion q from -q although both are one rotation.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from tasks.simulator import register_robotics
from tasks.task import Array, Score, Task, cost_outside, part, within

ANGLE = 0.1
"""Radians between two rotations that count as one."""
ALIGNED = math.cos(ANGLE / 2)
"""The least inner product of the quaternions of such rotations."""
GIMBAL = 4 * float(np.finfo(np.float64).eps)
"""Below this cosine of the pitch there is no roll."""


def inner(a: Array, b: Array) -> Array:
    """(..., 4) x (..., 4) -> (...): the cosine of half the angle between two rotations."""
    return (a * b).sum(-1)


def turned(achieved: Array, desired: Array) -> Array:
    """Rotated as desired, wherever it is: bool (...)."""
    return inner(achieved[..., 3:], desired[..., 3:]) > ALIGNED


def placed(radius: float, achieved: Array, desired: Array) -> Array:
    """Rotated as desired and nearer than `radius`: bool (...)."""
    return within(radius, achieved[..., :3], desired[..., :3]) & turned(achieved, desired)


def half(cos: Array, sin: Array) -> tuple[Array, Array]:
    """Cosine and sine of an angle in [-pi, pi) -> those of its half, without cancellation."""
    large = ((1 + abs(cos)) / 2) ** 0.5
    small = abs(sin) / (2 * large)
    front = 1.0 * (cos >= 0)
    side = 1.0 - 2.0 * (sin <= 0)
    return front * large + (1 - front) * small, side * (front * small + (1 - front) * large)


def tilt(quat: Array) -> tuple[Array, Array, Array, Array]:
    """Roll and pitch of a rotation without its turn about its own z, as the quaternion roll * pitch, (...) each.

    A rotation is roll about x, then pitch about the new y, then a turn about the newest z, so the z axis of the turned
    body is (sin pitch, -sin roll cos pitch, cos roll cos pitch).
    """
    w, x, y, z = quat[..., 0], quat[..., 1], quat[..., 2], quat[..., 3]
    scale = 2 / inner(quat, quat)
    ahead, left, up = (x * z + w * y) * scale, (y * z - w * x) * scale, 1 - (x * x + y * y) * scale
    level = (left * left + up * up) ** 0.5
    locked = 1.0 * (level <= GIMBAL)
    cos_roll, sin_roll = half((up + locked) / (level + locked), -left / (level + locked))
    cos_pitch, sin_pitch = half(level, ahead)
    return cos_roll * cos_pitch, sin_roll * cos_pitch, cos_roll * sin_pitch, sin_roll * sin_pitch


def pointed(achieved: Array, desired: Array) -> Array:
    """Roll and pitch as desired, however it is turned about its own z: bool (...).

    The simulator gives the achieved rotation the desired turn and compares the quaternions, the achieved one rebuilt
    from the three angles and the desired one as it is. With the turns equal what remains is the inner product of the
    tilts, and whether the desired quaternion is the one that its own angles rebuild or its negative.
    """
    a, b = tilt(achieved[..., 3:]), tilt(desired[..., 3:])
    near = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
    same = b[0] * desired[..., 3] + b[1] * desired[..., 4] + b[2] * desired[..., 5] + b[3] * desired[..., 6]
    return near * (1.0 - 2.0 * (same <= 0)) > ALIGNED


def pointed_there(radius: float, achieved: Array, desired: Array) -> Array:
    """Roll and pitch as desired and nearer than `radius`: bool (...)."""
    return within(radius, achieved[..., :3], desired[..., :3]) & pointed(achieved, desired)


def cost_unless(reached: Score, achieved: Array, desired: Array) -> Array:
    """0 where `reached`, else -1: (...)."""
    return 1.0 * reached(achieved, desired) - 1.0


class Hand(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The stock environment, but every reset forgets all that was before, and drawing changes nothing."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        import mujoco

        sim: Any = self.env.unwrapped
        mujoco.mj_resetData(sim.model, sim.data)  # the stock reset keeps applied forces and the solver's warm start
        return super().reset(seed=seed, options=options)

    def render(self) -> Any:
        """The stock drawing moves the target in the simulator to where the goal is."""
        import mujoco

        sim: Any = self.env.unwrapped
        everything = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(sim.model, everything))
        mujoco.mj_getState(sim.model, sim.data, state, everything)
        frame = super().render()
        mujoco.mj_setState(sim.model, sim.data, state, everything)
        return frame


def make(env_id: str, render_mode: str | None = None) -> Hand:
    register_robotics()
    return Hand(gymnasium.make(env_id, render_mode=render_mode, max_episode_steps=-1, disable_env_checker=True))


_hand = partial(Task, action_dim=20, reward_range=(-1.0, 0.0))


def manipulate(name: str, env_id: str, success: Score, description: str) -> Task:
    return _hand(
        name=name,
        make=partial(make, f"HandManipulate{env_id}-v1"),
        description=description,
        obs_dim=61,
        goal_dim=7,
        horizon=100,
        goal_of=part(-7, None),
        success=success,
        reward=partial(cost_unless, success),
        family="hand-manipulate",
        scene="-".join(name.split("-")[:2]),
        budget=2_000_000,
    )


TASKS: list[Task] = [
    _hand(
        name="hand-reach",
        make=partial(make, "HandReach-v3"),
        description="bring the thumb and a finger together, the other fingertips where they were",
        obs_dim=63,
        goal_dim=15,
        horizon=50,
        goal_of=part(-15, None),
        success=partial(within, 0.01),
        reward=partial(cost_outside, 0.01),
        family="hand-reach",
        scene="hand-reach",
        budget=500_000,
    ),
    manipulate("hand-block-rotate-z", "BlockRotateZ", turned, "turn the block about the vertical"),
    manipulate("hand-block-rotate-parallel", "BlockRotateParallel", turned, "turn the block onto another face"),
    manipulate("hand-block-rotate-xyz", "BlockRotateXYZ", turned, "turn the block about all axes"),
    manipulate("hand-block", "Block", partial(placed, 0.01), "turn the block and bring it to the target"),
    manipulate("hand-egg-rotate", "EggRotate", turned, "turn the egg about all axes"),
    manipulate("hand-egg", "Egg", partial(placed, 0.01), "turn the egg and bring it to the target"),
    manipulate("hand-pen-rotate", "PenRotate", pointed, "point the pen in the desired direction"),
    manipulate("hand-pen", "Pen", partial(pointed_there, 0.05), "point the pen and bring it to the target"),
]
