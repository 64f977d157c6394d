"""Losses of discrete agents against NumPy, fitted Q against value iteration. Long: one equation an algorithm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gcrl.agents import AGENTS
from gcrl.encoder import Spec
from gcrl.nets import Choices, DuelingChoices
from relabel.batch import Batch, State
from tests.problems import batch, settings_of

SPEC = Spec(obs_dim=4, action_dim=3, goal_dim=2, bounds=((-10.0, 0.0), (-1.0, 5.0)))
EVERY = ("dqn", "double-dqn", "dueling-dqn", "rem-dqn", "fqi")


def made(name, spec=SPEC, **wanted):
    """A new agent in double precision: the normaliser fed, network and target moved apart."""
    torch.manual_seed(0)
    agent = AGENTS[name](spec, settings_of(name, **{"heads": 5, **wanted}))
    agent.encode.observe(torch.randn(100, 4) * 3 + 1, torch.randn(100, 2) - 2)
    with torch.no_grad():
        for p in (*agent.critic.parameters(), *agent.target.parameters()):
            p.add_(0.2 * torch.randn_like(p))
    return agent.double()


def data(**changes):
    return batch(50, spec=SPEC, dtype=torch.float64)._replace(**changes)


def array(x):
    return x.detach().numpy()


def encoded(agent, obs, goal):
    """(B, O), (B, G) -> (B, X)"""
    columns = []
    for normaliser, x in ((agent.encode.obs, obs), (agent.encode.goals[0], goal)):
        mean, deviation = array(normaliser.mean), np.maximum(np.sqrt(array(normaliser.var)), 0.01)
        columns.append(np.clip((array(x) - mean) / deviation, -5, 5))
    return np.concatenate(columns, 1)


def layers(body, x):
    """(B, X) -> (B, Y): linear layers with ReLU, or norm and ReLU, between them."""
    for i, layer in enumerate(body.trunk.layers):
        x = x @ array(layer.weight)[0] + array(layer.bias)[0]
        if len(body.trunk.norms):
            gain, offset = (array(p)[0] for p in (body.trunk.norms[i].weight, body.trunk.norms[i].bias))
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gain + offset
        x = np.maximum(x, 0)
    return x @ array(body.out.weight)[0] + array(body.out.bias)[0]


def values(network, x):
    """(B, X) -> (n, B, A), head by head."""
    y = layers(network.body, x)
    if isinstance(network, Choices):
        return np.stack(np.split(y, network.n, 1))
    one, other = np.split(np.maximum(y, 0), 2, 1)
    v, a = (h @ array(s.weight)[0] + array(s.bias)[0] for h, s in ((one, network.value), (other, network.advantage)))
    return (v + a - a.mean(1, keepdims=True))[None]


def bounded(y, b):
    low, high = np.array(SPEC.bounds)[array(b.task)].T
    return np.clip(y, low, high)


def expected_loss(agent, name, b, seed):
    """E[h(y - Q(s, a))], with what torch draws after `seed`, a row at a time."""
    s, rows, a = agent.settings, np.arange(len(b.obs)), array(b.action).argmax(1)
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    q, q_, online_ = values(agent.critic, x), values(agent.target, x_), values(agent.critic, x_)
    torch.manual_seed(seed)
    share = np.ones(1)
    if name == "rem-dqn":
        share = array(torch.rand(s.heads, dtype=torch.float64))
        share = share / share.sum()
    q, q_, online_ = (sum(c * head for c, head in zip(share, heads, strict=True)) for heads in (q, q_, online_))
    v_ = q_[rows, online_.argmax(1)] if name in ("double-dqn", "dueling-dqn") else q_.max(1)
    y = array(b.reward) + array(b.discount) * v_
    if s.clip_target:
        y = bounded(y, b)
    e, c = abs(y - q[rows, a]), s.huber or np.inf
    return np.mean([e_**2 / 2 if e_ <= c else c * e_ - c**2 / 2 for e_ in e])


SETTINGS = {
    "default": {},
    "squared": {"huber": 0.0},
    "huber": {"huber": 0.3},
    "no clip": {"clip_target": False},
    "layer_norm": {"layer_norm": True},
}
every_agent = pytest.mark.parametrize("name", EVERY)


@every_agent
@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_critic_loss(name, changes):
    agent, b = made(name, **changes), data()
    for seed in range(2):
        torch.manual_seed(seed)
        assert agent.critic_loss(b).item() == pytest.approx(expected_loss(agent, name, b, seed), rel=1e-6)


def test_the_references_see_what_the_settings_change():
    agents = [(name, made(name, **changes)) for name in EVERY if name != "fqi" for changes in SETTINGS.values()]
    losses = {round(float(expected_loss(agent, name, data(), 0)), 9) for name, agent in agents}
    assert len(losses) == len(agents)


@every_agent
def test_the_target_is_a_constant(name):
    agent = made(name)
    agent.critic_loss(data()).backward()
    assert {key.split(".")[0] for key, p in agent.named_parameters() if p.grad is not None} == {"critic"}


@every_agent
def test_where_the_discount_is_zero_the_next_state_does_not_matter(name):
    agent, b = made(name, clip_target=False), data()
    losses = []
    for discount in (torch.zeros_like(b.discount), b.discount):
        for next_obs in (b.next_obs, b.next_obs + 7):
            torch.manual_seed(0)
            losses.append(agent.critic_loss(b._replace(discount=discount, next_obs=next_obs)).item())
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]


@every_agent
def test_only_the_greatest_number_of_an_action_counts(name):
    """What an agent of continuous actions did is learned from as well as 1 and -1."""
    agent, b = made(name), data()
    plain = torch.where(b.action == b.action.amax(1, keepdim=True), 1.0, -1.0).double()
    losses = []
    for action in (b.action, plain, plain.roll(1, 1)):
        torch.manual_seed(0)
        losses.append(agent.critic_loss(b._replace(action=action)).item())
    assert losses[0] == losses[1] != losses[2]


@every_agent
def test_what_an_action_is_worth_and_what_lies_ahead(name):
    """For sharing by values: Q by which the agent acts, and r + gamma V'(s')."""
    agent, b = made(name, clip_target=False), data()
    x, x_, rows = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal), np.arange(50)
    acts = agent.target if name == "fqi" else agent.critic
    q, q_ = values(acts, x).mean(0), values(agent.target, x_).mean(0)
    np.testing.assert_allclose(agent.value(b), q[rows, array(b.action).argmax(1)], atol=1e-6)
    best = values(agent.critic, x_).mean(0) if name in ("double-dqn", "dueling-dqn") else q_
    wanted = array(b.reward) + array(b.discount) * q_[rows, best.argmax(1)]
    np.testing.assert_allclose(agent.ahead(b), wanted, atol=1e-6)
    np.testing.assert_array_equal(agent.act(b.state)[0].argmax(1), q.argmax(1))


# Double -------------------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """Values by hand, the same in all states: (A,) -> (1, B, A)."""

    def __init__(self, *q):
        super().__init__()
        self.q = torch.tensor(q, dtype=torch.float64)

    def forward(self, x):
        return self.q.expand(1, len(x), -1)


def test_one_network_chooses_and_the_other_says_what_that_is_worth():
    """The single maximum takes the target's luckiest error (3), the double one its value of the online choice (1)."""
    single, double = made("dqn"), made("double-dqn")
    for agent in (single, double):
        agent.critic, agent.target = Table(0.0, 2.0, 1.0), Table(3.0, 1.0, 2.0)
    assert single.next_value(data()).tolist() == [3.0] * 50
    assert double.next_value(data()).tolist() == [1.0] * 50
    double.target = Table(0.0, 5.0, 1.0)
    assert double.next_value(data()).tolist() == [5.0] * 50  # agreed: then it is the maximum


