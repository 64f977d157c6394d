"""Every loss against its equation in NumPy, from the weights. Long: one equation an algorithm."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from gcrl.agents import AGENTS
from gcrl.agents.agent import follow
from gcrl.nets import EDGE, GaussianActor
from gcrl.optim import adam, step
from tests.problems import SPEC, batch, settings_of
from tests.test_store import fits

OFF_POLICY = ("ddpg", "td3", "sac")
EPS = 1e-5  # of layer normalisation
LOG_ALPHA = torch.tensor([-1.0, 0.5])  # of the two tasks


def made(name, **wanted):
    """A new agent in double precision: normalisers fed; heads, target and temperatures moved apart."""
    torch.manual_seed(0)
    agent = AGENTS[name](SPEC, settings_of(name, **wanted))
    agent.encode.observe(torch.randn(100, 4) * 3 + 1, torch.randn(100, 2) - 2)
    with torch.no_grad():
        for p in (*agent.critic.parameters(), *agent.target.parameters()):
            p.add_(0.1 * torch.randn_like(p))
        if name == "sac":
            agent.log_alpha.copy_(LOG_ALPHA)
    return agent.double()


def data(**changes):
    return batch(50, dtype=torch.float64)._replace(**changes)


def array(x):
    return x.detach().numpy()


# The same networks in NumPy, a head and a layer at a time.


def encoded(agent, obs, goal):
    """(B, O), (B, G) -> (B, X)"""
    columns = []
    for normaliser, x in ((agent.encode.obs, obs), (agent.encode.goals[0], goal)):
        mean, deviation = array(normaliser.mean), np.maximum(np.sqrt(array(normaliser.var)), 0.01)
        columns.append(np.clip((array(x) - mean) / deviation, -5, 5))
    return np.concatenate(columns, 1)


def values(critics, x, action):
    """(B, X), (B, A) -> (n, B)"""
    heads = []
    for k in range(len(critics.body.out.weight)):
        h = np.concatenate([x, action], 1)
        for i, layer in enumerate(critics.body.trunk.layers):
            h = h @ array(layer.weight[k]) + array(layer.bias[k])
            if len(critics.body.trunk.norms):
                h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + EPS)
                h = h * array(critics.body.trunk.norms[i].weight[k]) + array(critics.body.trunk.norms[i].bias[k])
            h = np.maximum(h, 0)
        heads.append((h @ array(critics.body.out.weight[k]) + array(critics.body.out.bias[k]))[:, 0])
    return np.array(heads)


def perceptron(net, x):
    """Linear layers with ReLU between them: (B, X) -> (B, Y)"""
    for layer in net.body.trunk.layers:
        x = np.maximum(x @ array(layer.weight)[0] + array(layer.bias)[0], 0)
    return x @ array(net.body.out.weight)[0] + array(net.body.out.bias)[0]


def drawn(actor, x, noise):
    """SAC's action (B, A) and log density (B,), the slope of tanh written out: 1 - tanh(u)^2."""
    mean, log_std = np.split(perceptron(actor.net, x), 2, axis=1)
    std = np.exp(np.clip(log_std, -20, 2))
    u = mean + std * noise
    normal = -((u - mean) ** 2) / (2 * std**2) - np.log(std) - 0.5 * np.log(2 * np.pi)
    return np.tanh(u), (normal - np.log(1 - np.tanh(u) ** 2)).sum(1)


def bounded(y, b):
    low, high = np.array(SPEC.bounds)[array(b.task)].T
    return np.clip(y, low, high)


def expected_critic_loss(agent, name, b, seed):
    """E[(y - Q)^2] summed over the heads, with what torch draws after `seed`."""
    s = agent.settings
    torch.manual_seed(seed)
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    bonus = 0.0
    if name == "sac":
        a_, logp_ = drawn(agent.actor, x_, array(torch.randn(b.action.shape, dtype=torch.float64)))
        bonus = -np.exp(array(agent.log_alpha))[array(b.task)] * logp_
    else:
        a_ = np.tanh(perceptron(agent.actor.net, x_))
    if name == "td3":
        noise = s.target_noise * array(torch.randn(b.action.shape, dtype=torch.float64))
        a_ = np.clip(a_ + np.clip(noise, -s.target_noise_clip, s.target_noise_clip), -1, 1)
    q_ = values(agent.target, x_, a_)
    if s.subset < s.critics:
        q_ = q_[torch.randperm(s.critics)[: s.subset].numpy()]
    y = array(b.reward) + array(b.discount) * (q_.min(0) + bonus)
    if name != "sac" and s.clip_target:
        y = bounded(y, b)
    return ((values(agent.critic, x, array(b.action)) - y) ** 2).mean(1).sum()


