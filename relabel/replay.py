"""Batches out of stores: sample, relabel, and score again under the new goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relabel.goals import Strategy
from relabel.store import EpisodeStore, Index
from tasks.task import InputError, Task

Array = NDArray[np.float32]


class State(NamedTuple):
    """What a policy sees."""

    obs: Tensor
    """(B, O)"""
    goal: Tensor
    """(B, G)"""
    task: Tensor
    """(B,) int64"""


class Batch(NamedTuple):
    """Transitions under the goal that they are to be learned for."""

    obs: Tensor
    """(B, O)"""
    action: Tensor
    """(B, A) in [-1, 1]"""
    reward: Tensor
    """(B,) sum of gamma^i r_i over the n steps"""
    discount: Tensor
    """(B,) gamma^n (1 - terminated): what the value at next_obs is worth"""
    next_obs: Tensor
    """(B, O)"""
    goal: Tensor
    """(B, G)"""
    task: Tensor
    """(B,) int64"""

    @property
    def state(self) -> State:
        return State(self.obs, self.goal, self.task)

    @property
    def next_state(self) -> State:
        return State(self.next_obs, self.goal, self.task)


class Replay:
    """The stores of all tasks, and how transitions leave them.

    `relabel` chooses the goals and `gamma` is the discount of one step. Tasks share the layout of observation, action
    and goal; each learns here from its own store, with an equal share of the batch.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        capacity: int,
        relabel: Strategy,
        gamma: float,
        device: torch.device | str = "cpu",
    ) -> None:
        if len({(t.obs_dim, t.action_dim, t.goal_dim) for t in tasks}) != 1:
            raise InputError("tasks of one replay must share the sizes of observation, action and goal")
        self.stores = [EpisodeStore(task, capacity) for task in tasks]
        self.relabel, self.gamma, self.device = relabel, gamma, torch.device(device)

    def __len__(self) -> int:
        """Transitions over all tasks."""
        return sum(len(store) for store in self.stores)

    def sample(self, rng: np.random.Generator, size: int, n: int = 1) -> Batch:
        """`size` transitions of n steps each, uniform over the tasks that have data and over their transitions."""
        filled = [k for k, store in enumerate(self.stores) if len(store)]
        if not filled:
            raise InputError("the replay is empty: no episode has finished yet")
        quota = np.diff(np.arange(len(filled) + 1) * size // len(filled))
        parts = [self._draw(rng, k, int(count), n) for k, count in zip(filled, quota, strict=True)]
        task = np.repeat(filled, quota)
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Batch(*(torch.from_numpy(x).to(self.device) for x in (*columns, task)))

    def _draw(self, rng: np.random.Generator, k: int, size: int, n: int) -> tuple[Array, ...]:
        """Batch's columns without the task, for `size` transitions of task k."""
        store, task = self.stores[k], self.stores[k].task
        rows = store.sample(rng, size)
        goal = self.goals(store, self.relabel(rng, rows))
        first = store.slot(rows.index)
        # One new goal for all n steps; the window ends with the episode.
        window = np.minimum(np.arange(n), rows.left[:, None])  # (B, n)
        step = (first[:, None] + window) % store.capacity
        if task.reward is None:
            reward = store.reward[step]
            terminated = store.died[step]
        else:
            achieved = task.goal_of(store.observation[(step + 1) % store.capacity])  # (B, n, G)
            reward = np.asarray(task.reward(achieved, goal[:, None]), np.float32)
            terminated = task.terminated(achieved, goal[:, None]) | store.died[step]
        # A step counts if it lies in the episode and no earlier step has ended it.
        ended = np.cumsum(terminated, 1) - terminated > 0
        counts = (np.arange(n) <= rows.left[:, None]) & ~ended
        length = counts.sum(1)
        powers = self.gamma ** np.arange(n + 1)
        last = np.take_along_axis(terminated, length[:, None] - 1, 1)[:, 0]
        return (
            store.observation[first],
            store.action[first],
            ((reward * counts) @ powers[:-1]).astype(np.float32),
            np.where(last, 0.0, powers[length]).astype(np.float32),
            store.observation[(first + length) % store.capacity],
            goal,
        )

    @staticmethod
    def goals(store: EpisodeStore, chosen: Index) -> Array:
        """What a strategy's answer stands for: (B,) -> goals (B, G)."""
        wanted = chosen < 0
        slot = store.slot(np.where(wanted, ~chosen, chosen))
        achieved = store.task.goal_of(store.observation[(slot + 1) % store.capacity])
        return np.where(wanted[:, None], store.desired[slot], achieved)