def test_the_maximum_of_noisy_values_is_too_high_and_a_noisy_choice_is_not():
    """Of 8 choices worth 0, each valued with noise N(0, 1): E max = 1.42; chosen by other noise, 0."""
    means = {}
    for name in ("dqn", "double-dqn"):
        agent, torch_values = made(name), []
        for seed in range(400):
            noise = np.random.default_rng(seed).normal(size=(2, 8))
            agent.critic, agent.target = Table(*noise[0]), Table(*noise[1])
            torch_values.append(agent.next_value(data())[0].item())
        means[name] = np.mean(torch_values)
    assert means["dqn"] == pytest.approx(1.42, abs=0.1)
    assert means["double-dqn"] == pytest.approx(0.0, abs=0.15)


# Dueling ------------------------------------------------------------------------------------------------------------


def test_advantages_are_around_zero_and_the_value_is_the_mean():
    """So V and A can be told apart: a constant that one stream has more does not vanish in the other."""
    torch.manual_seed(0)
    network, x = DuelingChoices(2, 5, 3, (16,)), torch.randn(40, 5)
    v, a = network.streams(x)
    q = network(x)
    assert (v.shape, a.shape, q.shape) == ((2, 40, 1), (2, 40, 3), (2, 40, 3))
    torch.testing.assert_close(q.mean(-1, keepdim=True), v)
    torch.testing.assert_close((q - v).mean(-1), torch.zeros(2, 40), atol=1e-6, rtol=0)
    assert a.mean(-1).abs().max() > 0.01
    with torch.no_grad():
        network.advantage.bias.add_(7.0)
    torch.testing.assert_close(network(x), q, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        network.value.bias.add_(7.0)
    torch.testing.assert_close(network(x), q + 7, atol=1e-5, rtol=1e-5)


def test_every_choice_teaches_the_value_stream():
    """The point of the two streams: an error of one choice moves the value of all of them."""
    network, x = DuelingChoices(1, 5, 3, (16,)), torch.randn(1, 5)
    network(x)[0, 0, 0].backward()
    torch.testing.assert_close(network.value.bias.grad.flatten(), torch.tensor([1.0]))
    torch.testing.assert_close(network.advantage.bias.grad.flatten(), torch.tensor([2.0, -1.0, -1.0]) / 3)


# Random mixtures ----------------------------------------------------------------------------------------------------


def same_after(one, other, updates=4):
    """Do both have the same weights, to the bit, after these updates."""
    other.load_state_dict(one.state_dict())
    for seed in range(updates):
        for agent in (one, other):
            agent.update(data(reward=torch.randn(50, generator=torch.Generator().manual_seed(seed)).double()))
    return all(torch.equal(x, other.state_dict()[key]) for key, x in one.state_dict().items())


def test_a_mixture_of_one_head_is_dqn():
    assert same_after(made("rem-dqn", heads=1), made("dqn"))
    assert not same_after(made("double-dqn"), made("dqn"))


def test_mixtures_are_convex_and_drawn_anew():
    """The loss of heads that are all alike is the one of each; of unlike ones it varies with the draw."""
    agent, b = made("rem-dqn", heads=4, hidden=(16,)), data()
    losses = [agent.critic_loss(b).item() for _ in range(3)]
    assert len(set(losses)) == 3
    with torch.no_grad():
        for network in (agent.critic, agent.target):
            out = network.body.out
            for p in (out.weight, out.bias):
                p.copy_(p.unflatten(-1, (4, -1))[..., :1, :].expand(*p.shape[:2], 4, -1).flatten(-2))
    losses = [agent.critic_loss(b).item() for _ in range(3)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-9)
    one = values(agent.critic, encoded(agent, b.obs, b.goal))
    np.testing.assert_allclose(one, one[:1].repeat(4, 0))


# Fitted Q-iteration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [1, 3])
def test_fitted_q_iteration_is_dqn_with_a_hard_target(period):
    """S = 1: the target becomes the network at each step. Only which of the two acts differs."""
    wanted = {"period": period, "tau": 1.0, "huber": 0.0}
    assert same_after(made("fqi", **wanted), made("dqn", **wanted), 7)
    assert not same_after(made("fqi", **wanted), made("dqn", **{**wanted, "tau": 0.5}), 7)


def mdp():
    """4 states, 2 actions, at random: where each leads (4, 2) and what it pays (4, 2); from state 3 nothing goes on."""
    rng = np.random.default_rng(1)
    return rng.integers(0, 4, (4, 2)), rng.normal(size=(4, 2)), 0.6 * (np.arange(4) != 3)[:, None] * np.ones((4, 2))


@pytest.mark.parametrize("anew", [False, True])
def test_each_regression_is_one_step_of_value_iteration(anew):
    """On every transition of a small MDP, whose states are one-hot and whose network is a table: Q_{k+1} = T Q_k.

    So the fixed points agree; that of value iteration is found here by 200 steps from anywhere.
    """
    leads, pays, discount = mdp()
    s, a = (x.flatten() for x in np.mgrid[:4, :2])
    columns = np.eye(4)[s], np.eye(2)[a] * 2 - 1, pays[s, a], discount[s, a], np.eye(4)[leads[s, a]]
    rows = [torch.from_numpy(x).float() for x in columns]
    b = Batch(*rows, torch.zeros(8, 0), torch.zeros(8, dtype=torch.int64))
    torch.manual_seed(0)
    spec = Spec(obs_dim=4, action_dim=2, goal_dim=0, bounds=((-np.inf, np.inf),))
    agent = AGENTS["fqi"](spec, settings_of("fqi", hidden=(), period=100, lr=0.05, anew=anew))
    state = State(torch.eye(4), torch.zeros(4, 0), torch.zeros(4, dtype=torch.int64))

    def table():
        return array(agent.values(agent.encode(state)))

    for k in range(12):
        wanted = pays + discount * table().max(1)[leads]
        for _ in range(100):
            agent.update(b)
        if k < 3:
            np.testing.assert_allclose(table(), wanted, atol=0.01)
    q = np.random.default_rng(2).normal(size=(4, 2))
    for _ in range(200):
        q = pays + discount * q.max(1)[leads]
    np.testing.assert_allclose(table(), q, atol=0.03)
    np.testing.assert_array_equal(array(agent.act(state)[0]).argmax(1), q.argmax(1))
