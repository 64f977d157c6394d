"""REM: random ensemble mixture of critics (Agarwal et al. 2020, arXiv 1907.04543), for continuous actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.offline import OfflineTD3Settings
from gcrl.agents.td3 import TD3
from relabel.batch import Batch


@dataclass(frozen=True)
class REMSettings(OfflineTD3Settings):
    critics: int = 10
    """heads of the critic, K"""
    subset: int = 10
    """without effect: a mixture takes the place of the minimum"""


class REM(TD3):
    """No constraint keeps the policy near the data; that many mixtures must agree is all that holds the values back.

    Deviations: the paper is for choices, where the policy is greedy for the mean; here an actor ascends a mixture.
    Heads are networks of their own, not 200 outputs of one. Squared error, not Huber's.
    """

    Settings = REMSettings
    settings: REMSettings
    offline = True

    def critic_loss(self, b: Batch) -> Tensor:
        """E[(clip(r + gamma sum_k w_k Q'_k(s', a')) - sum_k w_k Q_k(s, a))^2],  w a random mixture, a' as in TD3"""
        w = mixture(self.settings.critics, b.reward)
        with torch.no_grad():
            x_ = self.encode(b.next_state)
            y = self.clip(b.reward + b.discount * (w @ self.target(x_, self.next_action(x_))), b)
        return ((w @ self.critic(self.encode(b.state), b.action) - y) ** 2).mean()

    def actor_loss(self, b: Batch) -> Tensor:
        """E[-sum_k w_k Q_k(s, pi(s)) + penalty |pi(s)|^2 / A],  w a random mixture"""
        x = self.encode(b.state)
        a = self.actor(x)
        q = mixture(self.settings.critics, b.reward) @ self.critic(x, a)
        return (-q + self.settings.action_penalty * (a**2).mean(-1)).mean()

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """mean_k Q_k(s, a, z): (B,)"""
        return self.critic(self.encode(b.state), b.action).mean(0)

    def next_value(self, b: Batch) -> Tensor:
        """mean_k Q'_k(s', a'): (B,)"""
        x_ = self.encode(b.next_state)
        return self.target(x_, self.next_action(x_)).mean(0)


def mixture(k: int, like: Tensor) -> Tensor:
    """u / sum u,  u ~ U(0, 1)^k: (k,)"""
    u = torch.rand(k, dtype=like.dtype, device=like.device)
    return u / u.sum()
