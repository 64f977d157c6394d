"""Losses of the offline methods by values, against NumPy and each other. Long: one equation an algorithm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS, cql
from gcrl.agents.cql import integral, systematic
from gcrl.agents.edac import likeness
from gcrl.agents.rem import mixture
from gcrl.layers import twice
from gcrl.nets import Critics
from relabel.segment import Segment
from tests.problems import mean_by_task
from tests.test_losses import LOG_ALPHA, array, bounded, data, drawn, encoded, expected_critic_loss, perceptron, values
from tests.test_losses import made as plain

K = 3  # proposals of each kind
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
        torch.zeros(size, dtype=torch.int64),
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
    wanted = -scale * (q / mean_by_task(abs(q), b.task)).mean() + ((a - a_data) ** 2).mean() + penalty * (a**2).mean()
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
    size = torch.from_numpy(mean_by_task(array(q.abs()), b.task))
    wanted = gradients(-(q / size).mean() + ((a - b.action) ** 2).mean(), agent.actor)
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
    size = mean_by_task(abs(q), first.task) if normalise else 1
    wanted = -(q / size).mean() + 0.3 * ((a - array(first.action)) ** 2).sum(1).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def test_rebrac_without_penalties_is_td3():
    shared = {"layer_norm": True, "clip_target": True, "action_penalty": 0.1, "delay": 2, "tau": 0.1}
    one = made("rebrac", actor_weight=0.0, critic_weight=0.0, normalise=False, **shared)
    two, b = made("td3", **shared), data()
    same_after(one, two, segment(b, 2), b)


# CQL and Cal-QL -------------------------------------------------------------------------------------------------------


def expected_gap(agent, b, noise, uniform, least=None):
    """log mean exp(Q) / p - Q(s, a), a head and a state at a time: (n, B). Noise (K, 2B, A), uniform (K, B, A)."""
    x, x_, size = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal), len(b.obs)
    q_data = values(agent.critic, x, array(b.action))
    terms = []
    for k in range(K):
        terms.append(values(agent.critic, x, uniform[k]) + 2 * math.log(2))
        for at, part in ((x, noise[k, :size]), (x_, noise[k, size:])):
            a, logp = drawn(agent.actor, at, part)
            q = values(agent.critic, x, a)
            terms.append((q if least is None else np.maximum(q, least)) - logp)
    return np.log(np.exp(np.array(terms)).mean(0)) - q_data


def draws_of(b, seed):
    """What CQL draws: the target's action, then noise and uniform actions."""
    torch.manual_seed(seed)
    size, dim = b.action.shape
    shapes = (size, dim), (K, 2 * size, dim)
    first, noise = (array(torch.randn(*shape, dtype=torch.float64)) for shape in shapes)
    return first, noise, array(torch.rand(K, size, dim, dtype=torch.float64)) * 2 - 1


@pytest.mark.parametrize("entropy_backup", [True, False])
@pytest.mark.parametrize("through", [0, 5])
def test_cql(entropy_backup, through):
    agent, b = made("cql", actions=K, weight=1.7, entropy_backup=entropy_backup, through=through), data()
    first, noise, uniform = draws_of(b, 1)
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    a_, logp_ = drawn(agent.actor, x_, first)
    entropy = -np.exp(array(LOG_ALPHA))[array(b.task)] * logp_ if entropy_backup else 0
    y = array(b.reward) + array(b.discount) * (values(agent.target, x_, a_).min(0) + entropy)
    error = ((values(agent.critic, x, array(b.action)) - y) ** 2).mean(1).sum()
    gap = expected_gap(agent, b, noise, uniform).mean(1).sum()
    assert seeded(agent.critic_loss, b).item() == pytest.approx(error + 1.7 * gap, rel=1e-6)
    assert agent.gap().item() == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("through", [0, 5])
def test_cql_without_weight_is_sac(through, monkeypatch):
    """Loss and whole updates; what CQL draws on top is drawn after SAC's draws, and undone here."""
    shared = {"layer_norm": False, "tau": 0.1}
    one, two = made("cql", weight=0.0, entropy_backup=True, through=through, actions=K, **shared), made("sac", **shared)
    b = data()
    loss = seeded(two.critic_loss, b).item()
    assert seeded(one.critic_loss, b).item() == pytest.approx(loss, rel=1e-12)

    def undone(draw):
        def inner(*args):
            with torch.random.fork_rng():
                return draw(*args)

        return inner

    monkeypatch.setattr(one, "proposals", undone(one.proposals))
    monkeypatch.setattr(cql, "systematic", undone(systematic))
    same_after(one, two, b, b, rtol=1e-6, atol=1e-9)


