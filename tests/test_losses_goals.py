"""Every loss of the goal-conditioned offline methods against its equation in NumPy. Long: one equation an algorithm."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS
from gcrl.agents.quasimetric import IQE, borders
from gcrl.encoder import Spec
from gcrl.nets import ClippedActor
from relabel.batch import Batch
from relabel.subgoal import Onward
from tasks.task import InputError
from tests.problems import POINT, SPEC, batch, mean_by_task, settings_of
from tests.test_losses import EPS, array, encoded, perceptron, values

GOALS = ("gcbc", "wgcsl", "gcivl", "gciql", "hiql", "qrl", "crl", "actionable")
LOG_2PI = np.log(2 * np.pi)


def made(name, spec=SPEC, **wanted):
    """A new agent in double precision: normalisers fed; heads and targets moved apart; actions out of bounds."""
    torch.manual_seed(0)
    agent = AGENTS[name](spec, settings_of(name, latent=16, size=4, rep=3, **wanted))
    agent.encode.observe(torch.randn(100, 4) * 3 + 1, torch.randn(100, spec.goal_dim) - 2)
    with torch.no_grad():
        for p in agent.parameters():
            p.add_(0.1 * torch.randn_like(p))
        if isinstance(agent.actor, ClippedActor):
            for p in agent.actor.net.body.out.parameters():
                p.mul_(3)
    return agent.double()


def data(seed=0, size=40, spec=SPEC):
    """Half of the steps arrive: 0 or more where a task's least return is below 0, as it is of both."""
    b = batch(size, seed, spec, torch.float64)
    reward = torch.where(torch.arange(size) % 2 == 0, 0.0, -1.0).double()
    return b._replace(reward=reward)


def onward(seed=0, size=40, spec=SPEC):
    b, g = data(seed, size, spec), torch.Generator().manual_seed(seed + 1)
    steps = torch.randint(1, 9, (size,), generator=g)
    return Onward(
        *b,
        steps,
        0.9 ** (steps.double() - 1),
        torch.randn(size, 4, generator=g).double(),
        *torch.randn(2, size, spec.goal_dim, generator=g).double(),
    )


# Networks, densities and weights in NumPy.


def body(conditioned, x, k=0):
    """Head k of a stack, with its norms: (B, X) -> (B, Y)"""
    for i, layer in enumerate(conditioned.trunk.layers):
        x = x @ array(layer.weight[k]) + array(layer.bias[k])
        if len(conditioned.trunk.norms):
            norm = conditioned.trunk.norms[i]
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + EPS)
            x = x * array(norm.weight[k]) + array(norm.bias[k])
        x = np.maximum(x, 0)
    return x @ array(conditioned.out.weight[k]) + array(conditioned.out.bias[k])


def state_values(v, x):
    """(B, X) -> (n, B)"""
    return np.array([body(v.body, x, k)[:, 0] for k in range(len(v.body.out.weight))])


def scaled(agent, which, x):
    """By the normaliser of observations or of goals."""
    normaliser = agent.encode.obs if which == "obs" else agent.encode.goals[0]
    mean, deviation = array(normaliser.mean), np.maximum(np.sqrt(array(normaliser.var)), 0.01)
    return np.clip((array(x) - mean) / deviation, -5, 5)


def policy(agent, x):
    """(B, A)"""
    return np.tanh(perceptron(agent.actor.net, x))


def mean(agent, x):
    """Of a policy that climbs: (B, A), some of it out of bounds."""
    y = perceptron(agent.actor.net, x)
    assert 0 < (np.abs(y) > 1).mean() < 1
    np.testing.assert_allclose(agent.actor(torch.from_numpy(x)).detach(), np.clip(y, -1, 1))
    return y


def density(mean, x):
    """log N(x; mean, 1): (B,)"""
    return (-0.5 * (x - mean) ** 2 - 0.5 * LOG_2PI).sum(1)


def fitted(advantage, error, tau):
    return (np.where(advantage >= 0, tau, 1 - tau) * error**2).mean()


