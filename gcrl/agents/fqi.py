"""Fitted Q-iteration: one regression after the other, each on a frozen target (Ernst et al. 2005, JMLR 6)."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from gcrl.agents.agent import follow
from gcrl.agents.discrete import DiscreteSettings
from gcrl.agents.dqn import DQN
from gcrl.optim import forget


@dataclass(frozen=True)
class FQISettings(DiscreteSettings):
    period: int = 500
    """S, updates of one regression"""
    tau: float = 1.0
    """how far a regression's result replaces the one before it"""
    huber: float = 0.0
    """error beyond which the loss is linear; 0: it is squared everywhere"""
    anew: bool = False
    """begin every regression with new weights, as the trees of Ernst et al. do, rather than with the last one's"""


class FQI(DQN):
    """Q_{k+1} = argmin_Q E[(r + gamma max_a Q_k(s', a) - Q(s, a))^2] by S updates, K times. It acts by Q_k.

    Deviations: networks for trees, and Q_0 is a network at its start, near 0, where theirs is 0.
    """

    Settings = FQISettings
    settings: FQISettings

    def values(self, x: Tensor) -> Tensor:
        """Q_k(s, a) of every choice, that of the last regression which has ended: (B, X) -> (B, A)."""
        q: Tensor = self.target(x).mean(0)
        return q

    def phase(self) -> Hashable:
        """Of a regression, or its end; None: that begins anew."""
        ends = super().phase()
        return None if ends and self.settings.anew else ends

    def advance(self) -> None:
        """Q_k <- Q; with `anew` Q begins from nothing."""
        follow(self.pair[0], self.pair[1], self.settings.tau)
        if self.settings.anew:
            fresh = FQI(self.spec, self.settings)
            self.critic.load_state_dict(fresh.critic.state_dict())
            forget(self.optimizers["critic"])
