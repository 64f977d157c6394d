"""Controllers written by hand do what they are for, in the simulator."""

from __future__ import annotations

import numpy as np
import pytest

import tasks
from gcrl.collect import Lane, episode_seed, step
from tasks.scripted import CONTROLLERS


def rate(name: str, episodes: int) -> float:
    """Share of episodes whose last step succeeds."""
    task, control = tasks.get(name), CONTROLLERS[name]
    lanes = [Lane(task) for _ in range(min(5, episodes))]
    won = []
    for first in range(0, episodes, len(lanes)):
        for i, lane in enumerate(lanes):
            lane.reset(episode_seed(7, first + i))
        for _ in range(task.horizon):
            step(lanes, [control(lane.observation[-1], lane.desired[-1]) for lane in lanes])
        won += [bool(task.success(task.goal_of(lane.observation[-1]), lane.desired[-2])) for lane in lanes]
    return float(np.mean(won))


@pytest.mark.parametrize("name, least", [("fetch-reach", 1.0), ("fetch-push", 0.9), ("fetch-pick-and-place", 0.9)])
def test_they_succeed(name, least):
    assert rate(name, 20) >= least


@pytest.mark.parametrize("name", CONTROLLERS)
def test_an_action_is_one_and_depends_on_the_moment_alone(name):
    task, rng = tasks.get(name), np.random.default_rng(0)
    for _ in range(50):
        obs, goal = rng.normal(size=task.obs_dim).astype(np.float32), rng.normal(size=3).astype(np.float32)
        before = obs.copy(), goal.copy()
        action = CONTROLLERS[name](obs, goal)
        assert action.shape == (4,) and action.dtype == np.float32 and np.abs(action).max() <= 1
        assert (CONTROLLERS[name](obs, goal) == action).all() and (obs == before[0]).all() and (goal == before[1]).all()


def test_a_block_that_lies_at_its_goal_is_left_there():
    obs = np.zeros(25, np.float32)
    obs[:3], obs[3:6] = (1.3, 0.7, 0.42), (1.38, 0.7, 0.42)
    assert (CONTROLLERS["fetch-push"](obs, obs[3:6]) == 0).all()