def rewards(b):
    """Reward, and gamma masked at the goal: gamma is 0.9, 0 where the data end; who ends elsewhere never arrives."""
    reached, ends = array(b.reward) >= 0, array(b.discount) == 0
    never = -sum(0.9**t for t in range(1000))
    return np.where(reached, 0.0, np.where(ends, never, -1.0)), array(b.discount) * ~reached


def union(x, y):
    """Length of the union of intervals [x_i, max(x_i, y_i)], one after the other, by sorting."""
    length, end = 0.0, -np.inf
    for a, b in sorted(zip(x, np.maximum(x, y), strict=True)):
        length += max(0.0, b - max(a, end))
        end = max(end, b)
    return length


def distance(agent, x, y):
    """(B, Z), (B, Z) -> (B,)"""
    k, mix = agent.d.size, 1 / (1 + np.exp(-array(agent.d.alpha)))
    d = []
    for row, other in zip(x, y, strict=True):
        lengths = [union(a, b) for a, b in zip(row.reshape(k, -1).T, other.reshape(k, -1).T, strict=True)]
        d.append(mix * np.mean(lengths) + (1 - mix) * np.max(lengths))
    return np.array(d)


# One equation an algorithm.


def test_gcbc():
    agent, b = made("gcbc"), data()
    wanted = -density(policy(agent, encoded(agent, b.obs, b.goal)), array(b.action)).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_gcivl(tau):
    agent, b = made("gcivl", expectile=tau, alpha=30.0), data()
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    reward, discount = rewards(b)
    assert (discount == 0).any() and (discount > 0).any()
    v, (v1, v2) = state_values(agent.target, x), state_values(agent.target, x_)
    advantage = reward + discount * np.minimum(v1, v2) - v.mean(0)
    assert (advantage < 0).any() and (advantage > 0).any()
    online = state_values(agent.v, x)
    wanted = sum(fitted(advantage, reward + discount * v_ - q, tau) for v_, q in zip((v1, v2), online, strict=True))
    assert agent.value_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    advantage = state_values(agent.v, x_).mean(0) - online.mean(0)
    w = np.minimum(np.exp(30.0 * advantage), 100)
    assert (w == 100).any() and (w < 100).any()
    wanted = -(w * density(policy(agent, x), array(b.action))).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


def climbed(q, logp, alpha, b):
    """DDPG + BC: Q over its mean size in a task, and imitation."""
    return -(q / (mean_by_task(np.abs(q), b.task) + 1e-6)).mean() - alpha * logp.mean()


def test_gciql():
    agent, b = made("gciql", alpha=0.3), data()
    x, x_, a = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal), array(b.action)
    reward, discount = rewards(b)
    q, v = values(agent.target, x, a).min(0), state_values(agent.v, x)[0]
    assert agent.value_loss(b).item() == pytest.approx(fitted(q - v, q - v, 0.9), rel=1e-6)
    y = reward + discount * state_values(agent.v, x_)[0]
    q1, q2 = values(agent.critic, x, a)
    assert agent.critic_loss(b).item() == pytest.approx(((q1 - y) ** 2 + (q2 - y) ** 2).mean(), rel=1e-6)
    pi = mean(agent, x)
    wanted = climbed(values(agent.critic, x, np.clip(pi, -1, 1)).min(0), density(pi, a), 0.3, b)
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    agent.settings = dataclasses.replace(agent.settings, actor="awr", alpha=5.0)
    w = np.minimum(np.exp(5.0 * (np.minimum(q1, q2) - v)), 100)
    assert agent.actor_loss(b).item() == pytest.approx(-(w * density(pi, a)).mean(), rel=1e-6)


