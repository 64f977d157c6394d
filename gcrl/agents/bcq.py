"""BCQ: batch-constrained deep Q-learning (Fujimoto et al. 2019, arXiv 1812.02900)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcrl.agents.bestof import BestOf, BestOfSettings
from gcrl.encoder import Spec
from gcrl.nets import NOWHERE, network
from relabel.batch import Batch


@dataclass(frozen=True)
class BCQSettings(BestOfSettings):
    phi: float = 0.05
    """how far an action may be moved from what the data's model gives"""


class Shift(nn.Module):
    """Where to an action is moved, tanh(f(x, a)): (B, X), (B, A) -> (B, A)"""

    def __init__(
        self, dim: int, action_dim: int, hidden: Sequence[int], weights: str = "conditioned", ident: slice = NOWHERE
    ) -> None:
        super().__init__()
        self.net = network(dim + action_dim, action_dim, hidden, weights, ident)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        return torch.tanh(self.net(torch.cat((x, action), -1)))


class BCQ(BestOf):
    """Candidates are actions of the data's model, each moved by at most phi.

    Deviation: the target's candidates are moved by the actor itself, not by a slow copy of it.
    """

    Settings = BCQSettings
    settings: BCQSettings
    actor: Shift

    def __init__(self, spec: Spec, settings: BCQSettings) -> None:
        super().__init__(spec, settings, Shift)

    @property
    def width(self) -> int:
        return self.vae.latent

    def moved(self, x: Tensor, a: Tensor) -> Tensor:
        """a + phi xi(s, a), within [-1, 1]: (B, X), (B, A) -> (B, A)"""
        return (a + self.settings.phi * self.actor(x, a)).clamp(-1, 1)

    def candidates(self, x: Tensor, noise: Tensor) -> Tensor:
        x = x.repeat(len(noise), 1)
        return self.moved(x, self.vae(x, noise.flatten(0, 1))).unflatten(0, noise.shape[:2])

    def actor_loss(self, b: Batch) -> Tensor:
        """E[-Q_1(s, a + phi xi(s, a))],  a = D(s, z), z ~ N(0, 1) clipped"""
        x = self.encode(b.state)
        a = self.vae(x, torch.randn(len(x), self.width, dtype=x.dtype, device=x.device))
        return -self.critic(x, self.moved(x, a), slice(0, 1)).mean()
