"""A ball and an ant find their way through mazes (Fu et al. 2020, arXiv 2004.07219; gymnasium-robotics).

The goal of an episode stays where it is and reaching it ends nothing: the reward counts the steps spent there.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium

from tasks.gymnasium import GoalLast
from tasks.simulator import register_robotics
from tasks.task import Array, Task, bonus_if, distance, part

RADIUS = 0.45
"""Metres from the goal that count as being there, in a maze of any size."""


def arrived(achieved: Array, desired: Array) -> Array:
    """Within the radius, edge included, as in the simulator: bool (...)."""
    return distance(achieved, desired) <= RADIUS


def make(env_id: str, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    register_robotics()
    env = gymnasium.make(env_id, render_mode=render_mode, max_episode_steps=-1, disable_env_checker=True)
    Path(env.unwrapped.tmp_xml_file_path).unlink()  # type: ignore[attr-defined]  # the package leaves one per maze
    return env


def make_ant(env_id: str, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The stock observation does not say where the ant is."""
    return GoalLast(make(env_id, render_mode))


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


TASKS: list[Task] = [
    point("Open", 300, 50_000, "across the open field to the target"),
    point("UMaze", 300, 20_000, "around the U-shaped corridor to the target"),
    point("Medium", 600, 200_000, "through the medium maze to the target"),
    point("Large", 800, 400_000, "through the large maze to the target"),
    ant("UMaze", 700, 1_000_000, "around the U-shaped corridor to the target"),
    ant("Medium", 1000, 1_000_000, "through the medium maze to the target"),
    ant("Large", 1000, 1_000_000, "through the large maze to the target"),
]
