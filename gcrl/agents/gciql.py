"""GCIQL: implicit Q-learning towards goals, and a policy that climbs Q near the data (arXiv 2110.06169, 2410.20092)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, follow
from gcrl.agents.offline import expectile
from gcrl.agents.reaching import Pair, Reaching, ValueSettings, weight
from gcrl.encoder import Spec
from gcrl.nets import ClippedActor, Critics, Values
from gcrl.optim import adam
from relabel.batch import Batch
from relabel.score import Scores
from tasks.task import InputError


@dataclass(frozen=True)
class GCIQLSettings(ValueSettings):
    expectile: float = 0.9
    """which expectile of the values of the data's actions is that of the state: 0.5 their mean, 1 their maximum"""
    actor: str = "ddpg"
    """ddpg: climb Q, held by imitation; awr: imitate, weighted by the advantage"""
    alpha: float = 0.003
    """ddpg: weight of the imitation (OGBench: .003 in point mazes, .3 in ant mazes, 1 in manipulation); awr: of an
    advantage"""


class GCIQL(Reaching):
    by_reward = True
    Settings = GCIQLSettings
    settings: GCIQLSettings
    Policy = ClippedActor

    def __init__(self, spec: Spec, settings: GCIQLSettings) -> None:
        super().__init__(spec, settings)
        s = settings
        if s.actor not in ("ddpg", "awr"):
            raise InputError(f"--actor {s.actor}: choose from ddpg, awr")
        self.v = Values(1, self.encode.dim, s.hidden, s.layer_norm)
        self.critic = Critics(2, self.encode.dim + spec.action_dim, s.hidden, s.layer_norm)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.pair: tuple[list[Tensor], ...] = [*self.target.parameters()], [*self.critic.parameters()]
        self.optimizers = {
            "value": adam(nn.ModuleList((self.v, self.encode)), s.lr),
            "critic": adam(self.critic, s.lr),
            "actor": adam(self.actor, s.lr),
        }

    def update(self, data: Pair) -> Metrics:
        metrics = {
            "value_loss": self.descend("value", self.value_loss, data.value),
            "critic_loss": self.descend("critic", self.critic_loss, data.value),
            "actor_loss": self.descend("actor", self.actor_loss, data.actor),
        }
        follow(self.pair[0], self.pair[1], self.settings.tau)
        self.updates += 1
        return metrics

    def value_loss(self, b: Batch) -> Tensor:
        """E[|tau - 1(u < 0)| u^2],  u = min Q'(s, a) - V(s)"""
        x = self.encode(b.state)
        with torch.no_grad():
            q = self.target(x, b.action).amin(0)
        u = q - self.v(x)[0]
        return expectile(u, u, self.settings.expectile)

    def critic_loss(self, b: Batch) -> Tensor:
        """E[(r + gamma V(s') - Q(s, a))^2], summed over the heads"""
        reward, discount = self.way(b)
        with torch.no_grad():
            y = reward + discount * self.next_value(b)
        return ((self.critic(self.encode(b.state), b.action) - y) ** 2).mean(1).sum()

    def actor_loss(self, b: Batch) -> Tensor:
        """ddpg: -E[min Q(s, pi)] / E|min Q(s, pi)| - alpha E[log N(a; mean, 1)]

        awr: -E[min(exp(alpha (min Q(s, a) - V(s))), 100) log pi(a|s, g)]
        """
        x, alpha = self.encode(b.state), self.settings.alpha
        if self.settings.actor == "awr":
            with torch.no_grad():
                advantage = self.critic(x, b.action).amin(0) - self.v(x)[0]
            return -(weight(advantage, alpha) * self.log_prob(x, b.action)).mean()
        return self.climb(x, b, lambda a: self.critic(x, a).amin(0), alpha)

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """min Q(s, a, g): (B,)"""
        return self.critic(self.encode(b.state), b.action).amin(0)

    @torch.no_grad()
    def ahead(self, b: Batch) -> Tensor:
        """r + gamma V(s', g): (B,)"""
        reward, discount = self.way(b)
        return reward + discount * self.next_value(b)

    def next_value(self, b: Batch) -> Tensor:
        """V(s', g): (B,)"""
        v: Tensor = self.v(self.encode(b.next_state))[0]
        return v

    def scores(self) -> Scores:
        return Scores(self.value, self.ahead)
