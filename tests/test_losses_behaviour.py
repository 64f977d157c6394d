"""The losses of agents that model the data's policy, against their equations in NumPy. Long: six agents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS
from tests.problems import SPEC, settings_of
from tests.test_losses import array, data, encoded, perceptron
from tests.test_offline import right, trained


def made(name, **wanted):
    """A new agent in double precision: normalisers fed; every parameter moved, those of the target too."""
    torch.manual_seed(0)
    agent = AGENTS[name](SPEC, settings_of(name, **wanted))
    agent.encode.observe(torch.randn(100, 4) * 3 + 1, torch.randn(100, 2) - 2)
    with torch.no_grad():
        for p in agent.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return agent.double()


def noise(*shape):
    return array(torch.randn(*shape, dtype=torch.float64))


# BC -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_std", [-0.7, 0.4, 9.0])
def test_cloning_is_the_likelihood_of_a_normal(log_std):
    """A deviation beyond e^2 counts as e^2."""
    agent, b = made("bc"), data()
    with torch.no_grad():
        agent.actor.log_std.fill_(log_std)
    mean = np.tanh(perceptron(agent.actor.net, encoded(agent, b.obs, b.goal)))
    std = np.exp(min(log_std, 2.0))
    density = np.exp(-((array(b.action) - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
    assert agent.actor_loss(b).item() == pytest.approx(-np.log(density).sum(1).mean(), rel=1e-6)


def test_cloning_goes_the_way_that_most_of_the_data_go():
    assert right(trained("bc")) == 0
