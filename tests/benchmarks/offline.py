"""Algorithms side by side on one data set, without a simulator until they are evaluated.

    python -m tests.benchmarks.offline --task gym:HalfCheetah-v5 --data data/cheetah-medium --updates 10000 50000

One line an algorithm, printed as it ends: the return after so many updates, the mean over seeds with its 95 % interval,
in the unit that --zero and --one say (return at 0 and at 100), and the milliseconds of an update; each evaluation is on
stderr at once, so that a run cut short has not been for nothing. Where the task has goals, success in percent says
more, and a budget can be the minutes that a learner had of its core:

    python -m tests.benchmarks.offline --task ogbench:pointmaze-medium-v0 --data data/maze --success --minutes 5
"""

from __future__ import annotations

import sys
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
    minutes: tuple[float, ...] = ()
    """evaluate after so many of CPU time instead, draws included and evaluations not"""
    success: bool = False
    """report success at the last step, in percent, not the return"""
    episodes: int = 10
    relabel: str | None = None
    flags: str = ""
    """of every line, as of gcrl.train"""
    zero: float = 0.0
    one: float = 100.0


def learn(line: str, s: Settings, seed: int) -> tuple[list[float], float, int]:
    """What was reached at each budget, seconds of an update, and how many there were."""
    name, *flags = line.split()
    relabel = [] if s.relabel is None else ["--relabel", s.relabel]
    args = ["--task", s.task, "--offline", "--data", *s.data, "--agent", name, "--seed", str(seed), *relabel]
    plan = Plan.of(command_line([*args, *s.flags.split(), *flags])[0])
    machine.prepare(plan.settings.threads, plan.settings.precision)
    training, evaluator = Training(replace(plan, steps=max(s.updates))), Evaluator(plan.tasks[0])
    found, spent = [], 0.0
    for budget in budgets(s):
        while spent < 60 * budget if s.minutes else training.steps < budget:
            began = time.process_time()
            training.step()
            spent += time.process_time() - began
        result = evaluator(training.agent, s.episodes, device=plan.device)
        found.append(score(result.success if s.success else result.mean_return, s))
        print(f"{line}, seed {seed}, {budget:,g}: {found[-1]:.1f}", file=sys.stderr, flush=True)
    evaluator.close()
    return found, spent / training.steps, training.steps


def score(found: float, s: Settings) -> float:
    """In percent of success, or of the way from --zero to --one."""
    zero, one = (0.0, 1.0) if s.success else (s.zero, s.one)
    return 100 * (found - zero) / (one - zero)


def budgets(s: Settings) -> list[float]:
    """Updates, or minutes, after which to evaluate."""
    return sorted(s.minutes or s.updates)


def main(s: Settings) -> None:
    made = [name for name, kind in AGENTS.items() if kind.offline and not kind.discrete]
    unit = " min" if s.minutes else ""
    print(f"{'':24}" + "".join(f"{f'{n:,g}{unit}':>22}" for n in budgets(s)) + "  ms an update, updates")
    for line in s.agents or ("sac", *made):
        runs = [learn(line, s, seed) for seed in range(s.seeds)]
        scores = np.array([found for found, _, _ in runs])
        cells = []
        for column in scores.T:
            low, high = interval(column)
            cells.append(f"{column.mean():.1f}" + (f" [{low:.1f}, {high:.1f}]" if s.seeds > 1 else ""))
        each, updates = 1e3 * np.mean([x for _, x, _ in runs]), np.mean([n for _, _, n in runs])
        print(f"{line:24}" + "".join(f"{cell:>22}" for cell in cells) + f"  {each:.1f}, {updates:,.0f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Settings))
