"""DQN: deep Q-network (Mnih et al. 2013, arXiv 1312.5602), with the slow target of its form in Nature (2015)."""

from __future__ import annotations

from torch import Tensor

from gcrl.agents.discrete import Discrete, DiscreteSettings
from relabel.batch import Batch


class DQN(Discrete):
    """Deviations: Adam in place of RMSProp, a target that follows slowly (Nature: --period 10000 --tau 1)."""

    Settings = DiscreteSettings

    def next_value(self, b: Batch) -> Tensor:
        """max_a Q'(s', a): (B,)"""
        return self.target(self.encode(b.next_state)).mean(0).amax(-1)
