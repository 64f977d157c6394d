"""Every loss of weighted imitation and of sequences against its equation in NumPy. Long: one idea an agent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS
from tests.problems import SPEC, settings_of
from tests.test_losses import array, bounded, data, encoded, perceptron, values

WEIGHTED = ("iql", "awac", "crr")


def made(name, spec=SPEC, **wanted):
    """A new agent in double precision: normalisers fed; all parameters, targets included, moved apart."""
    torch.manual_seed(0)
    agent = AGENTS[name](spec, settings_of(name, **wanted))
    agent.encode.observe(torch.randn(100, spec.obs_dim) * 3 + 1, torch.randn(100, spec.goal_dim) - 2)
    with torch.no_grad():
        for p in agent.parameters():
            p.add_(0.1 * torch.randn_like(p))
        if name == "iql":
            agent.v.body.out.bias.sub_(0.53)  # among the action values
    return agent.double()


def state_value(agent, x):
    """V: (B, X) -> (B,)"""
    return perceptron(agent.v, x)[:, 0]


def deviation(agent):
    return np.exp(array(agent.actor.log_std))


def log_density(agent, x, action):
    """log N(a; tanh(f(x)), std): (B,)"""
    std = deviation(agent)
    z = (action - np.tanh(perceptron(agent.actor.net, x))) / std
    return (-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(1)


def noise(*shape):
    """What torch draws next."""
    return array(torch.randn(*shape, dtype=torch.float64))


def acted(agent, x, drawn):
    """mean + std noise, clipped: (B, A) or (n, B, A)"""
    return np.clip(np.tanh(perceptron(agent.actor.net, x)) + deviation(agent) * drawn, -1, 1)


# Critics and values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [True, False])
def test_critic_loss_of_iql_bootstraps_from_the_value_of_the_state(clip):
    agent, b = made("iql", clip_target=clip), data()
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    y = array(b.reward) + array(b.discount) * state_value(agent, x_)
    y = bounded(y, b) if clip else y
    wanted = ((values(agent.critic, x, array(b.action)) - y) ** 2).mean(1).sum()
    assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["awac", "crr"])
def test_critic_loss_of_the_others_from_an_action_of_the_policy(name):
    agent, b = made(name, clip_target=False), data()
    torch.manual_seed(1)
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    q_ = values(agent.target, x_, acted(agent, x_, noise(*b.action.shape))).min(0)
    y = array(b.reward) + array(b.discount) * q_
    wanted = ((values(agent.critic, x, array(b.action)) - y) ** 2).mean(1).sum()
    torch.manual_seed(1)
    assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.95])
def test_value_loss_of_iql(expectile):
    agent, b = made("iql", expectile=expectile), data()
    x = encoded(agent, b.obs, b.goal)
    u = values(agent.target, x, array(b.action)).min(0) - state_value(agent, x)
    assert (u < 0).any() and (u > 0).any()
    wanted = (abs(expectile - (u < 0)) * u**2).mean()
    assert agent.value_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def test_the_expectile_of_one_half_is_the_mean():
    """Then IQL is SARSA: half of the mean squared error, whose least is the mean of Q over the data's actions."""
    agent, b = made("iql", expectile=0.5), data()
    same = b._replace(obs=b.obs[:1].expand(50, -1), goal=b.goal[:1].expand(50, -1), task=b.task[:1].expand(50))
    x = encoded(agent, same.obs, same.goal)
    q = values(agent.target, x, array(b.action)).min(0)
    half = 0.5 * ((q - state_value(agent, x)) ** 2).mean()
    assert agent.value_loss(same).item() == pytest.approx(half, rel=1e-6)
    found = {}
    for expectile in (0.5, 0.9):
        agent = made("iql", expectile=expectile)
        optimizer = torch.optim.Adam(agent.v.parameters(), lr=0.01)
        for _ in range(300):
            optimizer.zero_grad()
            agent.value_loss(same).backward(inputs=list(agent.v.parameters()))
            optimizer.step()
        found[expectile] = state_value(agent, x)[0]
    assert found[0.5] == pytest.approx(q.mean(), abs=1e-3)
    m = found[0.9]  # an expectile m: tau sum (q - m)+ = (1 - tau) sum (m - q)+
    assert 0.9 * np.maximum(q - m, 0).sum() == pytest.approx(0.1 * np.maximum(m - q, 0).sum(), abs=0.02)
    assert q.mean() < m < q.max()


