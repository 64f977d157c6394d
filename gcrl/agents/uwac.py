"""UWAC: what the critics' dropout makes uncertain counts less (Wu et al. 2021, arXiv 2105.08140)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcrl.agents.by_task import unit
from gcrl.agents.td3bc import TD3BC, TD3BCSettings
from gcrl.nets import Critics
from relabel.batch import Batch


@dataclass(frozen=True)
class UWACSettings(TD3BCSettings):
    dropout: float = 0.1
    """of the critic's hidden layers"""
    masks: int = 10
    """passes with masks of their own, over which mean and variance are taken"""
    beta: float = 0.5
    """the variance from which on a row counts less than in full"""
    most: float = 1.0
    """what a row counts at most"""


class UWAC(TD3BC):
    """TD3+BC with weights.

    Deviations: imitation keeps the policy near the data, where the paper has BEAR's constraint and its VAE; 10 passes,
    not 100; no spectral norm; the weight is the paper's beta / Var, where the authors' code has exp(-beta Var).
    """

    Settings = UWACSettings
    settings: UWACSettings

    def critic_loss(self, b: Batch) -> Tensor:
        """E[w (clip(r + gamma min mean Q'(s', a')) - Q(s, a))^2],  w = min(beta / Var Q'(s', a'), most)"""
        with torch.no_grad():
            x_ = self.encode(b.next_state)
            q_ = self.masked(self.target, x_, self.next_action(x_))
            y = self.clip(b.reward + b.discount * self.least(q_.mean(1)), b)
            w = self.trust(q_)
        return (w * (self.critic(self.encode(b.state), b.action) - y) ** 2).mean(1).sum()

    def actor_loss(self, b: Batch) -> Tensor:
        """E[-lambda w Q_1(s, pi(s)) + |pi(s) - a|^2 / A + penalty |pi(s)|^2 / A],  w by Var Q(s, pi(s))"""
        s, x = self.settings, self.encode(b.state)
        a = self.actor(x)
        with torch.no_grad():
            w = self.trust(self.masked(self.critic, x, a))
        q = self.critic(x, a, slice(0, 1))[0]
        imitation = ((a - b.action) ** 2).mean(-1)
        return (-s.scale * w * unit(q, b.task, self.spec.tasks) + imitation + s.action_penalty * (a**2).mean(-1)).mean()

    def masked(self, critic: Critics, x: Tensor, a: Tensor) -> Tensor:
        """Q(x, a) under T masks, (n, T, B), in one pass."""
        masks = self.settings.masks
        return critic(x.repeat(masks, 1), a.repeat(masks, 1)).unflatten(1, (masks, -1))

    def trust(self, q: Tensor) -> Tensor:
        """min(beta / Var, most), Var over the masks and summed over the heads: (n, T, B) -> (B,)"""
        s = self.settings
        return (s.beta / q.var(1, correction=0).sum(0)).clamp(max=s.most)

    def next_value(self, b: Batch) -> Tensor:
        """min over the heads of mean Q'(s', a'): (B,)"""
        x_ = self.encode(b.next_state)
        return self.least(self.masked(self.target, x_, self.next_action(x_)).mean(1))