SETTINGS = {
    "one": {"critics": 1, "subset": 1},
    "two": {"critics": 2, "subset": 2},
    "redq": {"critics": 5, "subset": 2},
    "no layer_norm": {"layer_norm": False},
    "no clip": {"clip_target": False},
    "noise": {"target_noise": 0.6, "target_noise_clip": 0.3},
}
settings = pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
every_agent = pytest.mark.parametrize("name", OFF_POLICY)


@every_agent
@settings
def test_critic_loss(name, changes):
    agent, b = made(name, **changes), data()
    for seed in range(3):
        wanted = expected_critic_loss(agent, name, b, seed)
        torch.manual_seed(seed)
        assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)


@every_agent
def test_the_target_is_a_constant(name):
    """The critic's loss has no gradient in the actor, the target or the temperature."""
    agent = made(name)
    agent.critic_loss(data()).backward()
    moved = {key.split(".")[0] for key, p in agent.named_parameters() if p.grad is not None}
    assert moved == {"critic"}


@every_agent
@pytest.mark.parametrize("changes", [{"clip_target": True}, {"clip_target": False}], ids=str)
def test_where_the_discount_is_zero_the_next_state_does_not_matter(name, changes):
    agent, b = made(name, **changes), data()
    ended = data(discount=torch.zeros(50, dtype=torch.float64))
    losses = []
    for one in (ended, ended._replace(next_obs=b.next_obs + 7), b, b._replace(next_obs=b.next_obs + 7)):
        torch.manual_seed(0)
        losses.append(agent.critic_loss(one).item())
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]
    y = array(b.reward) if name == "sac" or not changes["clip_target"] else bounded(array(b.reward), b)
    q = values(agent.critic, encoded(agent, b.obs, b.goal), array(b.action))
    assert losses[0] == pytest.approx(((q - y) ** 2).mean(1).sum(), rel=1e-6)


@pytest.mark.parametrize("name", ["ddpg", "td3"])
@pytest.mark.parametrize(("reward", "side"), [(-1e6, 0), (1e6, 1)])
def test_targets_stay_within_the_tasks_own_bounds(name, reward, side):
    agent, b = made(name), data(reward=torch.full((50,), reward, dtype=torch.float64))
    assert set(b.task.tolist()) == {0, 1}
    y = np.array(SPEC.bounds)[array(b.task), side]
    q = values(agent.critic, encoded(agent, b.obs, b.goal), array(b.action))
    assert agent.critic_loss(b).item() == pytest.approx(((q - y) ** 2).mean(1).sum(), rel=1e-6)


@pytest.mark.parametrize("name", ["ddpg", "td3"])
@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_actor_loss_of_a_deterministic_policy(name, penalty):
    """The first head alone says how good an action is."""
    agent, b = made(name, critics=3, subset=2, action_penalty=penalty), data()
    x = encoded(agent, b.obs, b.goal)
    a = np.tanh(perceptron(agent.actor.net, x))
    q = values(agent.critic, x, a)
    wanted = (-q[0] + penalty * (a**2).mean(1)).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    assert wanted != pytest.approx((-q[1] + penalty * (a**2).mean(1)).mean(), rel=1e-3)


@settings
def test_actor_loss_of_sac(changes):
    agent, b = made("sac", **changes), data()
    x = encoded(agent, b.obs, b.goal)
    torch.manual_seed(1)
    a, logp = drawn(agent.actor, x, array(torch.randn(b.action.shape, dtype=torch.float64)))
    alpha = np.exp(array(LOG_ALPHA))[array(b.task)]
    q = values(agent.critic, x, a)
    wanted = (alpha * logp - (q.mean(0) if changes.get("subset", len(q)) < len(q) else q.min(0))).mean()
    torch.manual_seed(1)
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def test_the_actor_of_droq_ascends_the_mean_of_its_critics():
    """Hiraoka et al. 2022, algorithm 2. Heads of 1 and 3 and a temperature of nothing, so no mask matters."""
    agent, b = made("sac", dropout=0.5, alpha=1e-9), data()
    for p in agent.critic.parameters():
        p.data.zero_()
    head = next(p for p in agent.critic.parameters() if p.numel() == 2)
    head.data[:] = torch.tensor([1.0, 3.0]).reshape(head.shape)
    agent.log_alpha.data.fill_(-50)
    assert agent.actor_loss(b).item() == pytest.approx(-2.0)
    for name in ("cql", "sacn"):  # their least is what holds them to the data
        assert not AGENTS[name].droq
    plain = made("sac")
    plain.critic.load_state_dict(agent.critic.state_dict())
    plain.log_alpha.data.fill_(-50)
    assert plain.actor_loss(b).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("entropy", [None, 1.5])
