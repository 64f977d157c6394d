"""Steps of Adam, by torch's fused kernel; written out where they become part of a compiled update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

WRITTEN_OUT = ContextVar[Tensor | None]("written_out", default=None)


def adam(of: nn.Module | Iterable[Tensor], lr: float) -> torch.optim.Adam:
    """Adam for the parameters of a network, or for these."""
    return torch.optim.Adam(of.parameters() if isinstance(of, nn.Module) else of, lr=lr, fused=True)


def parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Those that it descends in."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Descend `loss` in this optimizer's parameters only: no other network's gradient is computed or touched."""
    differentiate(optimizer, loss)
    advance(optimizer)


def differentiate(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """The gradients of `loss` in this optimizer's parameters."""
    params = parameters(optimizer)
    for p in params:
        p.grad = None
    loss.backward(inputs=params)


def advance(optimizer: torch.optim.Optimizer) -> None:
    """One step along the gradients that are there."""
    pace = WRITTEN_OUT.get()
    if pace is None:
        optimizer.step()
        return
    with torch.no_grad():
        for group in optimizer.param_groups:
            lr = group.get("initial_lr", group["lr"]) * pace
            adam_step([p for p in group["params"] if p.grad is not None], optimizer.state, group, lr)


def adam_step(params: list[Tensor], states: Mapping[Any, dict[str, Tensor]], group: dict[str, Any], lr: Tensor) -> None:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)

    Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1); AdamW shrinks p by lr times its decay first (1711.05101).
    All have made the same number t of steps. b^t is exp(t log b), which the compiler keeps, where it would compute a
    power again for every few numbers.
    """
    b1, b2 = group["betas"]
    for p in params:
        states[p]["step"].add_(1)
    t = states[params[0]]["step"]
    rate, root = lr / (1 - (t * math.log(b1)).exp()), (1 - (t * math.log(b2)).exp()).rsqrt()
    for p in params:
        m, v, g = states[p]["exp_avg"], states[p]["exp_avg_sq"], cast(Tensor, p.grad)
        if group.get("decoupled_weight_decay"):
            p.mul_(1 - lr * group["weight_decay"])
        m.lerp_(g, 1 - b1)
        v.mul_(b2).addcmul_(g, g, value=1 - b2)
        p.sub_(rate * m / (v.sqrt() * root + group["eps"]))


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Back to its start, in place, as a compiled update holds on to these tensors."""
    for state in optimizer.state.values():
        for x in state.values():
            x.zero_()


def slow(optimizers: Iterable[torch.optim.Optimizer], pace: float) -> None:
    """From now on they learn at this share of the rates they were made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * pace


@contextmanager
def written_out(pace: Tensor) -> Iterator[None]:
    """Steps inside, at this share of the rates the optimizers were made with, are sums and products that a compiler can
    fuse; the state must be there already."""
    token = WRITTEN_OUT.set(pace)
    try:
        yield
    finally:
        WRITTEN_OUT.reset(token)
