"""REM: random ensemble mixture, K heads mixed anew for each batch (Agarwal et al. 2020, arXiv 1907.04543)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.discrete import DiscreteSettings, of
from gcrl.agents.dqn import DQN
from gcrl.agents.rem import mixture
from gcrl.encoder import Spec
from relabel.batch import Batch


@dataclass(frozen=True)
class REMDQNSettings(DiscreteSettings):
    heads: int = 200
    """K heads on one body"""


class REMDQN(DQN):
    """Every convex mixture of the heads is to satisfy Bellman's equation. It acts by their mean."""

    Settings = REMDQNSettings
    settings: REMDQNSettings

    def __init__(self, spec: Spec, settings: REMDQNSettings) -> None:
        super().__init__(spec, settings, settings.heads)

    def critic_loss(self, b: Batch) -> Tensor:
        """E[h(clip(r + gamma max_a' sum_k c_k Q'_k(s', a')) - sum_k c_k Q_k(s, a))],  c = u / sum u,  u ~ U(0, 1)^K"""
        c = mixture(self.settings.heads, b.reward)
        with torch.no_grad():
            q_ = mixed(c, self.target(self.encode(b.next_state)))
            y = self.clip(b.reward + b.discount * q_.amax(-1), b)
        return self.mean_error(y, of(b.action, mixed(c, self.critic(self.encode(b.state)))))


def mixed(c: Tensor, q: Tensor) -> Tensor:
    """sum_k c_k q_k: (K,) x (K, B, A) -> (B, A)"""
    return torch.einsum("k,kba->ba", c, q)