def test_alpha_loss(entropy):
    """And its slope by each log alpha: minus the mean of what log pi lacks, over the task's rows."""
    agent, b = made("sac", entropy=entropy), data()
    logp = torch.randn(50, dtype=torch.float64, requires_grad=True)
    loss = agent.alpha_loss(b, logp)
    lack = array(logp) + (-2.0 if entropy is None else entropy)
    task = array(b.task)
    assert loss.item() == pytest.approx(-(array(LOG_ALPHA)[task] * lack).mean())
    loss.backward()
    assert logp.grad is None
    wanted = [-(lack * (task == k)).sum() / 50 for k in (0, 1)]
    assert agent.log_alpha.grad.tolist() == pytest.approx(wanted)


def test_what_lies_ahead():
    """HIPI's table: r + gamma V'(s'), and for SAC less alpha log pi of the recorded action."""
    for name in OFF_POLICY:
        agent, b = made(name), data()
        torch.manual_seed(7)
        found = agent.ahead(b)
        torch.manual_seed(7)
        wanted = b.reward + b.discount * agent.next_value(b)
        if name == "sac":
            x = encoded(agent, b.obs, b.goal)
            mean, log_std = np.split(perceptron(agent.actor.net, x), 2, axis=1)
            std, a = np.exp(log_std), array(b.action)
            normal = -((np.arctanh(a) - mean) ** 2) / (2 * std**2) - np.log(std) - 0.5 * np.log(2 * np.pi)
            logp = (normal - np.log(1 - a**2)).sum(1)
            wanted = wanted - torch.from_numpy(np.exp(array(agent.log_alpha))[array(b.task)] * logp)
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-6)


