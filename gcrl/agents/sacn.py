"""SAC-N: SAC with the minimum of many critics (An et al. 2021, arXiv 2110.01548)."""

from __future__ import annotations

from dataclasses import dataclass

from gcrl.agents.offline import OfflineSettings
from gcrl.agents.sac import SAC, SACSettings


@dataclass(frozen=True)
class SACNSettings(OfflineSettings, SACSettings):
    hidden: tuple[int, ...] = (256, 256, 256)
    """units of the hidden layers"""
    critics: int = 10
    """heads of the critic, N"""
    subset: int = 10
    """of how many heads, drawn at random, the target is the minimum: all of them"""


class SACN(SAC):
    """Deviation: the temperature begins at 0.1, not at 1."""

    Settings = SACNSettings
    settings: SACNSettings
    droq = False
    offline = True
