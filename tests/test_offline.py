"""Agents made for data alone, and those that choose, on data from which imitation learns the wrong way."""

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
from tests.problems import CORRIDOR, STEPS, WIDE, Corridor, settings_of

GAMMA = 0.9
OFFLINE = [name for name, kind in AGENTS.items() if kind.offline and not (kind.discrete or kind.needs_goals)]
DISCRETE = [name for name, kind in AGENTS.items() if kind.discrete]
FAST = {"lr": 3e-3, "tau": 0.05, "hidden": (64,), "batch": 128}
SPECIAL: dict[str, dict[str, object]] = {
    "fqi": {"period": 25, "tau": 1.0},
    "rem-dqn": {"heads": 20},
    "awr": {"temperature": 0.1, "trace": 0.5, "batch": 16, "length": 8},  # far from the end advantages are small
    "dt": {"batch": 64},
    "bear": {"multiplier_lr": 0.03},
    "edac": {"critics": 20},  # with ten one place comes and goes, on some processors at the end too
    "td3bc": {"delay": 1},
    "uwac": {"delay": 1},
    "rebrac": {"actor_weight": 0.5},
    "cql": {"weight": 1.0, "actions": 4},
    "calql": {"weight": 1.0, "actions": 4},
}
"""what an agent needs on so small a problem, beside FAST"""
ENSEMBLES = ("rem", "sacn", "edac")
"""Critics that go on alike beyond the data hold no policy back: where all actions are one number, they do. Where the
value does not depend on a number, each goes on in its own way."""


@functools.cache
def recorded(task=CORRIDOR):
    """1,500 steps of the behaviour."""
    replay, collector = Replay([task], 10_000, parse("none"), GAMMA), Collector([task], 4, 0)
    rng = np.random.default_rng(0)
    for _ in range(1500 // 4):
        action = Corridor.behaviour(rng, 4, wide=task is WIDE)
        for k, episode in collector.step(np.hstack([-action, action]) if task.discrete else action):
            replay.add(k, episode)
    return replay


def trained(name, updates=500, task=CORRIDOR, **wanted):
    torch.manual_seed(0)
    task = STEPS if AGENTS[name].discrete else task
    agent = AGENTS[name](Spec.of([task], GAMMA), settings_of(name, **{**FAST, **wanted}))
    agent.encode.observe(torch.from_numpy(recorded(task).stores[0].state()["observation"]), torch.zeros(0, 0))
    rng = np.random.default_rng(0)
    for _ in range(updates):
        agent.update(agent.draw(recorded(task), rng))
    return agent


PLACES = State(torch.eye(Corridor.N), torch.zeros(Corridor.N, 0), torch.zeros(Corridor.N, dtype=torch.int64))


def right(agent):
    """In how many of the places where that matters does the policy go right, by an action that the data show."""
    action = agent.act(PLACES)[0][:-1]
    return int(((action[:, 0] > 0) & (action[:, -1].abs() < Corridor.SAFE)).sum())


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_finds_it_where_its_critics_differ(name):
    """In the wide corridor, whose trap lies beside the way. Imitation and a single critic miss it."""
    assert right(trained(name, task=WIDE, **SPECIAL.get(name, {}))) == Corridor.N - 1
    for other in ("bc", "ddpg"):
        assert right(trained(other, task=WIDE, layer_norm=False, clip_target=False)) < Corridor.N - 1


@pytest.mark.parametrize("name", [name for name in OFFLINE if name not in ("bc", *ENSEMBLES)])
def test_it_finds_the_way_that_imitation_misses(name):
    assert right(trained(name, **SPECIAL.get(name, {}))) == Corridor.N - 1


@pytest.mark.parametrize("name", ["ddpg", "sac", "rem"])
def test_without_a_constraint_it_goes_where_the_data_do_not(name):
    """Into the trap, and it promises more than there is: every step costs 1, so no value is above -1."""
    agent = trained(name, layer_norm=False, clip_target=False)
    assert right(agent) == 0
    x = agent.encode(PLACES)
    assert agent.critic(x, agent.act(PLACES)[0])[0, :-1].max() > -0.9


@pytest.mark.parametrize("name", DISCRETE)
def test_an_agent_that_chooses_finds_the_way_from_data_alone(name):
    """And what it is worth: -1 for each step to the end. Going left costs two steps more, or one at the wall."""
    agent = trained(name, **SPECIAL.get(name, {}))
    q = agent.values(agent.encode(PLACES))[:-1]
    left = np.arange(Corridor.N - 1, 0, -1)
    steps = np.stack([np.minimum(left + 2, Corridor.N), left], 1)
    np.testing.assert_allclose(q.detach(), -(1 - GAMMA**steps) / (1 - GAMMA), atol=0.3)
    assert (agent.act(PLACES)[0][:-1].argmax(1) == 1).all()


def test_of_these_data_most_steps_go_the_wrong_way():
    """In every place, so that imitation, which does what most do, never arrives."""
    kept = recorded(STEPS).stores[0].state()
    b = recorded(STEPS).sample(np.random.default_rng(0), 5000)
    assert set(kept["action"].flatten().tolist()) == {-1.0, 1.0}
    for place in range(Corridor.N - 1):
        assert b.action[b.obs[:, place] == 1].mean(0).argmax() == 0
