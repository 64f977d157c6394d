"""Every method that learns to reach goals from data, where imitation of what reached them goes the wrong way."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS
from gcrl.encoder import Spec
from relabel.batch import State
from relabel.goals import parse
from relabel.replay import Replay
from tasks.task import Episode, Task, part
from tests.problems import cost_elsewhere, same, settings_of

GAMMA, N = 0.9, 6
HALL = Task(
    name="test-hall",
    make=dict,
    description="go to the place",
    obs_dim=N,
    action_dim=1,
    goal_dim=N,
    horizon=20,
    goal_of=part(0, N),
    success=same,
    reward=cost_elsewhere,
    reward_range=(-1.0, 0.0),
    family="test-hall",
    scene="test-hall",
)
"""N places in a row, seen one-hot; a positive action goes right, a negative one left."""
FAST = {"lr": 3e-3, "tau": 0.05, "hidden": (64,), "batch": 128, "latent": 32, "ahead": 2}
STITCHING = {"actor_goals": "future:0.5,random:0.5"}


@functools.cache
def walks(length):
    """4,000 steps in episodes of `length`, seven in ten of them to the left."""
    replay, rng = Replay([HALL], 10_000, parse("none"), GAMMA), np.random.default_rng(0)
    for _ in range(4000 // length):
        side = np.where(rng.random(length) < 0.3, 1, -1)
        places = [int(rng.integers(0, N))]
        for x in side:
            places.append(min(max(places[-1] + x, 0), N - 1))
        action = (side * rng.uniform(0.4, 0.6, length))[:, None].astype(np.float32)
        eye = np.eye(N, dtype=np.float32)
        replay.add(0, Episode(eye[places], action, eye[[0] * length], np.zeros(length, np.float32), False))
    return replay


@functools.cache
def trained(name, length, **wanted):
    """After 300 updates."""
    torch.manual_seed(0)
    agent = AGENTS[name](Spec.of([HALL], GAMMA), settings_of(name, **{**FAST, **wanted}))
    agent.encode.observe(torch.eye(N), torch.eye(N))
    rng = np.random.default_rng(0)
    for _ in range(300):
        agent.update(agent.draw(walks(length), rng))
    return agent


def right(agent, least=3):
    """In how many of the pairs of places `least` or more apart does it go the right way, of how many."""
    place, goal = (x.flatten() for x in torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij"))
    far = (place - goal).abs() >= least
    place, goal = place[far], goal[far]
    eye = torch.eye(N)
    action = agent.act(State(eye[place], eye[goal], torch.zeros_like(place)))[0][:, 0]
    return int((action.sign() == (goal - place).sign()).sum()), len(place)


METHODS = [name for name, kind in AGENTS.items() if kind.needs_goals and name != "gcbc"]
SPECIAL = {"hiql": {"ahead": 1}, "actionable": {"actor_goals": "random:1"}}
"""what a method needs on so small a problem, beside FAST and STITCHING"""


@pytest.mark.parametrize("name", METHODS)
def test_it_joins_short_walks_to_a_way(name):
    """The longest way in the data has two steps."""
    good, pairs = right(trained(name, 2, **{**STITCHING, **SPECIAL.get(name, {})}))
    assert good == pairs == 12


def test_imitation_goes_where_most_walks_went():
    assert right(trained("gcbc", 2, **STITCHING)) == (6, 12)


def test_imitation_of_what_reached_the_goal_needs_walks_that_are_long():
    good, pairs = right(trained("gcbc", 20))
    assert good >= pairs - 2


def test_a_value_counts_the_steps():
    """-1 a step, and the step that arrives is free: V = -(1 - gamma^(d - 1)) / (1 - gamma), and of QRL d itself."""
    eye, place, goal = torch.eye(N), torch.arange(N).repeat_interleave(N), torch.arange(N).repeat(N)
    away = (place - goal).abs()
    state = State(eye[place][away > 0], eye[goal][away > 0], torch.zeros(int((away > 0).sum()), dtype=torch.int64))
    away = away[away > 0].float()
    agent = trained("gcivl", 2, **STITCHING)
    v = agent.v(agent.encode(state)).mean(0)
    torch.testing.assert_close(v, -(1 - GAMMA ** (away - 1)) / (1 - GAMMA), atol=1.0, rtol=0)
    assert np.corrcoef(v.detach(), away)[0, 1] < -0.97
    agent = trained("qrl", 2, **STITCHING)
    assert np.corrcoef(agent.distance(state).detach(), away)[0, 1] > 0.97
