"""OGBench's simulators with goals, a seed that says it all, no clock and no drawing; its own package steps and resets.

The stock environments draw from NumPy's global generator and from an action space that nobody has seeded, and a step
describes the state three times. Here a step does what success and the observation need. That it is the same step is
tested number by number.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from tasks.task import InputError

if TYPE_CHECKING:
    from tasks.ogbench import Family

Floats: TypeAlias = NDArray[np.float64]
Observation: TypeAlias = dict[str, Floats]
Outcome: TypeAlias = tuple[Observation, float, bool, bool, dict[str, Any]]


class Seeded:
    """Over a stock arm, whose action space is a new one, unseeded, whenever it is asked for."""

    def __init__(self, **settings: Any) -> None:
        self.space = Box(-1, 1, (5,), np.float32)
        super().__init__(**settings)

    @property
    def action_space(self) -> Box:
        return self.space


def stock(env_id: str, **settings: Any) -> Any:
    """OGBench's own environment, without the wrappers of a registry."""
    from tasks.ogbench import CURE

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it imports looks for a screen
            import ogbench  # noqa: F401

            spec = gymnasium.spec(env_id)
            creator: Any = load_env_creator(str(spec.entry_point))
    except ImportError:
        raise InputError(f"ogbench is not installed: {CURE}") from None
    if isinstance(creator, type):
        creator = type("Stock", (Seeded, creator), {})
    return creator(**spec.kwargs, **settings)


