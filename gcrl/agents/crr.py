"""CRR: critic-regularised regression (Wang et al. 2020, arXiv 2006.15134)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.offline import OfflineSettings
from gcrl.agents.weighted import Weighted
from relabel.batch import Batch


@dataclass(frozen=True)
class CRRSettings(OfflineSettings):
    binary: bool = False
    """imitate the actions with an advantage, and those alone; no: with weight exp(A / beta)"""
    maximum: bool = False
    """an advantage is over the best of the policy's actions; no: over their mean"""
    samples: int = 4
    """of how many actions of the policy"""
    temperature: float = 1.0
    """beta of the exponential weight"""
    most: float = 20.0
    """bound of that weight"""


class CRR(Weighted):
    """Deviations: two plain critics in place of one distributional, and no slow copy of the actor, so that the target's
    action comes from the actor itself.
    """

    Settings = CRRSettings
    settings: CRRSettings

    @torch.no_grad()
    def weight(self, x: Tensor, b: Batch) -> Tensor:
        """1[A > 0] or min(exp(A / beta), most),  A = min Q(s, a) - mean or max_j min Q(s, a_j),  a_j ~ pi(.|s)"""
        s = self.settings
        q, others = self.compared(x, b.action, s.samples)
        advantage = q - (others.amax(0) if s.maximum else others.mean(0))
        if s.binary:
            return (advantage > 0).to(q.dtype)
        return (advantage / s.temperature).exp().clamp(max=s.most)