def test_an_update_of_iql_moves_value_critic_actor_and_target_in_turn():
    """Each by its own loss alone, the value first: the critic and the actor see the new one."""
    agent, other, b = made("iql", lr=0.01), made("iql", lr=0.01), data()
    metrics = agent.update(b)
    losses = {}
    for name, loss in (("value", "value_loss"), ("critic", "critic_loss"), ("actor", "actor_loss")):
        losses[loss] = getattr(other, loss)(b)
        other.optimizers[name].zero_grad()
        losses[loss].backward(inputs=[p for g in other.optimizers[name].param_groups for p in g["params"]])
        other.optimizers[name].step()
    for p, q in zip(other.target.parameters(), other.critic.parameters(), strict=True):
        p.data.lerp_(q.data, other.settings.tau)
    other.updates = 1
    torch.testing.assert_close(dict(agent.state_dict()), dict(other.state_dict()), rtol=1e-9, atol=1e-12)
    for loss, value in losses.items():
        assert metrics[loss].item() == pytest.approx(value.item(), rel=1e-9)


# Weights ------------------------------------------------------------------------------------------------------------


def weight_of(agent, name, b, seed):
    """(B,), by the equation, with what torch draws after `seed`."""
    s, x, a = agent.settings, encoded(agent, b.obs, b.goal), array(b.action)
    if name == "iql":
        advantage = values(agent.target, x, a).min(0) - state_value(agent, x)
        return np.minimum(np.exp(s.beta * advantage), s.most)
    torch.manual_seed(seed)
    sampled = acted(agent, x, noise(s.samples, *a.shape))
    others = np.stack([values(agent.critic, x, one).min(0) for one in sampled])
    q = values(agent.critic, x, a).min(0)
    if name == "awac":
        exp = np.exp((q - others.mean(0)) / s.temperature)
        return exp / exp.mean()
    advantage = q - (others.max(0) if s.maximum else others.mean(0))
    return 1.0 * (advantage > 0) if s.binary else np.minimum(np.exp(advantage / s.temperature), s.most)


CASES = [
    ("iql", {}),
    ("iql", {"beta": 30.0, "most": 4.0}),
    ("awac", {}),
    ("awac", {"temperature": 0.05, "samples": 3}),
    ("crr", {}),
    ("crr", {"temperature": 0.05, "most": 1.5}),
    ("crr", {"maximum": True, "samples": 3}),
    ("crr", {"binary": True}),
    ("crr", {"binary": True, "maximum": True}),
]


@pytest.mark.parametrize(("name", "changes"), CASES, ids=str)
def test_actor_loss(name, changes):
    agent, b = made(name, **changes), data()
    w = weight_of(agent, name, b, 1)
    x = encoded(agent, b.obs, b.goal)
    torch.manual_seed(1)
    found = agent.weight(agent.encode(b.state), b.action)
    np.testing.assert_allclose(array(found), w, rtol=1e-5)
    assert not found.requires_grad
    if "most" in changes:
        assert w.max() == changes["most"] and w.min() < changes["most"]
    if changes.get("binary"):
        assert set(w) == {0.0, 1.0}
    torch.manual_seed(1)
    wanted = -(w * log_density(agent, x, array(b.action))).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("awac", {"temperature": 1e9}), ("crr", {"temperature": 1e9}), ("iql", {"beta": 0.0})],
    ids=["awac", "crr", "iql"],
)
def test_where_advantages_do_not_count_it_is_imitation(name, changes):
    agent, b = made(name, **changes), data()
    wanted = -log_density(agent, encoded(agent, b.obs, b.goal), array(b.action)).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_actors_loss_moves_the_actor_alone(name):
    agent = made(name)
    agent.actor_loss(data()).backward()
    assert {key.split(".")[0] for key, p in agent.named_parameters() if p.grad is not None} == {"actor"}


def test_weights_are_one_on_average_over_the_batch():
    agent, b = made("awac", temperature=0.3), data()
    assert agent.weight(agent.encode(b.state), b.action).mean().item() == pytest.approx(1)
