"""Every loss of weighted imitation and of sequences against its equation in NumPy. Long: one idea an agent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gcrl.agents import AGENTS
from gcrl.agents.dt import Memory
from gcrl.encoder import Spec
from relabel.batch import State
from relabel.goals import parse
from relabel.mix import Mixed
from relabel.replay import Replay
from relabel.segment import Segment
from relabel.share import Sharing
from tasks.task import Episode, InputError
from tests.problems import PLAIN, POINT, SPEC, mean_by_task, settings_of
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
        return exp / mean_by_task(exp, b.task)
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
    found = agent.weight(agent.encode(b.state), b)
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


def test_weights_are_one_on_average_over_the_rows_of_a_task():
    agent, b = made("awac", temperature=0.3), data()
    w = agent.weight(agent.encode(b.state), b)
    assert [w[b.task == task].mean().item() for task in range(2)] == pytest.approx([1, 1])


# Returns ------------------------------------------------------------------------------------------------------------


def segment(size=20, length=5, spec=SPEC, seed=0):
    """Random windows, some of which end, some of which the clock cuts: after a cut the last state comes again."""
    g = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    obs = torch.randn(size, length + 1, spec.obs_dim, generator=g, dtype=torch.float64)
    action = torch.rand(size, length, spec.action_dim, generator=g, dtype=torch.float64) * 2 - 1
    reward = torch.randn(size, length, generator=g, dtype=torch.float64)
    n = torch.from_numpy(rng.integers(1, length + 1, size))
    counts = torch.arange(length) < n[:, None]
    discount = torch.full((size, length), 0.9, dtype=torch.float64)
    ended = torch.from_numpy(rng.random(size) < 0.4)
    discount[ended, n[ended] - 1] = 0.0
    for b in range(size):
        if not ended[b]:
            obs[b, n[b] :] = obs[b, n[b]].clone()
    reward = torch.where(counts, reward, 0.0)
    assert ended.any() and (~ended & (n < length)).any() and (n == length).any()
    to_go = reward.sum(1) + torch.randn(size, generator=g, dtype=torch.float64)
    goal = torch.randn(size, spec.goal_dim, generator=g, dtype=torch.float64)
    task = torch.from_numpy(rng.integers(0, spec.tasks, size))
    return Segment(obs, action, reward, discount, counts, to_go, torch.from_numpy(rng.integers(0, 3, size)), goal, task)


def seen(agent, b, t):
    """What is seen at step t: (B, X)"""
    return encoded(agent, b.obs[:, t], b.goal)


def returns_of(agent, b, trace):
    """(B, L): from each step all n-step returns, mixed by (1 - lambda) lambda^(n-1), and the longest has the rest."""
    length = b.reward.shape[1]
    v = np.stack([state_value(agent, seen(agent, b, t)) for t in range(length + 1)], 1)
    out = np.full(b.reward.shape, np.nan)
    for i in range(len(out)):
        steps = int(b.counts[i].sum())
        for t in range(steps):
            total, left = 0.0, 1.0
            for n in range(1, steps - t + 1):
                value, worth = 0.0, 1.0
                for k in range(n):
                    value += worth * float(b.reward[i, t + k])
                    worth *= float(b.discount[i, t + k])
                value += worth * v[i, t + n]
                last = n == steps - t
                total += (left if last else (1 - trace) * left) * value
                left *= trace
            out[i, t] = total
    return out, v


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.95, 1.0])
def test_the_returns_of_awr_are_the_mixture_of_all_n_step_returns(trace):
    agent, b = made("awr", trace=trace), segment()
    wanted, v = returns_of(agent, b, trace)
    counts = array(b.counts)
    np.testing.assert_allclose(array(agent.values(b)), v, rtol=1e-6)
    np.testing.assert_allclose(array(agent.returns(b, agent.values(b)))[counts], wanted[counts], rtol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"normalise": False, "temperature": 0.3, "most": 5.0}], ids=str)
def test_both_losses_of_awr(changes):
    agent, b = made("awr", **changes), segment()
    s, counts = agent.settings, array(b.counts)
    g, v = returns_of(agent, b, s.trace)
    a = (g - v[:, :-1])[counts]
    assert agent.value_loss(b).item() == pytest.approx((a**2).mean(), rel=1e-6)
    if s.normalise:
        for own in range(2):
            rows = array(b.task)[:, None].repeat(5, 1)[counts] == own
            a[rows] = (a[rows] - a[rows].mean()) / (a[rows].std() + 1e-5)
    w = np.minimum(np.exp(a / s.temperature), s.most)
    assert changes == {} or (w.max() == s.most and w.min() < 1)
    logp = np.stack([log_density(agent, seen(agent, b, t), array(b.action[:, t])) for t in range(5)], 1)[counts]
    assert agent.actor_loss(b).item() == pytest.approx(-(w * logp).mean(), rel=1e-6)


@pytest.mark.parametrize("loss", ["value_loss", "actor_loss"])
def test_what_does_not_count_is_nothing_to_awr(loss):
    """Rewards, actions and discounts behind an episode's end, whatever they are, and what is seen behind a death."""
    agent, b = made("awr"), segment()
    wild = torch.where(b.counts, b.reward, 1e3), torch.where(b.counts[..., None], b.action, 7.0)
    other = b._replace(reward=wild[0], action=wild[1], discount=torch.where(b.counts, b.discount, 5.0))
    dead = (b.discount == 0).any(1) & (b.counts.sum(1) < 5)
    other.obs[dead, -1] += 3
    assert getattr(agent, loss)(other).item() == pytest.approx(getattr(agent, loss)(b).item(), rel=1e-12)