def test_hiql():
    agent, b, o = made("hiql"), data(), onward()

    def of(net, obs, goal):
        """V (2, B) and phi (B, 3), and what the low level sees."""
        x = encoded(agent, obs, goal)
        z = body(net.phi.body, x)
        z = z / np.linalg.norm(z, axis=1, keepdims=True) * np.sqrt(3)
        low = np.concatenate((x[:, :4], z), 1)
        return state_values(net.v, low), z, low

    reward, discount = rewards(b)
    v, (v1, v2) = of(agent.target, b.obs, b.goal)[0], of(agent.target, b.next_obs, b.goal)[0]
    advantage = reward + discount * np.minimum(v1, v2) - v.mean(0)
    online = of(agent.v, b.obs, b.goal)[0]
    wanted = sum(fitted(advantage, reward + discount * v_ - q, 0.7) for v_, q in zip((v1, v2), online, strict=True))
    assert agent.value_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    (v, _, low), v_ = of(agent.v, o.obs, o.near_goal), of(agent.v, o.next_obs, o.near_goal)[0]
    w = np.minimum(np.exp(3.0 * (v_.mean(0) - v.mean(0))), 100)
    assert agent.low_loss(o).item() == pytest.approx(-(w * density(policy(agent, low), array(o.action))).mean())
    v, v_ = of(agent.v, o.obs, o.goal)[0], of(agent.v, o.way, o.goal)[0]
    w = np.minimum(np.exp(3.0 * (v_.mean(0) - v.mean(0))), 100)
    z, x = of(agent.v, o.obs, o.way_goal)[1], encoded(agent, o.obs, o.goal)
    high = perceptron(agent.high, x)
    assert agent.high_loss(o).item() == pytest.approx(-(w * density(high, z)).mean(), rel=1e-6)
    z = high / np.linalg.norm(high, axis=1, keepdims=True) * np.sqrt(3)
    wanted = policy(agent, np.concatenate((x[:, :4], z), 1))
    np.testing.assert_allclose(agent.act(o.state)[0], wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("whole", [False, True])
def test_qrl(whole):
    """Where goals are observations they have the same embedding, and the goal that s' achieves is s'."""
    spec = dataclasses.replace(SPEC, goal_dim=4, whole=True) if whole else SPEC
    agent, b, o = made("qrl", spec, alpha=0.2), data(spec=spec), onward(spec=spec)
    assert (agent.psi is None) == whole
    with torch.no_grad():
        agent.log_multiplier.copy_(torch.tensor(0.7))
        for net in filter(None, (agent.phi, agent.psi)):
            for p in net.body.out.parameters():
                p.mul_(5)

    def phi(obs):
        return body(agent.phi.body, scaled(agent, "obs", obs))

    def psi(goal):
        return phi(goal) if whole else body(agent.psi.body, scaled(agent, "goal", goal))

    def after(z, action):
        return z + body(agent.dynamics.body, np.concatenate((z, action), 1))

    z, z_ = phi(o.obs), phi(o.next_obs)
    far = (100 * np.log1p(np.exp(5 - distance(agent, z, psi(o.goal)) / 100))).mean()
    steps = distance(agent, z, z_)
    if not whole:
        steps = np.concatenate((steps, distance(agent, z, psi(o.near_goal))))
    excess = (np.maximum(steps - 1, 0) ** 2).mean()
    assert 0 < (steps > 1).mean() < 1
    guess = after(z, array(o.action))
    dynamics = (distance(agent, z_, guess) + distance(agent, guess, z_)).mean() / 2
    loss, seen = agent.metric_loss(o)
    assert seen.item() == pytest.approx(excess, rel=1e-6)
    assert loss.item() == pytest.approx(far + np.exp(0.7) * excess + dynamics, rel=1e-6)
    assert agent.multiplier_loss(seen.detach()).item() == pytest.approx(np.exp(0.7) * (0.05 - excess), rel=1e-6)
    x, z, w = encoded(agent, b.obs, b.goal), phi(b.obs), psi(b.goal)
    pi = mean(agent, x)
    wanted = climbed(-distance(agent, after(z, np.clip(pi, -1, 1)), w), density(pi, array(b.action)), 0.2, b)
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    agent.settings = dataclasses.replace(agent.settings, actor="awr", alpha=5.0)
    weight = np.minimum(np.exp(5.0 * (distance(agent, z, w) - distance(agent, phi(b.next_obs), w))), 100)
    assert agent.actor_loss(b).item() == pytest.approx(-(weight * density(pi, array(b.action))).mean(), rel=1e-6)


def test_crl():
    agent, b = made("crl", alpha=0.2), data()

    def table(action):
        """(2, B, B)"""
        x, g = np.concatenate((scaled(agent, "obs", b.obs), action), 1), scaled(agent, "goal", b.goal)
        heads = [body(agent.critic.phi, x, k) @ body(agent.critic.psi, g, k).T for k in range(2)]
        return np.array(heads) / np.sqrt(16)

    chance = 1 / (1 + np.exp(-table(array(b.action))))
    same = np.eye(len(b.obs))
    wanted = -(same * np.log(chance) + (1 - same) * np.log(1 - chance)).mean()
    assert agent.critic_loss(b).item() == pytest.approx(wanted, rel=1e-6)
    pi = policy(agent, encoded(agent, b.obs, b.goal))
    q = np.diagonal(table(pi), axis1=1, axis2=2).min(0)
    assert agent.actor_loss(b).item() == pytest.approx(climbed(q, density(pi, array(b.action)), 0.2, b), rel=1e-6)


def test_actionable():
    agent, b = made("actionable", conservative=0.7), data()
    x, x_, a = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal), array(b.action)
    reached, discount = rewards(b)[0] == 0, rewards(b)[1]

    def chance(critic, x, a):
        return 1 / (1 + np.exp(-values(critic, x, a)))

    y = np.where(reached, 1.0, discount * chance(agent.target, x_, policy(agent, x_)).min(0))
    unlike = torch.rand(len(a), 2, generator=torch.Generator().manual_seed(0)).double()
    wanted = ((y - chance(agent.critic, x, a)) ** 2).mean(1).sum()
    wanted += 0.7 * (chance(agent.critic, x, array(unlike)) ** 2).mean(1).sum()
    assert agent.critic_loss(b, unlike).item() == pytest.approx(wanted, rel=1e-6)
    wanted = -values(agent.critic, x, policy(agent, x)).min(0).mean()
    assert agent.actor_loss(b).item() == pytest.approx(wanted, rel=1e-6)


