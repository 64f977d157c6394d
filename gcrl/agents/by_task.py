"""Means over a task's own rows: what a loss divides by, so that a task's rows weigh the same beside any others."""

from __future__ import annotations

import torch
from torch import Tensor


def sums(x: Tensor, task: Tensor, tasks: int) -> Tensor:
    """For each row the sum of x over the rows of its task: x (B,), task (B,) int64 below `tasks` -> (B,)"""
    if tasks == 1:
        return x.sum().expand(len(x))
    own = (task[:, None] == torch.arange(tasks, device=task.device)).to(x.dtype)
    return own @ (x @ own)


def means(x: Tensor, task: Tensor, tasks: int) -> Tensor:
    """For each row the mean of x over the rows of its task: (B,)"""
    return sums(x, task, tasks) / sums(torch.ones_like(x), task, tasks)


def greatest(x: Tensor, task: Tensor, tasks: int) -> Tensor:
    """For each row the greatest x among the rows of its task: (B,)"""
    if tasks == 1:
        return x.amax().expand(len(x))
    own = task[:, None] == torch.arange(tasks, device=task.device)
    return torch.where(own, x[:, None], -torch.inf).amax(0)[task]


def unit(q: Tensor, task: Tensor, tasks: int) -> Tensor:
    """q (B,) over the mean of its size in its task, which counts as a constant."""
    return q / means(q.detach().abs(), task, tasks)
