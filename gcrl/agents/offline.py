"""What the methods made for data sets share: networks and rates, where their papers agree, and an error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.offpolicy import OffPolicySettings
from gcrl.agents.td3 import TD3Settings


@dataclass(frozen=True)
class OfflineSettings(OffPolicySettings):
    lr: float = 3e-4
    """learning rate of actor and critics"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""
    layer_norm: bool = False
    """normalise the critic's hidden layers"""
    tau: float = 0.005
    """how fast the targets follow"""


@dataclass(frozen=True)
class OfflineTD3Settings(OfflineSettings, TD3Settings):
    """The same for what extends TD3, with TD3's own delay."""

    delay: int = 2
    """critic updates for one actor update"""
    action_penalty: float = 0.0
    """weight of the mean squared action in the actor's loss"""


def expectile(advantage: Tensor, error: Tensor, tau: float) -> Tensor:
    """E[|tau - 1(A < 0)| u^2], of advantage and error (..., B) (Kostrikov et al. 2021, arXiv 2110.06169): (...)."""
    return (torch.where(advantage < 0, 1 - tau, tau) * error**2).mean(-1)
