"""One block on one table and seven things to do with it: the tasks of a scene differ in their goals only.

The simulation is FetchPickAndPlace-v4's, and so is each start: what was done for one task is data for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from tasks.fetch import ALONG, MIRROR, PLACE, PLACES, Fetch, Floats, Observation, Outcome
from tasks.mirror import Flip, Mirror
from tasks.simulator import register_robotics
from tasks.task import Array, Task, cost_outside, distance, part, within

SPREAD, REACH = 0.15, 0.18
"""Targets are at most so far (m, along x and y) from where the gripper starts; nudged blocks stay on the table."""
NUDGE, LIFT = (0.06, 0.12), (0.08, 0.25)
"""How far (m) a block is to be moved, and how high above where it lay."""
AROUND = 0.03
"""A block so near (m) the middle between the fingertips lies between the fingers.

From outside, closed fingers come to 0.0385 at its sides and to 0.041 on top.
"""
OVER = 0.1
"""Metres from the block up to the gripper that hovers."""

GRIPPER, BLOCK, HEIGHT, BLOCK_FROM_GRIPPER = part(0, 3), part(3, 6), part(5, 6), part(6, 9)


@dataclass(frozen=True)
class Aim:
    """What a task asks for."""

    of: Callable[[Array], Array]
    """observation (..., 25) -> achieved goal (..., G)"""
    draw: Callable[[Table, Floats], Floats]
    """(environment, observation (25,) at reset) -> desired goal (G,)"""
    shown: Callable[[Floats, Floats], Floats]
    """(block (3,), desired goal (G,)) -> where the target is drawn (3,)"""
    radius: float
    """Metres within which the goal is reached."""
    flip: Flip = PLACE
    """The goal in a mirror."""


class Table(Fetch):
    """The environment of pick-and-place with an aim of its own."""

    def __init__(self, stock: Any, aim: Aim) -> None:
        super().__init__(stock)
        self.aim, self.radius = aim, aim.radius
        shape = aim.of(np.zeros(25)).shape
        goals = {key: Box(-np.inf, np.inf, shape, np.float64) for key in ("achieved_goal", "desired_goal")}
        self.observation_space: Any = Dict({**stock.observation_space.spaces, **goals})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw until there is something to do. Constant goals are not reached at the start: the block is 10 cm off."""
        seen, info = super().reset(seed=seed, options=options)
        obs = seen["observation"]
        achieved = self.aim.of(obs)
        self.goal = self.aim.draw(self, obs)
        while distance(achieved, self.goal) <= self.radius:
            self.goal = self.aim.draw(self, obs)
        return {"observation": obs, "achieved_goal": achieved.copy(), "desired_goal": self.goal.copy()}, info

    def judge(self, obs: Floats) -> Outcome:
        achieved = self.aim.of(obs).copy()
        away = float(distance(achieved, self.goal))  # once, for the task's `within` and its `cost_outside`
        info = {"is_success": np.float32(away < self.radius)}
        seen = {"observation": obs, "achieved_goal": achieved, "desired_goal": self.goal.copy()}
        return seen, -np.float32(away > self.radius), False, False, info

    def render(self) -> Any:
        self.stock.goal = self.aim.shown(self.object_pos, self.goal)
        return super().render()


def around(env: Table, spread: float) -> Floats:
    """(2,): x and y in a square around where the gripper starts."""
    return env.stock.initial_gripper_xpos[:2] + env.np_random.uniform(-spread, spread, 2)


def point(env: Table, obs: Floats) -> Floats:
    """As in FetchReach, but no lower than the block's middle: the fingers end just above the table."""
    top = env.stock.initial_gripper_xpos[2] + SPREAD
    return np.append(around(env, SPREAD), env.np_random.uniform(env.stock.height_offset, top))


def place(env: Table, obs: Floats) -> Floats:
    """As in FetchPush."""
    return np.append(around(env, SPREAD), env.stock.height_offset)


def place_beside(env: Table, obs: Floats) -> Floats:
    while True:
        angle, length = env.np_random.uniform(-math.pi, math.pi), env.np_random.uniform(*NUDGE)
        xy = obs[3:5] + length * np.array([math.cos(angle), math.sin(angle)])
        if (abs(xy - env.stock.initial_gripper_xpos[:2]) <= REACH).all():
            return np.append(xy, env.stock.height_offset)


def height(env: Table, obs: Floats) -> Floats:
    return env.stock.height_offset + env.np_random.uniform(*LIFT, 1)


def anywhere(env: Table, obs: Floats) -> Floats:
    """As in FetchPickAndPlace: half on the table, half in the air."""
    return env.stock._sample_goal()


def under_gripper(depth: float, env: Table, obs: Floats) -> Floats:
    return np.array([0.0, 0.0, -depth])


def at_goal(block: Floats, goal: Floats) -> Floats:
    return goal


def at_height(block: Floats, goal: Floats) -> Floats:
    return np.append(block[:2], goal)


def at_gripper(block: Floats, goal: Floats) -> Floats:
    return block - goal


def make(stock_id: str, aim: Aim, render_mode: str | None = None) -> Table:
    register_robotics()
    stock = gymnasium.make(stock_id, render_mode=render_mode, disable_env_checker=True)
    return Table(stock.unwrapped, aim)


def aimed(stock_id: str, aim: Aim, horizon: int = 50, places: tuple[int, ...] = PLACES, **words: Any) -> Task:
    return Task(
        make=partial(make, stock_id, aim),
        obs_dim=25,
        action_dim=4,
        goal_dim=len(aim.flip.sign),
        horizon=horizon,
        goal_of=aim.of,
        success=partial(within, aim.radius),
        reward=partial(cost_outside, aim.radius),
        reward_range=(-1.0, 0.0),
        family="fetch",
        n_step=3,
        places=places,
        mirror=Mirror(MIRROR.obs, MIRROR.action, aim.flip),
        **words,
    )


table = partial(aimed, "FetchPickAndPlace-v4", scene="table")


TASKS: list[Task] = [
    table(
        Aim(GRIPPER, point, at_goal, 0.05),
        name="table-reach",
        description="move the gripper to the target over the table",
        skill="gripper",
        budget=5_000,
    ),
    table(
        Aim(BLOCK_FROM_GRIPPER, partial(under_gripper, 0.0), at_gripper, AROUND, ALONG()),
        name="table-touch",
        description="put the fingers around the block",
        skill="gripper",
        budget=5_000,
    ),
    table(
        Aim(BLOCK_FROM_GRIPPER, partial(under_gripper, OVER), at_gripper, 0.05, ALONG()),
        name="table-hover",
        description="hold the gripper ten centimetres over the block",
        skill="gripper",
        budget=5_000,
    ),
    table(
        Aim(BLOCK, place, at_goal, 0.05),
        name="table-push",
        description="push the block to the target on the table",
        skill="block",
        budget=100_000,
    ),
    table(
        Aim(BLOCK, place_beside, at_goal, 0.03),
        name="table-nudge",
        description="push the block a little, to the target beside it",
        skill="block",
        budget=100_000,
    ),
    table(
        Aim(HEIGHT, height, at_height, 0.05, Flip.of(1, ())),
        name="table-lift",
        description="lift the block to the target height",
        skill="lift",
        budget=150_000,
    ),
    table(
        Aim(BLOCK, anywhere, at_goal, 0.05),
        name="table-pick-and-place",
        description="pick up the block and take it to the target, on the table or over it",
        skill="lift",
        budget=200_000,
    ),
]
