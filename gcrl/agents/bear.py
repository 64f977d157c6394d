"""BEAR: a policy within the support of the data's, by mean discrepancy (Kumar et al. 2019, arXiv 1906.00949)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, only
from gcrl.agents.bestof import BestOf, BestOfSettings
from gcrl.encoder import Spec
from gcrl.nets import GaussianActor
from gcrl.optim import adam, step
from relabel.batch import Batch
from tasks.task import InputError

LOG_RANGE = (-5.0, 10.0)
"""of the multiplier's logarithm: beyond, it would take too long to come back"""


@dataclass(frozen=True)
class BEARSettings(BestOfSettings):
    threshold: float = 0.05
    """largest discrepancy between the policy and the data's"""
    kernel: str = "laplacian"
    """laplacian or gaussian"""
    sigma: float = 10.0
    """width of the kernel (the authors: 10 for the laplacian, 20 for the gaussian)"""
    match: int = 10
    """draws of each side that the discrepancy is taken on"""
    multiplier: float = 1.0
    """initial Lagrange multiplier"""
    multiplier_lr: float = 1e-3
    """its learning rate"""


class BEAR(BestOf):
    """Candidates are the policy's own draws. One multiplier per task, as each has its data.

    Deviation: the multiplier descends by its logarithm, as SAC's temperature.
    """

    Settings = BEARSettings
    settings: BEARSettings
    actor: GaussianActor

    def __init__(self, spec: Spec, settings: BEARSettings) -> None:
        if settings.kernel not in KERNELS:
            raise InputError(f"--kernel {settings.kernel}: choose from {', '.join(KERNELS)}")
        super().__init__(spec, settings, GaussianActor)
        self.log_multiplier = nn.Parameter(torch.full((spec.tasks,), math.log(settings.multiplier)))
        self.optimizers["multiplier"] = adam([self.log_multiplier], settings.multiplier_lr)

    @property
    def width(self) -> int:
        return self.spec.action_dim

    def candidates(self, x: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self.actor.normal(x)
        return torch.tanh(mean + log_std.exp() * noise)

    def actor_loss(self, b: Batch) -> Tensor:
        """E[multiplier MMD(beta(.|s), pi(.|s)) - min Q(s, a)],  a ~ pi(.|s)"""
        return self.constrained_loss(b, *self.drawn(b))

    def drawn(self, b: Batch) -> tuple[Tensor, Tensor]:
        """An action (B, A) of the policy, and how far `match` of them lie from as many of the data's (B,)."""
        x, n = self.encode(b.state), self.settings.match
        noise = torch.randn(n, len(x), self.width + self.vae.latent, dtype=x.dtype, device=x.device)
        with torch.no_grad():
            data = self.vae(x.repeat(n, 1), noise[..., self.width :].flatten(0, 1)).unflatten(0, (n, len(x)))
        a = self.candidates(x, noise[..., : self.width])
        return a[0], discrepancy(data, a, self.settings.kernel, self.settings.sigma)

    def constrained_loss(self, b: Batch, a: Tensor, distance: Tensor) -> Tensor:
        q = self.critic(self.encode(b.state), a).amin(0)
        return (self.log_multiplier.exp()[b.task] * distance - q).mean()

    def multiplier_loss(self, b: Batch, distance: Tensor) -> Tensor:
        """E[-log multiplier (MMD - threshold)]: it rises while the policy is too far from the data"""
        return -(self.log_multiplier[b.task] * (distance.detach() - self.settings.threshold)).mean()

    def improve(self, b: Batch) -> Metrics:
        with only(self, "actor"):
            a, distance = self.drawn(b)
        loss = self.descend("actor", self.actor, b, lambda b, rows: self.constrained_loss(b, a[rows], distance[rows]))
        step(self.optimizers["multiplier"], self.multiplier_loss(b, distance))
        with torch.no_grad():
            self.log_multiplier.clamp_(*LOG_RANGE)
        multiplier = self.log_multiplier.detach().exp().mean()
        return {"actor_loss": loss, "discrepancy": distance.detach().mean(), "multiplier": multiplier}


def discrepancy(one: Tensor, two: Tensor, kernel: str, sigma: float) -> Tensor:
    """MMD of draws (n, B, A) and (m, B, A): (B,).

    sqrt(mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), over all pairs, a draw with itself as well (eq. 1).
    """
    apart = KERNELS[kernel]

    def mean(p: Tensor, q: Tensor) -> Tensor:
        return torch.exp(-apart(p[:, None] - q[None]) / (2 * sigma)).mean((0, 1))

    square = mean(one, one) + mean(two, two) - 2 * mean(one, two)
    return (square.clamp(min=0) + TINY).sqrt()


TINY = 1e-6
"""Under the root, whose slope at 0 is infinite."""


def absolute(difference: Tensor) -> Tensor:
    """sum |d|: (..., A) -> (...)"""
    return difference.abs().sum(-1)


def squared(difference: Tensor) -> Tensor:
    """sum d^2: (..., A) -> (...)"""
    return (difference**2).sum(-1)


KERNELS = {"laplacian": absolute, "gaussian": squared}
