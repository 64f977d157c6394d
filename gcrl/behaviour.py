"""Models of the policy that made the data: an autoencoder (arXiv 1812.02900) and a normal (arXiv 1911.11361)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcrl.nets import NOWHERE, GaussianActor, network

REACH = 0.5
"""Latent draws are kept within this, where the data's own codes are dense (1812.02900, appendix D)."""
LOG_STD = (-4.0, 4.0)
"""of a code"""
NARROWEST = -5.0
"""least log deviation of a fitted normal: data that repeat themselves would have it shrink to nothing"""


class ActionVAE(nn.Module):
    """A conditional variational autoencoder: x (B, X), a (B, A) -> code z (B, 2A) -> a (B, A)."""

    def __init__(
        self, dim: int, action_dim: int, hidden: Sequence[int], weights: str = "conditioned", ident: slice = NOWHERE
    ) -> None:
        super().__init__()
        self.latent = 2 * action_dim
        self.encoder = network(dim + action_dim, 2 * self.latent, hidden, weights, ident)
        self.decoder = network(dim + self.latent, action_dim, hidden, weights, ident)

    def encode(self, x: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation of the code: (B, 2A) each."""
        mean, log_std = self.encoder(torch.cat((x, action), -1)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """The action (B, A) of a draw from N(0, 1), which is kept within REACH: (B, 2A)."""
        return self.decode(x, noise.clamp(-REACH, REACH))

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        """(B, X), (B, 2A) -> (B, A)"""
        return torch.tanh(self.decoder(torch.cat((x, z), -1)))

    def elbo_loss(self, x: Tensor, action: Tensor, weight: float) -> Tensor:
        """mean (a - D(x, z))^2 + weight mean KL(E(x, a) || N(0, 1)),  z ~ E(x, a); means over rows and numbers"""
        mean, log_std = self.encode(x, action)
        z = mean + log_std.exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std
        return ((action - self.decode(x, z)) ** 2).mean() + weight * kl.mean()


class FittedNormal(GaussianActor):
    """The likeliest squashed normal, beta(a|x); its deviation has a floor."""

    def normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().normal(x)
        return mean, log_std.clamp(min=NARROWEST)


def normal_kl(mean: Tensor, log_std: Tensor, other: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(N || N') = sum log(s' / s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2: (B, A) each -> (B,).

    It is that of the squashed actions too: what is one to one leaves it as it is.
    """
    ratio = (2 * (log_std - other_log_std)).exp()
    square = (mean - other) ** 2 * (-2 * other_log_std).exp()
    return (other_log_std - log_std + 0.5 * (ratio + square - 1)).sum(-1)
