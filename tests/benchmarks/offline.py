"""Algorithms side by side on one data set, without a simulator until they are evaluated.

    python -m tests.benchmarks.offline --task gym:HalfCheetah-v5 --data data/cheetah-medium --updates 10000 50000

One line an algorithm, printed as it ends: the return after so many updates, the mean over seeds with its 95 % interval,
in the unit that --zero and --one say (return at 0 and at 100), and the milliseconds of an update; each evaluation is on
stderr at once, so that a run cut short has not been for nothing. Where the task has goals, success in percent says
more, and a budget can be the minutes that a learner had of its core:

    python -m tests.benchmarks.offline --task ogbench:pointmaze-medium-v0 --data data/maze --success --minutes 5

Several tasks are one policy, with a line for each task under their mean; `--data TASK=PATH` says whose a data set is.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro

from gcrl import machine
from gcrl.agents import AGENTS
from gcrl.evaluate import Evaluator, every, interval
from gcrl.settings import Plan, command_line
from gcrl.training import Training


@dataclass(frozen=True)
class Settings:
    """What to compare."""

    task: tuple[str, ...] = ("gym:HalfCheetah-v5",)
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


class Learnt(NamedTuple):
    """By one line under one seed."""

    scores: list[dict[str, float]]
    """at each budget, in each task and, of several, over all"""
    seconds: float
    """of an update"""
    updates: int


def learn(line: str, s: Settings, seed: int) -> Learnt:
    """One policy, and what it reached."""
    name, *flags = line.split()
    relabel = [] if s.relabel is None else ["--relabel", s.relabel]
    args = ["--task", *s.task, "--offline", "--data", *s.data, "--agent", name, "--seed", str(seed), *relabel]
    plan = Plan.of(command_line([*args, *s.flags.split(), *flags])[0])
    machine.prepare(plan.settings.threads, plan.settings.precision, plan.device.type)
    training = Training(replace(plan, steps=max(s.updates)))
    evaluators = [Evaluator(task, k=k) for k, task in enumerate(plan.tasks)]
    found: list[dict[str, float]] = []
    spent = 0.0
    for budget in budgets(s):
        while spent < 60 * budget if s.minutes else training.steps < budget:
            began = time.process_time()
            training.step()
            spent += time.process_time() - began
        results = every(evaluators, training.agent, s.episodes, device=plan.device)
        found.append({name: score(r.success if s.success else r.mean_return, s) for name, r in results.items()})
        said = " ".join(f"{x:.1f}" for x in found[-1].values())
        print(f"{line}, seed {seed}, {budget:,g}: {said}", file=sys.stderr, flush=True)
    for evaluator in evaluators:
        evaluator.close()
    return Learnt(found, spent / training.steps, training.steps)


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
        each, updates = 1e3 * np.mean([run.seconds for run in runs]), np.mean([run.updates for run in runs])
        scores = {name: np.array([[at[name] for at in run.scores] for run in runs]) for name in runs[0].scores[0]}
        *tasks, whole = scores
        print(row(line, scores[whole]) + f"  {each:.1f}, {updates:,.0f}", flush=True)
        for name in tasks:
            print(row(f"  {name}", scores[name]), flush=True)


def row(name: str, scores: np.ndarray[Any, Any]) -> str:
    """The mean over seeds of scores (seed, budget), with its 95 % interval."""
    cells = []
    for column in scores.T:
        low, high = interval(column)
        cells.append(f"{column.mean():.1f}" + (f" [{low:.1f}, {high:.1f}]" if len(column) > 1 else ""))
    return f"{name:24}" + "".join(f"{cell:>22}" for cell in cells)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Settings))
