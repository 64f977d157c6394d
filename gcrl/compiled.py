"""A whole update as one compiled program: its small operations fused, and no interpreter between the products."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gcrl.optim import written_out
from tasks.task import InputError

if TYPE_CHECKING:
    from gcrl.agents.agent import Agent, Metrics

Program = Callable[..., Sequence[Tensor]]
Build = Callable[[torch.fx.GraphModule, list[Tensor]], Program]
LONG = 20_000
"""Updates of a run that is compiled unasked: by then what was measured had won it back (docs/results.md)."""


def pays(updates: float, device: torch.device) -> bool:
    """Is a run so long that it is over sooner? On a GPU nobody has measured it yet."""
    return updates >= LONG and device.type == "cpu"


def build(graph: torch.fx.GraphModule, given: list[Tensor]) -> Program:
    """By torch's compiler, on a GPU as a CUDA graph. Draws are torch's own; several may be made in another order.

    Not by torch.compile, which would trace anew what is traced already, and look at each update whether it may run the
    program that it has: 0.2 ms of it. Where all shapes are known the compiler finds what it made before, on disk.
    On a CPU the calls of products and loops are C++ too: hundreds of calls from Python take a sixth of a small update.
    """
    from torch import _inductor  # here, as it takes two seconds to import
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    gpu = given[0].is_cuda
    options = {"fallback_random": True, "deterministic": gpu, "cpp_wrapper": not gpu}
    context = tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv(assume_static_by_default=True))))
    with context, deterministic(gpu):
        program: Program = _inductor.compile(graph, list[Any](given), options=options)
        return recorded(program, given) if gpu else program


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """What is compiled and recorded inside is deterministic, if that is wanted; on a CPU it is anyway."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def recorded(program: Program, given: list[Tensor]) -> Program:
    """The program as one CUDA graph: its kernels are begun by one call. It is run to get there, and changes the agent.

    Not by the graphs of torch's compiler, which count on torch.compile: without it they take weights for inputs that
    change, and give up (_inductor/cudagraph_utils.py, check_for_mutation).
    """
    mine, stream = [x.clone() for x in given], torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are loaded and memory is taken before anything is recorded
        for _ in range(3):
            program(*mine)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = program(*mine)

    def replay(*given: Tensor) -> list[Tensor]:
        for x, new in zip(mine, given, strict=True):
            x.copy_(new)
        graph.replay()
        return [x.clone() for x in found]  # the next update writes into the same memory

    replay.program = program  # type: ignore[attr-defined]  # whose constants and kernels the graph goes on to use
    return replay


class Compiled:
    """In place of `agent.update`: forward, backward and Adam, traced once for each phase and shape of data.

    What a program reads and changes besides its data are the agent's own tensors, where they are: weights, buffers and
    the state of optimizers must be changed in place by whoever else changes them. Results agree but for rounding, and
    the order of draws where there are several; they are the same whenever a run was cut off and went on, as tracing
    leaves nothing behind. Where it cannot be, InputError says so, but if it is `optional` updates stay as they are.
    """

    def __init__(self, agent: Agent, build: Build = build, optional: bool = False) -> None:
        if not agent.steady:
            raise InputError(
                f"--compile: updates of {type(agent).__name__.lower()} with these flags differ from one another, "
                "leave it out"
            )
        if not (next(agent.parameters()).is_cuda or compiler()):
            raise InputError("--compile: no C++ compiler here, install g++ or clang++, or leave it out")
        self.agent, self.plain = agent, agent.update
        self.build, self.optional = build, optional
        self.programs: dict[Hashable, tuple[Program, list[str]]] = {}

    def __call__(self, data: Any) -> Metrics:
        phase = self.agent.phase()
        if phase is None:
            return self.plain(data)
        given = [x.contiguous() for x in tensors(data)]  # a program knows how its data lie
        key = phase, tuple([x.shape for x in given])
        if key not in self.programs:
            try:
                self.programs[key] = self.trace(data, given)
            except InputError as error:
                if not self.optional:
                    raise
                print(f"gcrl: {str(error).replace(', leave it out', '')}; updates stay as they are", file=sys.stderr)
                del self.agent.update  # back to its own
                return self.plain(data)
        program, names = self.programs[key]
        with torch.no_grad():
            found = program(self.agent.pace, *given)
        self.agent.updates += 1
        return dict(zip(names, found, strict=True))

    def trace(self, data: Any, given: list[Tensor]) -> tuple[Program, list[str]]:
        """The program for data like these, and the names of the metrics that it returns."""
        from torch.fx.experimental.proxy_tensor import make_fx

        names: list[str] = []

        def run(pace: Tensor, *mine: Tensor) -> list[Tensor]:
            with written_out(pace):
                metrics = self.plain(like(data, iter(mine)))
            names[:] = metrics
            return [x.detach() for x in metrics.values()]

        given = [self.agent.pace, *given]
        with untouched(self.agent):
            self.plain(data)  # so that the optimizers have a state
            self.agent.updates -= 1
            try:
                with torch.autograd.set_multithreading_enabled(False):  # on a GPU backward has a thread of its own
                    graph = make_fx(run)(*given)
            except RuntimeError as error:
                said = str(error).splitlines()[0][:200]
                raise InputError(f"--compile: an update cannot be traced, leave it out ({said})") from error
        try:
            with torch.no_grad(), deaf_children(), untouched(self.agent):
                return self.build(graph, given), names
        except Exception as error:  # whatever it is, it is a compiler's
            said = " ".join(str(error).split())[:200]
            raise InputError(f"--compile: torch's compiler fails here, leave it out ({said})") from error


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside do not hear Ctrl-C, which a terminal sends to them too: they would fail of it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    try:
        with torch.random.fork_rng():
            yield
    finally:
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
