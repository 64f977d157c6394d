"""GCIVL: implicit values of states and goals, and weighted imitation (Park et al. 2024, arXiv 2410.20092)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, follow
from gcrl.agents.reaching import Pair, Reaching, ValueSettings, weight
from gcrl.encoder import Spec
from gcrl.nets import Values
from gcrl.optim import adam
from relabel.batch import Batch


@dataclass(frozen=True)
class GCIVLSettings(ValueSettings):
    expectile: float = 0.9
    """which expectile of what follows is the value of a state: 0.5 the mean, 1 the best"""
    alpha: float = 10.0
    """how much an advantage weighs in imitation"""


class GCIVL(Reaching):
    """V alone is learned, from steps without their actions: good luck is taken for skill where the world is random."""

    by_reward = True
    Settings = GCIVLSettings
    settings: GCIVLSettings

    def __init__(self, spec: Spec, settings: GCIVLSettings) -> None:
        super().__init__(spec, settings)
        self.v = Values(2, self.encode.dim, settings.hidden, settings.layer_norm)
        self.target = deepcopy(self.v).requires_grad_(False)
        self.pair: tuple[list[Tensor], ...] = [*self.target.parameters()], [*self.v.parameters()]
        self.optimizers = {
            "value": adam(nn.ModuleList((self.v, self.encode)), settings.lr),
            "actor": adam(self.actor, settings.lr),
        }

    def update(self, data: Pair) -> Metrics:
        metrics = {
            "value_loss": self.descend("value", self.value_loss, data.value),
            "actor_loss": self.descend("actor", self.actor_loss, data.actor),
        }
        follow(self.pair[0], self.pair[1], self.settings.tau)
        self.updates += 1
        return metrics

    def value_loss(self, b: Batch) -> Tensor:
        """sum_i E[|tau - 1(A < 0)| (r + gamma V'_i(s') - V_i(s))^2],  A = r + gamma min V'(s') - mean V'(s)"""
        return self.upward(b, self.target, self.v, self.settings.expectile)

    def actor_loss(self, b: Batch) -> Tensor:
        """-E[min(exp(alpha A), 100) log pi(a|s, g)],  A = mean V(s') - mean V(s)"""
        x = self.ends(b)
        with torch.no_grad():
            v, v_ = self.v(x).mean(0).chunk(2)
        return -(weight(v_ - v, self.settings.alpha) * self.log_prob(x[: len(b.obs)], b.action)).mean()

    def next_value(self, b: Batch) -> Tensor:
        """mean V(s', g): (B,)"""
        v: Tensor = self.v(self.encode(b.next_state)).mean(0)
        return v
