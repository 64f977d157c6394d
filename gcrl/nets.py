"""Networks: actors, and n critics as one tensor program."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcrl.bodies import BODIES
from gcrl.layers import ALL, Linears

NOWHERE = slice(0, 0)


class Critics(nn.Module):
    """n action values Q(x, a) as one program: x (B, X), a (B, A) -> (n, B).

    With `dropout` (DroQ, Hiraoka et al. 2022, arXiv 2110.02034) every pass draws its own masks, targets included.
    `weights` says how tasks share the weights (gcrl/bodies.py), `ident` which columns of x tell them apart.
    """

    def __init__(
        self,
        n: int,
        dim: int,
        hidden: Sequence[int],
        layer_norm: bool = True,
        dropout: float = 0.0,
        weights: str = "conditioned",
        ident: slice = NOWHERE,
    ) -> None:
        super().__init__()
        self.body = BODIES[weights](n, dim, 1, hidden, ident, layer_norm, dropout)

    def forward(self, x: Tensor, action: Tensor, heads: slice = ALL) -> Tensor:
        q: Tensor = self.body(torch.cat((x, action), -1), heads).squeeze(-1)
        return q


class Alone(nn.Module):
    """A body of one network: (B, X) -> (B, out)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)[0]
        return y


def network(dim: int, out: int, hidden: Sequence[int], weights: str, ident: slice) -> Alone:
    """(B, dim) -> (B, out), tasks sharing weights as `weights` says."""
    return Alone(BODIES[weights](1, dim, out, hidden, ident))


class Actor(nn.Module):
    """a = tanh(f(x)): (B, X) -> (B, A)"""

    def __init__(
        self, dim: int, action_dim: int, hidden: Sequence[int], weights: str = "conditioned", ident: slice = NOWHERE
    ) -> None:
        super().__init__()
        self.net = network(dim, action_dim, hidden, weights, ident)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x)

    def mean(self, x: Tensor) -> Tensor:
        """Of the normal that imitates: (B, A)"""
        return torch.tanh(self.net(x))


class ClippedActor(Actor):
    """a = clip(f(x), -1, 1), f(x) being the mean: (B, X) -> (B, A).

    Beyond the bounds imitation draws it back, where a tanh would have no slope left.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x).clamp(-1, 1)

    def mean(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class Values(nn.Module):
    """n state values V(x) as one program: x (B, X) -> (n, B)."""

    def __init__(
        self,
        n: int,
        dim: int,
        hidden: Sequence[int],
        layer_norm: bool = True,
        weights: str = "conditioned",
        ident: slice = NOWHERE,
    ) -> None:
        super().__init__()
        self.body = BODIES[weights](n, dim, 1, hidden, ident, layer_norm)

    def forward(self, x: Tensor) -> Tensor:
        v: Tensor = self.body(x).squeeze(-1)
        return v


class Choices(nn.Module):
    """n values Q(x, a) of each of A choices, heads on one body: x (B, X) -> (n, B, A)."""

    def __init__(
        self,
        n: int,
        dim: int,
        choices: int,
        hidden: Sequence[int],
        layer_norm: bool = False,
        weights: str = "conditioned",
        ident: slice = NOWHERE,
    ) -> None:
        super().__init__()
        self.n, self.body = n, BODIES[weights](1, dim, n * choices, hidden, ident, layer_norm)

    def forward(self, x: Tensor) -> Tensor:
        q: Tensor = self.body(x)[0].unflatten(-1, (self.n, -1)).transpose(0, 1)
        return q


class DuelingChoices(nn.Module):
    """Q(x, a) = V(x) + A(x, a) - mean_a' A(x, a') of each of A choices: x (B, X) -> (n, B, A).

    Two streams on one body, each with a hidden layer of its own as wide as the body's last (Wang et al. 2016, arXiv
    1511.06581, eq. 9). Without the mean V and A would not be told apart: what one has more the other may have less.
    """

    def __init__(
        self,
        n: int,
        dim: int,
        choices: int,
        hidden: Sequence[int],
        layer_norm: bool = False,
        weights: str = "conditioned",
        ident: slice = NOWHERE,
    ) -> None:
        super().__init__()
        self.body = BODIES[weights](1, dim, 2 * hidden[-1], hidden, ident, layer_norm)
        self.value, self.advantage = Linears(n, hidden[-1], 1), Linears(n, hidden[-1], choices)

    def forward(self, x: Tensor) -> Tensor:
        v, a = self.streams(x)
        return v + a - a.mean(-1, keepdim=True)

    def streams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """V (n, B, 1) and A (n, B, A)."""
        one, other = F.relu(self.body(x)[0]).chunk(2, -1)
        return self.value(one), self.advantage(other)


class NormalActor(nn.Module):
    """a ~ N(tanh(f(x)), std), clipped to [-1, 1]; std is learned, one per action and the same in all states.

    The policy of weighted imitation (Kostrikov et al. 2021, arXiv 2110.06169, appendix B): actions at the edge, which a
    squashed normal gives no finite density, are as good as any.
    """

    def __init__(
        self, dim: int, action_dim: int, hidden: Sequence[int], weights: str = "conditioned", ident: slice = NOWHERE
    ) -> None:
        super().__init__()
        self.net = network(dim, action_dim, hidden, weights, ident)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, x: Tensor) -> Tensor:
        """The mean: (B, A)."""
        return torch.tanh(self.net(x))

    def sample(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """An action (B, A), clipped, and the log density (B,) of what it was before, both differentiable."""
        mean, log_std = self.normal(x)
        noise = torch.randn_like(mean)
        return (mean + log_std.exp() * noise).clamp(-1, 1), normal_density(noise, log_std)

    def log_prob(self, x: Tensor, action: Tensor) -> Tensor:
        """The log density (B,) of actions (B, A)."""
        mean, log_std = self.normal(x)
        return normal_density((action - mean) / log_std.exp(), log_std)

    def normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, A) and log deviation (A,)."""
        return self(x), self.log_std.clamp(-5, 2)


