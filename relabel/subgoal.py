"""Transitions that know how far their goal is, and what lies k steps ahead of them (HIQL, arXiv 2307.11949)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relabel.batch import Batch, State
from relabel.segment import pairs
from relabel.store import Index, Rows

if TYPE_CHECKING:
    from relabel.replay import Replay

NEVER = 2**31
"""Steps to a goal that does not lie ahead in the episode."""


class Onward(NamedTuple):
    """B transitions, as in Batch, of one step each; and what the episode shows further on."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    goal: Tensor
    task: Tensor
    steps: Tensor
    """(B,) from obs to the moment of the goal, 1 if the transition arrives there; NEVER if it is not ahead"""
    fade: Tensor
    """(B,) gamma^(steps - 1): what a reward at the moment of the goal is worth"""
    way: Tensor
    """(B, O) the observation min(k, steps) steps ahead, or the episode's last"""
    way_goal: Tensor
    """(B, G) what is achieved there"""
    near_goal: Tensor
    """(B, G) what is achieved k steps ahead, or at the episode's end"""

    @property
    def batch(self) -> Batch:
        return Batch(*self[:7])

    @property
    def state(self) -> State:
        return State(self.obs, self.goal, self.task)


def draw(replay: Replay, rng: np.random.Generator, size: int, k: int) -> Onward:
    """`size` transitions, shared and relabelled as others are; see `Replay.onward`."""
    receiver, source = pairs(replay, rng, size)
    strategy, steps = replay.relabel, np.zeros(size, np.int64)

    def noted(rng: np.random.Generator, rows: Rows) -> Index:
        chosen = strategy(rng, rows)
        offset = chosen - rows.index  # below 0 for what was desired, too
        steps[:] = np.where((offset >= 0) & (offset <= rows.left), offset + 1, NEVER)
        return chosen

    with replay.under(noted):
        picks = replay.pick(rng, source, 1)
    obs, action, goal, reward, terminated = replay.judged(rng, picks, receiver)
    replay.count(receiver, source, reward[:, 0] > replay.low.take(receiver))
    near = np.minimum(k, picks.left + 1)
    ahead = np.stack((near, np.minimum(near, steps)), 1)
    slots = replay.memory.later(picks.slots[:, :1], source[:, None], ahead)
    later = replay.memory.split(replay.memory.gather(slots))[0]  # (B, 2, O)
    achieved = replay.judge.achieved(receiver, later)
    columns = (
        obs[:, 0],
        action[:, 0],
        reward[:, 0] * replay.scale.take(receiver),
        np.float32(replay.gamma) * ~terminated[:, 0],
        obs[:, 1],
        goal,
        receiver,
        steps,
        (replay.gamma ** (steps - 1.0)).astype(np.float32),
        later[:, 1],
        achieved[:, 1],
        achieved[:, 0],
    )
    return Onward(*(torch.from_numpy(np.ascontiguousarray(x)).to(replay.device) for x in columns))
