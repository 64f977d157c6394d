"""The Fetch arm reaches, pushes, slides, picks, places (Plappert et al. 2018, arXiv 1802.09464). Long: the step is one.

The simulation is that of gymnasium-robotics' v4 environments, bit for bit, and faster than their physics alone: a step
looks names up once, reads only the joints that are observed, seeks no contact where none can be and leaves out whatever
else cannot change a result.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tasks.mirror import Flip, Mirror
from tasks.simulator import register_robotics
from tasks.task import Task, cost_outside, part, within

Floats: TypeAlias = NDArray[np.float64]
Observation: TypeAlias = dict[str, Floats]
Outcome: TypeAlias = tuple[Observation, Any, bool, bool, dict[str, Any]]

STRIDE = 0.05
"""How far a full action moves the gripper's target, in metres."""
DOWNWARD = np.array([1.0, 0.0, 1.0, 0.0])
"""Added to the gripper's quaternion at each step, not normalised: the weld constraint turns the gripper downward."""
GIMBAL = 4 * float(np.finfo(np.float64).eps)
"""Below this cosine of the pitch, roll and yaw are one angle."""
APART = (
    ("robot0:base_link", "table0"),
    ("robot0:laser_link", "table0"),
    ("robot0:torso_fixed_link", "robot0:head_pan_link"),
    ("robot0:torso_fixed_link", "robot0:shoulder_pan_link"),
    ("robot0:torso_fixed_link", "robot0:shoulder_lift_link"),
    ("robot0:torso_lift_link", "robot0:head_tilt_link"),
    ("robot0:head_pan_link", "robot0:shoulder_pan_link"),
)
"""Bodies that are close and yet never touch, whatever the joints between them do: tests/test_fetch.py proves it."""
POSTURE = {
    "robot0:head_pan_joint": (-0.4, 0.4),
    "robot0:head_tilt_joint": (-0.02, 0.14),
    "robot0:shoulder_pan_joint": (-1.35, 0.92),
    "robot0:shoulder_lift_joint": (-1.6, 1.3),
}
"""The usual positions (rad) of four joints: these bodies do not touch while they last, as the same test proves."""
APART_IN_POSTURE = (
    ("robot0:torso_lift_link", "robot0:shoulder_lift_link"),
    ("robot0:head_tilt_link", "robot0:shoulder_lift_link"),
    ("robot0:head_pan_link", "robot0:shoulder_lift_link"),
)
SWEEP = (0.35, 0.06, 0.5, 0.35)
"""How far (rad) these joints may go within a step that begins there.

Seen in 10,000 such steps of full actions: 0.21, 0.02, 0.40, 0.21.
"""


MODELS: dict[str, tuple[Any, Any]] = {}
"""By file. Environments share them, for who steps many in turn then finds them in the cache; nobody writes in them."""
FAR, NEAR, YES, NO = -np.float32(1), -np.float32(0), np.float32(1), np.float32(0)