class Steep(torch.nn.Module):
    """Two heads of which the lesser says that the value is 1 where the first action is positive, else 0."""

    def forward(self, x, action):
        return torch.stack((1e6 * action[:, 0], torch.full_like(action[:, 0], 1e6)))


def test_actionables_conservative_action_is_drawn_by_its_value():
    """One state many times: how often its policy's action is taken, among four of which three are uniform."""
    agent = made("actionable")
    rows = data()
    agent.critic = Steep()
    first = agent.actor(agent.encode(rows.state))[:, 0]
    for i in (int(first.argmax()), int(first.argmin())):
        own = np.e if first[i] > 0 else 1.0
        b = Batch(*(x[i : i + 1].expand(20_000, *x.shape[1:]) for x in rows))
        torch.manual_seed(3)
        taken = (agent.unlike(b) == agent.actor(agent.encode(b.state))).all(1).double().mean().item()
        wanted = sum(math.comb(3, k) / 8 * own / (own + k * np.e + 3 - k) for k in range(4))
        assert taken == pytest.approx(wanted, abs=0.012)
        assert abs(wanted - 0.25) > 0.05


@pytest.mark.parametrize("weigh", ["discount,advantage,best", "advantage", "discount", "none"])
def test_wgcsl(weigh):
    agent, b, o = made("wgcsl", weigh=weigh, window=30, rise=20.0, most=1.1), data(), onward()
    agent.settings = dataclasses.replace(agent.settings)
    x, x_, a = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal), array(b.action)
    low, high = np.array(SPEC.bounds)[array(b.task)].T
    y = array(b.reward) + array(b.discount) * values(agent.target, x_, policy(agent, x_))[0]
    q = values(agent.critic, x, a)[0]
    assert agent.critic_loss(b).item() == pytest.approx(((np.clip(y, low, high) - q) ** 2).mean(), rel=1e-6)
    x, x_ = encoded(agent, o.obs, o.goal), encoded(agent, o.next_obs, o.goal)
    v, v_ = (values(agent.critic, z, policy(agent, z))[0] for z in (x, x_))
    advantage = array(o.reward) + array(o.discount) * v_ - v
    w = np.ones(len(x))
    if "discount" in weigh:
        w *= 0.9 ** (array(o.steps) - 1)
    if "advantage" in weigh:
        w *= np.minimum(np.exp(advantage), 1.1)
    if "best" in weigh:
        w *= np.where(advantage >= np.percentile(advantage[-30:], 20), 1, 0.05)  # after one update, of 30
    found = agent.weight(o)
    np.testing.assert_allclose(found, w, rtol=1e-5)
    wanted = -(w * density(policy(agent, x), array(o.action))).mean()
    assert agent.actor_loss(o.batch, found).item() == pytest.approx(wanted, rel=1e-5)