def normal_density(noise: Tensor, log_std: Tensor) -> Tensor:
    """Of mean + exp(log_std) noise, its log: (B, A), (A,) or (B, A) -> (B,)."""
    return (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class GaussianActor(nn.Module):
    """a = tanh(u), u ~ N(mean(x), std(x)) (Haarnoja et al. 2018, arXiv 1812.05905, appendix C)."""

    def __init__(
        self, dim: int, action_dim: int, hidden: Sequence[int], weights: str = "conditioned", ident: slice = NOWHERE
    ) -> None:
        super().__init__()
        self.net = network(dim, 2 * action_dim, hidden, weights, ident)

    def forward(self, x: Tensor) -> Tensor:
        """The mode, tanh(mean): (B, A)."""
        return torch.tanh(self.net(x).chunk(2, -1)[0])

    def sample(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """An action (B, A) and its log density (B,), both differentiable.

        log pi(a) = log N(u) - sum log(1 - tanh(u)^2), the last term as 2 (log 2 - u - softplus(-2u)), which is stable.
        """
        mean, log_std = self.normal(x)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        return torch.tanh(u), log_density(u, noise, log_std)

    def log_prob(self, x: Tensor, action: Tensor) -> Tensor:
        """The log density (B,) of actions (B, A) in [-1, 1]; one at the edge counts as just inside it."""
        mean, log_std = self.normal(x)
        u = torch.atanh(action.clamp(-1 + EDGE, 1 - EDGE))
        return log_density(u, (u - mean) / log_std.exp(), log_std)

    def normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation of u: (B, A) each."""
        mean, log_std = self.net(x).chunk(2, -1)
        return mean, log_std.clamp(-20, 2)


EDGE = 1e-6


def log_density(u: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """Of tanh(u), where u = mean + exp(log_std) noise: (B, A) each -> (B,).

    sum -noise^2 / 2 - log_std - log(2 pi) / 2 - 2 (log 2 - u - softplus(-2u))
    """
    constant = u.shape[-1] * (0.5 * math.log(2 * math.pi) + 2 * math.log(2))
    return (2 * (u + F.softplus(-2 * u)) - log_std - 0.5 * noise**2).sum(-1) - constant
