"""Double DQN: one network chooses, the other says what that is worth (van Hasselt et al. 2016, arXiv 1509.06461)."""

from __future__ import annotations

from torch import Tensor

from gcrl.agents.discrete import Discrete, DiscreteSettings, of
from relabel.batch import Batch


class DoubleDQN(Discrete):
    """DQN whose errors upwards are not sought out: the maximum of noisy values is too high, a noisy choice's is not."""

    Settings = DiscreteSettings

    def next_value(self, b: Batch) -> Tensor:
        """Q'(s', argmax_a Q(s', a)): (B,)"""
        x_ = self.encode(b.next_state)
        return of(self.critic(x_).mean(0), self.target(x_).mean(0))