def test_the_percentile_rises_to_its_limit_over_a_window_that_moves_on():
    agent = made("wgcsl", window=50, rise=30.0, percentile=80.0)
    rng, seen = np.random.default_rng(0), np.zeros(0, np.float32)
    for i in range(6):
        fresh = rng.normal(size=20).astype(np.float32)
        seen = np.concatenate((seen, fresh))
        wanted = np.percentile(seen[-50:], min(80, 30 * (i + 1)))
        assert agent.threshold(torch.from_numpy(fresh)).item() == pytest.approx(wanted, abs=1e-5)
        agent.updates += 1


def test_without_weights_it_is_gcsl():
    """The same start and the same data: after every update the same policy, to the bit."""
    agents = [made("gcbc", lr=1e-3), made("wgcsl", weigh="none", lr=1e-3)]
    agents[1].actor.load_state_dict(agents[0].actor.state_dict())
    agents[1].encode.load_state_dict(agents[0].encode.state_dict())
    for seed in range(5):
        o = onward(seed)
        agents[0].update(o.batch)
        agents[1].descend("actor", agents[1].actor_loss, o.batch, agents[1].weight(o))
        for p, q in zip(agents[0].actor.parameters(), agents[1].actor.parameters(), strict=True):
            assert torch.equal(p, q)


# What one step moves.


@pytest.mark.parametrize("name", GOALS)
def test_a_loss_moves_only_its_own_network(name):
    agent = made(name)
    before = {key: p.clone() for key, p in agent.named_parameters()}
    loss = {"hiql": "low_loss"}.get(name, "actor_loss")
    b = onward() if name == "hiql" else data()
    extra = [torch.ones(40).double()] if name == "wgcsl" else []
    agent.descend("actor", getattr(agent, loss), b, *extra)
    moved = {key.split(".")[0] for key, p in agent.named_parameters() if not torch.equal(p, before[key])}
    assert moved == {"actor"}
    assert all(p.requires_grad for key, p in agent.named_parameters() if not key.startswith("target"))


@pytest.mark.parametrize("name", GOALS)
def test_a_task_without_goals_is_refused_in_one_line(name):
    for spec in (Spec(4, 2, 0, ((-1.0, 0.0),)), dataclasses.replace(SPEC, task_id="onehot")):
        with pytest.raises(InputError, match="learns to reach goals") as caught:
            AGENTS[name](spec, settings_of(name))
        assert "\n" not in str(caught.value)


def test_a_misspelt_goal_strategy_is_refused_by_the_name_of_its_flag():
    with pytest.raises(InputError, match="--value-goals futur:1"):
        AGENTS["gcivl"](SPEC, settings_of("gcivl", value_goals="futur:1"))
    with pytest.raises(InputError, match="--actor-goals"):
        AGENTS["gcbc"](SPEC, settings_of("gcbc", actor_goals="future:2"))


