"""What the offline benchmark times is the same mathematics: plain losses are ours on the same weights, and learn."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.benchmarks import offline_worker
from tests.benchmarks.offline_worker import ACTION, OBS, PROPOSALS, ROOT, rows
from tests.benchmarks.plain_offline import LR, TAU, PlainCQL, PlainIQL


def give(plain, body, k=0):
    """The weights of our k-th network to one of theirs."""
    layers = [*body.trunk.layers, body.out]
    for linear, ours in zip([part for part in plain if isinstance(part, nn.Linear)], layers, strict=True):
        linear.weight.data = ours.weight.data[k].mT.clone()
        linear.bias.data = ours.bias.data[k, 0].clone()


def take(body, *plain):
    """Gradients of their networks as ours has them, in the order of our parameters."""
    linears = [[part for part in net if isinstance(part, nn.Linear)] for net in plain]
    weights = [torch.stack([layer.weight.grad.mT for layer in layers]) for layers in zip(*linears, strict=True)]
    biases = [torch.stack([layer.bias.grad for layer in layers])[:, None] for layers in zip(*linears, strict=True)]
    found = dict(zip([id(part.weight) for part in (*body.trunk.layers, body.out)], weights, strict=True))
    found |= dict(zip([id(part.bias) for part in (*body.trunk.layers, body.out)], biases, strict=True))
    return [found[id(p)] for p in body.parameters()]


def pair(name, plain, **wanted):
    """Ours and theirs with the same weights, the slow critics apart, and the batch as each wants it."""
    torch.manual_seed(0)
    agent, b = offline_worker.ours(name, **wanted)
    with torch.no_grad():
        for p in (*agent.critic.parameters(), *agent.target.parameters()):
            p.add_(0.05 * torch.randn_like(p))
    for k, (q, slow) in enumerate(((plain.q1, plain.q1_target), (plain.q2, plain.q2_target))):
        give(q.net, agent.critic.body, k)
        give(slow.net, agent.target.body, k)
    give(plain.policy.net, agent.actor.net.body)
    return agent, b, plain, rows()


def same_slope(ours, theirs, body, *plain):
    """Loss and gradient in these networks."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    slope = torch.autograd.grad(ours, list(body.parameters()))
    theirs.backward()
    torch.testing.assert_close(list(slope), take(body, *plain), rtol=1e-4, atol=1e-5)


def test_settings_are_the_same():
    for name, plain in (("cql", PlainCQL(OBS, ACTION)), ("iql", PlainIQL(OBS, ACTION))):
        s = offline_worker.ours(name)[0].settings
        assert (s.lr, s.tau, s.critics, s.layer_norm, s.hidden) == (LR, TAU, 2, False, offline_worker.HIDDEN)
        if name == "cql":
            assert (s.weight, s.actions, s.entropy_backup, s.threshold) == (plain.weight, PROPOSALS, False, None)
            assert s.alpha == pytest.approx(plain.log_alpha.exp().item())
        else:
            assert (s.expectile, s.beta, s.most) == (plain.expectile, plain.beta, 100.0)


def test_cql(monkeypatch):
    agent, b, plain, theirs = pair("cql", PlainCQL(OBS, ACTION), through=0)
    drawn = plain.proposals(b.obs, b.next_obs)
    a = torch.cat([a.unflatten(0, (-1, PROPOSALS)).transpose(0, 1) for a, _ in drawn])
    logp = torch.cat([p.unflatten(0, (-1, PROPOSALS)).mT for _, p in drawn])
    for at, part in ((b.obs, slice(PROPOSALS, 2 * PROPOSALS)), (b.next_obs, slice(2 * PROPOSALS, None))):
        known = torch.stack([agent.actor.log_prob(at, one) for one in a[part]]).detach()
        inside = a[part].abs().amax(-1) < 0.99
        assert inside.float().mean() > 0.5
        torch.testing.assert_close(known[inside], logp[part][inside], rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(plain, "proposals", lambda *_: drawn)
    monkeypatch.setattr(agent, "proposals", lambda *_: (a, logp))
    torch.manual_seed(1)
    ours = agent.critic_loss(b)
    torch.manual_seed(1)
    same_slope(ours, plain.q_loss(theirs), agent.critic.body, plain.q1.net, plain.q2.net)
    action, density = agent.actor.sample(b.obs)
    ours = agent.soft_loss(b, action, density)
    torch.testing.assert_close(ours, plain.policy_loss(b.obs, action, density), rtol=1e-5, atol=1e-6)


def test_iql():
    agent, b, plain, theirs = pair("iql", PlainIQL(OBS, ACTION))
    give(plain.v, agent.v.body)
    u = plain.advantage(b.obs, b.action)
    assert 0 < (u > 0).sum() < len(u)
    same_slope(agent.value_loss(b), plain.v_loss(u), agent.v.body, plain.v)
    next_v = plain.v(b.next_obs).squeeze(-1).detach()
    same_slope(agent.critic_loss(b), plain.q_loss(theirs, next_v), agent.critic.body, plain.q1.net, plain.q2.net)
    ours, theirs_ = agent.actor_loss(b), plain.policy_loss(b.obs, b.action, u.detach())
    same_slope(ours, theirs_, agent.actor.net.body, plain.policy.net)


@pytest.mark.parametrize("make", [PlainCQL, PlainIQL])
def test_the_plain_ones_learn(make):
    torch.manual_seed(0)
    agent, batch = make(OBS, ACTION), rows()
    agent.n = 2

    def loss():
        torch.manual_seed(1)
        if make is PlainCQL:
            return agent.q_loss(batch).item()
        return agent.q_loss(batch, agent.v(batch[3]).squeeze(-1).detach()).item()

    before, slow = loss(), [p.clone() for p in agent.q1_target.parameters()]
    for _ in range(30):
        agent.update(batch)
    assert math.isfinite(loss()) and loss() < 0.98 * before
    assert all((p != q).any() for p, q in zip(agent.q1_target.parameters(), slow, strict=True))


def test_a_worker_answers():
    told = [sys.executable, "-m", "tests.benchmarks.offline_worker", "ours", "iql"]
    done = subprocess.run(told, input="2\n1\n0\n", capture_output=True, text=True, check=True, cwd=ROOT)
    ready, *answers = done.stdout.splitlines()
    assert ready == "ready"
    assert len(answers) == 2
    assert all(float(x) > 0 for line in answers for x in line.split())