class Fetch(gymnasium.Env[Observation, NDArray[np.float32]]):
    """The stock environment with a step of our own.

    A step is begin(action), advance(), observe(): advance is physics only and holds no lock of the interpreter, so many
    environments can advance in threads. The stock environment builds, resets and draws; its simulator data are a second
    copy, so drawing never disturbs an episode. Whoever steps keeps the clock: nothing is ever truncated here.
    """

    def __init__(self, stock: Any) -> None:
        import mujoco

        if mujoco.get_mjcb_time() is None:  # the binding's own clock, for profilers: 5 % of a step
            mujoco.set_mjcb_time(None)
        if stock.fullpath not in MODELS:
            MODELS[stock.fullpath] = lighter(stock.model), lighter(stock.model, APART + APART_IN_POSTURE)
        self.mujoco, self.stock = mujoco, stock
        self.model, self.usual = MODELS[stock.fullpath]
        """for any step, and for one that begins well inside of POSTURE"""
        self.data = mujoco.MjData(self.model)
        self.everything = int(mujoco.mjtState.mjSTATE_INTEGRATION)
        self.state = np.zeros(mujoco.mj_stateSize(self.model, self.everything))
        self.action_space, self.observation_space = stock.action_space, stock.observation_space
        self.low, self.high = stock.action_space.low, stock.action_space.high
        self.metadata, self.render_mode = stock.metadata, stock.render_mode
        self.goal = stock.goal
        self.substeps, self.radius = stock.n_substeps, stock.distance_threshold
        self.dt = self.substeps * self.model.opt.timestep

        # Views into the simulator's memory, which stays in place as long as its data live.
        model, data = self.model, self.data
        grip, gripper = model.site("robot0:grip").id, model.body("robot0:gripper_link").id
        self.grip_pos = data.site_xpos[grip]
        self.gripper_pos, self.gripper_quat = data.xpos[gripper], data.xquat[gripper]
        self.mocap_pos, self.mocap_quat = data.mocap_pos[0], data.mocap_quat[0]
        finger = model.joint("robot0:r_gripper_finger_joint")
        qpos, dof = int(finger.qposadr[0]), int(finger.dofadr[0])
        self.fingers, self.fingers_vel = data.qpos[qpos : qpos + 2], data.qvel[dof : dof + 2]
        self.qvel, self.ctrl = data.qvel, data.ctrl
        first = int(model.joint(next(iter(POSTURE))).qposadr[0])
        self.posture = data.qpos[first : first + len(POSTURE)]
        self.inside = [(low + x, high - x) for (low, high), x in zip(POSTURE.values(), SWEEP, strict=True)]
        self.blocked, self.has_object = stock.block_gripper, stock.has_object
        self.jac_pos, self.jac_rot = np.zeros((2, 3, model.nv))
        self.grip_jac = partial(mujoco.mj_jacSite, model, data, self.jac_pos, None, grip)
        if self.has_object:
            site = model.site("object0").id
            self.object_pos, self.object_mat = data.site_xpos[site], data.site_xmat[site]
            self.object_jac = partial(mujoco.mj_jacSite, model, data, self.jac_pos, self.jac_rot, site)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.stock.np_random = self.np_random
        obs, info = self.stock.reset(options=options)
        self.copy(self.stock.model, self.stock.data, self.model, self.data)
        self.mujoco.mj_kinematics(self.model, self.data)
        self.goal = self.stock.goal
        return obs, info

    def step(self, action: NDArray[np.float32]) -> Outcome:
        self.begin(action)
        self.advance()
        return self.observe()

    def begin(self, action: NDArray[np.float32]) -> None:
        """Aim the gripper by action (4,): x, y, z in strides and the opening of the fingers."""
        action = np.minimum(np.maximum(action, self.low), self.high)
        np.add(self.gripper_pos, action[:3] * STRIDE, out=self.mocap_pos)  # the product stays in the action's float32
        np.add(self.gripper_quat, DOWNWARD, out=self.mocap_quat)
        if not self.blocked:
            np.add(self.fingers[::-1], action[3], out=self.ctrl)  # the left one first

    def advance(self) -> None:
        self.mujoco.mj_step(self.usual if self.in_posture() else self.model, self.data, self.substeps)

    def in_posture(self) -> bool:
        """Do the joints stay inside of POSTURE for a step?"""
        return all(low < x < high for x, (low, high) in zip(self.posture.tolist(), self.inside, strict=True))

    def observe(self) -> Outcome:
        """What the step led to. With free fingers positions are one substep older than velocities, as in the stock."""
        if self.blocked:
            self.fingers[:] = 0.0
            self.mujoco.mj_kinematics(self.model, self.data)
            self.mujoco.mj_comPos(self.model, self.data)
        outcome = self.judge(self.vector())
        if self.render_mode == "human":
            self.render()
        return outcome

    def judge(self, obs: Floats) -> Outcome:
        """What is said of a step that led to obs (O,)."""
        achieved = (self.object_pos if self.has_object else self.grip_pos).copy()
        x, y, z = (achieved - self.goal).tolist()
        distance = math.sqrt(x * x + y * y + z * z)  # the order in which NumPy adds three numbers
        info = {"is_success": YES if distance < self.radius else NO}
        seen = {"observation": obs, "achieved_goal": achieved, "desired_goal": self.goal.copy()}
        return seen, FAR if distance > self.radius else NEAR, False, False, info

    def vector(self) -> Floats:
        """The observation vector (10,) without and (25,) with an object: metres, radians, and both per step."""
        obs, jac, qvel, dt = np.empty(25 if self.has_object else 10), self.jac_pos, self.qvel, self.dt
        self.grip_jac()
        grip_vel = jac.dot(qvel)
        grip_vel *= dt
        obs[:3] = self.grip_pos
        obs[-5:-2] = grip_vel
        np.multiply(self.fingers_vel, dt, out=obs[-2:])
        if not self.has_object:
            obs[3:5] = self.fingers
            return obs
        self.object_jac()
        obs[3:6] = self.object_pos
        np.subtract(self.object_pos, self.grip_pos, out=obs[6:9])
        obs[9:11] = self.fingers
        obs[11:14] = euler(self.object_mat)
        vel = jac.dot(qvel)
        vel *= dt
        np.subtract(vel, grip_vel, out=obs[14:17])
        np.multiply(self.jac_rot.dot(qvel), dt, out=obs[17:20])
        return obs

    def render(self) -> Any:
        self.copy(self.model, self.data, self.stock.model, self.stock.data)
        self.mujoco.mj_forward(self.stock.model, self.stock.data)
        return self.stock.render()

    def copy(self, model: Any, data: Any, to_model: Any, to_data: Any) -> None:
        """All that the next step depends on, from one copy of the simulation to the other."""
        self.mujoco.mj_getState(model, data, self.state, self.everything)
        self.mujoco.mj_setState(to_model, to_data, self.state, self.everything)

    def close(self) -> None:
        self.stock.close()


