"""ReBRAC: TD3 with imitation in the actor and in the target (Tarasov et al. 2023, arXiv 2305.09836)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcrl.agents.by_task import unit
from gcrl.agents.offline import OfflineTD3Settings
from gcrl.agents.td3 import TD3
from relabel.prefetch import Source
from relabel.segment import Segment


@dataclass(frozen=True)
class ReBRACSettings(OfflineTD3Settings):
    lr: float = 1e-3
    """learning rate of actor and critics"""
    hidden: tuple[int, ...] = (256, 256, 256)
    """units of the hidden layers"""
    layer_norm: bool = True
    """normalise the critic's hidden layers"""
    clip_target: bool = False
    """keep the critic's targets within what the task's rewards allow: that would take the penalty back"""
    actor_weight: float = 0.1
    """of the imitation in the actor's loss (the paper's beta_1: 0.001 to 0.1)"""
    critic_weight: float = 0.1
    """of the imitation in the target (the paper's beta_2: 0 to 0.5)"""
    normalise: bool = True
    """divide the actor's Q by the mean of its size"""


class ReBRAC(TD3):
    """It learns from two steps in a row: the target needs the next action of the data.

    Deviations: as of TD3; the actor ascends one critic, not the least of two; the last step of an episode, which has no
    next action, stays without a penalty.
    """

    Settings = ReBRACSettings
    settings: ReBRACSettings
    offline = True

    def draw(self, replay: Source, rng: np.random.Generator) -> Any:
        return replay.segments(rng, self.settings.batch, 2)

    def critic_loss(self, b: Any) -> Tensor:
        """E[(r + gamma (min Q'(s', a') - beta_2 |a' - a'_data|^2) - Q(s, a))^2],  a' as in TD3, over the heads"""
        first = b.first()
        with torch.no_grad():
            x_ = self.encode(first.next_state)
            a_ = self.next_action(x_)
            v_ = self.least(self.target(x_, a_)) - self.settings.critic_weight * self.astray(b, a_)
            y = self.clip(first.reward + first.discount * v_, first)
        return ((self.critic(self.encode(first.state), first.action) - y) ** 2).mean(1).sum()

    def astray(self, b: Segment, a_: Tensor) -> Tensor:
        """|a' - a'_data|^2, 0 where the data have no next action: (B,)"""
        return ((a_ - b.action[:, 1]) ** 2).sum(-1) * b.counts[:, 1]

    def actor_loss(self, b: Any) -> Tensor:
        """E[-Q_1(s, pi(s)) / the task's mean |Q_1| + beta_1 |pi(s) - a|^2 + penalty |pi(s)|^2 / A]"""
        s, first = self.settings, b.first()
        x = self.encode(first.state)
        a = self.actor(x)
        q = self.critic(x, a, slice(0, 1))[0]
        imitation = ((a - first.action) ** 2).sum(-1)
        value = unit(q, first.task, self.spec.tasks) if s.normalise else q
        return (-value + s.actor_weight * imitation + s.action_penalty * (a**2).mean(-1)).mean()
