"""What a network sees of a state: Spec says what there is, Encoder alone knows goal, task and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relabel.batch import State
from relabel.segment import Segment
from tasks.layout import picked
from tasks.task import Task, identity


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
    goal_of: tuple[Callable[[Any], Any], ...] = ()
    """K maps from observation to achieved goal: if they are given, the policy sees how far the goal is"""
    places: tuple[int, ...] = ()
    """numbers of the observation that the policy does not see; only where it sees how far the goal is"""
    whole: bool = False
    """a goal is a whole observation, in every task"""
    gamma: float = 0.98
    """discount of one step"""

    @property
    def tasks(self) -> int:
        """how many"""
        return len(self.bounds)

    @staticmethod
    def of(
        tasks: Sequence[Task],
        gamma: float,
        task_id: str = "goal",
        vectors: Tensor | None = None,
        scale: Sequence[float] = (),
        places: tuple[int, ...] = (),
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
        goal_of = tuple(task.goal_of for task in tasks) if places else ()
        picks = [(task, picked(task)) for task in tasks]
        whole = all(which is not None and np.array_equal(which, range(task.obs_dim)) for task, which in picks)
        sizes = first.obs_dim, first.action_dim, first.goal_dim
        return Spec(*sizes, bounds, task_id, kinds, vectors, goal_of, places, whole, gamma)


def value_bounds(reward_range: tuple[float, float], gamma: float) -> tuple[float, float]:
    """Between which values any discounted return of one or more steps lies; [-1/(1 - gamma), 0] for rewards -1, 0."""
    low, high = reward_range
    return (low / (1 - gamma) if low < 0 else low), (high / (1 - gamma) if high > 0 else high)


class Normaliser(nn.Module):
    """Running mean and deviation of all that it was shown; output clipped (Andrychowicz et al. 2017, appendix A)."""

    mean: Tensor
    var: Tensor
    count: Tensor
    shift: Tensor
    scale: Tensor

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
        """What `forward` uses, from mean and var; in place, as a compiled update holds on to it."""
        self.shift.copy_(self.mean.float())
        self.scale.copy_((1 / self.var.sqrt().clamp(min=self.floor)).float())

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
    seen: Tensor
    map_of: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        how, self.sees_goal = spec.task_id.split("+")[0], "goal" in spec.task_id
        tasks = spec.tasks
        self.obs = Normaliser(spec.obs_dim)
        self.goals = [Normaliser(spec.goal_dim) for _ in set(spec.kinds)]
        self.goal = nn.ModuleList(self.goals)
        self.register_buffer("kind", torch.tensor(spec.kinds), persistent=False)
        self.how, self.whole, width = how, spec.whole, 0
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
        seen = [i for i in range(spec.obs_dim) if i not in spec.places]
        self.register_buffer("seen", torch.tensor(seen), persistent=False)
        known = {identity(goal_of): goal_of for goal_of in spec.goal_of}
        self.maps = list(known.values())
        own = [list(known).index(identity(goal_of)) for goal_of in spec.goal_of]
        self.register_buffer("map_of", torch.tensor(own, dtype=torch.int64), persistent=False)
        inner = len(seen) + (spec.goal_dim if self.sees_goal else 0)
        self.dim = inner + width
        self.dims = spec.obs_dim + width, spec.goal_dim + width
        """of what `apart` returns"""
        self.ident = slice(inner if width else len(seen), self.dim)
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
        obs = self.obs(state.obs)
        parts = [obs if len(self.seen) == obs.shape[-1] else obs.index_select(-1, self.seen)]
        if self.sees_goal:
            parts.append(self._goal(state))
        if self.how != "goal":
            parts.append(self.identities()[state.task])
        return torch.cat(parts, -1)

    def apart(self, state: State) -> tuple[Tensor, Tensor]:
        """What is seen of the state alone (B, O + width), and of the goal alone (B, G + width): for what compares them.

        All of the observation, and the goal as a place: neither tells anything of the other. A goal that is a whole
        observation is normalised as one, so that the same place looks the same.
        """
        known = [] if self.how == "goal" else [self.identities()[state.task]]
        goal = self.obs(state.goal) if self.whole else self._scaled(state, None)
        return torch.cat([self.obs(state.obs), *known], -1), torch.cat([goal, *known], -1)

    def window(self, b: Segment) -> Tensor:
        """All that windows show: (B, L + 1, dim)"""
        x: Tensor = self(b.states()).unflatten(0, b.obs.shape[:2])
        return x

    def _goal(self, state: State) -> Tensor:
        """The goal, or how far it is from what is achieved, in the units of its normaliser."""
        return self._scaled(state, self._achieved(state) if self.maps else None)

    def _scaled(self, state: State, start: Tensor | None) -> Tensor:
        """The goal from `start` (B, G) on, or from the mean of its kind, in the units of its normaliser."""
        first, kind = self.goals[0], None if len(self.goals) == 1 else self.kind[state.task]
        scale = first.scale if kind is None else torch.stack([goal.scale for goal in self.goals])[kind]
        shift = start
        if shift is None:
            shift = first.shift if kind is None else torch.stack([goal.shift for goal in self.goals])[kind]
        return ((state.goal - shift) * scale).clamp(-first.clip, first.clip)

    def _achieved(self, state: State) -> Tensor:
        achieved: Tensor = self.maps[0](state.obs)
        for i, goal_of in enumerate(self.maps[1:], 1):
            achieved = torch.where((self.map_of[state.task] == i)[:, None], goal_of(state.obs), achieved)
        return achieved
