"""What the methods made for data sets share: the networks and rates of their papers, as far as those agree."""

from __future__ import annotations

from dataclasses import dataclass

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
