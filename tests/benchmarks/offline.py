"""Algorithms side by side on one data set, without a simulator until they are evaluated.

    python -m tests.benchmarks.offline --task gym:HalfCheetah-v5 --data data/cheetah-medium --updates 10000 50000

One line an algorithm, printed as it ends: the return after so many updates, the mean over seeds with its 95 % interval,
in the unit that --zero and --one say (return at 0 and at 100), and the milliseconds of an update.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro

from gcrl import machine
from gcrl.agents import AGENTS
from gcrl.evaluate import Evaluator, interval
from gcrl.settings import Plan, command_line
from gcrl.training import Training


@dataclass(frozen=True)
class Settings:
    """What to compare."""

    task: str = "gym:HalfCheetah-v5"
    data: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    """none: all that are made for data, and sac; an agent may bring flags, "cql --weight 10" """
    updates: tuple[int, ...] = (10_000, 50_000)
    """evaluate after so many"""
    seeds: int = 1
    episodes: int = 10
    relabel: str | None = None
    flags: str = ""
    """of every line, as of gcrl.train"""
    zero: float = 0.0
    one: float = 100.0


def learn(line: str, s: Settings, seed: int) -> tuple[list[float], float]:
    """Mean returns after each number of updates, and seconds of an update."""
    name, *flags = line.split()
    relabel = [] if s.relabel is None else ["--relabel", s.relabel]
    args = ["--task", s.task, "--offline", "--data", *s.data, "--agent", name, "--seed", str(seed), *relabel]
    plan = Plan.of(command_line([*args, *s.flags.split(), *flags])[0])
    machine.prepare(plan.settings.threads)
    training, evaluator = Training(replace(plan, steps=max(s.updates))), Evaluator(plan.tasks[0])
    found, seconds = [], 0.0
    for until in sorted(s.updates):
        began = time.perf_counter()
        while training.steps < until:
            training.step()
        seconds += time.perf_counter() - began
        found.append(evaluator(training.agent, s.episodes, device=plan.device).mean_return)
    evaluator.close()
    return found, seconds / max(s.updates)


def main(s: Settings) -> None:
    made = [name for name, kind in AGENTS.items() if kind.offline and not kind.discrete]
    print(f"{'':24}" + "".join(f"{f'{n:,}':>22}" for n in sorted(s.updates)) + "  ms an update")
    for line in s.agents or ("sac", *made):
        runs = [learn(line, s, seed) for seed in range(s.seeds)]
        scores = 100 * (np.array([found for found, _ in runs]) - s.zero) / (s.one - s.zero)
        cells = []
        for column in scores.T:
            low, high = interval(column)
            cells.append(f"{column.mean():.1f}" + (f" [{low:.1f}, {high:.1f}]" if s.seeds > 1 else ""))
        each = 1e3 * np.mean([seconds for _, seconds in runs])
        print(f"{line:24}" + "".join(f"{cell:>22}" for cell in cells) + f"  {each:.1f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Settings))
