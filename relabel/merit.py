"""How good each stored episode would have been for every task: what generalized hindsight chooses by.

Approximate inverse RL (AIR, Li et al. 2020, arXiv 2002.11708, section 4): the return of the episode under a task, less
the average return of the recent episodes that pursued that task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.store import Index, Memory
from tasks.task import Episode, Task

RECENT = 20
"""Episodes of a task whose average return counts, and whose goals the task's returns are averaged over."""


class Merits:
    """Returns of all stored episodes under all tasks; nan where no goal of the task was known yet."""

    def __init__(self, tasks: Sequence[Task], memory: Memory) -> None:
        self.tasks, self.memory = tasks, memory
        self.returns = np.zeros((len(memory.slots), len(tasks)), np.float32)  # in the slot of the episode's first step
        self.goals = [deque[NDArray[np.float32]](maxlen=RECENT) for _ in tasks]
        self.recent = [deque[float](maxlen=RECENT) for _ in tasks]

    def add(self, k: int, slot: int, episode: Episode) -> None:
        """Rate an episode of task k whose first step lies in `slot`."""
        self.goals[k].append(episode.desired[-1])
        scene = self.tasks[k].scene
        for j, task in enumerate(self.tasks):
            known = task.scene == scene and self.goals[j]
            self.returns[slot, j] = mean_return(task, episode, np.stack(self.goals[j])) if known else np.nan
        self.recent[k].append(float(self.returns[slot, k]))

    def table(self, first: Index) -> NDArray[np.float64]:
        """Of the episodes whose first steps lie in these slots (B,): return less average, (B, K); nan as above."""
        average = [np.mean(r) if r else np.nan for r in self.recent]
        return self.returns.take(first, 0) - np.asarray(average)

    def state(self) -> dict[str, NDArray[Any]]:
        """What a checkpoint keeps beside the stores."""
        out = {}
        for k in range(len(self.tasks)):
            out[f"returns.{k}"] = self.returns[self._starts(k)]
            out[f"recent.{k}"] = np.array(self.recent[k])
            out[f"goals.{k}"] = np.array(self.goals[k], np.float32).reshape(len(self.goals[k]), self.tasks[k].goal_dim)
        return out

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `state`, once the stores have been loaded."""
        for k in range(len(self.tasks)):
            self.returns[self._starts(k)] = state[f"returns.{k}"]
            self.recent[k] = deque(state[f"recent.{k}"].tolist(), maxlen=RECENT)
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
