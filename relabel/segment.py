"""Steps in a row of one episode, under one task and one goal: what is learned from sequences and returns draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relabel import share
from relabel.batch import Batch, State
from relabel.rows import counted
from tasks.task import InputError

if TYPE_CHECKING:
    from relabel.replay import Replay


class Segment(NamedTuple):
    """B windows of L steps, each from a step drawn at random on. What follows the end of the episode does not count."""

    obs: Tensor
    """(B, L + 1, O)"""
    action: Tensor
    """(B, L, A) in [-1, 1]"""
    reward: Tensor
    """(B, L); 0 where the step does not count"""
    discount: Tensor
    """(B, L) gamma (1 - terminated): what the value at the next observation is worth"""
    counts: Tensor
    """(B, L) bool: the step lies in the episode, and none before it has ended the MDP"""
    to_go: Tensor
    """(B,) sum of ahead^i r_i from the first step to the end of the episode; nan where that was not asked for"""
    past: Tensor
    """(B,) int64, steps of the episode before the first"""
    goal: Tensor
    """(B, G)"""
    task: Tensor
    """(B,) int64"""

    def states(self) -> State:
        """All that is seen, one window after the other: B (L + 1) rows."""
        n = self.obs.shape[1]
        return State(self.obs.flatten(0, 1), self.goal.repeat_interleave(n, 0), self.task.repeat_interleave(n))

    def mean(self, x: Tensor) -> Tensor:
        """x (B, L) over the steps that count: ()"""
        return torch.where(self.counts, x, 0).sum() / self.counts.sum()

    def first(self) -> Batch:
        """The first step of each, as a transition."""
        at = self.obs[:, 0], self.action[:, 0], self.reward[:, 0], self.discount[:, 0]
        return Batch(*at, self.obs[:, 1], self.goal, self.task)


def draw(replay: Replay, rng: np.random.Generator, size: int, length: int, ahead: float | None) -> Segment:
    """`size` windows of `length` steps, shared and relabelled as transitions are; see `Replay.segments`."""
    receiver, source = pairs(replay, rng, size)
    longest = length if ahead is None else max(length, replay.memory.longest)
    picks = replay.pick(rng, source, longest)
    steps = min(longest, max(length, int(picks.left.max()) + 1))
    picks = picks._replace(slots=picks.slots[:, : steps + 1])
    obs, action, goal, reward, terminated = replay.judged(rng, picks, receiver)
    counts = counted(terminated, picks.left)
    shows = (reward > replay.low.take(receiver)[:, None]) & counts
    replay.count(receiver, source, np.any(shows[:, :length], axis=1))
    reward = np.where(counts, reward, np.float32(0)) * replay.scale.take(receiver)[:, None]
    to_go = np.full(size, np.nan, np.float32)
    if ahead is not None:
        to_go = reward @ (ahead ** np.arange(steps)).astype(np.float32)
    cut = slice(0, length)
    discount = np.float32(replay.gamma) * ~terminated
    columns = (
        obs[:, : length + 1],
        action[:, cut],
        reward[:, cut],
        discount[:, cut],
        counts[:, cut],
        to_go,
        replay.memory.place.take(picks.slots[:, 0], 0)[:, 0],
        goal,
        receiver,
    )
    return Segment(*(torch.from_numpy(np.ascontiguousarray(x)).to(replay.device) for x in columns))


def pairs(replay: Replay, rng: np.random.Generator, size: int) -> share.Pairs:
    """Who learns from a sequence, and whose it is: (B,) each. Raises InputError where sharing is by transitions."""
    name = replay.sharing.name
    if not len(replay):
        raise InputError("the replay is empty: no episode has finished yet")
    if len(replay.tasks) == 1:
        return np.zeros(size, np.int64), np.zeros(size, np.int64)
    if name in ("hipi", "hindsight", "cds", "cds-soft"):
        raise InputError(
            f"--share {name} chooses single transitions, and this agent learns from sequences: use own, uniform, "
            f"random, groups, family or uds"
        )
    return replay.judge.sorted(*share.of(name)(rng, size, replay.pool))


def starts(replay: Replay, rng: np.random.Generator, size: int) -> State:
    """Where episodes of all tasks begin, `size` of them, each under the goal that one of its transitions is given.

    A task's starts are its own, whatever data it shares. An episode comes as often as it has steps, as in a batch.
    """
    if not len(replay):
        raise InputError("the replay is empty: no episode has finished yet")
    task, _ = share.own(rng, size, replay.pool)
    order = replay.judge.order(task)
    if order is not None:
        task = task[order]
    memory, picks = replay.memory, replay.pick(rng, task, 1)
    _, _, goal, _, _ = replay.judged(rng, picks, task)
    base, now = task * memory.capacity, picks.slots[:, 0]
    past = memory.place.take(now, 0)[:, 0]
    obs, *_ = memory.split(memory.gather(base + (now - base - past) % memory.capacity))
    return State(*(torch.from_numpy(np.ascontiguousarray(x)).to(replay.device) for x in (obs, goal, task)))
