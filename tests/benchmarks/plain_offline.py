"""CQL (arXiv 2006.04779) and IQL (arXiv 2110.06169) as single-file scripts write them: what ours is timed against.

Two Q networks apart, their slow copies moved in a loop, one Adam each, all thirty proposals with their gradient.
Written from the equations, with torch alone; tests/test_offline_update.py holds its losses against ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

HIDDEN, GAMMA, LR, TAU = 256, 0.99, 3e-4, 0.005
Rows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""obs (B, O), action (B, A), reward (B,), next_obs (B, O), done (B,)"""


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


class Q(nn.Module):
    def __init__(self, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = perceptron(obs_dim + action_dim, 1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, A) -> (B,)"""
        q: Tensor = self.net(torch.cat([obs, action], dim=-1)).squeeze(-1)
        return q


class TanhPolicy(nn.Module):
    def __init__(self, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = perceptron(obs_dim, 2 * action_dim)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, O) -> an action (B, A) and its log density (B,)"""
        mean, log_std = self.net(obs).chunk(2, dim=-1)
        std = log_std.clamp(-20, 2).exp()
        policy = TransformedDistribution(Normal(mean, std), TanhTransform(cache_size=1), validate_args=False)
        action = policy.rsample()
        return action, policy.log_prob(action).sum(-1)


class NormalPolicy(nn.Module):
    def __init__(self, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = perceptron(obs_dim, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, obs: Tensor) -> Normal:
        return Normal(torch.tanh(self.net(obs)), self.log_std.clamp(-5, 2).exp())


class Twins:
    """What both have: two Q networks, two slow copies, an optimizer for each."""

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        self.q1, self.q2 = Q(obs_dim, action_dim), Q(obs_dim, action_dim)
        self.q1_target, self.q2_target = (copy.deepcopy(q).requires_grad_(False) for q in (self.q1, self.q2))
        self.q1_optimizer, self.q2_optimizer = (torch.optim.Adam(q.parameters(), lr=LR) for q in (self.q1, self.q2))

    def follow(self) -> None:
        for q, slow in ((self.q1, self.q1_target), (self.q2, self.q2_target)):
            for p, p_slow in zip(q.parameters(), slow.parameters(), strict=True):
                p_slow.data.copy_(TAU * p.data + (1 - TAU) * p_slow.data)


def descend(loss: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


class PlainCQL(Twins):
    """CQL(H) with importance weights and a fixed weight, no entropy in the target."""

    def __init__(self, obs_dim: int, action_dim: int, actions: int = 10, weight: float = 5.0) -> None:
        super().__init__(obs_dim, action_dim)
        self.n, self.weight, self.action_dim = actions, weight, action_dim
        self.policy = TanhPolicy(obs_dim, action_dim)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(0.1)))
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=LR)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=LR)

    def target(self, batch: Rows) -> Tensor:
        """r + gamma min Q'(s', a'): (B,)"""
        _, _, reward, next_obs, done = batch
        with torch.no_grad():
            a_, _ = self.policy(next_obs)
            least = torch.min(self.q1_target(next_obs, a_), self.q2_target(next_obs, a_))
            return reward + GAMMA * (1 - done) * least

    def proposals(self, obs: Tensor, next_obs: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Uniform, of pi(s) and of pi(s'), n of a state one after the other: actions (B n, A), log densities (B n,)."""
        uniform = torch.empty(len(obs) * self.n, self.action_dim).uniform_(-1, 1)
        flat = torch.full((len(uniform),), -self.action_dim * math.log(2))
        with torch.no_grad():
            here = self.policy(obs.repeat_interleave(self.n, dim=0))
            there = self.policy(next_obs.repeat_interleave(self.n, dim=0))
        return (uniform, flat), here, there

    def q_loss(self, batch: Rows) -> Tensor:
        """sum over both of (Q - y)^2 + weight (log int exp Q - Q)"""
        obs, action, _, next_obs, _ = batch
        y, drawn = self.target(batch), self.proposals(obs, next_obs)
        repeated = obs.repeat_interleave(self.n, dim=0)
        total = torch.zeros(())
        for q_of in (self.q1, self.q2):
            q = q_of(obs, action)
            terms = [(q_of(repeated, a) - logp).view(-1, self.n) for a, logp in drawn]
            area = torch.logsumexp(torch.cat(terms, dim=1), dim=1) - math.log(3 * self.n)
            total = total + F.mse_loss(q, y) + self.weight * (area - q).mean()
        return total

    def policy_loss(self, obs: Tensor, action: Tensor, logp: Tensor) -> Tensor:
        """E[alpha log pi - min Q]"""
        least = torch.min(self.q1(obs, action), self.q2(obs, action))
        return (self.log_alpha.exp().detach() * logp - least).mean()

    def update(self, batch: Rows) -> None:
        obs = batch[0]
        descend(self.q_loss(batch), (self.q1_optimizer, self.q2_optimizer))
        action, logp = self.policy(obs)
        alpha_loss = -(self.log_alpha * (logp.detach() - self.action_dim)).mean()
        descend(self.policy_loss(obs, action, logp), (self.policy_optimizer,))
        descend(alpha_loss, (self.alpha_optimizer,))
        self.follow()


class PlainIQL(Twins):
    """The advantage is computed once, for the value and the policy."""

    def __init__(self, obs_dim: int, action_dim: int, expectile: float = 0.7, beta: float = 3.0) -> None:
        super().__init__(obs_dim, action_dim)
        self.expectile, self.beta = expectile, beta
        self.v, self.policy = perceptron(obs_dim, 1), NormalPolicy(obs_dim, action_dim)
        self.v_optimizer = torch.optim.Adam(self.v.parameters(), lr=LR)
        self.policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=LR)

    def advantage(self, obs: Tensor, action: Tensor) -> Tensor:
        """min Q'(s, a) - V(s): (B,)"""
        with torch.no_grad():
            q = torch.min(self.q1_target(obs, action), self.q2_target(obs, action))
        return q - self.v(obs).squeeze(-1)

    def v_loss(self, u: Tensor) -> Tensor:
        """E[|tau - 1(u < 0)| u^2]"""
        return (torch.abs(self.expectile - (u < 0).float()) * u**2).mean()

    def q_loss(self, batch: Rows, next_v: Tensor) -> Tensor:
        """sum over both of (Q - (r + gamma V(s')))^2"""
        obs, action, reward, _, done = batch
        y = reward + GAMMA * (1 - done) * next_v
        return F.mse_loss(self.q1(obs, action), y) + F.mse_loss(self.q2(obs, action), y)

    def policy_loss(self, obs: Tensor, action: Tensor, advantage: Tensor) -> Tensor:
        """-E[min(exp(beta A), 100) log pi(a|s)]"""
        weight = torch.exp(self.beta * advantage).clamp(max=100.0)
        return -(weight * self.policy(obs).log_prob(action).sum(-1)).mean()

    def update(self, batch: Rows) -> None:
        obs, action, _, next_obs, _ = batch
        with torch.no_grad():
            next_v = self.v(next_obs).squeeze(-1)
        u = self.advantage(obs, action)
        descend(self.v_loss(u), (self.v_optimizer,))
        descend(self.q_loss(batch, next_v), (self.q1_optimizer, self.q2_optimizer))
        self.follow()
        descend(self.policy_loss(obs, action, u.detach()), (self.policy_optimizer,))
