"""AWAC: advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.by_task import greatest, means
from gcrl.agents.offline import OfflineSettings
from gcrl.agents.weighted import Weighted
from relabel.batch import Batch


@dataclass(frozen=True)
class AWACSettings(OfflineSettings):
    temperature: float = 1.0
    """lambda: the greater, the nearer to plain imitation"""
    samples: int = 1
    """actions of the policy whose mean value is what an advantage is over"""


class AWAC(Weighted):
    """The weights of a task's rows have mean 1: the partition function, estimated as the authors' own code does.

    Deviations: two hidden layers for the actor too (four there), no weight decay.
    """

    Settings = AWACSettings
    settings: AWACSettings

    @torch.no_grad()
    def weight(self, x: Tensor, b: Batch) -> Tensor:
        """n softmax(A / lambda) over the n rows of a task,  A = min Q(s, a) - mean_j min Q(s, a_j),  a_j ~ pi(.|s)"""
        q, others = self.compared(x, b.action, self.settings.samples)
        advantage = (q - others.mean(0)) / self.settings.temperature
        share = (advantage - greatest(advantage, b.task, self.spec.tasks)).exp()
        return share / means(share, b.task, self.spec.tasks)
