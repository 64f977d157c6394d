"""TD3: twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv 1802.09477)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.ddpg import DDPG, DDPGSettings


@dataclass(frozen=True)
class TD3Settings(DDPGSettings):
    critics: int = 2
    """heads of the critic (REDQ: 10)"""
    subset: int = 2
    """of how many heads, drawn at random, the target is the minimum"""
    target_noise: float = 0.2
    """deviation of the noise on the target's action"""
    target_noise_clip: float = 0.5
    """its bound"""


class TD3(DDPG):
    """DDPG with the minimum of two critics and a smoothed target action.

    Deviations: the actor moves with every update, not with every second (`delay`); the target's action comes from the
    actor itself, not from a slow copy of it; the critics' slow copies follow after every update.
    """

    Settings = TD3Settings
    settings: TD3Settings

    def next_action(self, x_: Tensor) -> Tensor:
        """pi(s') + clip(N(0, target_noise), +- target_noise_clip), within [-1, 1]"""
        a_ = self.actor(x_)
        bound = self.settings.target_noise_clip
        noise = (self.settings.target_noise * torch.randn_like(a_)).clamp(-bound, bound)
        return (a_ + noise).clamp(-1, 1)
