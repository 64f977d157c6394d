"""Milliseconds per update of CQL and IQL: ours, as a single-file script has them (plain_offline.py), and d3rlpy's.

    python -m tests.benchmarks.offline_update [--d3rlpy PATH/TO/ITS/python] [--rounds 15] [--agents cql iql]

Batch 256, 2 x 256 units, ReLU, 17 numbers in, 6 actions, ten proposals of a kind, one thread. Each side is a process of
its own with the same batch, and they take turns. d3rlpy wants a virtual environment of its own:

    python3 -m venv d3 && d3/bin/pip install d3rlpy "torch>=2.10,<2.14"

"wall" is the clock; "cpu" what the process had of its core, which says more where other jobs run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import tyro

from gcrl.layers import can_round
from tests.benchmarks.offline_worker import ROOT
from tests.benchmarks.update import spread

ROUNDED = {"ours, bfloat16": "ours, bfloat16"} if can_round() else {}
OTHERS = {"ours, compiled": "ours, compiled", **ROUNDED, "plain": "plain", "d3rlpy": "d3rlpy"}
SIDES = {
    "cql": {"ours": "ours", "ours, gradient of all": "ours, all", **OTHERS},
    "iql": {"ours": "ours", **OTHERS},
}
"""Per algorithm, what it is called here and in offline_worker.py."""


@dataclass(frozen=True)
class Settings:
    """What to compare."""

    d3rlpy: str = ""
    """the python of the environment that has it; none: its lines are left out"""
    agents: tuple[str, ...] = ("cql", "iql")
    rounds: int = 15
    milliseconds: float = 400.0
    """about how long each side works in a round"""


class Worker:
    """A side at work in a process of its own."""

    def __init__(self, python: str, who: str, name: str, module: str = "tests.benchmarks.offline_worker") -> None:
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
        self.process = subprocess.Popen(
            [python, "-m", module, who, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **threads},
        )
        self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side died: {self.process.args!r}")
        return line

    def ask(self, n: int) -> np.ndarray:
        """Milliseconds of one of n updates, on the wall and of the core: (2,)"""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return 1e3 * np.array(self.answer().split(), float) / n

    def end(self) -> None:
        self.process.communicate("0\n")


def race(workers: list[Worker], s: Settings) -> np.ndarray:
    """ms per update, on the wall and of the core: (rounds, sides, 2). Who begins goes round."""
    updates = [max(1, round(s.milliseconds / worker.ask(3)[1])) for worker in workers]
    spent = np.zeros((s.rounds, len(workers), 2))
    for i in range(s.rounds):
        for k in np.roll(range(len(workers)), -i):
            spent[i, k] = workers[k].ask(updates[k])
    return spent


def main(s: Settings) -> None:
    if not s.d3rlpy:
        print("d3rlpy is left out: no --d3rlpy PATH_TO_PYTHON")
    print(f"{s.rounds} rounds in turn: median (10th-90th percentile)")
    print(f"{'':28}{'ms, wall':>24}{'ms, cpu':>24}{'of ours, wall':>24}{'of ours, cpu':>24}")
    for name in s.agents:
        chosen = {label: who for label, who in SIDES[name].items() if who != "d3rlpy" or s.d3rlpy}
        workers = [Worker(s.d3rlpy if who == "d3rlpy" else sys.executable, who, name) for who in chosen.values()]
        spent = race(workers, s)
        for worker in workers:
            worker.end()
        ratios = spent / spent[:, :1]
        for k, label in enumerate(chosen):
            cells = [spread(x[:, k, clock]) for x in (spent, ratios) for clock in (0, 1)]
            print(f"{f'{name}, {label}':28}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
