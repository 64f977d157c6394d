"""EDAC: SAC-N whose critics' slopes shall differ (An et al. 2021, arXiv 2110.01548)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gcrl.agents.sacn import SACN, SACNSettings
from gcrl.layers import twice
from relabel.batch import Batch


@dataclass(frozen=True)
class EDACSettings(SACNSettings):
    eta: float = 1.0
    """weight of the likeness of the critics' slopes"""


class EDAC(SACN):
    Settings = EDACSettings
    settings: EDACSettings

    def critic_loss(self, b: Batch) -> Tensor:
        """SAC's loss + eta E[sum_{i != j} <g_i, g_j>] / (N - 1),  g_i = grad_a Q_i(s, a) / |grad_a Q_i(s, a)|"""
        with torch.no_grad():
            y = b.reward + b.discount * self.next_value(b)
        x, n = self.encode(b.state), self.settings.critics
        a = b.action.detach().repeat(n, 1, 1).requires_grad_()  # one for each critic, so that each has a slope
        with twice():
            q = self.critic(x.expand(n, *x.shape), a)
        (slope,) = torch.autograd.grad(q.sum(), a, create_graph=True)
        return ((q - y) ** 2).mean(1).sum() + self.settings.eta * likeness(slope).mean()


def likeness(slope: Tensor) -> Tensor:
    """sum_{i != j} <g_i, g_j> / (N - 1) = (|sum_i g_i|^2 - sum_i |g_i|^2) / (N - 1), slopes (N, B, A) -> (B,)"""
    g = F.normalize(slope, dim=-1)
    return ((g.sum(0) ** 2).sum(-1) - (g**2).sum((0, -1))) / max(1, len(g) - 1)
