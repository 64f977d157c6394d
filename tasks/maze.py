"""A ball and an ant find their way through mazes (Fu et al. 2020, arXiv 2004.07219; gymnasium-robotics).

The goal of an episode stays where it is and reaching it ends nothing: the reward counts the steps spent there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tasks.gymnasium import GoalLast
from tasks.simulator import register_robotics
from tasks.task import Array, Task, bonus_if, distance, part

RADIUS = 0.45
"""Metres from the goal that count as being there, in a maze of any size."""
Cell = tuple[int, int]
"""Row from above and column from the left, in the simulator's map."""
U_MAZE: dict[str, Cell] = {
    "upper-left": (1, 1),
    "upper-right": (1, 3),
    "bend": (2, 3),
    "lower-right": (3, 3),
    "lower-left": (3, 1),
}
MEDIUM: dict[str, Cell] = {
    "upper-left": (1, 1),
    "upper-right": (1, 6),
    "middle": (3, 3),
    "lower-right": (6, 6),
    "lower-left": (6, 1),
}
"""Regions to go to, by name: a cell each."""


def arrived(achieved: Array, desired: Array) -> Array:
    """Within the radius, edge included, as in the simulator: bool (...)."""
    return distance(achieved, desired) <= RADIUS


class Region(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Goals in one cell only, wherever the simulator draws them in it; starts as ever, anywhere else."""

    def __init__(self, env: gymnasium.Env[Any, Any], cell: Cell) -> None:
        super().__init__(env)
        self.cell = cell

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed, options={"goal_cell": np.array(self.cell), **(options or {})})


def make(env_id: str, render_mode: str | None = None, cell: Cell | None = None) -> gymnasium.Env[Any, Any]:
    register_robotics()
    env = gymnasium.make(env_id, render_mode=render_mode, max_episode_steps=-1, disable_env_checker=True)
    Path(env.unwrapped.tmp_xml_file_path).unlink()  # type: ignore[attr-defined]  # the package leaves one per maze
    return env if cell is None else Region(env, cell)


def make_ant(env_id: str, render_mode: str | None = None, cell: Cell | None = None) -> gymnasium.Env[Any, Any]:
    """The stock observation does not say where the ant is."""
    return GoalLast(make(env_id, render_mode, cell))


_maze = partial(
    Task,
    goal_dim=2,
    success=arrived,
    reward=partial(bonus_if, arrived),
    reward_range=(0.0, 1.0),
    n_step=10,
)


def point(maze: str, horizon: int, budget: int, where: str) -> Task:
    name = f"point-maze-{maze.lower()}"
    return _maze(
        name=name,
        make=partial(make, f"PointMaze_{maze}-v3"),
        description=f"push the ball {where}",
        obs_dim=4,
        action_dim=2,
        horizon=horizon,
        goal_of=part(0, 2),
        family="point-maze",
        scene=name,
        budget=budget,
    )


def ant(maze: str, horizon: int, budget: int, where: str) -> Task:
    name = f"ant-maze-{maze.lower()}"
    return _maze(
        name=name,
        make=partial(make_ant, f"AntMaze_{maze}-v5"),
        description=f"walk the ant {where}",
        obs_dim=107,
        action_dim=8,
        horizon=horizon,
        goal_of=part(-2, None),
        family="ant-maze",
        scene=name,
        budget=budget,
    )


def regions(maze: Task, cells: dict[str, Cell], where: str, budget: int) -> list[Task]:
    """A task for each region of a maze, all of one scene with the maze itself."""
    return [
        replace(
            maze,
            name=f"{maze.name}-{region}",
            make=partial(maze.make, cell=cell),
            description=where.format(region.replace("-", " ")),
            budget=budget,
        )
        for region, cell in cells.items()
    ]


_ball_in_u = point("UMaze", 300, 20_000, "around the U-shaped corridor to the target")
_ball_in_medium = point("Medium", 600, 200_000, "through the medium maze to the target")
_ant_in_u = ant("UMaze", 700, 1_000_000, "around the U-shaped corridor to the target")

TASKS: list[Task] = [
    point("Open", 300, 50_000, "across the open field to the target"),
    _ball_in_u,
    _ball_in_medium,
    point("Large", 800, 400_000, "through the large maze to the target"),
    _ant_in_u,
    ant("Medium", 1000, 1_000_000, "through the medium maze to the target"),
    ant("Large", 1000, 1_000_000, "through the large maze to the target"),
    *regions(_ball_in_u, U_MAZE, "push the ball to the {} of the U-shaped corridor", 10_000),
    *regions(_ball_in_medium, MEDIUM, "push the ball to the {} of the medium maze", 50_000),
    *regions(_ant_in_u, U_MAZE, "walk the ant to the {} of the U-shaped corridor", 500_000),
]