def test_the_gradient_through_some_is_on_average_that_through_all(monkeypatch):
    agent, b = made("cql", actions=K, through=0), data()
    agent.critic.body.out.weight.data.mul_(3)  # so that shares differ
    x, x_ = agent.encode(b.state), agent.encode(b.next_state)
    a, logp = seeded(agent.proposals, x, x_)
    floor = torch.full_like(logp, -math.inf)
    floor[K:] = 0.1

    def slope(through, seed):
        object.__setattr__(agent.settings, "through", through)
        torch.manual_seed(seed)
        q, area = (agent.through_some if through else agent.through_all)(x, b.action, a, logp, floor)
        return area.mean().item(), gradients((area - q).mean(), agent.critic)

    value, wanted = slope(0, 0)
    found = [slope(4, seed) for seed in range(150)]
    assert all(v == pytest.approx(value, rel=1e-9) for v, _ in found)
    each = torch.stack([g for _, g in found])
    off = (each.mean(0) - wanted).norm() / wanted.norm()
    one = ((each - wanted).norm(dim=1) / wanted.norm()).mean()
    assert off < 0.15 * one  # as the mean of 150 is
    assert 0.001 < one < 0.3


def test_draws_are_as_many_as_their_weights_say():
    torch.manual_seed(0)
    w = torch.softmax(3 * torch.randn(2, 7, 50, dtype=torch.float64), 1)
    w[:, 3] = 0
    w = w / w.sum(1, keepdim=True)
    counts = torch.stack([torch.nn.functional.one_hot(systematic(w, 4), 7).sum(1).mT for _ in range(400)]).double()
    assert (counts.sum(2) == 4).all()
    assert ((counts - 4 * w).abs() < 1 + 1e-9).all()
    assert (counts[:, :, 3] == 0).all()
    torch.testing.assert_close(counts.mean(0), 4 * w, atol=0.12, rtol=0)


def test_the_estimate_is_the_integral():
    """Of exp Q over one action in [-1, 1], by uniform actions and by those of a lopsided density alike."""
    torch.manual_seed(0)
    critic = Critics(2, 2, (8,), layer_norm=False).double()
    for p in critic.parameters():
        p.data.mul_(3)
    grid = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        exact = torch.trapezoid(critic(torch.zeros_like(grid), grid).exp(), grid[:, 0]).log()
        m = 40_000
        u = torch.rand(m, 1, dtype=torch.float64)
        flat, slanted = u * 2 - 1, 2 * (2 * u + 0.25).sqrt() - 2  # density (a + 2) / 4
        for a, p in ((flat, torch.full((m, 1), 0.5).double()), (slanted, (slanted + 2) / 4)):
            keep = a.abs() <= 1  # the second reaches to 1 and starts at -1
            assert keep.all()
            found = integral(critic(torch.zeros_like(a), a)[:, :, None], p.log())[:, 0]
            torch.testing.assert_close(found, exact, atol=0.03, rtol=0)
    assert (exact.exp() - 2).abs().min() > 0.1


@pytest.mark.parametrize("name", ["cql", "calql"])
def test_with_surgery_the_weight_sees_the_gaps_of_all_tasks(name):
    agent, b = made(name, threshold=1.0, surgery="pcgrad", actions=K), data()
    found = []

    def spy(part):
        loss = type(agent).critic_loss(agent, part)
        found.append(agent.gaps[-1].item())
        return loss

    agent.critic_loss = spy
    metrics = agent.update(segment(b, to_go=0.0) if name == "calql" else b)
    assert len(found) == 2 and abs(found[0] - found[1]) > 1e-3
    assert metrics["gap"].item() == pytest.approx(sum(found) / 2, rel=1e-6)


@pytest.mark.parametrize(("threshold", "grows"), [(-50.0, True), (50.0, False)])
def test_the_weight_is_learned(threshold, grows):
    """Up while the data's values lie too far below, down else; the critic's loss is what it is with that weight."""
    agent, b = made("cql", threshold=threshold, weight=2.0, actions=K), data()
    fixed = made("cql", weight=2.0, actions=K)
    assert seeded(agent.critic_loss, b).item() == pytest.approx(seeded(fixed.critic_loss, b).item(), rel=1e-6)
    wanted = -2.0 * (agent.gap().item() - 2 * threshold)
    assert agent.weight_loss().item() == pytest.approx(wanted, rel=1e-6)
    metrics = agent.update(b)
    assert (metrics["weight"] > 2) == grows
    assert metrics["weight"].item() == pytest.approx(2 * math.exp(0.01 if grows else -0.01), rel=1e-4)


def test_calql_without_returns_is_cql():
    one, two, b = made("calql", actions=K), made("cql", actions=K), data()
    same_after(one, two, segment(b, to_go=-math.inf), b)


@pytest.mark.parametrize("through", [0, 5])
def test_calql(through):
    agent, b = made("calql", actions=K, through=through), data()
    to_go = torch.randn(50, dtype=torch.float64)
    _, noise, uniform = draws_of(b, 1)
    wanted = expected_gap(agent, b, noise, uniform, array(to_go)).mean(1).sum()
    seeded(agent.critic_loss, segment(b, to_go=to_go))
    assert agent.gap().item() == pytest.approx(wanted, rel=1e-6)
    assert wanted > expected_gap(agent, b, noise, uniform).mean(1).sum() + 0.1


