"""CQL(H): conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics
from gcrl.agents.offline import OfflineSettings
from gcrl.agents.sac import SAC, SACSettings
from gcrl.encoder import Spec
from gcrl.nets import log_density
from gcrl.optim import adam, step
from relabel.batch import Batch


@dataclass(frozen=True)
class CQLSettings(OfflineSettings, SACSettings):
    weight: float = 5.0
    """of the conservative term, or what it begins with if it is learned"""
    actions: int = 10
    """drawn uniformly, of pi(s) and of pi(s'), each, to estimate the integral"""
    threshold: float | None = None
    """learn the weight, so that the data's values lie no farther than this below the integral; none: it is fixed"""
    entropy_backup: bool = False
    """the target's value counts the entropy, as SAC's does"""
    through: int = 10
    """of the proposals, drawn by their share of the integral, carry its gradient; 0: all, which takes a third longer"""


class CQL(SAC):
    """SAC whose critics are pushed down where they promise much, and up on the data.

    Deviations: the integral's gradient goes through ten of the thirty proposals, so drawn that on average nothing
    changes (`through`); the integral is estimated, not known up to a constant, so `threshold` is log(3 * actions) less
    than in the authors' code; no half before the squared error; the temperature begins at 0.1.
    """

    Settings = CQLSettings
    settings: CQLSettings
    droq = False
    offline = True

    def __init__(self, spec: Spec, settings: CQLSettings) -> None:
        super().__init__(spec, settings)
        self.gaps: list[Tensor] = []
        """E[log int exp Q - Q(s, a)], summed over the heads, of this update's critic losses: with surgery one a task"""
        if settings.threshold is not None:
            self.log_weight = nn.Parameter(torch.tensor(math.log(settings.weight)))
            self.optimizers["weight"] = adam([self.log_weight], settings.lr)

    def critic_loss(self, b: Batch) -> Tensor:
        """SAC's loss + weight E[log int exp Q(s, a') da' - Q(s, a)], summed over the heads"""
        return self.conservative_loss(b, b.reward.new_full((len(b.reward),), -math.inf))

    def conservative_loss(self, b: Batch, least: Tensor) -> Tensor:
        """E[(y - Q(s, a))^2 + weight (log int exp Q(s, a') da' - Q(s, a))], y as in SAC, summed over the heads

        What the integral takes of the policy's actions counts as `least` (B,), where it is less.
        """
        x, x_ = self.encode(b.state), self.encode(b.next_state)
        with torch.no_grad():
            y = b.reward + b.discount * self.next_value(b)
            a, logp = self.proposals(x, x_)
            floor = torch.full_like(logp, -math.inf)
            floor[self.settings.actions :] = least
        q, area = (self.through_some if self.settings.through else self.through_all)(x, b.action, a, logp, floor)
        gap = (area - q).mean(1).sum()
        self.gaps.append(gap.detach())
        return ((q - y) ** 2).mean(1).sum() + self.weight() * gap

    def through_all(self, x: Tensor, action: Tensor, a: Tensor, logp: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """Q(s, a) and log int exp Q(s, a') da' by the proposals a (3k, B, A): (n, B) each."""
        q = self.each(x, torch.cat((action[None], a)))
        return q[:, 0], integral(q[:, 1:].maximum(floor), logp)

    def through_some(self, x: Tensor, action: Tensor, a: Tensor, logp: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
        """The same values; the integral's gradient, sum_i w_i grad Q(s, a_i), w = softmax(Q - log p), by draws of i.

        A pass without a gradient costs a third of one with it.
        """
        with torch.no_grad():
            q = self.each(x, a).maximum(floor)
            area, i = integral(q, logp), systematic(torch.softmax(q - logp, 1), self.settings.through)
        rows = torch.arange(len(x), device=x.device)
        q = self.each(x, torch.cat((action.expand(len(i), 1, *action.shape), a[i, rows]), 1))
        mean = q[:, 1:].maximum(floor[i, rows]).mean(1)
        return q[:, 0], area + (mean - mean.detach())

    def each(self, x: Tensor, a: Tensor) -> Tensor:
        """Q(x, a) of x (B, X) and m actions each, (m, B, A) for all heads or (n, m, B, A), in one pass: (n, m, B)"""
        shape = a.shape[:-1]
        q = self.critic(x.expand(*shape, x.shape[-1]).flatten(-3, -2), a.flatten(-3, -2))
        return q.unflatten(1, shape[-2:])

    @torch.no_grad()
    def proposals(self, x: Tensor, x_: Tensor) -> tuple[Tensor, Tensor]:
        """k actions each, uniform, of pi(s) and of pi(s'): (3k, B, A); and the logs of their densities (3k, B)."""
        k, (size, dim) = self.settings.actions, (len(x), self.spec.action_dim)
        mean, log_std = self.actor.normal(torch.cat((x, x_)))
        noise = torch.randn(k, *mean.shape, dtype=x.dtype, device=x.device)
        u = mean + log_std.exp() * noise
        mine, next_ones = torch.tanh(u).split(size, 1)
        logp = log_density(u, noise, log_std)
        uniform = torch.rand_like(mine) * 2 - 1
        flat = torch.full_like(logp[:, :size], -dim * math.log(2))
        return torch.cat((uniform, mine, next_ones)), torch.cat((flat, *logp.split(size, 1)))

    def weight(self) -> Tensor | float:
        """Of the conservative term; while the critics learn, it is a constant."""
        return self.settings.weight if self.settings.threshold is None else self.log_weight.detach().exp()

    def next_value(self, b: Batch) -> Tensor:
        """min Q'(s', a'),  a' ~ pi(.|s'), less alpha log pi(a'|s') if the entropy counts: (B,)"""
        if self.settings.entropy_backup:
            return super().next_value(b)
        x_ = self.encode(b.next_state)
        return self.least(self.target(x_, self.actor.sample(x_)[0]))

    def weight_loss(self) -> Tensor:
        """-weight (E[log int exp Q - Q(s, a)] - threshold), summed over the heads"""
        s = self.settings
        assert s.threshold is not None, "the weight is not learned"
        return -self.log_weight.exp() * (self.gap() - s.critics * s.threshold)

    def gap(self) -> Tensor:
        """Of this update, the mean over its losses: ()"""
        return torch.stack(self.gaps).mean()

    def update(self, data: Batch) -> Metrics:
        self.gaps.clear()
        metrics = super().update(data) | {"gap": self.gap()}
        if self.settings.threshold is not None:
            step(self.optimizers["weight"], self.weight_loss())
            metrics["weight"] = self.log_weight.detach().exp()
        return metrics


def integral(q: Tensor, logp: Tensor) -> Tensor:
    """log int exp Q(s, a) da by m actions of densities p, log mean_i exp(Q_i) / p_i: (n, m, B), (m, B) -> (n, B)"""
    return torch.logsumexp(q - logp, 1) - math.log(len(logp))


def systematic(w: Tensor, k: int) -> Tensor:
    """k of m by weights w (n, m, B) that sum to 1, the i-th k w_i times give or take less than one: (n, k, B)

    One draw places a comb of k teeth on the cumulated weights (Kitagawa 1996).
    """
    n, m, size = w.shape
    comb = (torch.rand(n, size, 1, dtype=w.dtype, device=w.device) + torch.arange(k, device=w.device)) / k
    total = w.mT.cumsum(-1)
    return torch.searchsorted(total, comb * total[..., -1:], right=True).clamp(max=m - 1).mT
