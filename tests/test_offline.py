"""Every agent that is made for data alone, on data from which imitation learns the wrong way."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS
from gcrl.collect import Collector
from gcrl.encoder import Spec
from relabel.batch import State
from relabel.goals import parse
from relabel.replay import Replay
from tests.problems import CORRIDOR, Corridor, settings_of

GAMMA = 0.9
OFFLINE = [name for name, kind in AGENTS.items() if kind.offline and not kind.discrete]
FAST = {"lr": 3e-3, "tau": 0.05, "hidden": (64,), "batch": 128}
SPECIAL: dict[str, dict[str, object]] = {}
"""what an agent needs on so small a problem, beside FAST"""


@functools.cache
def recorded():
    """1,500 steps of the behaviour."""
    replay, collector = Replay([CORRIDOR], 10_000, parse("none"), GAMMA), Collector([CORRIDOR], 4, 0)
    rng = np.random.default_rng(0)
    for _ in range(1500 // 4):
        for k, episode in collector.step(Corridor.behaviour(rng, 4)):
            replay.add(k, episode)
    return replay


def trained(name, updates=500, **wanted):
    torch.manual_seed(0)
    agent = AGENTS[name](Spec.of([CORRIDOR], GAMMA), settings_of(name, **FAST, **wanted))
    agent.encode.observe(torch.from_numpy(recorded().stores[0].state()["observation"]), torch.zeros(0, 0))
    rng = np.random.default_rng(0)
    for _ in range(updates):
        agent.update(agent.draw(recorded(), rng))
    return agent


PLACES = State(torch.eye(Corridor.N), torch.zeros(Corridor.N, 0), torch.zeros(Corridor.N, dtype=torch.int64))


def right(agent):
    """In how many of the places where that matters does the policy go right, by an action that the data show."""
    action = agent.act(PLACES)[0][:-1, 0]
    return int(((action > 0) & (action < Corridor.SAFE)).sum())


@pytest.mark.parametrize("name", [name for name in OFFLINE if name != "bc"])
def test_it_finds_the_way_that_imitation_misses(name):
    assert right(trained(name, **SPECIAL.get(name, {}))) == Corridor.N - 1


@pytest.mark.parametrize("name", ["ddpg", "sac"])
def test_without_a_constraint_it_goes_where_the_data_do_not(name):
    """Into the trap, and it promises more than there is: every step costs 1, so no value is above -1."""
    agent = trained(name, layer_norm=False, clip_target=False)
    assert right(agent) == 0
    x = agent.encode(PLACES)
    assert agent.critic(x, agent.act(PLACES)[0])[0, :-1].max() > -0.9