def test_the_targets_of_awr_are_constants():
    agent = made("awr")
    for loss, moved in (("value_loss", {"v"}), ("actor_loss", {"actor"})):
        for p in agent.parameters():
            p.grad = None
        getattr(agent, loss)(segment()).backward()
        assert {key.split(".")[0] for key, p in agent.named_parameters() if p.grad is not None} == moved
    b = segment()
    v = agent.values(b)
    g, _ = returns_of(agent, b, agent.settings.trace)
    grad = torch.autograd.grad(agent.value_loss(b), agent.v.body.out.bias)[0].item()
    wanted = 2 * (array(v)[:, :-1] - g)[array(b.counts)].mean()
    assert grad == pytest.approx(wanted, rel=1e-5)


# Sequences ----------------------------------------------------------------------------------------------------------

SMALL = {"width": 16, "layers": 2, "heads": 2, "context": 5, "dropout": 0.0}


def read(agent, b, **changes):
    """What the transformer says to each step of the windows: (B, L, A)"""
    b = b._replace(**changes)
    return agent.actor(agent.encode.window(b)[:, :-1], b.action, agent.to_go(b), b.past).detach()


@pytest.mark.parametrize("returns", [True, False])
def test_a_later_input_changes_no_earlier_output(returns):
    """And an earlier one does: the state its own step, the action none before the next."""
    agent, b = made("dt", returns=returns, **SMALL), segment()
    said = read(agent, b)
    for t in range(5):
        for what, first in (("obs", t), ("action", t + 1)):
            x = getattr(b, what).clone()
            x[:, t] += 0.5
            changed = (read(agent, b, **{what: x}) - said).abs().amax((0, 2)) > 1e-9
            assert changed.tolist() == [i >= first for i in range(5)], (what, t)
        x = agent.to_go(b)
        x[:, t] += 0.5
        other = agent.actor(agent.encode.window(b)[:, :-1], b.action, x, b.past)
        changed = (other - said).abs().amax((0, 2)) > 1e-9
        assert changed.tolist() == [i >= t and returns for i in range(5)]


def test_the_time_of_the_episode_is_seen_up_to_a_bound():
    agent, b = made("dt", longest=6, **SMALL), segment()
    said = read(agent, b, past=torch.zeros_like(b.past))
    assert (read(agent, b, past=torch.ones_like(b.past)) - said).abs().amax() > 1e-6
    late = read(agent, b, past=torch.full_like(b.past, 50))
    assert torch.equal(read(agent, b, past=torch.full_like(b.past, 5)), late)


def test_the_time_of_the_episode_says_little_before_it_is_learned():
    agent, b = made("dt"), segment()
    said = read(agent, b, past=torch.zeros_like(b.past))
    time = (read(agent, b, past=torch.full_like(b.past, 300)) - said).abs().mean()
    state = (read(agent, b, past=torch.zeros_like(b.past), obs=b.obs.flip(0)) - said).abs().mean()
    assert 0 < time < state


