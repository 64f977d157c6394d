"""Fifty tasks of one Sawyer arm: Meta-World (Yu et al. 2019, arXiv 1910.10897), v3. Long: their table is in here.

What is observed (49,), alike for all: the 39 numbers of Meta-World (the hand, its opening and the objects, 18 now and
18 a step ago, then the target), and then what success and sharing need and those do not tell: where the reset put the
scene's fixture (3), two marks (3 each) and whether all else that success asks for holds (1). A goal (4,) is a mark and
that last number. The reward of all fifty is 1 at success and 0 before, so that they are of one size and any task of a
scene can be scored on another's data. Meta-World's own is in info, as `dense_reward`: most of them read the action, the
fingers or how the episode began, which are no part of (achieved, desired).

A scene is one model under one range of the hand. Compiled, the models of its tasks are equal number by number, except
for where a reset puts the fixture, which is observed: so its tasks have one dynamics. Both marks are those of the
scene, whatever the task, so each task finds its goal in the others' data. Of the drawer, the faucet, the door's lock,
the handles, the window and the coffee machine, the 39 numbers show each task another point; the marks tell which.
The target in them stays the one of the recorded episode. Not of one scene, although of one model file: hand-insert and
sweep-into, stick-push and stick-pull, whose hands have different ranges. Of one scene, although of three files: reach,
push and pick-place; and of two, push-wall and pick-place-wall.
"""

from __future__ import annotations

import math
import operator
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from tasks.task import Array, InputError, Task, bonus_if

Floats: TypeAlias = NDArray[np.float64]
Observation: TypeAlias = dict[str, Floats]

CURE = 'pip install "gcrl[metaworld]", in an environment of its own: it needs another mujoco'
STOCK, SEEN, GOAL = 39, 49, 4
"""How many numbers Meta-World observes, we observe, and a goal has."""


class Mark(NamedTuple):
    """A point (3,) that a task can be judged by."""

    kind: str = "seen"
    """body, site: the simulator's; tcp: between the fingertips; joint: (position, 0, 0); seen: from column `name`."""
    name: str = "4"
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to the point; for a joint, (sign, 0, 0) that multiplies it."""


class Scene(NamedTuple):
    fixture: str = ""
    """The body that a reset moves within the model."""
    marks: tuple[Mark, ...] = (Mark(),)


@dataclass(frozen=True)
class Rule:
    """When a goal is reached; where the simulator says < we say <=, which differs at one number."""

    radius: float
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of the three axes in the distance."""
    side: tuple[int, int, int] = (0, 0, 0)
    """1: at least the desired number; -1: at most."""
    mark: int = 0
    also: str = ""
    """What else must hold: `held`, the stick in the gripper; `inserted`, the stick in the handle."""
    target: tuple[float | None, float | None, float | None] = (None, None, None)
    """None: as in Meta-World's target."""


def reached(rule: Rule, achieved: Array, desired: Array) -> Array:
    """bool (...)"""
    gap = achieved - desired
    there = gap[..., 3] >= 0
    # Many small batches come by: a weight of 1 or 0 costs nothing.
    parts = [gap[..., i] if w == 1 else w * gap[..., i] for i, w in enumerate(rule.weights) if w]
    if parts:
        first, *others = (part * part for part in parts)
        there = there & (sum(others, first) ** 0.5 <= rule.radius)
    for axis, sign in enumerate(rule.side):
        if sign:
            there = there & (sign * gap[..., axis] >= 0)
    return there


