"""Cal-QL: CQL that pushes no value below what the data returned (Nakamoto et al. 2023, arXiv 2303.05479)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from gcrl.agents.agent import Metrics
from gcrl.agents.cql import CQL
from relabel.prefetch import Source


class CalQL(CQL):
    """It learns from single steps that know the return to the end of their episode.

    Deviation: what would have followed an episode that was cut counts as nothing, whatever the rewards.
    """

    def draw(self, replay: Source, rng: np.random.Generator) -> Any:
        return replay.segments(rng, self.settings.batch, 1, ahead=replay.gamma)

    def critic_loss(self, b: Any) -> Tensor:
        """CQL's, with max(Q(s, a_i), return of the data from s) for the a_i of pi(s) and pi(s')"""
        return self.conservative_loss(b.first(), b.to_go)

    def improve(self, b: Any) -> Metrics:
        return super().improve(b.first())
