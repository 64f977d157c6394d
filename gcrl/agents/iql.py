"""IQL: implicit Q-learning, values of the actions that data show (Kostrikov et al. 2021, arXiv 2110.06169)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.agent import Metrics
from gcrl.agents.offline import OfflineSettings, expectile
from gcrl.agents.weighted import Weighted
from gcrl.encoder import Spec
from gcrl.nets import Values
from gcrl.optim import adam, forget
from relabel.batch import Batch


@dataclass(frozen=True)
class IQLSettings(OfflineSettings):
    expectile: float = 0.7
    """which expectile of the values of the data's actions is that of the state: 0.5 their mean, 1 their maximum"""
    beta: float = 3.0
    """how much an advantage weighs in imitation; 0: imitate everything alike"""
    most: float = 100.0
    """bound of a weight"""


class IQL(Weighted):
    """No action that the data do not show is ever asked for its value.

    Deviation: the actor's rate is constant, where the paper lets it fall to 0 by a cosine.
    """

    Settings = IQLSettings
    settings: IQLSettings

    def __init__(self, spec: Spec, settings: IQLSettings) -> None:
        super().__init__(spec, settings)
        self.v = self._values()
        self.optimizers["value"] = adam(self.v, settings.lr)
        self.known = torch.empty(0)
        """min Q'(s, a) of the batch that is being learned: (B,)"""

    def _values(self) -> Values:
        s = self.settings
        return Values(1, self.encode.dim, s.hidden, s.layer_norm, s.weights, self.encode.ident)

    def update(self, data: Batch) -> Metrics:
        q = self.known = self.slow_value(data)  # the actor's too, as the slow critics follow at the end
        loss = self.descend("value", self.v, data, lambda b, rows: self.value_loss(b, q[rows]))
        return {"value_loss": loss} | super().update(data)

    def improve(self, b: Batch) -> Metrics:
        loss = self.descend("actor", self.actor, b, lambda b, rows: self.actor_loss(b, self.known[rows]))
        return {"actor_loss": loss}

    @torch.no_grad()
    def slow_value(self, b: Batch) -> Tensor:
        """min Q'(s, a): (B,)"""
        return self.least(self.target(self.encode(b.state), b.action))

    def value_loss(self, b: Batch, q: Tensor | None = None) -> Tensor:
        """E[|tau - 1(u < 0)| u^2],  u = min Q'(s, a) - V(s); `q` (B,) is the former, if it is known"""
        q = self.slow_value(b) if q is None else q
        u = q - self.v(self.encode(b.state))[0]
        return expectile(u, u, self.settings.expectile)

    def next_value(self, b: Batch) -> Tensor:
        """V(s'): (B,)"""
        v: Tensor = self.v(self.encode(b.next_state))[0]
        return v

    def actor_loss(self, b: Batch, q: Tensor | None = None) -> Tensor:
        """-E[w(s, a) log pi(a|s)]; `q` (B,) is min Q'(s, a), if it is known"""
        x = self.encode(b.state)
        w = self.weight(x, b) if q is None else self.weight_of(x, q)
        return -(w * self.actor.log_prob(x, b.action)).mean()

    def weight(self, x: Tensor, b: Batch) -> Tensor:
        """min(exp(beta (min Q'(s, a) - V(s))), most)"""
        with torch.no_grad():
            return self.weight_of(x, self.least(self.target(x, b.action)))

    @torch.no_grad()
    def weight_of(self, x: Tensor, q: Tensor) -> Tensor:
        """The same for q = min Q'(s, a)"""
        return (self.settings.beta * (q - self.v(x)[0])).exp().clamp(max=self.settings.most)

    def renew(self) -> None:
        super().renew()
        self.v.load_state_dict(self._values().state_dict())
        forget(self.optimizers["value"])