def test_improve_of_sac_is_both_losses_on_one_draw():
    """The actor's step is that of its loss alone, and the temperature's sees the same draw."""
    agent, other = made("sac", lr=0.01), made("sac", lr=0.01)
    b = data()
    torch.manual_seed(3)
    metrics = agent.improve(b)
    torch.manual_seed(3)
    a, logp = other.actor.sample(other.encode(b.state))
    loss = other.soft_loss(b, a, logp)
    alpha_loss = other.alpha_loss(b, logp)
    step(other.optimizers["actor"], loss)
    step(other.optimizers["alpha"], alpha_loss)
    torch.testing.assert_close(dict(agent.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    assert metrics["actor_loss"].item() == loss.item()
    assert metrics["entropy"].item() == pytest.approx(-logp.mean().item())
    assert metrics["alpha"].item() == pytest.approx(agent.log_alpha.exp().mean().item())


@pytest.mark.parametrize("name", ["td3"])
def test_the_smoothed_action_stays_near_and_within(name):
    agent = made(name, target_noise=5.0, target_noise_clip=0.25)
    x = torch.randn(2000, agent.encode.dim, dtype=torch.float64) * 50
    with torch.no_grad():
        quiet, loud = agent.actor(x), agent.next_action(x)
    assert (loud - quiet).abs().max() == pytest.approx(0.25)
    assert loud.abs().max() <= 1
    assert (quiet + 0.25 > 1).any()
    torch.testing.assert_close((loud - quiet)[quiet.abs() < 0.75].mean(), torch.zeros(()).double(), atol=0.02, rtol=0)


# Which heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(5, 2), (4, 1), (4, 3), (2, 2), (3, 3)])
def test_the_minimum_is_over_a_subset_and_every_subset_is_as_likely(n, m):
    """Column j of q is 0 for head j and 1 for the others: the minimum tells which heads were in."""
    agent = made("ddpg", critics=n, subset=m)
    q = 1 - torch.eye(n)
    torch.manual_seed(0)
    subsets = list(itertools.combinations(range(n), m))
    draws = 200 * len(subsets)
    found = [tuple((agent.least(q) == 0).nonzero().flatten().tolist()) for _ in range(draws)]
    counts = [found.count(subset) for subset in subsets]
    assert sum(counts) == draws
    assert len(subsets) == 1 or fits(counts, np.full(len(subsets), 1 / len(subsets)))


def test_the_minimum_is_per_transition():
    agent = made("ddpg", critics=3, subset=3)
    q = torch.randn(3, 40)
    np.testing.assert_array_equal(agent.least(q).numpy(), q.numpy().min(0))


# The density of a squashed Gaussian ---------------------------------------------------------------------------------


class Given(torch.nn.Module):
    """A network whose output is known."""

    def __init__(self, mean, log_std):
        super().__init__()
        self.register_buffer("both", torch.tensor([*mean, *log_std], dtype=torch.float64))

    def forward(self, x):
        return self.both.expand(len(x), -1)


def gaussian(mean, log_std):
    actor = GaussianActor(1, len(mean), ())
    actor.net = Given(mean, log_std)
    return actor


@pytest.mark.parametrize(
    ("mean", "log_std"),
    [([0.0], [0.0]), ([0.5, -1.0], [-1.0, 0.5]), ([2.0, 0.0, -2.0], [-3.0, 0.0, 0.3]), ([1.0], [-8.0])],
    ids=str,
)
def test_log_density_is_torchs(mean, log_std):
    torch.manual_seed(0)
    a, logp = gaussian(mean, log_std).sample(torch.zeros(1000, 1))
    normal = Independent(Normal(torch.tensor(mean).double(), torch.tensor(log_std).double().exp()), 1)
    known = TransformedDistribution(normal, TanhTransform())
    near = (a.abs() < 1 - 1e-9).all(1)  # beyond, atanh itself is lost
    assert near.float().mean() > 0.99
    torch.testing.assert_close(logp[near], known.log_prob(a[near]), rtol=1e-5, atol=1e-5)
    inside = (a.abs() < 1 - 2 * EDGE).all(1)
    given = gaussian(mean, log_std).log_prob(torch.zeros(1000, 1), a)
    torch.testing.assert_close(given[inside], logp[inside], rtol=1e-6, atol=1e-6)


def test_an_action_at_the_edge_counts_as_just_inside():
    actor = gaussian([0.3], [0.0])
    for edge in (-1.0, 1.0):
        found = actor.log_prob(torch.zeros(2, 1), torch.tensor([[edge], [edge * (1 - EDGE)]], dtype=torch.float64))
        assert found.isfinite().all() and found[0] == found[1]


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.3, -0.7), (-1.0, 0.4), (2.0, 0.0)])
def test_the_density_integrates_to_one(mean, log_std):
    torch.manual_seed(0)
    a, logp = gaussian([mean], [log_std]).sample(torch.zeros(50_000, 1))
    order = a[:, 0].argsort()
    assert torch.trapezoid(logp[order].exp(), a[order, 0]).item() == pytest.approx(1, abs=0.005)


def test_log_std_is_kept_within_its_limits():
    """A wild network gives the density of the nearest deviation that is allowed, exp(-20) or exp(2)."""
    for wild, kept in ((-90.0, -20.0), (90.0, 2.0)):
        torch.manual_seed(0)
        a, logp = gaussian([0.1], [wild]).sample(torch.zeros(100, 1))
        torch.manual_seed(0)
        b, logq = gaussian([0.1], [kept]).sample(torch.zeros(100, 1))
        assert torch.equal(a, b)
        assert torch.equal(logp, logq)
        assert logp.isfinite().all()


def test_the_density_is_finite_where_tanh_is_flat():
    """In float32 as well; far out log(1 - tanh(u)^2) is 2 log 2 - 2 |u|."""
    for mean in (-40.0, 40.0):
        actor = gaussian([mean], [-5.0]).float()
        torch.manual_seed(0)
        a, logp = actor.sample(torch.zeros(100, 1))
        torch.manual_seed(0)
        noise = torch.randn(100, 1)[:, 0]
        u = mean + math.exp(-5) * noise
        wanted = -0.5 * noise**2 + 5 - 0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 2 * u.abs()
        torch.testing.assert_close(logp, wanted, rtol=1e-4, atol=1e-3)
        assert (a.abs() <= 1).all()


