"""Success against steps and seconds on a Fetch task: our agents beside SB3's SAC and sb3-contrib's TQC with hindsight.

    python -m tests.benchmarks.solve [--task fetch-push] [--seeds 3] [--steps 80000] [--seconds 600]
        [--ours "sac --utd 2" "sac --task table-touch table-push --explore relay"] [--lines ours "tqc zoo"]

A line of `ours` is an agent and flags of gcrl.train, everything else at its defaults. The peers run with what
rl-baselines3-zoo publishes (tests/benchmarks/peers.py), with less or more normalisation, and with those of our settings
that they have too; they step the stock environment, we our faster one, and both simulate the same bits. The lines of a
seed run one after the other in one process; the same episodes are played for all, off the clock. Every evaluation is a
row of runs/solve-<task>-<time>.json, which is written anew after each line.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import tasks
from gcrl import run
from gcrl.settings import Plan, command_line
from gcrl.train import Training
from tests.benchmarks import peers
from tests.benchmarks.peers import Budget, Curve, Point, Train, Watch


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    task: str = "fetch-reach"
    seeds: int = 5
    first_seed: int = 0
    steps: int = 6000
    """environment steps of a line, at most"""
    seconds: float = float("inf")
    """of training of a line, at most"""
    every: int = 250
    """steps between evaluations"""
    every_seconds: float | None = None
    """of training between evaluations; none: they come by steps"""
    episodes: int = 50
    """of one evaluation"""
    enough: float = 0.9
    """the success that counts as solved"""
    threads: int = 1
    """of a matrix product, for all lines"""
    ours: tuple[str, ...] = ("td3", "ddpg", "sac")
    """an agent and flags of gcrl.train, a line each"""
    lines: tuple[str, ...] = ("",)
    """beginnings of the names of those that run: ours, sb3, tqc and so on"""
    beside: str = ""
    """the line that the others are compared with; none: the first that runs"""
    runs: Path = Path("runs")
    """where the rows go"""


def ours(flags: str, task: str, seed: int, watch: Watch) -> None:
    """Train one of our agents on `task`, or on the tasks of its flags, of which `task` is watched."""
    agent, *rest = shlex.split(flags)
    budget = ["--steps", str(watch.budget.steps), "--device", "cpu"]
    settings, _ = command_line(["--task", task, "--agent", agent, "--seed", str(seed), *budget, *rest])
    plan = Plan.of(settings)
    k = [one.name for one in plan.tasks].index(task)
    training = Training(plan)
    watch.start(plan.tasks[k], k)
    while True:
        training.step()
        if not watch.go_on(training.steps, training.agent):
            return


def solved(curve: Curve, enough: float) -> tuple[float, float]:
    """Steps and seconds to the first evaluation with enough success that the next confirms; inf if there is none."""
    for point, after in pairwise(curve):
        if min(point.success, after.success) >= enough:
            return point.step, point.seconds
    return np.inf, np.inf


def at(curve: Curve, seconds: float) -> float:
    """Success at the last evaluation by then, give or take what one step may be over; 0 before there is one."""
    return max(((p.seconds, p.success) for p in curve if p.seconds <= 1.02 * seconds), default=(0.0, 0.0))[1]


def rows(curves: Mapping[str, list[Curve]], s: Settings) -> list[dict[str, Any]]:
    """One for each evaluation."""
    return [
        {"task": s.task, "line": name, "seed": s.first_seed + i, **point._asdict()}
        for name, seeds in curves.items()
        for i, curve in enumerate(seeds)
        for point in curve
    ]


def versions() -> dict[str, str]:
    out = run.versions()
    for package in ("stable-baselines3", "sb3-contrib"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def race(name: str, lines: Mapping[str, Train], s: Settings) -> dict[str, list[Curve]]:
    """name -> a curve for each seed. All lines run within each seed, so that a busy machine is busy for all."""
    torch.set_num_threads(s.threads)
    budget = Budget(s.steps, s.seconds, s.every, s.every_seconds, s.episodes)
    curves: dict[str, list[Curve]] = {line: [] for line in lines}
    first = min(tasks.get(s.task).horizon + 60, s.steps)
    for train in lines.values():  # what is slow only once, the first updates too, is not on the clock
        train(s.task, 0, Watch(dataclasses.replace(budget, steps=first, episodes=0)))
    s.runs.mkdir(exist_ok=True)
    path = s.runs / f"{name}-{s.task}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    told = {"benchmark": name, "settings": flags(s), "versions": versions()}
    for seed in range(s.first_seed, s.first_seed + s.seeds):
        for line, train in lines.items():
            watch = Watch(budget)
            train(s.task, seed, watch)
            curves[line].append(watch.curve)
            said = "  ".join(f"{p.step}: {p.success:.2f} ({p.seconds:.1f} s)" for p in watch.curve)
            print(f"seed {seed}  {line}\n    {said}", flush=True)
            each = ",\n".join(map(json.dumps, rows(curves, s)))
            path.write_text(f'{json.dumps(told)[:-1]}, "rows": [\n{each}\n]}}\n')
    print(f"\nrows in {path}")
    return curves


def flags(s: Settings) -> dict[str, Any]:
    """For JSON, which has no infinity and no path."""
    out = {key: str(x) if isinstance(x, Path) else x for key, x in dataclasses.asdict(s).items()}
    return {key: None if isinstance(x, float) and not np.isfinite(x) else x for key, x in out.items()}


def tables(curves: Mapping[str, list[Curve]], s: Settings, beside: Mapping[str, str]) -> None:
    """Medians over the seeds: the curve, what it took, and each line beside another."""
    print("\nmedians over the seeds: success (seconds of training)")
    for name, seeds in curves.items():
        points = [Point(*np.median(column, 0)) for column in zip(*seeds, strict=False)]
        print(f"  {name:40}" + "  ".join(f"{p.step:.0f}: {p.success:.2f} ({p.seconds:.1f})" for p in points))
    first = next((name for name in curves if name == s.beside), next(iter(curves)))
    reached = {name: np.array([solved(curve, s.enough) for curve in seeds]) for name, seeds in curves.items()}
    pace = {name: np.array([1e3 * c[-1].seconds / c[-1].step for c in seeds]) for name, seeds in curves.items()}
    took = np.median([curve[-1].seconds for curve in curves[first]])
    print(f"\n{'':40}  steps to {s.enough:.0%}  seconds  ms/step  success at {took:5.0f} s   ", end="")
    print("median ratio of steps, seconds, ms/step to")
    for name, seeds in curves.items():
        other = beside.get(name, first)
        other = other if other in curves else first
        steps, seconds = np.median(reached[name], 0)
        with np.errstate(invalid="ignore"):
            ratios = [*np.median(reached[name] / reached[other], 0), np.median(pace[name] / pace[other])]
        then = np.median([at(curve, took) for curve in seeds])
        print(
            f"  {name:38}{steps:14.0f}{seconds:9.1f}{np.median(pace[name]):9.2f}{then:20.2f}   "
            + "".join(f"{x:8.2f}" for x in ratios)
            + f"   {other}"
        )


def report(name: str, lines: Mapping[str, Train], s: Settings, beside: Mapping[str, str] | None = None) -> None:
    """Race those lines that are asked for, and print them, each beside another or the first."""
    chosen = {line: train for line, train in lines.items() if line.startswith(s.lines)}
    if not chosen:
        raise SystemExit(f"--lines: none begins so; there are {'; '.join(lines)}")
    tables(race(name, chosen, s), s, beside or {})


if __name__ == "__main__":
    told = tyro.cli(Settings, description=__doc__)
    mine: dict[str, Train] = {f"ours {flags}": partial(ours, flags) for flags in told.ours}
    report("solve", mine | peers.lines(told.task), told)
