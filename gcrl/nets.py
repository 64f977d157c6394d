"""Networks: one encoder that knows goal, task and normalisation; actors; and n critics as one tensor program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcrl.bodies import BODIES
from gcrl.layers import ALL
from relabel.batch import State
from tasks.task import Task, identity

NOWHERE = slice(0, 0)


@dataclass(frozen=True)
class Spec:
    """What a network must know of its tasks."""

    obs_dim: int
    action_dim: int
    goal_dim: int
    bounds: tuple[tuple[float, float], ...]
    """per task, the least and the greatest discounted return that its rewards allow"""
    task_id: str = "goal"
    """what the policy sees of a task: onehot, embedding, language, goal, or onehot+goal and the like"""
    kinds: tuple[int, ...] = (0,)
    """per task, a number that tasks with the same goal map share: they share the goal's normaliser

    Where goals alone tell the tasks apart all have one, or goals that lie apart would be laid over each other.
    """
    vectors: Tensor | None = None
    """(K, D) the sentence vectors of the tasks, for a task_id with language"""

    @staticmethod
    def of(
        tasks: Sequence[Task],
        gamma: float,
        task_id: str = "goal",
        vectors: Tensor | None = None,
        scale: Sequence[float] = (),
    ) -> Spec:
        first = tasks[0]
        factors = scale or [1.0] * len(tasks)
        bounds = tuple(
            value_bounds((task.reward_range[0] * c, task.reward_range[1] * c), gamma)
            for task, c in zip(tasks, factors, strict=True)
        )
        maps = [None if task_id == "goal" else identity(task.goal_of) for task in tasks]
        known = list(dict.fromkeys(maps))
        kinds = tuple(map(known.index, maps))
        return Spec(first.obs_dim, first.action_dim, first.goal_dim, bounds, task_id, kinds, vectors)


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


EMBEDDING = 16
"""Numbers that a learned identity has: an embedding, or what is made of a sentence vector."""
HEAT = 0.03
"""Of the softmax over the cosines of sentences: those of different tasks differ by a tenth or more."""


class Encoder(nn.Module):
    """State -> network input (B, dim): normalised observation and goal, and the task's identity in the last columns.

    The only place that knows how they enter. Goals are normalised by the statistics of their kind, identities never.
    """

    kind: Tensor
    onehot: Tensor
    known: Tensor
    """(K, D) the sentences that were learned"""
    vectors: Tensor
    """(K, D) the sentences that the policy is told"""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        how, self.sees_goal = spec.task_id.split("+")[0], "goal" in spec.task_id
        tasks = len(spec.bounds)
        self.obs = Normaliser(spec.obs_dim)
        self.goals = [Normaliser(spec.goal_dim) for _ in set(spec.kinds)]
        self.goal = nn.ModuleList(self.goals)
        self.register_buffer("kind", torch.tensor(spec.kinds), persistent=False)
        self.how, width = how, 0
        if how == "onehot":
            width = tasks
            self.register_buffer("onehot", torch.eye(tasks), persistent=False)
        elif how == "embedding":
            width = EMBEDDING
            self.embedding = nn.Parameter(torch.randn(tasks, width))
        elif how == "language":
            assert spec.vectors is not None, "a task_id with language needs the sentence vectors"
            width = EMBEDDING
            self.register_buffer("known", spec.vectors.clone())
            self.register_buffer("vectors", spec.vectors.clone())
            self.embedding = nn.Parameter(torch.randn(tasks, width))
        inner = spec.obs_dim + (spec.goal_dim if self.sees_goal else 0)
        self.dim = inner + width
        self.ident = slice(inner if width else spec.obs_dim, self.dim)
        """the columns that tell the tasks apart"""

    def observe(self, obs: Tensor, goals: Tensor, task: int = 0) -> None:
        """Take observations (N, O) and a task's goals (M, G), achieved and desired alike, into the statistics."""
        self.obs.observe(obs)
        self.goals[int(self.kind[task])].observe(goals)

    def identities(self) -> Tensor:
        """(K, width): how each task looks to the policy, its goal apart."""
        if self.how == "onehot":
            return self.onehot
        return self.embedding if self.how == "embedding" else self.likeness() @ self.embedding

    def likeness(self) -> Tensor:
        """How much the sentence told for each task is like those that were learned, (K, K): softmax of cosine / heat.

        So a new sentence comes out as the mixture of known ones that it is nearest to, never as a point out of reach.
        """
        return torch.softmax(self.vectors @ self.known.mT / HEAT, -1)

    def forward(self, state: State) -> Tensor:
        parts = [self.obs(state.obs)]
        if self.sees_goal:
            parts.append(self._goal(state))
        if self.how != "goal":
            parts.append(self.identities()[state.task])
        return torch.cat(parts, -1)

    def _goal(self, state: State) -> Tensor:
        first = self.goals[0]
        if len(self.goals) == 1:
            return first(state.goal)
        kind = self.kind[state.task]
        shift = torch.stack([goal.shift for goal in self.goals])[kind]
        scale = torch.stack([goal.scale for goal in self.goals])[kind]
        return ((state.goal - shift) * scale).clamp(-first.clip, first.clip)


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
        return torch.tanh(self.net(x))


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
