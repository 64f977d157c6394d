"""AlgaeDICE: policy gradient from anyone's data by duality (Nachum et al. 2019, arXiv 1912.02074; 2001.01866)."""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gcrl.agents.agent import Drawing, Metrics, follow, only
from gcrl.encoder import Spec
from gcrl.nets import Critics, GaussianActor
from gcrl.optim import adam, step
from relabel.batch import Batch, State
from relabel.prefetch import Source
from relabel.score import Scores


@dataclass(frozen=True)
class AlgaeDICESettings:
    batch: int = 256
    """transitions in one update, and initial states"""
    lr: float = 1e-3
    """learning rate of actor and critics"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""
    critics: int = 2
    """heads of the critic, nu"""
    layer_norm: bool = False
    """normalise the critic's hidden layers"""
    alpha: float = 1.0
    """weight of the divergence between what the policy visits and what the data hold"""
    mix: float = 0.05
    """share of the critic itself in its target, the slow copy has the rest; 1: the dual as it is"""
    tau: float = 0.005
    """how fast the slow copy follows"""
    delay: int = 1
    """critic updates for one actor update"""
    weights: str = "conditioned"
    """how tasks share the networks: conditioned, heads, modular or experts"""


class Rooted(NamedTuple):
    """Transitions, as in Batch, and as many initial states."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    goal: Tensor
    task: Tensor
    first_obs: Tensor
    """(B, O)"""
    first_goal: Tensor
    """(B, G)"""
    first_task: Tensor
    """(B,) int64"""
    share: Tensor
    """(B,) 1 - gamma^n, what an initial state counts"""

    @property
    def state(self) -> State:
        return State(self.obs, self.goal, self.task)

    @property
    def next_state(self) -> State:
        return State(self.next_obs, self.goal, self.task)

    @property
    def first(self) -> State:
        return State(self.first_obs, self.first_goal, self.first_task)


class AlgaeDICE(Drawing):
    """max_pi min_nu (1 - gamma) E[nu(s0, pi)] + E[delta^2] / (2 alpha): the return less alpha D_f(d_pi || data).

    f(x) = x^2 / 2, and delta = r + gamma nu(s', pi) - nu(s, a), which at the minimum is alpha d_pi / d_data. Both sides
    are multiplied by alpha. As in the authors' code, delta bootstraps mostly from a slow copy, and a negative ratio
    counts as none in the actor. Deviations: no entropy bonus, and the actor learns as often as the critic.
    """

    Settings = AlgaeDICESettings
    settings: AlgaeDICESettings
    offline = True

    def __init__(self, spec: Spec, settings: AlgaeDICESettings) -> None:
        super().__init__(spec, settings)
        s = settings
        dim, ident = self.encode.dim, self.encode.ident
        self.actor = GaussianActor(dim, spec.action_dim, s.hidden, s.weights, ident)
        self.critic = Critics(s.critics, dim + spec.action_dim, s.hidden, s.layer_norm, 0.0, s.weights, ident)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.optimizers = {
            "critic": adam(nn.ModuleList((self.critic, self.encode)), s.lr),
            "actor": adam(self.actor, s.lr),
        }

    def draw(self, replay: Source, rng: np.random.Generator) -> Rooted:
        size = self.settings.batch
        b = replay.sample(rng, size, scores=Scores(self.value, self.ahead))
        share = torch.full_like(b.reward, 1 - replay.gamma**replay.n_step)
        return Rooted(*b, *replay.starts(rng, size), share)

    def update(self, data: Rooted) -> Metrics:
        with only(self, "critic"):
            critic_loss = self.critic_loss(data)
        step(self.optimizers["critic"], critic_loss)
        metrics = {"critic_loss": critic_loss.detach()}
        self.updates += 1
        if self.updates % self.settings.delay == 0:
            with only(self, "actor"):
                actor_loss = self.actor_loss(data)
            step(self.optimizers["actor"], actor_loss)
            metrics["actor_loss"] = actor_loss.detach()
        follow(list(self.target.parameters()), list(self.critic.parameters()), self.settings.tau)
        return metrics

    def phase(self) -> Hashable:
        """With the actor's step or without."""
        return (self.updates + 1) % self.settings.delay == 0

    def critic_loss(self, b: Rooted) -> Tensor:
        """E[delta^2] / 2 + alpha (1 - gamma) E[nu(s0, a0)],  a0 ~ pi(.|s0), a' ~ pi(.|s'), summed over the heads"""
        residual, first = self.dual(b)
        return (residual**2 / 2 + self.settings.alpha * b.share * first).mean(1).sum()

    def actor_loss(self, b: Rooted) -> Tensor:
        """-E[zeta delta] - alpha (1 - gamma) E[nu(s0, a0)],  zeta = max(delta, 0), a constant; mean over the heads"""
        residual, first = self.dual(b)
        zeta = residual.detach().clamp(min=0)
        return -(zeta * residual + self.settings.alpha * b.share * first).mean()

    def dual(self, b: Rooted) -> tuple[Tensor, Tensor]:
        """delta = r + gamma nu(s', a') - nu(s, a), and nu(s0, a0): (n, B) each, in one pass of either network."""
        x, x_, x0 = self.encode(b.state), self.encode(b.next_state), self.encode(b.first)
        a_, a0 = self.actor.sample(torch.cat((x_, x0)))[0].split(len(x))
        q, q_, first = self.critic(torch.cat((x, x_, x0)), torch.cat((b.action, a_, a0))).split(len(x), 1)
        mix = self.settings.mix
        ahead = mix * q_ + (1 - mix) * self.target(x_, a_).amin(0)
        return b.reward + b.discount * ahead - q, first

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """min nu(s, a, z): (B,)"""
        return self.critic(self.encode(b.state), b.action).amin(0)

    @torch.no_grad()
    def ahead(self, b: Batch) -> Tensor:
        """r + gamma nu'(s', a', z): (B,)"""
        return b.reward + b.discount * self.next_value(b)

    def next_value(self, b: Batch) -> Tensor:
        """min nu'(s', a'),  a' ~ pi(.|s'): (B,)"""
        x_ = self.encode(b.next_state)
        return self.target(x_, self.actor.sample(x_)[0]).amin(0)
