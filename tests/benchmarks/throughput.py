"""Learner throughput: updates a second against batch, width, tasks and replay size, and where it leaves the line.

    python -m tests.benchmarks.throughput [--agent sac] [--rounds 15] [--picture docs/throughput.png]

One axis at a time, the others at their default (a circle). An update is a draw with future goals and a gradient step of
everything. All points of all axes take turns in one process, so that what else the machine does hits them alike. The
thin line is what the default would become if time went with the work alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import tyro

from gcrl import machine
from gcrl.agents import AGENTS
from gcrl.encoder import Spec
from gcrl.settings import DEFAULT_AGENT
from relabel.replay import Replay
from tests.benchmarks.share import filled, fixed

AXES: dict[str, tuple[int, ...]] = {
    "batch": (32, 64, 128, 256, 512, 1024, 2048, 4096),
    "width": (32, 64, 128, 256, 512, 1024),
    "tasks": (1, 2, 5, 10, 20, 50),
    "transitions": (10_000, 100_000, 1_000_000, 4_000_000),
}
DEFAULT = {"batch": 256, "width": 128, "tasks": 1, "transitions": 100_000}


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    agent: str = DEFAULT_AGENT
    rounds: int = 15
    seconds: float = 0.15
    """of each point, a round"""
    threads: int = 1
    device: str = "cpu"
    picture: Path = Path("docs/throughput.png")


class Learner:
    """An agent with something to learn from."""

    def __init__(self, s: Settings, replays: dict[tuple[int, int], Replay], point: dict[str, int]) -> None:
        key = point["tasks"], point["transitions"]
        if key not in replays:
            replays[key] = filled(fixed(key[0]), "uniform", key[1])
        self.replay, self.rng = replays[key], np.random.default_rng(0)
        kind = AGENTS[s.agent]
        how = "onehot+goal" if point["tasks"] > 1 else "goal"
        settings = dataclasses.replace(kind.Settings(), batch=point["batch"], hidden=(point["width"],) * 2)
        self.agent: Any = kind(Spec.of(self.replay.tasks, 0.98, how), settings).to(s.device)
        self.updates(3)

    def updates(self, n: int) -> float:
        """Seconds that each takes."""
        began = time.perf_counter()
        for _ in range(n):
            self.agent.update(self.agent.draw(self.replay, self.rng))
        if self.replay.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / n


def points() -> Iterator[tuple[str, int]]:
    for axis, values in AXES.items():
        for value in values:
            yield axis, value


def draw(s: Settings, ms: dict[tuple[str, int], np.ndarray]) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(AXES), figsize=(14, 3.4), sharey=True, constrained_layout=True)
    for panel, (axis, values) in zip(panels, AXES.items(), strict=True):
        low, middle, high = np.array([np.percentile(ms[axis, v], (10, 50, 90)) for v in values]).T
        panel.fill_between(values, 1e3 / high, 1e3 / low, alpha=0.2)
        panel.plot(values, 1e3 / middle, ".-")
        at = DEFAULT[axis]
        rate = 1e3 / np.median(ms[axis, at])
        panel.plot([at], [rate], "o", fillstyle="none", markersize=9)
        if axis in ("batch", "width"):
            panel.plot(values, rate * (at / np.array(values)) ** (2 if axis == "width" else 1), lw=0.7, color="grey")
        panel.set(xscale="log", yscale="log", xlabel=axis, ylim=(5, 2000))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"updates a second ({s.agent}, {s.threads} thread)")
    s.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(s.picture, dpi=90)


def main(s: Settings) -> None:
    machine.prepare(s.threads)
    replays: dict[tuple[int, int], Replay] = {}
    learners = {(axis, value): Learner(s, replays, DEFAULT | {axis: value}) for axis, value in points()}
    counts = {key: max(1, round(s.seconds / learner.updates(3))) for key, learner in learners.items()}
    rounds = [{key: learner.updates(counts[key]) * 1e3 for key, learner in learners.items()} for _ in range(s.rounds)]
    ms = {key: np.array([one[key] for one in rounds]) for key in learners}
    print(
        f"{s.agent}, {s.threads} thread(s): ms an update, median (10th-90th percentile); times the default in a round"
    )
    for axis, value in points():
        low, middle, high = np.percentile(ms[axis, value], (10, 50, 90))
        ratio = np.median(ms[axis, value] / ms[axis, DEFAULT[axis]])
        print(f"{axis:12}{value:10,}{middle:9.2f} ({low:.2f}-{high:.2f}){ratio:8.2f}")
    draw(s, ms)
    print(s.picture)


if __name__ == "__main__":
    main(tyro.cli(Settings))
