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
from tasks.task import InputError, Task, never

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

    `relabel` chooses the goals, `gamma` is the discount of one step, `n_step` how many steps a transition spans. Tasks
    share the layout of observation, action and goal; each learns here from its own store, with an equal share of the
    batch.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        capacity: int,
        relabel: Strategy,
        gamma: float,
        n_step: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if len({(t.obs_dim, t.action_dim, t.goal_dim) for t in tasks}) != 1:
            raise InputError("tasks of one replay must share the sizes of observation, action and goal")
        self.stores = [EpisodeStore(task, capacity) for task in tasks]
        self.relabel, self.gamma, self.n_step, self.device = relabel, gamma, n_step, torch.device(device)

    def __len__(self) -> int:
        """Transitions over all tasks."""
        return sum(len(store) for store in self.stores)

    def sample(self, rng: np.random.Generator, size: int, n: int | None = None) -> Batch:
        """`size` transitions of n (none: n_step) steps, uniform over the tasks that have data and their transitions."""
        n = self.n_step if n is None else n
        filled = [k for k, store in enumerate(self.stores) if len(store)]
        if not filled:
            raise InputError("the replay is empty: no episode has finished yet")
        m = len(filled)
        quota = [(i + 1) * size // m - i * size // m for i in range(m)]
        parts = [self._draw(rng, k, count, n) for k, count in zip(filled, quota, strict=True)]
        columns = parts[0] if m == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        batch = map(torch.from_numpy, (*columns, np.repeat(filled, quota)))
        return Batch(*(batch if self.device.type == "cpu" else (x.to(self.device) for x in batch)))

    def _draw(self, rng: np.random.Generator, k: int, size: int, n: int) -> tuple[Array, ...]:
        """Batch's columns without the task, for `size` transitions of task k."""
        store, task = self.stores[k], self.stores[k].task
        rows = store.sample(rng, size)
        chosen = self.relabel(rng, rows)
        wanted = chosen < 0  # ~j: the goal desired in transition j
        at = store.slot(np.concatenate((rows.index, np.maximum(chosen, ~chosen))))
        # The n + 1 slots of the window, which ends with the episode, and the slot of the goal: one gather.
        window = np.minimum(np.arange(n + 1), rows.left[:, None] + 1) if n > 1 else np.arange(2)
        slots = np.empty((size, n + 2), np.int64)
        slots[:, :-1] = at[:size, None] + window
        slots[:, -1] = at[size:] + ~wanted
        obs, action, desired, reward, died = store.split(store.gather(slots))  # (B, n + 2, ...)
        goal = np.where(wanted[:, None], desired[:, -1], task.goal_of(obs[:, -1]))
        terminated = died[:, :n, 0] > 0
        if task.reward is None:
            reward = reward[:, :n, 0]
        else:  # one new goal for all n steps
            achieved = task.goal_of(obs[:, 1 : n + 1])
            reward = np.asarray(task.reward(achieved, goal[:, None]), np.float32)
            if task.terminated is not never:
                terminated = task.terminated(achieved, goal[:, None]) | terminated
        total, discount, length = self._sum(reward, terminated, rows.left)
        next_obs = obs[:, 1] if n == 1 else obs[np.arange(size), length]
        return obs[:, 0], action[:, 0], total, discount, next_obs, goal

    def _sum(self, reward: Array, terminated: NDArray[np.bool_], left: Index) -> tuple[Array, Array, Index]:
        """Of n steps (B, n): the discounted reward, the discount of what follows, and how many steps count (B,)."""
        n = reward.shape[1]
        if n == 1:
            return reward[:, 0], np.float32(self.gamma) * ~terminated[:, 0], np.ones_like(left)
        # A step counts if it lies in the episode and no earlier step has ended it.
        ended = np.cumsum(terminated, 1) - terminated > 0
        counts = (np.arange(n) <= left[:, None]) & ~ended
        length = counts.sum(1)
        powers = (self.gamma ** np.arange(n + 1)).astype(np.float32)
        last = np.take_along_axis(terminated, length[:, None] - 1, 1)[:, 0]
        return (reward * counts) @ powers[:-1], powers[length] * ~last, length
