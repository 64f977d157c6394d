"""Networks: one encoder that knows goal, task and normalisation; actors; and n critics as one tensor program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relabel.replay import State
from tasks.task import Task


@dataclass(frozen=True)
class Spec:
    """What a network must know of its tasks."""

    obs_dim: int
    action_dim: int
    goal_dim: int
    bounds: tuple[tuple[float, float], ...]
    """per task, the least and the greatest discounted return that its rewards allow"""

    @staticmethod
    def of(tasks: Sequence[Task], gamma: float) -> Spec:
        first = tasks[0]
        bounds = tuple(value_bounds(task.reward_range, gamma) for task in tasks)
        return Spec(first.obs_dim, first.action_dim, first.goal_dim, bounds)


def value_bounds(reward_range: tuple[float, float], gamma: float) -> tuple[float, float]:
    """Between which values any discounted return of one or more steps lies; [-1/(1 - gamma), 0] for rewards -1, 0."""
    low, high = reward_range
    return (low / (1 - gamma) if low < 0 else low), (high / (1 - gamma) if high > 0 else high)


class Normaliser(nn.Module):
    """Running mean and deviation of all that it was shown; output clipped (Andrychowicz et al. 2017, appendix A)."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, dim: int, clip: float = 5.0, floor: float = 1e-2) -> None:
        super().__init__()
        self.clip, self.floor = clip, floor
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(dim), persistent=False)
        self.register_buffer("scale", torch.ones(dim), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, keys: module.refresh())

    def observe(self, x: Tensor) -> None:
        """Take x (N, D) into the statistics (Chan et al. 1979)."""
        if not x.numel():
            return
        x = x.double()
        n, total = len(x), self.count + len(x)
        delta = x.mean(0) - self.mean
        square = self.var * self.count + x.var(0, correction=0) * n + delta**2 * self.count * n / total
        self.mean.add_(delta * n / total)
        self.var.copy_(square / total)
        self.count.copy_(total)
        self.refresh()

    def refresh(self) -> None:
        """What `forward` uses, from mean and var."""
        self.shift = self.mean.float()
        self.scale = (1 / self.var.sqrt().clamp(min=self.floor)).float()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in [-clip, clip]"""
        return ((x - self.shift) * self.scale).clamp(-self.clip, self.clip)


class Encoder(nn.Module):
    """State -> network input (B, dim): normalised observation and goal. The only place that knows how they enter."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.dim = spec.obs_dim + spec.goal_dim
        self.obs, self.goal = Normaliser(spec.obs_dim), Normaliser(spec.goal_dim)

    def observe(self, obs: Tensor, goals: Tensor) -> None:
        """Take observations (N, O) and goals (M, G), achieved and desired alike, into the statistics."""
        self.obs.observe(obs)
        self.goal.observe(goals)

    def forward(self, state: State) -> Tensor:
        return torch.cat((self.obs(state.obs), self.goal(state.goal)), -1)


class Linears(nn.Module):
    """n linear layers side by side: (B, i) or (n, B, i) -> (n, B, o), each initialised as nn.Linear."""

    def __init__(self, n: int, i: int, o: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(i)
        self.weight = nn.Parameter(torch.empty(n, i, o).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, o).uniform_(-bound, bound))

    def forward(self, x: Tensor, heads: slice) -> Tensor:
        weight, bias = self.weight[heads], self.bias[heads]
        return torch.baddbmm(bias, x.expand(len(weight), *x.shape[-2:]), weight)


class Norms(nn.Module):
    """n layer normalisations side by side: (n, B, d) -> (n, B, d)."""

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n, 1, d)), nn.Parameter(torch.zeros(n, 1, d))

    def forward(self, x: Tensor, heads: slice) -> Tensor:
        return torch.addcmul(self.bias[heads], F.layer_norm(x, x.shape[-1:]), self.weight[heads])


ALL = slice(None)


class Critics(nn.Module):
    """n action values Q(x, a) as one program: x (B, X), a (B, A) -> (n, B).

    With `dropout` (DroQ, Hiraoka et al. 2022, arXiv 2110.02034) every pass draws its own masks, targets included.
    """

    def __init__(self, n: int, dim: int, hidden: Sequence[int], layer_norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [dim, *hidden]
        self.dropout = dropout
        self.layers = nn.ModuleList(Linears(n, i, o) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(Norms(n, o) for o in hidden) if layer_norm else None
        self.out = Linears(n, sizes[-1], 1)

    def forward(self, x: Tensor, action: Tensor, heads: slice = ALL) -> Tensor:
        h = torch.cat((x, action), -1)
        for k, layer in enumerate(self.layers):
            h = layer(h, heads)
            if self.dropout:
                h = F.dropout(h, self.dropout)
            if self.norms is not None:
                h = self.norms[k](h, heads)
            h = F.relu(h)
        q: Tensor = self.out(h, heads).squeeze(-1)
        return q


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Actor(nn.Module):
    """a = tanh(f(x)): (B, X) -> (B, A)"""

    def __init__(self, dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp([dim, *hidden, action_dim])

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.net(x))


class GaussianActor(nn.Module):
    """a = tanh(u), u ~ N(mean(x), std(x)) (Haarnoja et al. 2018, arXiv 1812.05905, appendix C)."""

    def __init__(self, dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp([dim, *hidden, 2 * action_dim])

    def forward(self, x: Tensor) -> Tensor:
        """The mode, tanh(mean): (B, A)."""
        return torch.tanh(self.net(x).chunk(2, -1)[0])

    def sample(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """An action (B, A) and its log density (B,), both differentiable.

        log pi(a) = log N(u) - sum log(1 - tanh(u)^2), the last term as 2 (log 2 - u - softplus(-2u)), which is stable.
        """
        mean, log_std = self.net(x).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        log_normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
        return torch.tanh(u), (log_normal - log_slope).sum(-1)
