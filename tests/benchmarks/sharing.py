"""Ways to share, side by side: the same network, the same updates, the same environment steps of every task.

    python -m tests.benchmarks.sharing --scene table
    python -m tests.benchmarks.sharing --scene maze
    python -m tests.benchmarks.sharing --scene table --flag share --values own uniform --also="--agent sac"

Every run is the command line's own, in a process of its own; runs that are there already are not repeated. The figure
is the mean success over the tasks: steps until an evaluation is at 80 % and the next one confirms it, and the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from gcrl.evaluate import ALL, interval
from gcrl.run import Table

SCENES = {
    "table": "--agent ddpg --task table-reach table-touch table-hover --steps 6000 --eval-every 500 --eval-episodes 20",
    "maze": "--agent ddpg --task point-maze-umaze-* --steps 8000 --eval-every 1000 --eval-episodes 10",
}


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    scene: str = "table"
    flag: str = "share"
    """the flag that differs"""
    values: tuple[str, ...] = ("own", "uniform", "random", "groups", "hindsight", "hipi", "cds", "uds")
    also: str = ""
    """flags for all runs"""
    seeds: int = 3
    jobs: int = 2
    """runs side by side"""
    goal: float = 0.8
    runs: Path = Path("runs/sharing")


def play(s: Settings, value: str, seed: int) -> Path:
    """The run's folder, whether it was there or is new."""
    home = s.runs / s.scene / f"{s.flag}-{value.replace(':', '-')}{s.also.replace(' ', '')}" / str(seed)
    done = [path for path in home.glob("*") if (path / "curve.png").exists()]
    if done:
        return done[0]
    flags = f"{SCENES[s.scene]} --{s.flag} {value} --seed {seed} --runs {home} {s.also}".split()
    command = [sys.executable, "-m", "gcrl.train", *flags]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if said.returncode:
        raise SystemExit(said.stderr)
    return Path(said.stdout.split()[-1])


def curve(folder: Path) -> dict[int, float]:
    """step -> mean success over the tasks."""
    return {int(r["step"]): float(r["success"]) for r in Table(folder / "eval.csv").rows() if r["task"] == ALL}


def steps_to(found: dict[int, float], goal: float) -> float:
    """The first evaluation at `goal` that the next one confirms; infinite if there is none."""
    steps, values = list(found), list(found.values())
    for i in range(len(steps) - 1):
        if values[i] >= goal and values[i + 1] >= goal:
            return steps[i]
    return float("inf")


def main(s: Settings) -> None:
    pairs = [(value, seed) for seed in range(s.seeds) for value in s.values]
    with ThreadPoolExecutor(s.jobs) as pool:
        folders = dict(zip(pairs, pool.map(lambda pair: play(s, *pair), pairs), strict=True))
    print(f"{s.scene}, {s.seeds} seeds: steps to {s.goal:.0%} mean success over all tasks; success at the end [95 %]")
    for value in s.values:
        curves = [curve(folders[value, seed]) for seed in range(s.seeds)]
        to = [steps_to(found, s.goal) for found in curves]
        ends = np.array([list(found.values())[-1] for found in curves])
        low, high = interval(ends)
        mean = np.mean([list(found.values()) for found in curves])
        told = json.dumps([x if np.isfinite(x) else None for x in to])
        end = f"end {ends.mean():.2f} [{low:.2f}, {high:.2f}]"
        print(f"{value:12} median {np.median(to):6.0f} {told}; {end}; mean of the curve {mean:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
