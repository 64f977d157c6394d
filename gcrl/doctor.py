"""gcrl doctor: what this machine has, what gcrl chose on it, and what to mend."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence

import torch

import tasks
from gcrl import compiled, layers
from gcrl.at_once import cores
from gcrl.cli import guarded, no_flags
from gcrl.collect import Lane
from gcrl.run import versions
from gcrl.settings import command_line
from tasks import InputError, SimulatorError


def checks() -> Iterator[tuple[bool, str]]:
    """(is it well, a line about it)"""
    yield sys.version_info >= (3, 11), f"python {platform.python_version()} (3.11 or newer is needed)"
    for name, version in versions().items():
        if name not in ("python", "platform"):
            yield version != "not installed", f"{name} {version}"
    settings, _ = command_line([])
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    yield (
        True,
        f"{os.cpu_count()} cores; CUDA device: {cuda}; --device auto takes {'cuda' if cuda != 'none' else 'cpu'}",
    )
    for threads in range(1, (os.cpu_count() or 1) + 1):
        if threads in (1, 2, 4, 8):
            chosen = " (the default)" if threads == settings.threads else ""
            yield True, f"a 256 x 256 x 256 product on {threads} thread(s): {_gflops(threads):.0f} GFLOP/s{chosen}"
    if layers.can_round():
        yield (
            True,
            f"the same from bfloat16: {_gflops(1, torch.bfloat16):.0f} GFLOP/s; wide networks: --precision bfloat16",
        )
    else:
        yield True, "no fast products of bfloat16: --precision float32 it is"
    found = compiled.compiler()
    yield (
        True,
        f"{found} makes an update one program in runs of {compiled.LONG:,} updates and more (--compile, --no-compile)"
        if found
        else "no C++ compiler (g++ or clang++), which --compile needs",
    )
    spare = cores() - settings.threads
    yield (
        True,
        f"training: products take {settings.threads} thread, as several stall where another job takes a core; "
        + (f"the simulator steps on {spare} other core(s) meanwhile" if spare > 0 else "the simulator waits for them"),
    )
    try:
        lane = Lane(tasks.get("fetch-reach"))
        lane.reset(0)
        began = time.perf_counter()
        for _ in range(50):
            lane.step(lane.env.action_space.sample())
        yield True, f"fetch-reach: {(time.perf_counter() - began) / 50 * 1e3:.2f} ms a step"
    except (InputError, SimulatorError) as error:
        yield False, str(error)


def _gflops(threads: int, kind: torch.dtype = torch.float32) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(256, 256).to(kind), torch.randn(256, 256).to(kind)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(50):
            a @ b
        best = min(best, (time.perf_counter() - began) / 50)
    torch.set_num_threads(before)
    return 2 * 256**3 / best / 1e9


def main(args: Sequence[str]) -> int:
    if no_flags(args, "gcrl doctor", __doc__):
        return 0
    well = True
    for good, line in checks():
        print(f"{'ok ' if good else 'BAD'} {line}")
        well &= good
    return 0 if well else 2


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
