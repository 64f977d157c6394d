"""BRAC-p and BRAC-v: an actor-critic that pays for leaving the data's policy (Wu et al. 2019, arXiv 1911.11361)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.agent import Drawing, Metrics
from gcrl.agents.offline import OfflineSettings
from gcrl.agents.offpolicy import OffPolicy
from gcrl.behaviour import FittedNormal, normal_kl
from gcrl.encoder import Spec
from gcrl.nets import GaussianActor
from gcrl.optim import adam
from relabel.batch import Batch


@dataclass(frozen=True)
class BRACSettings(OfflineSettings):
    penalty: float = 0.3
    """alpha: weight of the divergence from the data's policy"""


class BRACp(Drawing, OffPolicy):
    """The penalty is the actor's alone. There is no entropy bonus: the divergence has the entropy in it.

    Deviations: the data's policy is fitted beside the rest, not before; the divergence is exact, not from draws.
    """

    Settings = BRACSettings
    settings: BRACSettings
    offline = True
    actor: GaussianActor

    def __init__(self, spec: Spec, settings: BRACSettings) -> None:
        super().__init__(spec, settings, GaussianActor)
        s = settings
        self.behaviour = FittedNormal(self.encode.dim, spec.action_dim, s.hidden, s.weights, self.encode.ident)
        self.optimizers["behaviour"] = adam(self.behaviour, s.lr)

    def update(self, data: Batch) -> Metrics:
        loss = self.descend("behaviour", self.behaviour, data, lambda b, _: self.behaviour_loss(b))
        return {"behaviour_loss": loss, **super().update(data)}

    def behaviour_loss(self, b: Batch) -> Tensor:
        """E[-log beta(a | s)]"""
        return -self.behaviour.log_prob(self.encode(b.state), b.action).mean()

    def critic_loss(self, b: Batch) -> Tensor:
        """E[(r + gamma V'(s') - Q(s, a))^2], summed over the heads"""
        with torch.no_grad():
            y = b.reward + b.discount * self.next_value(b)
        return ((self.critic(self.encode(b.state), b.action) - y) ** 2).mean(1).sum()

    def next_value(self, b: Batch) -> Tensor:
        """V'(s') = min Q'(s', a'),  a' ~ pi(.|s'): (B,)"""
        x_ = self.encode(b.next_state)
        return self.least(self.target(x_, self.actor.sample(x_)[0]))

    def actor_loss(self, b: Batch) -> Tensor:
        """E[alpha KL(pi(.|s) || beta(.|s)) - min Q(s, a)],  a ~ pi(.|s)"""
        x = self.encode(b.state)
        a, divergence = self.drawn(x)
        return (self.settings.penalty * divergence - self.critic(x, a).amin(0)).mean()

    def drawn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a ~ pi(.|x) (B, A), and KL(pi(.|x) || beta(.|x)) (B,)"""
        mean, log_std = self.actor.normal(x)
        a = torch.tanh(mean + log_std.exp() * torch.randn_like(mean))
        return a, normal_kl(mean, log_std, *self.behaviour.normal(x))


class BRACv(BRACp):
    """The value pays as well, for all that comes after."""

    def next_value(self, b: Batch) -> Tensor:
        """V'(s') = min Q'(s', a') - alpha KL(pi(.|s') || beta(.|s')),  a' ~ pi(.|s'): (B,)"""
        x_ = self.encode(b.next_state)
        a_, divergence = self.drawn(x_)
        return self.least(self.target(x_, a_)) - self.settings.penalty * divergence
