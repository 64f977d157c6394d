"""How good each stored episode would have been for every task: what generalized hindsight chooses by.

Approximate inverse RL (AIR, Li et al. 2020, arXiv 2002.11708, section 4.2): where the return that an episode would have
had under a task lies among those that the recent episodes of the scene would have had under that task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.store import EpisodeStore, Index, Memory, episodes
from tasks.task import Episode, Task

RECENT = 20
"""Episodes of each task that others are compared with, and whose goals a task's returns are averaged over."""


class Merits:
    """Returns of all stored episodes under all tasks of their scene; nan where no goal of the task was known yet."""

    def __init__(self, tasks: Sequence[Task], memory: Memory) -> None:
        self.tasks, self.memory = tasks, memory
        self.returns = np.zeros((len(memory.slots), len(tasks)), np.float32)  # in the slot of the episode's first step
        self.goals = [deque[NDArray[np.float32]](maxlen=RECENT) for _ in tasks]
        self.recent = [deque[NDArray[np.float32]](maxlen=RECENT) for _ in tasks]  # rows (K,) of `returns`

    def add(self, k: int, slot: int, episode: Episode, stores: Sequence[EpisodeStore]) -> None:
        """Rate the newest episode of task k, whose first step lies in `slot`.

        With its first goal a task also rates what `stores` hold already, the others' data that came before its own.
        """
        first = not self.goals[k]
        self.goals[k].append(episode.desired[-1])
        for j in range(len(self.tasks)):
            self.returns[slot, j] = self._rated(j, k, episode)
        if first:
            for j, store in enumerate(stores):
                for at, old in zip(self._starts(j), episodes(store.state()), strict=True):
                    self.returns[at, k] = self._rated(k, j, old)
        self.recent[k].append(self.returns[slot].copy())

    def _rated(self, k: int, source: int, episode: Episode) -> float:
        """The return of an episode of task `source` under task k, or nan."""
        if self.tasks[k].scene != self.tasks[source].scene or not self.goals[k]:
            return np.nan
        return mean_return(self.tasks[k], episode, np.stack(self.goals[k]))

    def table(self, first: Index) -> NDArray[np.float64]:
        """Which share of the recent returns each return surpasses, equal ones counting half: (B, K), nan as above.

        Of the episodes whose first steps lie in these slots (B,).
        """
        recent = np.array([row for rows in self.recent for row in rows]).reshape(-1, len(self.tasks))
        returns = self.returns.take(first, 0)
        out = np.full(returns.shape, np.nan)
        for k, (mine, theirs) in enumerate(zip(returns.T, recent.T, strict=True)):
            theirs = np.sort(theirs[~np.isnan(theirs)])
            if len(theirs):
                below, upto = (np.searchsorted(theirs, mine, side) for side in ("left", "right"))
                out[:, k] = np.where(np.isnan(mine), np.nan, (below + upto) / (2 * len(theirs)))
        return out

    def state(self) -> dict[str, NDArray[Any]]:
        """What a checkpoint keeps beside the stores."""
        out = {}
        for k, task in enumerate(self.tasks):
            out[f"returns.{k}"] = self.returns[self._starts(k)]
            out[f"recent.{k}"] = np.array(self.recent[k], np.float32).reshape(-1, len(self.tasks))
            out[f"goals.{k}"] = np.array(self.goals[k], np.float32).reshape(len(self.goals[k]), task.goal_dim)
        return out

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `state`, once the stores have been loaded."""
        for k in range(len(self.tasks)):
            self.returns[self._starts(k)] = state[f"returns.{k}"]
            self.recent[k] = deque(state[f"recent.{k}"], maxlen=RECENT)
            self.goals[k] = deque(state[f"goals.{k}"], maxlen=RECENT)

    def _starts(self, k: int) -> Index:
        index = np.arange(self.memory.size[k])
        store = np.full(len(index), k)
        return self.memory.slot(store, index)[self.memory.rows(store, index).past == 0]


def mean_return(task: Task, episode: Episode, goals: NDArray[np.float32]) -> float:
    """The undiscounted return that an episode would have had under a task, averaged over its goals (N, G)."""
    if task.reward is None:  # it shares with nobody: the return that was recorded
        return float(episode.reward.sum())
    achieved = task.goal_of(episode.observation[1:])
    reward = np.asarray(task.reward(achieved[:, None], goals))  # (T, N)
    if (ends := np.asarray(task.terminated(achieved[:, None], goals))).any():
        reward = reward * (np.cumsum(ends, 0) - ends == 0)
    return float(reward.sum(0).mean())