class Simulator(gymnasium.Env[Observation, NDArray[np.float32]]):
    """What the three have in common."""

    def __init__(self, stock: Any, family: Family, at: list[int] | None, render_mode: str | None = None) -> None:
        import mujoco

        from tasks.ogbench import columns

        self.stock, self.family, self.at, self.mujoco, self.read = stock, family, at, mujoco, columns(family.parts)
        n = family.obs_dim if at is None else len(at)
        self.action_space = Box(-1, 1, (family.action_dim,), np.float32)
        sizes = {"observation": family.obs_dim, "achieved_goal": n, "desired_goal": n}
        spaces: Any = Dict({name: Box(-np.inf, np.inf, (n,), np.float64) for name, n in sizes.items()})
        self.observation_space = spaces
        self.metadata, self.render_mode = {**stock.metadata, "render_modes": ["rgb_array"]}, render_mode
        self.goals = len(stock.task_infos)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """One of the five goals; the options {"task_id": 1 .. 5} and {"task_info": ...} are OGBench's."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(self.goals)) + 1
        self.stock.np_random = self.np_random
        self.stock.action_space.seed(int(self.np_random.integers(2**31)))
        obs, goal = self.begin_anew(options or {"task_id": number})
        self.full_goal = goal
        self.goal = goal if self.at is None else goal[self.at]
        return self.seen(obs), {"task_id": self.stock.cur_task_id}

    def begin_anew(self, options: dict[str, Any]) -> tuple[Floats, Floats]:
        """The first observation and the full goal."""
        obs, info = self.stock.reset(options=options)
        return obs, np.array(info["goal"], np.float64)

    def seen(self, obs: Floats) -> Observation:
        achieved = obs.copy() if self.at is None else obs[self.at]
        return {"observation": obs, "achieved_goal": achieved, "desired_goal": self.goal.copy()}

    def outcome(self, obs: Floats, success: bool) -> Outcome:
        return self.seen(obs), float(success) - 1.0, success, False, {"success": float(success)}

    def render(self) -> Any:
        return self.stock.render()

    def close(self) -> None:
        if getattr(self.stock, "custom_renderer", None) is not None:
            self.stock.custom_renderer.close()
        self.stock.close()


class Maze(Simulator):
    """Of a body that goes through a maze."""

    def __init__(self, stock: Any, family: Family, at: list[int] | None, render_mode: str | None = None) -> None:
        super().__init__(stock, family, at, render_mode)
        stock.add_noise = self.scattered
        Path(stock.fullpath).unlink()  # the package leaves one a maze
        ports: Any = stock._teleport_info or {}
        self.ports_in = [(float(x), float(y)) for x, y in ports.get("teleport_in_xys", ())]
        self.ports_out = [np.array(xy, np.float64) for xy in ports.get("teleport_out_xys", ())]
        self.reach = 1.5 * ports.get("teleport_radius", 0)

    def scattered(self, xy: tuple[float, float]) -> Floats:
        """Somewhere in the middle of the cell (2,)."""
        width = self.stock._noise * self.stock._maze_unit / 4
        return np.asarray(xy) + self.np_random.uniform(-width, width, 2)

    def aim(self, cell: tuple[int, int]) -> None:
        """A new goal in this row and column, the body staying where it is."""
        self.stock.cur_goal_xy = self.scattered(self.stock.ij_to_xy(cell))
        self.full_goal = self.full_goal.copy()
        self.full_goal[self.read] = self.stock.cur_goal_xy
        self.goal = self.full_goal if self.at is None else self.full_goal[self.at]

    def near(self, x: float, y: float) -> bool:
        gx, gy = self.stock.cur_goal_xy
        return bool(np.sqrt((x - gx) ** 2 + (y - gy) ** 2) <= self.stock._goal_tol)

    def teleport(self, x: float, y: float) -> None:
        """From a way in to any way out. The observation of this step still shows the way in."""
        for u, v in self.ports_in:
            if np.sqrt((x - u) ** 2 + (y - v) ** 2) <= self.reach:
                self.stock.set_xy(self.ports_out[self.np_random.integers(len(self.ports_out))])
                break


class Walker(Maze):
    """An ant or a humanoid; in antsoccer it is the ball that has to get there."""

    def __init__(self, stock: Any, family: Family, at: list[int] | None, render_mode: str | None = None) -> None:
        super().__init__(stock, family, at, render_mode)
        self.body: Any = next(kind for kind in type(stock).__mro__ if not kind.__module__.endswith(".maze"))

    def step(self, action: NDArray[np.float32]) -> Outcome:
        obs = self.body.step(self.stock, action)[0]
        success = self.near(*obs[self.read])
        self.teleport(*self.stock.data.qpos[:2])
        return self.outcome(obs, success)


class Point(Maze):
    """A ball that moves by 0.2 of the action. Only where it may touch a wall has physics anything to add."""

    FREE = 1.299
    """From the middle of a cell of 4 m, no wall being nearer than the ball's 0.7 m. A neighbouring cell may be one."""

    def __init__(self, stock: Any, family: Family, at: list[int] | None, render_mode: str | None = None) -> None:
        super().__init__(stock, family, at, render_mode)
        self.data, self.model = stock.data, stock.model
        self.qpos, self.qvel, self.warm = self.data.qpos, self.data.qvel, self.data.qacc_warmstart
        self.wall = [[bool(cell) for cell in row] for row in stock.maze_map]

    def clear(self, x: float, y: float) -> bool:
        """Does the ball touch no wall there, for sure?"""
        i, j = int((y + 6) // 4), int((x + 6) // 4)
        u, v = x - (4 * j - 4), y - (4 * i - 4)
        across = (u > self.FREE) - (u < -self.FREE)
        along = (v > self.FREE) - (v < -self.FREE)
        wall = self.wall
        if wall[i][j] or (across and wall[i][j + across]) or (along and wall[i + along][j]):
            return False
        return not (across and along and wall[i + along][j + across])

    def step(self, action: NDArray[np.float32]) -> Outcome:
        self.qpos += 0.2 * action
        self.qvel[:] = 0.0
        x, y = self.qpos.tolist()
        if self.clear(x, y):
            self.warm[:] = 0.0
        else:
            self.mujoco.mj_step(self.model, self.data, 5)
            x, y = self.qpos.tolist()
        obs = self.qpos.copy()
        if self.ports_in:
            self.teleport(x, y)
        return self.outcome(obs, self.near(x, y))

    def render(self) -> Any:
        self.mujoco.mj_forward(self.model, self.data)
        return self.stock.render()


class Arm(Simulator):
    """The arm among cubes, buttons, a drawer and a window. `advance` lets other threads run, as that of tasks.fetch."""

    CENTRE, SCALE, DRAWER, WINDOW = np.array([0.425, 0.0, 0.0]), 10.0, 18.0, 15.0
    """Of places, of the drawer and of the window in the observation."""

    def __init__(self, stock: Any, family: Family, at: list[int] | None, render_mode: str | None = None) -> None:
        super().__init__(stock, family, at, render_mode)
        ready(stock)
        self.do, self.data, self.buttons = Stepper(stock), stock.data, getattr(stock, "_num_buttons", 0)
        self.slides = hasattr(stock, "_target_drawer_pos")

    def begin_anew(self, options: dict[str, Any]) -> tuple[Floats, Floats]:
        self.do.damp()
        obs, goal = super().begin_anew(options)
        goal[self.read] = self.target()
        first = self.family.obs_dim - 4 * self.buttons - 4 * self.slides
        for k in range(first, first + 4 * self.buttons, 4):
            goal[k] = 1.0 - goal[k + 1]
        return obs, goal

    def target(self) -> Floats:
        """What success compares with, in the observation's units."""
        stock, parts = self.stock, list[Any]()
        for i in getattr(stock, "_cube_target_mocap_ids", ()):
            parts.append((self.data.mocap_pos[i] - self.CENTRE) * self.SCALE)
        if self.buttons:
            parts.append(stock._target_button_states)
        if self.slides:
            parts.append([stock._target_drawer_pos * self.DRAWER, stock._target_window_pos * self.WINDOW])
        return np.concatenate(parts)

    def step(self, action: NDArray[np.float32]) -> Outcome:
        self.begin(action)
        self.advance()
        return self.observe()

    def begin(self, action: NDArray[np.float32]) -> None:
        self.do.begin(action)

    def advance(self) -> None:
        self.do.advance()

    def observe(self) -> Outcome:
        self.stock.post_step()
        return self.outcome(self.stock.compute_observation(), bool(self.stock._success))


def ready(stock: Any) -> None:
    """Compile the model of an arm, which a stock reset does only when it is the first."""
    stock._mjcf_model = stock.build_mjcf_model()
    stock.compile_model_and_data()
    stock._never_compiled = False
    stock.model.vis.global_.bvactive = 0  # as in tasks.fetch


class Stepper:
    """A stock step of an arm without its descriptions of the state."""

    def __init__(self, stock: Any) -> None:
        import mujoco

        self.stock, self.mujoco, self.model, self.data = stock, mujoco, stock.model, stock.data
        self.substeps, self.damping = stock._n_steps, stock.model.dof_damping.copy()
        joints = (stock.model.joint(f"buttonbox_joint_{i}") for i in range(getattr(stock, "_num_buttons", 0)))
        self.places = {f"privileged/button_{i}_pos": int(joint.qposadr[0]) for i, joint in enumerate(joints)}

    def damp(self) -> None:
        """Undo what buttons did in the last episode: they lock the drawer and the window, or free them."""
        self.model.dof_damping[:] = self.damping

    def begin(self, action: NDArray[np.float32]) -> None:
        self.stock.set_control(np.array(action))
        self.stock._prev_ob_info = {name: [self.data.qpos[i]] for name, i in self.places.items()}

    def advance(self) -> None:
        self.mujoco.mj_step(self.model, self.data, self.substeps)
        self.mujoco.mj_rnePostConstraint(self.model, self.data)

    def __call__(self, action: NDArray[np.float32]) -> None:
        self.begin(action)
        self.advance()
        self.stock.post_step()
