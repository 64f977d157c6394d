"""Relay: within an episode the policy first pursues an easier task of the same scene, then its own (`--explore relay`).

Multi-task learning as its own curriculum: the easier task's policy brings the robot where the harder one can begin (the
gripper to the block, say). Nobody writes the order. A task may go first if it succeeds more often than the one that
follows, and among these a bandit (Thompson 1933) chooses by how often the own goal map moved: an episode whose end is a
success for the goal achieved at its start has taught its task nothing. Experience stays with the episode's own task.
Tasks that succeed are practised less: of what is left to learn most lies in the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.task import Episode, Task

RECENT = 20
"""Episodes over which a success rate is taken, and whose goals a task that goes first pursues."""
FORGET = 0.98
"""What an episode leaves of the counts before it: the policy changes, and so does what helps it."""
SURE = 0.5
"""The least success rate with which a task may go first."""
LEAST = 0.2
"""Of a task that always succeeds: how many episodes and rows it gets for each one of a task that never does."""


class Relay:
    """Who goes first in each lane, and what is known of who helps whom."""

    def __init__(self, tasks: Sequence[Task], lanes: int) -> None:
        n = len(tasks)
        self.tasks = tasks
        self.first = np.full(lanes, -1)
        """(lanes,) the task pursued now in place of the own one, or -1"""
        self.goal = np.zeros((lanes, tasks[0].goal_dim), np.float32)
        """(lanes, G) that task's goal"""
        self.chosen = np.full(lanes, -1)  # (lanes,) as `first`, but until the episode ends
        self.counts = np.zeros((n, n + 1, 2))  # (own task, who went first or nobody, moved or not)
        self.won = [deque[float](maxlen=RECENT) for _ in tasks]
        self.goals = [deque[NDArray[np.float32]](maxlen=RECENT) for _ in tasks]

    def rate(self, k: int) -> float:
        """Share of task k's recent episodes that succeeded at any step."""
        return float(np.mean(self.won[k])) if self.won[k] else 0.0

    def easier(self, k: int) -> list[int]:
        """The tasks that may go before task k."""
        rates, scene = [self.rate(j) for j in range(len(self.tasks))], self.tasks[k].scene
        return [j for j, t in enumerate(self.tasks) if t.scene == scene and rates[j] >= SURE and rates[j] > rates[k]]

    def effort(self) -> NDArray[np.float64]:
        """What each task deserves of episodes and rows, (K,) in proportion: the more, the more often it fails."""
        return np.array([max(LEAST, 1 - self.rate(k)) for k in range(len(self.tasks))])

    def choose(self, rng: np.random.Generator) -> int:
        """Whose episode is next."""
        effort = self.effort()
        return int(rng.choice(len(effort), p=effort / effort.sum()))

    def begin(self, lane: int, k: int, rng: np.random.Generator) -> None:
        """An episode of task k begins in a lane."""
        choices = [*self.easier(k), -1]
        moved, still = self.counts[k, choices].T
        self.chosen[lane] = self.first[lane] = first = choices[int(np.argmax(rng.beta(1 + moved, 1 + still)))]
        if first >= 0:
            self.goal[lane] = self.goals[first][rng.integers(len(self.goals[first]))]

    def advance(self, lane: int, k: int, observation: NDArray[np.float32], steps: int) -> None:
        """The lane has come to `observation` (O,) after `steps` of an episode of task k: is it time for task k?"""
        first = int(self.first[lane])
        if first >= 0:
            task = self.tasks[first]
            most = min(task.horizon, self.tasks[k].horizon // 2)
            if steps >= most or task.success(task.goal_of(observation), self.goal[lane]):
                self.first[lane] = -1

    def end(self, lane: int, k: int, episode: Episode) -> None:
        """What an episode of task k has taught."""
        task = self.tasks[k]
        achieved = task.goal_of(episode.observation)
        self.won[k].append(float(np.asarray(task.success(achieved[1:], episode.desired)).any()))
        self.goals[k].append(episode.desired[-1])
        moved = not task.success(achieved[-1], achieved[0])
        counts = self.counts[k, self.chosen[lane]]
        counts *= FORGET
        counts[0 if moved else 1] += 1

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Everything, for a checkpoint."""
        out = {name: np.array(getattr(self, name)) for name in ("first", "goal", "chosen", "counts")}
        for k in range(len(self.tasks)):
            out[f"won.{k}"] = np.array(self.won[k])
            out[f"goals.{k}"] = np.array(self.goals[k], np.float32).reshape(len(self.goals[k]), self.goal.shape[1])
        return out

    def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `snapshot`."""
        for name in ("first", "goal", "chosen", "counts"):
            getattr(self, name)[:] = snapshot[name]
        for k in range(len(self.tasks)):
            self.won[k] = deque(snapshot[f"won.{k}"].tolist(), maxlen=RECENT)
            self.goals[k] = deque(snapshot[f"goals.{k}"], maxlen=RECENT)