def test_losses_of_dt():
    agent, b = made("dt", **SMALL), segment()
    agent.scale[:] = torch.tensor([2.0, 5.0])
    counts, reward = array(b.counts), array(b.reward)
    to_go = np.stack([array(b.to_go) - reward[:, :t].sum(1) for t in range(5)], 1)
    to_go = to_go / np.array([2.0, 5.0])[array(b.task)][:, None]
    np.testing.assert_allclose(array(agent.to_go(b)), to_go, rtol=1e-6)
    error = ((array(read(agent, b)) - array(b.action)) ** 2).mean(-1)[counts]
    assert agent.action_loss(b).item() == pytest.approx(error.mean(), rel=1e-6)
    pay = [
        values(agent.reward, np.concatenate([seen(agent, b, t), seen(agent, b, t + 1)], 1), array(b.action[:, t]))[0]
        for t in range(5)
    ]
    error = (np.stack(pay, 1) - reward)[counts] ** 2
    assert agent.reward_loss(b).item() == pytest.approx(error.mean(), rel=1e-6)


def attention(block, h):
    """A block in NumPy, row by row and head by head: (T, D) -> (T, D)"""

    def norm(layer, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * array(layer.weight) + array(layer.bias)

    def linear(layer, x):
        return x @ array(layer.weight)[0] + array(layer.bias)[0]

    q, k, v = np.split(linear(block.qkv, norm(block.norm, h)), 3, axis=1)
    size = h.shape[1] // block.heads
    joined = np.zeros_like(h)
    for i in range(len(h)):
        for head in (slice(a, a + size) for a in range(0, h.shape[1], size)):
            weight = np.exp(k[: i + 1, head] @ q[i, head] / np.sqrt(size))
            joined[i, head] = weight @ v[: i + 1, head] / weight.sum()
    h = h + linear(block.join, joined)
    return h + linear(block.down, np.maximum(linear(block.up, norm(block.after, h)), 0))


def test_a_block_of_the_transformer():
    agent = made("dt", **SMALL)
    h, block = torch.randn(3, 7, 16, dtype=torch.float64), agent.actor.body.blocks[0]
    for row, found in zip(h, block(h), strict=True):
        np.testing.assert_allclose(array(found), attention(block, array(row)), rtol=1e-6, atol=1e-9)


def lived(agent, steps, rows=4, seed=0):
    """A walk through random states with the agent's own memory: states, actions, and the memory at the end."""
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(steps, rows, 4, generator=g, dtype=torch.float64)
    goal = torch.randn(rows, 2, generator=g, dtype=torch.float64)
    task = torch.arange(rows) % 2
    carry, actions = None, []
    for x in obs:
        action, carry = agent.act(State(x, goal, task), carry)
        actions.append(action)
    return obs, goal, task, torch.stack(actions, 1), carry


@pytest.mark.parametrize("returns", [True, False])
def test_memory_gives_the_actions_of_one_pass_over_the_whole(returns):
    """Also where the context is full: then of one pass over the last K steps."""
    agent = made("dt", returns=returns, **SMALL)
    agent.best[:], agent.scale[:] = torch.tensor([-3.0, 4.0]), torch.tensor([2.0, 5.0])
    steps, k = 9, 5
    obs, goal, task, actions, carry = lived(agent, steps)
    x = torch.stack([agent.encode(State(one, goal, task)) for one in obs], 1)
    to_go = torch.zeros(4, steps, dtype=torch.float64)
    if returns:
        to_go[:, 0] = (agent.best / agent.scale)[task]
        for t in range(1, steps):
            paid = agent.reward(torch.cat((x[:, t - 1], x[:, t]), -1), actions[:, t - 1])[0].detach()
            to_go[:, t] = to_go[:, t - 1] - paid / agent.scale[task]
    for t in range(steps):
        a = max(0, t - k + 1)
        # one pass over what lies in the context, what is done at t and later unknown
        blind = actions.clone()
        blind[:, t:] = 9.0
        said = agent.actor(x[:, a : t + 1], blind[:, a : t + 1], to_go[:, a : t + 1], torch.full((4,), a)).detach()
        torch.testing.assert_close(actions[:, t], said[:, -1], rtol=1e-9, atol=1e-12)
    whole = agent.actor(x[:, :k], actions[:, :k], to_go[:, :k], torch.zeros(4, dtype=torch.int64)).detach()
    torch.testing.assert_close(actions[:, :k], whole, rtol=1e-9, atol=1e-12)
    assert carry.steps.tolist() == [steps] * 4


def test_rows_of_memory_are_nobody_elses():
    """Rows that began at different times act together as they do alone."""
    agent = made("dt", **SMALL)
    old, new = lived(agent, 7, 2, seed=1)[4], lived(agent, 2, 3, seed=2)[4]
    both = Memory(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
    g = torch.Generator().manual_seed(3)
    state = State(
        torch.randn(5, 4, generator=g, dtype=torch.float64),
        torch.randn(5, 2, generator=g, dtype=torch.float64),
        torch.tensor([0, 1, 0, 1, 0]),
    )
    kept = [x.clone() for x in both]
    together, after = agent.act(state, both)
    assert all(torch.equal(x, y) for x, y in zip(both, kept, strict=True))  # a memory that was handed in stays as it is
    for rows, memory in ((slice(0, 2), old), (slice(2, 5), new)):
        alone, then = agent.act(State(*(x[rows] for x in state)), memory)
        torch.testing.assert_close(together[rows], alone, rtol=1e-9, atol=1e-12)
        for x, y in zip(after, then, strict=True):
            torch.testing.assert_close(x[rows], y, rtol=1e-9, atol=1e-12)


def test_what_was_done_is_remembered_not_what_was_meant():
    agent = made("dt", noise=0.5, **SMALL)
    obs, goal = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    state = State(obs, goal, torch.zeros(3, dtype=torch.int64))
    quiet, _ = agent.act(state)
    loud, carry = agent.act(state, None, explore=True)
    assert not torch.equal(quiet, loud)
    assert torch.equal(carry.action[:, 0], loud)


def filled(task, returns):
    """A replay with an episode for each of the returns, its reward in the last step."""
    replay = Replay([task], 1000, parse("none"), 0.9, scale=(2.0,))
    for i, score in enumerate(returns):
        n = 3 + i
        reward = np.zeros(n, np.float32)
        reward[-1] = score
        rng = np.random.default_rng(i)
        obs = rng.uniform(-1, 1, (n + 1, task.obs_dim)).astype(np.float32)
        desired = rng.uniform(-1, 1, (n, task.goal_dim)).astype(np.float32)
        replay.add(0, Episode(obs, np.zeros((n, 2), np.float32), desired, reward, False))
    return replay


def test_the_target_is_the_best_return_of_the_data():
    agent = AGENTS["dt"](Spec.of([PLAIN], 0.9), settings_of("dt"))
    replay, rng = filled(PLAIN, (-7.0, 3.0, 1.0)), np.random.default_rng(0)
    agent.draw(replay, rng)
    assert (agent.best.tolist(), agent.scale.tolist(), int(agent.looked)) == ([6.0], [14.0], 12)
    now = agent.recall(State(torch.zeros(2, 4), torch.zeros(2, 0), torch.zeros(2).long()), None).to_go[:, 0]
    assert now.tolist() == pytest.approx([6 / 14] * 2)
    told = AGENTS["dt"](Spec.of([PLAIN], 0.9), settings_of("dt", target=-28.0))
    told.draw(replay, rng)
    now = told.recall(State(torch.zeros(2, 4), torch.zeros(2, 0), torch.zeros(2).long()), None).to_go[:, 0]
    assert now.tolist() == pytest.approx([-2.0] * 2)


def test_where_the_task_scores_it_is_not_the_recorded_return():
    agent, replay = AGENTS["dt"](Spec.of([POINT], 0.9), settings_of("dt")), filled(POINT, (50.0, 60.0))
    agent.draw(replay, np.random.default_rng(0))
    state = replay.stores[0].state()
    first, scores = 0, []
    for i, n in enumerate(state["length"].tolist()):
        achieved = state["observation"][first + i + 1 : first + i + n + 1]
        scores.append(2 * POINT.reward(achieved, state["desired"][first : first + n]).sum())
        first += n
    assert agent.best.tolist() == pytest.approx([max(scores)])
    assert agent.scale.tolist() == pytest.approx([max(map(abs, scores))])


@pytest.mark.parametrize("ends", [False, True])
def test_it_asks_for_a_return_that_its_windows_show(ends):
    """Where arriving ends what is learned from, what is paid after it counts neither here nor there; staying does."""
    pays = dataclasses.replace(POINT, reward=POINT.success, reward_range=(0.0, 1.0))
    agent = AGENTS["dt"](Spec.of([pays], 0.9), settings_of("dt"))
    replay = Replay([pays], 100, parse("none"), 0.9, end_at_goal=ends)
    for far in ([1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0], [1, 1, 1]):
        obs, n = np.zeros((len(far) + 1, 2), np.float32), len(far)
        obs[1:, 0] = far
        replay.add(0, Episode(obs, *np.zeros((2, n, 2), np.float32), np.zeros(n, np.float32), False))
    b = [agent.draw(replay, np.random.default_rng(seed)) for seed in range(5)]
    shown = max(float(x.to_go[x.past == 0].max()) for x in b)
    assert agent.best.item() == shown == (3 if ends else 6)


def test_it_looks_again_once_there_is_a_tenth_more():
    agent = AGENTS["dt"](Spec.of([PLAIN], 0.9), settings_of("dt"))
    replay, rng = filled(PLAIN, (1.0,) * 8), np.random.default_rng(0)  # 52 steps
    agent.draw(replay, rng)
    seen = int(agent.looked)
    for n, wanted in ((seen // 10 - 1, 2.0), (10, 8.0)):
        reward = np.zeros(n, np.float32)
        reward[-1] = 4.0
        obs, action, desired = (np.zeros(shape, np.float32) for shape in ((n + 1, 4), (n, 2), (n, 0)))
        replay.add(0, Episode(obs, action, desired, reward, False))
        agent.draw(replay, rng)
        assert agent.best.item() == wanted


def test_a_task_without_data_asks_for_the_best_of_its_scene():
    two, far = dataclasses.replace(PLAIN, name="two"), dataclasses.replace(PLAIN, name="far", scene="far")
    agent = AGENTS["dt"](Spec.of([PLAIN, two, far], 0.9, "onehot"), settings_of("dt"))
    replay = Replay([PLAIN, two, far], 100, parse("none"), 0.9, sharing=Sharing("own"))
    for episode in (-7.0, 3.0):
        obs, action, desired = (np.zeros(shape, np.float32) for shape in ((3, 4), (2, 2), (2, 0)))
        replay.add(0, Episode(obs, action, desired, np.array([0, episode], np.float32), False))
    agent.look(replay.replays)
    assert (agent.best.tolist(), agent.scale.tolist()) == ([3.0, 3.0, 0.0], [7.0, 7.0, 1.0])


def test_a_run_of_its_own_looks_at_its_own_data():
    agent, rng = AGENTS["dt"](Spec.of([PLAIN], 0.9), settings_of("dt")), np.random.default_rng(0)
    agent.draw(filled(PLAIN, (8.0,) * 4), rng)
    agent.begin()
    agent.draw(filled(PLAIN, (2.0,) * 4), rng)
    assert agent.best.item() == 4.0


def test_old_data_and_new_are_looked_at_alike():
    agent, rng = AGENTS["dt"](Spec.of([PLAIN], 0.9), settings_of("dt")), np.random.default_rng(0)
    old, new = filled(PLAIN, (-7.0, 1.0)), filled(PLAIN, (3.0,))
    agent.draw(Mixed(old, Replay([PLAIN], 50, parse("none"), 0.9), 0.5), rng)
    assert (agent.best.item(), agent.scale.item()) == (2.0, 14.0)
    agent.draw(Mixed(old, new, 0.5), rng)
    assert (agent.best.item(), agent.scale.item(), int(agent.looked)) == (6.0, 14.0, 10)


def test_conditioned_on_the_goal_alone_it_asks_for_no_return():
    agent, replay = AGENTS["dt"](Spec.of([POINT], 0.9), settings_of("dt", returns=False)), filled(POINT, (1.0,))
    b = agent.draw(replay, np.random.default_rng(0))
    assert b.to_go.isnan().all() and int(agent.looked) == 0
    assert set(agent.update(b)) == {"action_loss", "gradient"}
    assert not hasattr(agent, "reward")


def test_heads_must_share_the_width():
    with pytest.raises(InputError, match="--heads 3"):
        AGENTS["dt"](SPEC, dataclasses.replace(settings_of("dt"), heads=3))


def test_the_gradient_is_bounded():
    """A step of Adam does not show it; its second moment does."""
    agent, b = made("dt", clip_norm=0.01, **SMALL), segment()
    metrics = agent.update(b)
    assert metrics["gradient"] > 0.1
    moments = [slot["exp_avg"] for slot in agent.optimizers["actor"].state.values()]
    norm = torch.stack([m.norm() / 0.1 for m in moments]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)
