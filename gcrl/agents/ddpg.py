"""DDPG: deterministic policy gradient (Lillicrap et al. 2015, arXiv 1509.02971), with HER's additions (1707.01495)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gcrl.agents.offpolicy import OffPolicy, OffPolicySettings
from gcrl.encoder import Spec
from gcrl.nets import Actor
from relabel.batch import Batch, State


@dataclass(frozen=True)
class DDPGSettings(OffPolicySettings):
    critics: int = 1
    """heads of the critic"""
    subset: int = 1
    """of how many heads, drawn at random, the target is the minimum"""
    noise: float = 0.1
    """deviation of the Gaussian exploration noise"""
    random: float = 0.2
    """share of exploring actions that are uniform"""
    action_penalty: float = 0.01
    """weight of the mean squared action in the actor's loss"""


class DDPG(OffPolicy):
    Settings = DDPGSettings
    settings: DDPGSettings

    def __init__(self, spec: Spec, settings: DDPGSettings) -> None:
        super().__init__(spec, settings, Actor)

    def next_value(self, b: Batch) -> Tensor:
        """Q'(s', pi(s')): (B,)"""
        x_ = self.encode(b.next_state)
        return self.least(self.target(x_, self.next_action(x_)))

    def next_action(self, x_: Tensor) -> Tensor:
        """The action that the target bootstraps from, pi(s'): (B, X) -> (B, A)."""
        return self.actor(x_)

    def actor_loss(self, b: Batch) -> Tensor:
        """E[-Q_1(s, pi(s)) + penalty |pi(s)|^2]"""
        x = self.encode(b.state)
        a = self.actor(x)
        return (-self.critic(x, a, slice(0, 1)) + self.settings.action_penalty * (a**2).mean(-1)).mean()

    @torch.no_grad()
    def act(self, state: State, carry: Any = None, explore: bool = False) -> tuple[Tensor, Any]:
        """pi(s); exploring: plus Gaussian noise, and now and then a uniform action (1707.01495, appendix A)."""
        a = self.actor(self.encode(state))
        if explore:
            a = (a + self.settings.noise * torch.randn_like(a)).clamp(-1, 1)
            uniform = torch.rand(len(a), 1, device=a.device) < self.settings.random
            a = torch.where(uniform, torch.rand_like(a) * 2 - 1, a)
        return a, carry