class MetaWorld(gymnasium.Env[Observation, NDArray[np.float32]]):
    """The stock environment with goals, a seed that says it all, and no clock."""

    def __init__(self, stock: Any, scene: Scene, rule: Rule) -> None:
        import mujoco

        self.stock, self.scene, self.rule, self.kinematics = stock, scene, rule, mujoco.mj_kinematics
        stock.seeded_rand_vec, stock._set_task_called, stock.max_path_length = True, True, sys.maxsize
        stock._partially_observable = False
        stock.__dict__.pop("sawyer_observation_space", None)  # the one with the target hidden
        self.model, self.data = stock.model, stock.data
        self.placed = self.model.body_pos.copy(), self.model.site_pos.copy()
        self.draws, stock.reset_model = stock.reset_model, self.draw_once
        self.action_space = Box(-1, 1, (4,), np.float32)
        sizes = {"observation": SEEN, "achieved_goal": GOAL, "desired_goal": GOAL}
        spaces: Any = Dict({name: Box(-np.inf, np.inf, (n,), np.float64) for name, n in sizes.items()})
        self.observation_space = spaces
        self.metadata, self.render_mode = stock.metadata, stock.render_mode

    def draw_once(self) -> Floats:
        """The stock reset asks twice for a layout, and has leftovers of the first in the second: make both the same."""
        obs: Floats = self.draws()
        self.stock._freeze_rand_vec = True
        return obs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.model.body_pos[:], self.model.site_pos[:] = self.placed  # some resets start from the last one's places
        self.stock.np_random, self.stock._freeze_rand_vec = self.np_random, False
        obs, _ = self.stock.reset()
        self.kinematics(self.model, self.data)  # for the marks; the stock's first look at a closing window is stale
        both = zip(self.rule.target, self.stock._target_pos, strict=True)
        self.goal = np.array([*(theirs if ours is None else ours for ours, theirs in both), 1.0])
        return self.seen(obs, {}), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        obs, dense, _, _, info = self.stock.step(action)
        seen = self.seen(obs, info)
        reward = float(reached(self.rule, seen["achieved_goal"], self.goal))
        return seen, reward, False, False, {**info, "dense_reward": float(dense)}

    def seen(self, obs: Floats, info: dict[str, Any]) -> Observation:
        marks = [self.point(mark, obs) for mark in self.scene.marks]
        fixture = self.model.body(self.scene.fixture).pos if self.scene.fixture else np.zeros(3)
        tail = [*marks, np.zeros(3 * (2 - len(marks))), [float(self.ready(obs, info))]]
        both = np.concatenate([obs, fixture, *tail])
        return {"observation": both, "achieved_goal": goal_of(self.rule)(both), "desired_goal": self.goal.copy()}

    def point(self, mark: Mark, obs: Floats) -> Floats:
        if mark.kind == "seen":
            return obs[int(mark.name) : int(mark.name) + 3]
        if mark.kind == "tcp":
            return np.asarray(self.stock.tcp_center)
        if mark.kind == "joint":
            return self.data.joint(mark.name).qpos * np.array(mark.offset)
        return getattr(self.data, mark.kind)(mark.name).xpos + np.array(mark.offset)

    def ready(self, obs: Floats, info: dict[str, Any]) -> bool:
        if self.rule.also == "held":
            return bool(info.get("grasp_success", False))  # contact forces; no episode begins with the stick lifted
        if self.rule.also == "inserted":
            return bool(self.stock._stick_is_inserted(obs[11:14], self.data.site("stick_end").xpos))
        return True

    def render(self) -> Any:
        return self.stock.render()

    def close(self) -> None:
        self.stock.close()


def goal_of(rule: Rule) -> operator.itemgetter[Any]:
    start = STOCK + 3 + 3 * rule.mark
    return operator.itemgetter((Ellipsis, [start, start + 1, start + 2, SEEN - 1]))


def make(name: str, render_mode: str | None = None) -> MetaWorld:
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError:
        raise InputError(f"metaworld is not installed: {CURE}") from None
    scene, rule, _ = TABLE[name]
    stock = ALL_V3_ENVIRONMENTS[f"{name}-v3"](render_mode=render_mode)
    return MetaWorld(stock, SCENES.get(scene, Scene()), rule)