def lighter(model: Any, apart: Sequence[tuple[str, str]] = APART) -> Any:
    """A copy of the model that seeks no contact between bodies that are `apart`: the same motion for less time.

    Each body that can touch gets a bit of its own, and the bits of the bodies to collide with.
    """
    model = copy.copy(model)
    model.vis.global_.bvactive = 0  # else every mj_step clears 69 kB of marks of what a drawing could show
    solid = np.flatnonzero(model.body_contype)
    kind, others = np.zeros((2, model.nbody), np.int32)
    kind[solid] = 1 << np.arange(len(solid))
    others[solid] = kind.sum()
    for pair in apart:
        a, b = (model.body(name).id for name in pair)
        others[a] &= ~kind[b]
        others[b] &= ~kind[a]
    model.body_contype[:], model.body_conaffinity[:] = kind, others
    shapes = np.flatnonzero(model.geom_contype)
    owners = model.geom_bodyid[shapes]
    model.geom_contype[shapes], model.geom_conaffinity[shapes] = kind[owners], others[owners]
    return model


def euler(mat: Floats) -> Floats:
    """Angles about x, y and z (3,), in radians, of a rotation matrix (9,) in row order."""
    xx, xy, xz, yx, yy, yz, _, _, zz = mat.tolist()
    cos = math.sqrt(zz * zz + yz * yz)
    if cos > GIMBAL:
        return -np.arctan2((yz, -xz, xy), (zz, cos, xx))
    return -np.arctan2((-0.0, -xz, -yx), (1.0, cos, yy))


def make(name: str, render_mode: str | None = None) -> Fetch:
    register_robotics()
    return Fetch(gymnasium.make(name, render_mode=render_mode, disable_env_checker=True).unwrapped)


MIDDLE = 0.7491
"""y of the plane (m) in which table and gripper are their own mirror images; the arm follows the gripper."""
ALONG = partial(Flip.of, 3, [1])
"""x, y, z (m): an offset, or with `about` and `places` a place."""
PLACE = ALONG(MIDDLE, [1])
PLACES = (0, 1, 3, 4)
"""x and y of gripper and object in the observation (25,): the table is the same everywhere"""
PLACES_OF_STROKE = (1, 3, 4)
"""not the gripper's x where speed counts: stretched out, from x = 1.15 m on, the arm moves ever more slowly"""
_OF_OBJECT = Flip.of(25, [1, 4, 7, 11, 13, 15, 17, 19, 21], MIDDLE, [1, 4], [9, 10, 23, 24])
_OF_GRIPPER = Flip.of(10, [1, 6], MIDDLE, [1], [3, 4, 8, 9])
_OF_ACTION = Flip.of(4, [1])
MIRROR = Mirror(_OF_OBJECT, _OF_ACTION, PLACE)
"""of a task whose goal is a place of the object; angles about x and z turn round, those about y do not"""

_fetch = partial(
    Task,
    action_dim=4,
    goal_dim=3,
    horizon=50,
    success=partial(within, 0.05),
    reward=partial(cost_outside, 0.05),
    reward_range=(-1.0, 0.0),
    family="fetch",
    n_step=3,
)
_moves_gripper = partial(
    _fetch,
    obs_dim=10,
    goal_of=part(0, 3),
    columns=(0, 1, 2, 9, 10, 20, 21, 22, 23, 24),
    places=(0, 1),
    mirror=Mirror(_OF_GRIPPER, _OF_ACTION, PLACE),
)
_moves_object = partial(_fetch, obs_dim=25, goal_of=part(3, 6), places=PLACES, mirror=MIRROR)

TASKS: list[Task] = [
    _moves_gripper(
        name="fetch-reach",
        make=partial(make, "FetchReach-v4"),
        description="move the gripper to the target",
        scene="fetch-reach",
        budget=1_000,
    ),
    _moves_object(
        name="fetch-push",
        make=partial(make, "FetchPush-v4"),
        description="push the block across the table to the target",
        scene="fetch-push",
        easier=("fetch-push-beside",),
        budget=58_000,
    ),
    _moves_object(
        name="fetch-slide",
        make=partial(make, "FetchSlide-v4"),
        description="hit the puck so that it slides to the target, beyond the reach of the arm",
        scene="fetch-slide",
        easier=("fetch-slide-beside",),
        places=PLACES_OF_STROKE,
        budget=500_000,
    ),
    _moves_object(
        name="fetch-pick-and-place",
        make=partial(make, "FetchPickAndPlace-v4"),
        description="pick up the block and bring it to the target, on the table or in the air above it",
        scene="fetch-pick-and-place",
        easier=("fetch-pick-and-place-around", "fetch-pick-and-place-grip"),
        end_at_goal=True,
        budget=100_000,
    ),
]
