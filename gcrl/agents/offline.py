"""What the methods made for data sets share: the networks and rates of their papers, as far as those agree."""

from __future__ import annotations

from dataclasses import dataclass

from gcrl.agents.offpolicy import OffPolicySettings


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
