"""Milliseconds per update of the methods for goals: ours, and OGBench's formulae in JAX, compiled (goals_worker.py).

    python -m tests.benchmarks.goals_update --jax PATH/TO/ITS/python [--rounds 15] [--agents hiql gcivl]

Batch 256, 3 x 256 units, ReLU in both, 28 numbers of a state and of a goal, 5 actions, one thread; no draw. Each side
is a process of its own, on one core, and they take turns. JAX comes with the extra `bench`, or in an environment of its
own:

    python3 -m venv jax && jax/bin/pip install jax optax
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from tests.benchmarks.offline_update import Settings as Race
from tests.benchmarks.offline_update import Worker, race
from tests.benchmarks.update import spread

SIDES = ("ours", "ours, compiled", "jax")
"""As goals_worker.py calls them."""


@dataclass(frozen=True)
class Settings:
    """What to compare."""

    jax: str = sys.executable
    """the python of the environment that has jax and optax"""
    agents: tuple[str, ...] = ("gcbc", "gcivl", "gciql", "crl", "qrl", "hiql")
    rounds: int = 15
    milliseconds: float = 400.0
    """about how long each side works in a round"""


def main(s: Settings) -> None:
    print(f"{s.rounds} rounds in turn: median (10th-90th percentile)")
    print(f"{'':24}{'ms, wall':>24}{'ms, cpu':>24}{'of jax, wall':>24}{'of jax, cpu':>24}")
    module = "tests.benchmarks.goals_worker"
    for name in s.agents:
        workers = [Worker(s.jax if side == "jax" else sys.executable, side, name, module) for side in SIDES]
        spent = race(workers, Race(rounds=s.rounds, milliseconds=s.milliseconds))
        for worker in workers:
            worker.end()
        ratios = spent / spent[:, -1:]
        for k, side in enumerate(SIDES):
            cells = [spread(x[:, k, clock]) for x in (spent, ratios) for clock in (0, 1)]
            print(f"{f'{name}, {side}':24}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
