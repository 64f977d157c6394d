"""The Franka arm opens, turns and moves what is in a kitchen (Gupta et al. 2019, arXiv 1910.11956).

Seven tasks of one scene, each the care of one object. A step is FrankaKitchen-v1's bit for bit, its noise in what the
robot feels of itself included: the next motion starts from there. Its noise on what is seen of the objects (at most
5e-5) is left out, since the simulator judges the objects without it: so success is a function of the observation. The
simulator is never asked for a reward of another goal, its compute_reward changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from tasks.simulator import register_robotics
from tasks.task import Array, Task, bonus_if, part, within

RADIUS = 0.3
"""Distance of an object's joints (radians and metres) from the desired ones that counts as done."""


class Kitchen(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The stock environment with the goal of one object: vectors for dicts, and it ends when the clock does."""

    def __init__(self, env: gymnasium.Env[Any, Any], subtask: str, goal_of: Callable[[Array], Array]) -> None:
        super().__init__(env)
        self.goal_of = goal_of
        self.goal: Array = np.array(env.unwrapped.goal[subtask])  # type: ignore[attr-defined]
        goal = Box(-np.inf, np.inf, self.goal.shape, np.float64)
        own: Any = env.observation_space
        self.observation_space = Dict({**own.spaces, "achieved_goal": goal, "desired_goal": goal})
        self.action_space = Box(-1, 1, (9,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        seen, _ = self.env.reset(seed=seed, options=options)
        return self.see(seen), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen, *_ = self.env.step(action)
        seen = self.see(seen)
        done = bool(within(RADIUS, seen["achieved_goal"], self.goal))
        return seen, float(done), False, False, {"is_success": done}

    def see(self, seen: Any) -> dict[str, Array]:
        obs = seen["observation"]
        return {"observation": obs, "achieved_goal": self.goal_of(obs).copy(), "desired_goal": self.goal.copy()}


def make(subtask: str, goal_of: Callable[[Array], Array], render_mode: str | None = None) -> Kitchen:
    register_robotics()
    env = gymnasium.make(
        "FrankaKitchen-v1",
        tasks_to_complete=[subtask],
        terminate_on_tasks_completed=False,
        remove_task_when_completed=False,
        object_noise_ratio=0.0,  # the noise is still drawn, so that the robot's is that of the stock
        render_mode=render_mode,
        max_episode_steps=-1,
        disable_env_checker=True,
    )
    return Kitchen(env, subtask, goal_of)


def kitchen(subtask: str, columns: tuple[int, int], skill: str, description: str) -> Task:
    """`columns`: first and last + 1 of the object's numbers in the observation."""
    reached = partial(within, RADIUS)
    return Task(
        name=f"kitchen-{subtask.replace(' ', '-')}",
        make=partial(make, subtask, part(*columns)),
        description=description,
        obs_dim=59,
        action_dim=9,
        goal_dim=columns[1] - columns[0],
        horizon=280,
        goal_of=part(*columns),
        success=reached,
        reward=partial(bonus_if, reached),
        reward_range=(0.0, 1.0),
        family="kitchen",
        scene="kitchen",
        skill=skill,
        n_step=10,
        budget=1_000_000,
    )


TASKS: list[Task] = [
    kitchen("bottom burner", (20, 22), "turn", "turn the knob of the bottom burner"),
    kitchen("top burner", (24, 26), "turn", "turn the knob of the top burner"),
    kitchen("light switch", (26, 28), "turn", "switch on the light over the stove"),
    kitchen("slide cabinet", (28, 29), "open", "slide the door of the cabinet open"),
    kitchen("hinge cabinet", (29, 31), "open", "swing the door of the left cabinet open"),
    kitchen("microwave", (31, 32), "open", "open the microwave"),
    kitchen("kettle", (32, 39), "carry", "move the kettle to the top left burner"),
]
