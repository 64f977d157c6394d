"""Dueling DQN: a stream for the state's value, one for the advantages (Wang et al. 2016, arXiv 1511.06581)."""

from __future__ import annotations

from gcrl.agents.discrete import DiscreteSettings
from gcrl.agents.double_dqn import DoubleDQN
from gcrl.encoder import Spec
from gcrl.nets import DuelingChoices


class DuelingDQN(DoubleDQN):
    """Double DQN, as in the paper, on Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a').

    Deviation: gradients are neither clipped nor scaled where the streams part.
    """

    def __init__(self, spec: Spec, settings: DiscreteSettings) -> None:
        super().__init__(spec, settings, network=DuelingChoices)
