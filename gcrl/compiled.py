"""A whole update as one compiled program: its small operations fused, and no interpreter between the products."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gcrl.optim import written_out
from tasks.task import InputError

if TYPE_CHECKING:
    from gcrl.agents.agent import Agent, Metrics

OPTIONS = {"fallback_random": True, "guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
"""Of the compiler: draws are torch's own, so that an update draws what it would have drawn; and it need not ask whether
its program is the right one, as that is looked up here."""


class Compiled:
    """In place of `agent.update`: forward, backward and Adam, traced once for each phase and shape of data.

    What a program reads and changes besides its data are the agent's own tensors, where they are: weights, buffers and
    the state of optimizers must be changed in place by whoever else changes them. Results agree but for rounding; they
    are the same whenever a run was cut off and went on, as tracing leaves nothing behind.
    """

    def __init__(self, agent: Agent, **how: Any) -> None:
        """`how` is told to torch.compile; none: its own compiler, on a GPU as CUDA graphs."""
        on_gpu = next(agent.parameters()).is_cuda
        if not agent.steady:
            raise InputError(
                f"--compile: updates of {type(agent).__name__.lower()} with these flags differ from one another, "
                "leave it out"
            )
        if not (how or on_gpu or compiler()):
            raise InputError("--compile: no C++ compiler here, install g++ or clang++, or leave it out")
        self.agent, self.plain = agent, agent.update
        self.how = how or {"options": OPTIONS | ({"triton.cudagraphs": True} if on_gpu else {})}
        self.programs: dict[Hashable, tuple[Callable[..., list[Tensor]], list[str]]] = {}

    def __call__(self, data: Any) -> Metrics:
        phase = self.agent.phase()
        if phase is None:
            return self.plain(data)
        given = tensors(data)
        key = phase, tuple([x.shape for x in given])
        if key not in self.programs:
            self.programs[key] = self.trace(data, given)
        program, names = self.programs[key]
        with torch.no_grad():
            found = program(*given)
        self.agent.updates += 1
        return dict(zip(names, found, strict=True))

    def trace(self, data: Any, given: list[Tensor]) -> tuple[Callable[..., list[Tensor]], list[str]]:
        """The program for data like these, and the names of the metrics that it returns."""
        names: list[str] = []

        def run(*mine: Tensor) -> list[Tensor]:
            metrics = self.plain(like(data, iter(mine)))
            names[:] = metrics
            return [x.detach() for x in metrics.values()]

        with untouched(self.agent):
            run(*given)  # so that the optimizers have a state
            self.agent.updates -= 1
            with written_out():
                graph = make_fx(run)(*given)
        return torch.compile(graph, fullgraph=True, dynamic=False, **self.how), names


def tensors(data: Any) -> list[Tensor]:
    """All tensors of what an agent draws: one, or tuples of them."""
    return [x for part in data for x in tensors(part)] if isinstance(data, tuple) else [data]


def like(data: Any, given: Iterator[Tensor]) -> Any:
    """Tuples as in `data`, made of other tensors."""
    return type(data)(*[like(part, given) for part in data]) if isinstance(data, tuple) else next(given)


@contextmanager
def untouched(agent: Agent) -> Iterator[None]:
    """Whatever is done inside, the agent is as before; only its optimizers may come out with the state of a start."""
    before = [(x, x.detach().clone()) for x in (*agent.parameters(), *agent.buffers(), *slots(agent))]
    known, updates = {id(x) for x, _ in before}, agent.updates
    with torch.random.fork_rng():
        yield
    with torch.no_grad():
        for x, old in before:
            x.copy_(old)
        for x in slots(agent):
            if id(x) not in known:
                x.zero_()
    agent.updates = updates


def slots(agent: Agent) -> Iterator[Tensor]:
    """The tensors of its optimizers."""
    for optimizer in agent.optimizers.values():
        for state in optimizer.state.values():
            yield from state.values()


def compiler() -> str | None:
    """The C++ compiler that torch would take."""
    return next(filter(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "c++")), None)
