"""Gradient surgery: PCGrad (Yu et al. 2020, arXiv 2001.06782) and CAGrad (Liu et al. 2021, arXiv 2110.14048).

One gradient a task, stacked (K, P), becomes one step (P,). Both are combinations of the gradients, found from their
K x K products alone, and both are the mean gradient where it serves every task as it is (CAGrad: where c is 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gcrl.optim import advance, parameters

Surgery = Callable[[Tensor], Tensor]
"""(K, P) -> (P,)"""


def pcgrad(grads: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Algorithm 1: g_i <- g_i - (g_i . g_j / ||g_j||^2) g_j if g_i . g_j < 0, for the others j in random order.

    Deviation: the mean over the tasks, not the sum, so that without conflict the step is that of the mean loss.
    """
    k, gram = len(grads), (grads @ grads.mT).double()
    square = gram.diagonal().clamp(min=1e-30)  # of a gradient that vanishes: nothing is projected away
    orders = torch.rand(k, k, generator=generator).argsort(1).to(grads.device)  # a seed gives one order on any device
    each = torch.arange(k, device=grads.device)
    w = torch.eye(k, dtype=torch.float64, device=grads.device)  # g_i = sum_j w_ij grads_j, all i at once
    for j in orders.mT:
        dots = (w * gram[j]).sum(1) / square[j]
        w[each, j] -= torch.where(j != each, dots.clamp(max=0), 0.0)
    return w.mean(0).to(grads.dtype) @ grads


def cagrad(grads: Tensor, c: float = 0.4) -> Tensor:
    """argmax_d min_i g_i . d  s.t. ||d - g_0|| <= c ||g_0||, with g_0 the mean: d = g_0 + c ||g_0|| g_w / ||g_w||.

    The paper's algorithm 1, without the rescaling by 1 / (1 + c^2) that the authors' code offers.
    """
    gram = (grads @ grads.mT).double().cpu().numpy()
    w, length = simplex_weights(gram, c)
    share = torch.from_numpy(1 / len(w) + c * math.sqrt(max(gram.mean(), 0.0)) / length * w)
    return share.to(grads) @ grads


def simplex_weights(gram: NDArray[Any], c: float, steps: int = 500) -> tuple[NDArray[Any], float]:
    """argmin_w g_w . g_0 + c ||g_0|| ||g_w||  over the simplex, and ||g_w||, of gram (K, K) = g_i . g_j.

    Moves weight from the task with the steepest ascent to the one with the steepest descent, each time as far as is
    best (the line has a closed form), until no move helps. A floor under ||g_w|| keeps the slope finite at zero.
    """
    k = len(gram)
    a, r, floor = gram.mean(1), c * math.sqrt(max(gram.mean(), 0.0)), 1e-12 * max(np.trace(gram), 1e-300)
    w = np.full(k, 1 / k)
    for _ in range(steps):
        u = gram @ w
        square = max(w @ u, 0.0) + floor
        slope = a + r * u / math.sqrt(square)
        i, j = int(slope.argmin()), int(np.where(w > 0, slope, -math.inf).argmax())
        gain = slope[j] - slope[i]
        if gain <= 1e-9 * abs(slope).max():
            break
        w_j = w[j]
        t = min(w_j, line(a[i] - a[j], r, gram[i, i] + gram[j, j] - 2 * gram[i, j], u[i] - u[j], square))
        w[i], w[j] = w[i] + t, 0.0 if t == w_j else w_j - t
    return w, math.sqrt(max(w @ gram @ w, 0.0) + floor)


def line(slope: float, r: float, a: float, b: float, square: float) -> float:
    """argmin_t slope t + r sqrt(a t^2 + 2 b t + square), which falls at t = 0; infinite if it falls for ever."""
    if r * r * a <= slope * slope:
        return math.inf
    rest = max(square - b * b / a, 0.0)
    return -b / a - slope * math.sqrt(rest / (a * (r * r * a - slope * slope)))


SURGERIES: dict[str, Surgery] = {"pcgrad": pcgrad, "cagrad": cagrad}


def apply(optimizer: torch.optim.Optimizer, losses: Sequence[Tensor], surgery: Surgery) -> None:
    """One step of `optimizer` in its own parameters, along what `surgery` makes of the gradients of the tasks' losses.

    K backward passes, and K gradients in memory: cheapest where each loss comes from its own task's rows alone.
    """
    params = parameters(optimizer)
    grads, reached = [], [False] * len(params)
    for k, loss in enumerate(losses):
        last = k == len(losses) - 1
        own = torch.autograd.grad(loss, params, retain_graph=not last, allow_unused=True)
        reached = [was or g is not None for was, g in zip(reached, own, strict=True)]
        zeros = (torch.zeros_like(p) if g is None else g for p, g in zip(params, own, strict=True))
        grads.append(torch.cat([g.flatten() for g in zeros]))
    parts = surgery(torch.stack(grads)).split([p.numel() for p in params])
    for p, part, any_of in zip(params, parts, reached, strict=True):
        p.grad = part.view_as(p) if any_of else None  # as after a plain backward: no step where no loss reaches
    advance(optimizer)
