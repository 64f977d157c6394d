"""What leaves the replay."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """What a policy sees."""

    obs: Tensor
    """(B, O)"""
    goal: Tensor
    """(B, G)"""
    task: Tensor
    """(B,) int64"""


class Batch(NamedTuple):
    """Transitions under the task and the goal that they are to be learned for."""

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