def test_the_gradient_of_the_log_density_is_the_finite_difference():
    actor = GaussianActor(3, 2, (8,)).double()
    first = actor.net.body.trunk.layers[0]
    x = torch.randn(20, 3, dtype=torch.float64)

    def both(p):
        torch.manual_seed(0)
        with torch.no_grad():
            first.weight[0, 0, 0] = p
        a, logp = actor.sample(x)
        return (a.sum() + logp.sum()) if torch.is_grad_enabled() else float(a.sum() + logp.sum())

    start = first.weight[0, 0, 0].item()
    both(start).backward()
    slope = first.weight.grad[0, 0, 0].item()
    with torch.no_grad():
        wanted = (both(start + 1e-6) - both(start - 1e-6)) / 2e-6
    assert slope == pytest.approx(wanted, rel=1e-5)
    assert abs(slope) > 1e-3


# One step -----------------------------------------------------------------------------------------------------------


def test_a_step_is_adams():
    """Kingma and Ba (2015), algorithm 1, in NumPy, for a few steps; the first is lr g / (|g| + eps)."""
    torch.manual_seed(0)
    net, lr = torch.nn.Linear(4, 3).double(), 0.01
    optimizer = adam(net, lr)
    p = {name: array(x).copy() for name, x in net.named_parameters()}
    m, v = ({name: np.zeros_like(x) for name, x in p.items()} for _ in "mv")
    for t in range(1, 5):
        x = torch.randn(20, 4, dtype=torch.float64)
        out = 2 * (array(x) @ p["weight"].T + p["bias"]) / 60  # of the mean of squares
        g = {"weight": out.T @ array(x), "bias": out.sum(0)}
        step(optimizer, (net(x) ** 2).mean())
        for name in p:
            m[name] = 0.9 * m[name] + 0.1 * g[name]
            v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
            move = lr * (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            if t == 1:
                np.testing.assert_allclose(move, lr * g[name] / (abs(g[name]) + 1e-8), rtol=1e-9)
            p[name] = p[name] - move
            np.testing.assert_allclose(array(dict(net.named_parameters())[name]), p[name], rtol=1e-9)


def test_a_step_touches_its_own_parameters_only():
    one, two = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    two.weight.grad = torch.full_like(two.weight, 7.0)
    before = two.weight.detach().clone()
    step(adam(one, 0.1), two(one(torch.randn(5, 3))).sum())
    assert one.weight.grad is not None
    assert torch.equal(two.weight, before)
    assert (two.weight.grad == 7).all()
    assert two.bias.grad is None


def test_a_step_forgets_the_gradient_before():
    net = torch.nn.Linear(3, 1)
    net.weight.grad = torch.full_like(net.weight, 1e6)
    x = torch.randn(5, 3)
    step(adam(net, 0.1), net(x).sum())
    torch.testing.assert_close(net.weight.grad[0], x.sum(0))


@pytest.mark.parametrize("tau", [0.0, 0.005, 0.3, 1.0])
def test_follow(tau):
    torch.manual_seed(0)
    target, online = (torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)) for _ in "ab")
    old, new = ([array(p).copy() for p in net.parameters()] for net in (target, online))
    follow(list(target.parameters()), list(online.parameters()), tau)
    for p, a, b, q in zip(target.parameters(), old, new, online.parameters(), strict=True):
        np.testing.assert_allclose(array(p), (1 - tau) * a + tau * b, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(array(q), b)
        assert p.grad_fn is None


@every_agent
def test_an_update_is_the_losses_steps_in_order(name):
    """critic, then actor on the new critic, then the target; under one seed the same weights to the bit."""
    wanted = {"delay": 1, "tau": 0.1, "lr": 0.01}
    agent, other = made(name, **wanted), made(name, **wanted)
    b = data()
    torch.manual_seed(3)
    agent.update(b)
    torch.manual_seed(3)
    step(other.optimizers["critic"], other.critic_loss(b))
    other.improve(b)
    follow(list(other.target.parameters()), list(other.critic.parameters()), 0.1)
    other.updates += 1
    torch.testing.assert_close(dict(agent.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


def test_the_references_see_what_the_settings_change():
    """A closed form that ignored a setting would pass without it: each changes the expected loss of TD3."""
    b = data()
    losses = [expected_critic_loss(made("td3", **changes), "td3", b, 0) for changes in SETTINGS.values()]
    assert len({round(float(x), 9) for x in losses}) == len(SETTINGS)
