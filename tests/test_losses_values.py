"""Losses of the offline methods by values, against NumPy and each other. Long: one equation an algorithm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS
from relabel.segment import Segment
from tests.test_losses import LOG_ALPHA, array, bounded, data, encoded, expected_critic_loss, perceptron, values
from tests.test_losses import made as plain

SMALL = {"hidden": (16, 16), "lr": 0.01}


def made(name, **wanted):
    """As in test_losses, small, with temperatures moved apart."""
    agent = plain(name, **{**SMALL, **wanted})
    if hasattr(agent, "log_alpha"):
        with torch.no_grad():
            agent.log_alpha.copy_(LOG_ALPHA)
    return agent


def segment(b, length=1, to_go=0.0):
    """Windows whose first steps are the transitions b; of every third no second step counts."""
    g = torch.Generator().manual_seed(5)
    size, dim = b.action.shape
    counts = torch.ones(size, length, dtype=torch.bool)
    counts[::3, 1:] = False
    more = torch.rand(size, length - 1, dim, generator=g, dtype=b.action.dtype) * 2 - 1
    last = torch.randn(size, length - 1, b.obs.shape[1], generator=g, dtype=b.obs.dtype)
    return Segment(
        torch.cat((b.obs[:, None], b.next_obs[:, None], last), 1),
        torch.cat((b.action[:, None], more), 1),
        b.reward[:, None].expand(size, length),
        b.discount[:, None].expand(size, length),
        counts,
        torch.full((size,), to_go, dtype=b.obs.dtype) if isinstance(to_go, float) else to_go,
        b.goal,
        b.task,
    )


def seeded(loss, *args, seed=1):
    torch.manual_seed(seed)
    return loss(*args)


def gradients(loss, network):
    params = list(network.parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])


def same_after(one, two, b, c, updates=3, **close):
    """The same weights after the same updates."""
    for seed in range(updates):
        seeded(one.update, b, seed=seed)
        seeded(two.update, c, seed=seed)
    theirs, ours = dict(two.state_dict()), dict(one.state_dict())
    assert set(theirs) <= set(ours)
    torch.testing.assert_close({k: ours[k] for k in theirs}, theirs, **(close or {"rtol": 0, "atol": 0}))


# TD3+BC and ReBRAC ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "penalty"), [(2.5, 0.0), (0.7, 0.4)])
def test_td3bc(scale, penalty):
    agent, b = made("td3bc", scale=scale, action_penalty=penalty), data()
    x, a_data = encoded(agent, b.obs, b.goal), array(b.action)
    a = np.tanh(perceptron(agent.actor.net, x))
    q = values(agent.critic, x, a)[0]
    wanted = -scale * q.mean() / abs(q).mean() + ((a - a_data) ** 2).mean() + penalty * (a**2).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    assert seeded(agent.critic_loss, b).item() == pytest.approx(expected_critic_loss(agent, "td3", b, 1), rel=1e-6)


def test_td3bc_without_values_is_imitation():
    agent, b = made("td3bc", scale=0.0), data()
    imitation = ((agent.actor(agent.encode(b.state)) - b.action) ** 2).mean()
    torch.testing.assert_close(gradients(agent.actor_loss(b), agent.actor), gradients(imitation, agent.actor))


def test_the_scale_of_td3bc_is_a_constant():
    """Values ten times as large change nothing, and the slope is that of -Q, not of -Q / mean |Q|."""
    agent, b = made("td3bc", scale=1.0), data()
    x = agent.encode(b.state)
    a = agent.actor(x)
    q = agent.critic(x, a, slice(0, 1))[0]
    wanted = gradients(-q.mean() / q.detach().abs().mean() + ((a - b.action) ** 2).mean(), agent.actor)
    torch.testing.assert_close(gradients(agent.actor_loss(b), agent.actor), wanted)
    before = agent.actor_loss(b).item()
    with torch.no_grad():
        for p in agent.critic.body.out.parameters():
            p.mul_(10)
    assert agent.actor_loss(b).item() == pytest.approx(before)


@pytest.mark.parametrize("normalise", [True, False])
def test_rebrac(normalise):
    agent = made("rebrac", actor_weight=0.3, critic_weight=0.7, target_noise=0.0, normalise=normalise)
    b = segment(data(), 2)
    first = b.first()
    x, x_ = encoded(agent, first.obs, first.goal), encoded(agent, first.next_obs, first.goal)
    a_ = np.tanh(perceptron(agent.actor.net, x_))
    astray = ((a_ - array(b.action)[:, 1]) ** 2).sum(1) * array(b.counts)[:, 1]
    assert (astray == 0).sum() == 17  # the last steps of episodes
    y = array(first.reward) + array(first.discount) * (values(agent.target, x_, a_).min(0) - 0.7 * astray)
    wanted = ((values(agent.critic, x, array(first.action)) - y) ** 2).mean(1).sum()
    assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    a = np.tanh(perceptron(agent.actor.net, x))
    q = values(agent.critic, x, a)[0]
    wanted = -q.mean() / (abs(q).mean() if normalise else 1) + 0.3 * ((a - array(first.action)) ** 2).sum(1).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def test_rebrac_without_penalties_is_td3():
    shared = {"layer_norm": True, "clip_target": True, "action_penalty": 0.1, "delay": 2, "tau": 0.1}
    one = made("rebrac", actor_weight=0.0, critic_weight=0.0, normalise=False, **shared)
    two, b = made("td3", **shared), data()
    same_after(one, two, segment(b, 2), b)


# REM ------------------------------------------------------------------------------------------------------------------


def test_rem():
    agent, b = made("rem", critics=4, target_noise=0.0, action_penalty=0.2), data()
    torch.manual_seed(1)
    w = array(torch.rand(4, dtype=torch.float64))
    w /= w.sum()
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    q_ = values(agent.target, x_, np.tanh(perceptron(agent.actor.net, x_)))
    y = bounded(array(b.reward) + array(b.discount) * (w[:, None] * q_).sum(0), b)
    wanted = (((w[:, None] * values(agent.critic, x, array(b.action))).sum(0) - y) ** 2).mean()
    assert seeded(agent.critic_loss, b).item() == pytest.approx(wanted, rel=1e-6)
    a = np.tanh(perceptron(agent.actor.net, x))
    wanted = -(w[:, None] * values(agent.critic, x, a)).sum(0).mean() + 0.2 * (a**2).mean()
    assert seeded(agent.actor_loss, b).item() == pytest.approx(wanted, rel=1e-6)


def test_rem_of_one_head_is_td3_of_one():
    shared = {"critics": 1, "subset": 1, "target_noise": 0.0, "layer_norm": False, "delay": 2, "action_penalty": 0.1}
    one, two = made("rem", **shared, tau=0.1), made("td3", **shared, tau=0.1)
    same_after(one, two, data(), data(), rtol=1e-9, atol=1e-12)


def test_mixtures_are_convex_and_differ():
    agent, like = made("rem", critics=5), torch.zeros(1)
    mixtures = torch.stack([agent.mixture(like) for _ in range(200)])
    torch.testing.assert_close(mixtures.sum(1), torch.ones(200))
    assert (mixtures > 0).all() and len(mixtures.unique(dim=0)) == 200
    torch.testing.assert_close(mixtures.mean(0), torch.full((5,), 0.2), atol=0.03, rtol=0)


# UWAC -----------------------------------------------------------------------------------------------------------------


def test_uwac(monkeypatch):
    """With what the masks would give known: (n, T, B) drawn here."""
    agent, b = made("uwac", dropout=0.0, masks=4, beta=0.5, most=0.9, target_noise=0.0), data()
    q_ = np.random.default_rng(0).normal(size=(2, 4, 50))
    monkeypatch.setattr(agent, "masked", lambda *_: torch.from_numpy(q_))
    w = np.minimum(0.5 / q_.var(1).sum(0), 0.9)
    assert (w < 0.9).any() and (w == 0.9).any()
    y = bounded(array(b.reward) + array(b.discount) * q_.mean(1).min(0), b)
    x = encoded(agent, b.obs, b.goal)
    wanted = (w * (values(agent.critic, x, array(b.action)) - y) ** 2).mean(1).sum()
    assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    a = np.tanh(perceptron(agent.actor.net, x))
    q = values(agent.critic, x, a)[0]
    wanted = (-2.5 * w * q / abs(q).mean()).mean() + ((a - array(b.action)) ** 2).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def test_uwac_without_dropout_is_td3bc():
    same_after(made("uwac", dropout=0.0), made("td3bc"), data(), data(), rtol=1e-6, atol=1e-9)


def test_the_passes_of_uwac_have_masks_of_their_own():
    agent, b = made("uwac", masks=50, dropout=0.3), data()
    x = agent.encode(b.state)
    q = agent.masked(agent.critic, x, b.action)
    assert q.shape == (2, 50, 50)
    assert (q.std(1) > 0).all()
    mean = agent.masked(agent.critic, x, b.action).mean(1)
    assert (q.mean(1) - mean).abs().max() < q.std(1).max()  # rows are kept apart: row i is about state i in each pass
    assert q.mean(1).std() > (q.mean(1) - mean).std()


def test_all_are_registered_as_offline():
    for name in ("td3bc", "rebrac", "rem", "uwac"):
        assert AGENTS[name].offline
