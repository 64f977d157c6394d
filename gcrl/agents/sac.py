"""SAC: soft actor-critic with an automatic temperature (Haarnoja et al. 2018, arXiv 1812.05905)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Drawing, Metrics
from gcrl.agents.offpolicy import OffPolicy, OffPolicySettings
from gcrl.encoder import Spec
from gcrl.nets import GaussianActor
from gcrl.optim import adam, step
from relabel.batch import Batch


@dataclass(frozen=True)
class SACSettings(OffPolicySettings):
    alpha: float = 0.1
    """initial temperature"""
    entropy: float | None = None
    """target entropy in nats; none: minus the number of actions"""
    clip_target: bool = False
    """without effect: entropy adds to what the rewards allow"""


class SAC(Drawing, OffPolicy):
    """One temperature per task. The targets are not clipped: entropy adds to what the rewards allow."""

    Settings = SACSettings
    settings: SACSettings
    actor: GaussianActor
    droq: ClassVar[bool] = True
    """with dropout the actor ascends the mean of its critics, not the least"""

    def __init__(self, spec: Spec, settings: SACSettings) -> None:
        super().__init__(spec, settings, GaussianActor)
        self.log_alpha = nn.Parameter(torch.full((spec.tasks,), math.log(settings.alpha)))
        self.entropy = -float(spec.action_dim) if settings.entropy is None else settings.entropy
        self.optimizers["alpha"] = adam([self.log_alpha], settings.lr)

    def critic_loss(self, b: Batch) -> Tensor:
        """E[(r + gamma (min Q'(s', a') - alpha log pi(a'|s')) - Q(s, a))^2],  a' ~ pi(.|s'), summed over the heads"""
        with torch.no_grad():
            y = b.reward + b.discount * self.next_value(b)
        return ((self.critic(self.encode(b.state), b.action) - y) ** 2).mean(1).sum()

    def next_value(self, b: Batch) -> Tensor:
        """min Q'(s', a') - alpha log pi(a'|s'),  a' ~ pi(.|s'): (B,)"""
        x_ = self.encode(b.next_state)
        a_, logp_ = self.actor.sample(x_)
        return self.least(self.target(x_, a_)) - self.log_alpha.exp()[b.task] * logp_

    @torch.no_grad()
    def ahead(self, b: Batch) -> Tensor:
        """r + gamma V'(s', z) - alpha log pi(a|s, z): (B,)"""
        return super().ahead(b) - self.log_alpha.exp()[b.task] * self.actor.log_prob(self.encode(b.state), b.action)

    def actor_loss(self, b: Batch) -> Tensor:
        """E[alpha log pi(a|s) - min Q(s, a)],  a ~ pi(.|s); the mean in REDQ (the target takes a subset) and DroQ"""
        return self.soft_loss(b, *self.actor.sample(self.encode(b.state)))

    def soft_loss(self, b: Batch, a: Tensor, logp: Tensor) -> Tensor:
        s, q = self.settings, self.critic(self.encode(b.state), a)
        q = q.mean(0) if s.subset < len(q) or (self.droq and s.dropout) else q.amin(0)
        return (self.log_alpha.exp()[b.task] * logp - q).mean()

    def alpha_loss(self, b: Batch, logp: Tensor) -> Tensor:
        """E[-log alpha (log pi(a|s) + target entropy)], on the logarithm as every implementation has it"""
        return -(self.log_alpha[b.task] * (logp.detach() + self.entropy)).mean()

    def improve(self, b: Batch) -> Metrics:
        a, logp = self.actor.sample(self.encode(b.state))
        alpha_loss = self.alpha_loss(b, logp)
        actor_loss = self.descend("actor", self.actor, b, lambda b, rows: self.soft_loss(b, a[rows], logp[rows]))
        step(self.optimizers["alpha"], alpha_loss)
        return {
            "actor_loss": actor_loss,
            "alpha": self.log_alpha.detach().exp().mean(),
            "entropy": -logp.detach().mean(),
        }