@pytest.mark.parametrize("name", GOALS)
def test_where_no_least_reward_is_known_no_arrival_is(name):
    """Refused are those that ask the reward; to the others it is nothing."""
    spec = Spec(4, 2, 2, ((-1.0, 0.0), (-np.inf, np.inf)))
    if name in ("gcbc", "wgcsl", "qrl", "crl"):
        AGENTS[name](spec, settings_of(name))
    else:
        with pytest.raises(InputError, match="declares no least"):
            AGENTS[name](spec, settings_of(name))


@pytest.mark.parametrize(
    ("low", "reward", "reached"), [(-10.0, 0.0, 1), (-10.0, -1.0, 0), (0.0, 0.0, 0), (0.0, 1.0, 1)]
)
def test_a_goal_is_reached_where_more_than_the_least_is_paid(low, reward, reached):
    """Rewards of -1 and 0, and of 0 and 1: either way the step that arrives costs nothing and is the last."""
    agent = AGENTS["gcivl"](Spec(4, 2, 2, ((low, 1.0),)), settings_of("gcivl"))
    b = batch(1)._replace(reward=torch.tensor([reward]), discount=torch.tensor([0.9]), task=torch.tensor([0]))
    assert [float(x) for x in agent.reaching(b)] == pytest.approx([reached - 1, 0.9 * (1 - reached)])


@pytest.mark.parametrize("name", ["gcivl", "gciql", "hiql", "actionable"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_a_goal_is_reached_also_where_arriving_pays_less_than_nothing(name, scale):
    """-2 a step and -1 for the one that arrives, under any factor and beside a task of -1 and 0."""
    beside = dataclasses.replace(POINT, reward_range=(-1.0, 0.0))
    agent = AGENTS[name](
        Spec.of([dataclasses.replace(POINT, reward_range=(-2.0, -1.0)), beside], 0.98, scale=(scale, 1.0)),
        settings_of(name),
    )
    b = batch(1)
    for k, reward, far in ((0, -2 * scale, 1), (0, -scale, 0), (1, -1.0, 1), (1, 0.0, 0)):
        one = b._replace(reward=torch.tensor([reward]), discount=torch.tensor([0.9]), task=torch.tensor([k]))
        assert [float(x) for x in agent.reaching(one)] == pytest.approx([-far, 0.9 * far])


# The quasimetric.


def points(size, dim=24, seed=0):
    return torch.randn(size, dim, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("whole", [False, True], ids=["apart", "with ties"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_iqe_is_a_quasimetric(size, whole):
    d = IQE(size).double()
    with torch.no_grad():
        d.alpha.fill_(0.3)
    x, y, z = (points(200, seed=seed) * 2 for seed in range(3))
    if whole:
        x, y, z = x.round(), y.round(), z.round()
    assert (d(x, x) == 0).all()
    assert (d(x, y) >= 0).all()
    assert (d(x, z) <= d(x, y) + d(y, z) + 1e-9).all()
    assert ((d(x, y) - d(y, x)).abs() > 0.1).double().mean() > 0.5
    mix = torch.sigmoid(d.alpha).item()
    for row, other, found in zip(x[:40], y, d(x, y), strict=False):
        columns = zip(row.reshape(size, -1).T.tolist(), other.reshape(size, -1).T.tolist(), strict=True)
        lengths = [union(a, b) for a, b in columns]
        assert found.item() == pytest.approx(mix * np.mean(lengths) + (1 - mix) * max(lengths), abs=1e-9)


def test_the_slope_of_iqe():
    d, x, y = IQE(4).double(), points(6, 12).requires_grad_(), points(6, 12, 1).requires_grad_()
    assert torch.autograd.gradcheck(d, (x, y))


def test_of_equal_intervals_one_counts():
    x, y = torch.zeros(1, 3, 1), torch.ones(1, 3, 1)
    left, right = borders(x, y)
    assert left.sum() == right.sum() == 1