def body(name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mark:
    return Mark("body", name, (x, y, z))


def site(name: str, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mark:
    return Mark("site", name, (x, y, z))


TCP, SECOND = Mark("tcp"), Mark("seen", "11")
SCENES = {
    "nut": Scene("peg", (site("RoundNut"), Mark())),
    "basketball": Scene("basket_goal"),
    "box-close": Scene("boxbody"),
    "button-press": Scene("box"),
    "button-press-topdown": Scene("box"),
    "button-press-topdown-wall": Scene("box"),
    "button-press-wall": Scene("box"),
    "coffee": Scene("coffee_machine", (site("buttonStart"), body("obj"))),
    "dial-turn": Scene("dial"),
    "door": Scene("door"),
    "lock": Scene("door", (site("lockStartLock"), site("lockStartUnlock"))),
    "drawer": Scene("drawer", (body("drawer_link", y=-0.16), body("drawer_link", y=-0.16, z=0.05))),
    "faucet": Scene("faucetBase", (site("handleStartOpen", x=-0.04, z=0.02), site("handleStartClose", z=-0.01))),
    "hammer": Scene("", (Mark("joint", "NailSlideJoint", (1.0, 0.0, 0.0)),)),
    "handle": Scene("box", (site("handleStart"), site("handleRight"))),
    "handle-side": Scene("box", (site("handleStart"), site("handleCenter"))),
    "lever-pull": Scene("lever", (Mark("joint", "LeverAxis", (-1.0, 0.0, 0.0)),)),
    "peg-insert-side": Scene("box", (site("pegHead"),)),
    "peg-unplug-side": Scene("box"),
    "plate": Scene("puck_goal"),
    "plate-side": Scene("puck_goal"),
    "reach-wall": Scene("", (TCP,)),
    "shelf-place": Scene("shelf"),
    "soccer": Scene("goal_whole"),
    "stick-pull": Scene("", (SECOND,)),
    "stick-push": Scene("", (SECOND,)),
    "table": Scene("", (TCP, Mark())),
    "window": Scene("window", (site("handleOpenStart"), site("handleCloseStart"))),
}

X, Y, Z, XY, ANY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0)
PLACED = Rule(0.07)
"""The object within 7 cm of the target."""

TABLE: dict[str, tuple[str, Rule, str]] = {
    "assembly": ("nut", Rule(0.02, XY, (0, 0, -1)), "put the ring of the tool over the peg"),
    "basketball": ("basketball", Rule(0.08, (1.0, 1.0, 2.0), target=(None, None, 0.3)), "put the ball into the basket"),
    "bin-picking": ("bin-picking", Rule(0.05), "move the block from one bin into the other"),
    "box-close": ("box-close", Rule(0.08), "put the lid on the box"),
    "button-press": ("button-press", Rule(0.02, Y), "push in the button that faces the robot"),
    "button-press-topdown": ("button-press-topdown", Rule(0.024, Z), "press the button down from above"),
    "button-press-topdown-wall": ("button-press-topdown-wall", Rule(0.024, Z), "press the button down behind the wall"),
    "button-press-wall": ("button-press-wall", Rule(0.03, Y), "reach around the wall and push in the button"),
    "coffee-button": ("coffee", Rule(0.02, Y), "press the button of the coffee machine"),
    "coffee-pull": ("coffee", Rule(0.07, mark=1), "pull the mug from the coffee machine to the target"),
    "coffee-push": ("coffee", Rule(0.07, mark=1), "push the mug under the coffee machine"),
    "dial-turn": ("dial-turn", PLACED, "turn the dial by half a circle"),
    "disassemble": ("nut", Rule(0.0, ANY, (0, 0, 1), mark=1), "lift the ring of the tool off the peg"),
    "door-close": ("door", Rule(0.08), "close the door"),
    "door-lock": ("lock", Rule(0.02, Z), "turn the lock of the door to locked"),
    "door-open": ("door", Rule(0.08, X), "open the door by its handle"),
    "door-unlock": ("lock", Rule(0.02, X, mark=1), "turn the lock of the door to unlocked"),
    "hand-insert": ("hand-insert", Rule(0.05), "bring the block down into the hole"),
    "drawer-close": ("drawer", Rule(0.065, mark=1), "push the drawer shut"),
    "drawer-open": ("drawer", Rule(0.03), "pull the drawer open"),
    "faucet-open": ("faucet", PLACED, "turn the faucet open"),
    "faucet-close": ("faucet", Rule(0.07, mark=1), "turn the faucet shut"),
    "hammer": ("hammer", Rule(0.0, ANY, (1, 0, 0), target=(0.09, 0.0, 0.0)), "take the hammer and drive the nail in"),
    "handle-press-side": ("handle-side", Rule(0.02, Z), "press down the handle at the robot's side"),
    "handle-press": ("handle", Rule(0.02, Z), "press down the handle in front of the robot"),
    "handle-pull-side": ("handle-side", Rule(0.08, mark=1), "pull up the handle at the robot's side"),
    "handle-pull": ("handle", Rule(0.05, Z, mark=1), "pull up the handle in front of the robot"),
    "lever-pull": ("lever-pull", Rule(math.pi / 24, X, target=(math.pi / 2, 0.0, 0.0)), "lift the lever upright"),
    "pick-place-wall": ("table-wall", PLACED, "lift the puck over the wall to the target"),
    "pick-out-of-hole": ("pick-out-of-hole", PLACED, "pick the puck out of the hole and bring it to the target"),
    "pick-place": ("table", Rule(0.07, mark=1), "pick up the puck and bring it to the target in the air"),
    "plate-slide": ("plate", PLACED, "slide the plate away from the robot into the cabinet"),
    "plate-slide-side": ("plate-side", PLACED, "slide the plate sideways into the cabinet"),
    "plate-slide-back": ("plate", PLACED, "slide the plate out of the cabinet toward the robot"),
    "plate-slide-back-side": ("plate-side", PLACED, "slide the plate sideways out of the cabinet"),
    "peg-insert-side": ("peg-insert-side", Rule(0.07, (1.0, 2.0, 2.0)), "put the peg into the hole in the side"),
    "peg-unplug-side": ("peg-unplug-side", PLACED, "pull the peg out of the hole in the side"),
    "soccer": ("soccer", PLACED, "kick the ball into the goal"),
    "stick-push": ("stick-push", Rule(0.12, also="held"), "take the stick and push the thermos with it"),
    "stick-pull": ("stick-pull", Rule(0.12, also="inserted"), "put the stick through the thermos' handle and pull it"),
    "push": ("table", Rule(0.05, mark=1), "push the puck across the table to the target"),
    "push-wall": ("table-wall", PLACED, "push the puck around the wall to the target"),
    "push-back": ("push-back", PLACED, "pull the block back toward the robot to the target"),
    "reach": ("table", Rule(0.05), "move the gripper of the Sawyer arm to the target"),
    "reach-wall": ("reach-wall", Rule(0.05), "move the gripper past the wall to the target"),
    "shelf-place": ("shelf-place", PLACED, "place the block on the shelf"),
    "sweep-into": ("sweep-into", Rule(0.05, XY), "sweep the block into the hole"),
    "sweep": ("sweep", Rule(0.05), "sweep the block off the table"),
    "window-open": ("window", Rule(0.05, X), "slide the window open"),
    "window-close": ("window", Rule(0.05, X, mark=1), "slide the window shut"),
}


def task(name: str, scene: str, rule: Rule, description: str) -> Task:
    success = partial(reached, rule)
    return Task(
        name=f"metaworld-{name}",
        make=partial(make, name),
        description=description,
        obs_dim=SEEN,
        action_dim=4,
        goal_dim=GOAL,
        horizon=500,
        goal_of=goal_of(rule),
        success=success,
        reward=partial(bonus_if, success),
        reward_range=(0.0, 1.0),
        family="metaworld",
        scene=f"metaworld-{scene}",
        local=True,  # what the marks are differs from scene to scene
        budget=1_000_000,
    )


TASKS: list[Task] = [task(name, *entry) for name, entry in TABLE.items()]
MT10 = (
    "reach push pick-place door-open drawer-open drawer-close button-press-topdown peg-insert-side window-open "
    "window-close"
)
SETS: dict[str, list[str]] = {
    "metaworld-mt10": [f"metaworld-{name}" for name in MT10.split()],
    "metaworld-mt50": [one.name for one in TASKS],
}