def test_calql_pushes_nothing_that_is_below_the_return():
    """Where no uniform action is asked for and all returns are high, only the data's values have a slope."""
    for through in (0, 4):
        agent, b = made("calql", actions=K, through=through), data()
        x, x_ = agent.encode(b.state), agent.encode(b.next_state)
        a, logp = agent.proposals(x, x_)
        floor = torch.full_like(logp[K:], 100.0)
        method = agent.through_some if through else agent.through_all
        q, area = method(x, b.action, a[K:], logp[K:], floor)
        found = gradients((area - q).mean(), agent.critic)
        wanted = gradients(-agent.critic(x, b.action).mean(), agent.critic)
        torch.testing.assert_close(found, wanted)


# SAC-N and EDAC -------------------------------------------------------------------------------------------------------


def test_sacn_of_two_is_sac():
    same_after(made("sacn", critics=2, subset=2), made("sac", layer_norm=False, tau=0.005), data(), data())


def test_sacn_takes_the_least_of_all():
    agent, b = made("sacn", critics=6, subset=6), data()
    assert seeded(agent.critic_loss, b).item() == pytest.approx(expected_critic_loss(agent, "sac", b, 1), rel=1e-6)
    x = encoded(agent, b.obs, b.goal)
    torch.manual_seed(1)
    a, logp = drawn(agent.actor, x, array(torch.randn(b.action.shape, dtype=torch.float64)))
    wanted = (np.exp(array(LOG_ALPHA))[array(b.task)] * logp - values(agent.critic, x, a).min(0)).mean()
    assert seeded(agent.actor_loss, b).item() == pytest.approx(wanted, rel=1e-6)


def slopes(agent, b):
    """grad_a Q_i(s, a) by differences: (n, B, A)"""
    x, a = encoded(agent, b.obs, b.goal), array(b.action)
    steps = 1e-6 * np.eye(a.shape[1])
    return np.stack([(values(agent.critic, x, a + e) - values(agent.critic, x, a - e)) / 2e-6 for e in steps], -1)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_edac(layer_norm):
    wanted = {"critics": 4, "subset": 4, "layer_norm": layer_norm}
    agent, other, b = made("edac", eta=0.7, **wanted), made("sacn", **wanted), data()
    g = slopes(agent, b)
    g /= np.linalg.norm(g, axis=-1, keepdims=True)
    pairs = sum((g[i] * g[j]).sum(-1) for i in range(4) for j in range(4) if i != j)
    loss = seeded(other.critic_loss, b).item() + 0.7 * pairs.mean() / 3
    assert seeded(agent.critic_loss, b).item() == pytest.approx(loss, rel=1e-6)


def test_edac_without_diversity_is_sacn():
    many = {"critics": 4, "subset": 4}
    same_after(made("edac", eta=0.0, **many), made("sacn", **many), data(), data(), rtol=1e-6, atol=1e-9)


def test_the_gradient_of_edac_is_the_finite_difference():
    """Of the second order, then: through the slopes."""
    agent, b = made("edac", critics=3, subset=3, eta=5.0, layer_norm=True), data()
    weight = agent.critic.body.trunk.layers[0].weight

    def loss():
        return seeded(agent.critic_loss, b)

    loss().backward()
    found = weight.grad[1, 2, :5].clone()
    assert agent.critic.body.out.bias.grad is not None
    for k in range(5):
        sides = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[1, 2, k] += step
            sides.append(loss().item())
            with torch.no_grad():
                weight[1, 2, k] -= step
        assert found[k].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-3, abs=1e-6)


def test_edac_makes_slopes_differ():
    def alike(eta):
        agent, b = made("edac", critics=4, subset=4, eta=eta), data()
        before = likeness(torch.from_numpy(slopes(agent, b))).mean()
        for _ in range(30):
            agent.update(b)
        return before, likeness(torch.from_numpy(slopes(agent, b))).mean()

    before, without = alike(0.0)
    assert alike(1.0)[1] < min(before, without) - 0.3


def test_twice_is_the_same_network():
    torch.manual_seed(0)
    critic, x, a = Critics(3, 6, (8, 8)), torch.randn(20, 4), torch.randn(20, 2)
    a.requires_grad_()
    with twice():
        q = critic(x, a)
    torch.testing.assert_close(q, critic(x, a))
    (slope,) = torch.autograd.grad(q.sum(), a, create_graph=True)
    (slope**2).sum().backward()
    assert critic.body.trunk.layers[0].weight.grad.abs().sum() > 0
    (slope,) = torch.autograd.grad(critic(x, a).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        (slope**2).sum().backward()


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
    mixtures = torch.stack([mixture(5, torch.zeros(1)) for _ in range(200)])
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
    wanted = (-2.5 * w * q / mean_by_task(abs(q), b.task)).mean() + ((a - array(b.action)) ** 2).mean()
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
    for name in ("td3bc", "rebrac", "cql", "calql", "sacn", "edac", "rem", "uwac"):
        assert AGENTS[name].offline
