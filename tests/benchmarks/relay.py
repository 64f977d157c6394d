"""Relay: in how many training episodes is the block touched, and how soon is it pushed, with and without.

    python -m tests.benchmarks.relay --explore relay policy --seeds 3 --steps 15000

Contact counts where the block moves by more than a millimetre from where the episode has put it, in the episodes of the
tasks whose goal is the block's. Random actions touch it in about one episode of ten.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from gcrl import checkpoint
from gcrl.settings import command_line
from gcrl.train import train

MOVED = 0.001
BLOCK = slice(3, 5)
"""x and y of the block in the observation; it settles along z"""


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    task: tuple[str, ...] = ("table-reach", "table-touch", "table-push")
    of: tuple[str, ...] = ("table-push",)
    """in whose episodes contacts are counted"""
    explore: tuple[str, ...] = ("relay", "policy")
    seeds: int = 3
    steps: int = 15_000
    window: int = 2_500
    flags: str = "--agent ddpg --share uniform --relabel future:0.4,random:0.4 --eval-episodes 20"
    runs: Path = Path("runs/relay")


def contacts(folder: Path, k: int, tasks: int, steps: int, window: int) -> list[float]:
    """The share of task k's training episodes with contact, in each window of environment steps over all tasks."""
    saved = checkpoint.load(folder)
    assert saved is not None
    store, touched, slot = saved.tensors[f"replay.{k}"], [], 0
    observation = store["observation"].numpy()
    for length in store["length"].tolist():
        block = observation[slot : slot + length + 1, BLOCK]
        touched.append(bool((np.linalg.norm(block - block[0], axis=1) > MOVED).any()))
        slot += length + 1
    began = np.cumsum([0, *store["length"].tolist()[:-1]]) * tasks
    inside = [(began >= start) & (began < start + window) for start in range(0, steps, window)]
    return [float(np.mean(np.array(touched)[rows])) for rows in inside if rows.any()]


def main(s: Settings) -> None:
    for explore in s.explore:
        for seed in range(s.seeds):
            flags = f"--explore {explore} --seed {seed} --steps {s.steps} --runs {s.runs} {s.flags}".split()
            folder = train(command_line(["--task", *s.task, *flags])[0])
            with (folder / "eval.csv").open() as file:
                rows = [row for row in csv.DictReader(file) if row["task"] in s.of]
            for name in s.of:
                k = s.task.index(name)
                share = contacts(folder, k, len(s.task), s.steps, s.window)
                curve = " ".join(f"{float(row['success']):.2f}" for row in rows if row["task"] == name)
                said = " ".join(f"{x:.2f}" for x in share)
                print(f"{explore} seed {seed} {name}: contact per {s.window} steps {said}; success {curve}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
