"""Rows scored under the task that learns from them: its goal map, its reward and its end, for many tasks at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from relabel.share import labels
from relabel.store import Index
from tasks.layout import picked
from tasks.task import Task, identity, never

Array = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Judge:
    """Tasks with the same goal map share a call of it, and so do tasks with the same reward and end.

    Where every map only picks numbers of the observation, one gather serves all of them. With `end_at_goal` a step that
    arrives at the goal ends what is learned from: arriving is worth as much as if the policy could stay there already.
    A step that begins there and ends there does so too, or goes on: then staying is learned.
    """

    def __init__(self, tasks: Sequence[Task], end_at_goal: bool = False) -> None:
        self.end_at_goal = end_at_goal
        self.map, self.rule = (
            labels([tuple(map(identity, key)) for key in keys])
            for keys in (
                [(t.goal_of,) for t in tasks],
                [(t.reward, t.terminated, *([t.success] if end_at_goal else [])) for t in tasks],
            )
        )
        self.maps, self.rules = ([tasks[i] for i in np.unique(x, return_index=True)[1]] for x in (self.map, self.rule))
        columns = [c for task in tasks if (c := picked(task)) is not None]
        self.columns = np.stack(columns) if len(columns) == len(tasks) else None  # (K, G)
        label = self.rule if self.columns is not None else self.map
        self.place = None if len(np.unique(label)) == 1 else np.argsort(np.argsort(label, kind="stable"))

    def order(self, receiver: Index) -> Index | None:
        """How to sort rows so that those to be scored in one call are neighbours, which is faster; None: they are."""
        return None if self.place is None else np.argsort(self.place.take(receiver), kind="stable")

    def sorted(self, receiver: Index, source: Index) -> tuple[Index, Index]:
        """Both (B,) in that order."""
        order = self.order(receiver)
        return (receiver, source) if order is None else (receiver[order], source[order])

    def __call__(
        self,
        receiver: Index,
        obs: Array,
        wanted: Bools,
        desired: Array,
        recorded: Array,
        died: Bools,
        stays: Bools | None = None,
    ) -> tuple[Array, Array, Bools]:
        """Goal (B, G), reward (B, n) and end (B, n).

        receiver (B,); obs (B, n + 2, O): the window and where the goal is read off; wanted (B,): the goal is `desired`
        (B, G) instead; recorded, died (B, n): the reward as it was, and the ends that no goal changes; stays (B,): does
        a step that begins at the goal go on (none: all do), where a step that arrives does not.
        """
        n, first = died.shape[1], 0 if self.end_at_goal else 1
        achieved = self.achieved(receiver, obs[:, first:])
        goal = np.where(wanted[:, None], desired, achieved[:, -1])
        achieved = achieved[:, :-1]
        stays = np.ones(len(obs), bool) if stays is None else stays
        if len(self.rules) == 1:
            return goal, *self._scored(self.rules[0], achieved, goal, recorded, died, stays)
        reward, terminated = np.empty((len(obs), n), np.float32), np.empty((len(obs), n), bool)
        for task, of in rows_of(self.rule.take(receiver), self.rules):
            reward[of], terminated[of] = self._scored(task, achieved[of], goal[of], recorded[of], died[of], stays[of])
        return goal, reward, terminated

    def _scored(
        self, task: Task, achieved: Array, goal: Array, recorded: Array, died: Bools, stays: Bools
    ) -> tuple[Array, Bools]:
        """Reward and end (B, n) under a task's functions: one goal for all n steps.

        achieved (B, n, G) by each step; with `end_at_goal` (B, n + 1, G), where the first one begins too.
        """
        if task.reward is None:
            return recorded, died
        if self.end_at_goal:
            there = task.success(achieved, goal[:, None])
            died = there[:, 1:] & ~(there[:, :-1] & stays[:, None]) | died
            achieved = achieved[:, 1:]
        reward = np.asarray(task.reward(achieved, goal[:, None]), np.float32)
        if task.terminated is not never:
            died = task.terminated(achieved, goal[:, None]) | died
        return reward, died

    def achieved(self, receiver: Index, obs: Array) -> Array:
        """What observations (B, m, O) achieve, by the goal maps of these tasks (B,): (B, m, G)."""
        if len(self.maps) == 1:
            return np.asarray(self.maps[0].goal_of(obs))
        if self.columns is not None:
            columns = self.columns.take(receiver, 0)[:, None]  # (B, 1, G)
            achieved = obs[np.arange(len(obs))[:, None, None], np.arange(obs.shape[1])[:, None], columns]
            achieved[np.broadcast_to(columns < 0, achieved.shape)] = 0.0
            return achieved
        achieved = np.empty((*obs.shape[:2], self.maps[0].goal_dim), np.float32)
        for task, of in rows_of(self.map.take(receiver), self.maps):
            achieved[of] = task.goal_of(obs[of])
        return achieved


def rows_of(label: Index, tasks: Sequence[Task]) -> Iterator[tuple[Task, Index | slice]]:
    """The rows of each label that occurs: a slice where they are neighbours."""
    if not len(label):
        return
    cuts = np.flatnonzero(label[1:] != label[:-1]) + 1
    if len(cuts) < len(tasks):
        ends = [0, *cuts.tolist(), len(label)]
        for a, b in pairwise(ends):
            yield tasks[label[a]], slice(a, b)
    else:
        for g in np.unique(label):
            yield tasks[g], np.flatnonzero(label == g)
