"""What a policy does when it is told its task in other words, and when it is told another task.

    python -m tests.benchmarks.sentences runs/sharing/table/task-id-language*/*/*

For each run with --task-id language: success with the sentence that was learned, with three that were not, and with
those of the other tasks, which say how much the policy listens at all. The paraphrases were written down before any
vector of theirs was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from gcrl import policy
from gcrl.agents import Agent
from gcrl.evaluate import Evaluator, interval
from gcrl.settings import Plan

WORDS = {
    "table-reach": (
        "bring the gripper to the goal position above the table",
        "go with the hand to the marked point",
        "move the arm to the target point",
    ),
    "table-touch": (
        "grasp the cube between the fingers",
        "close the fingers around the cube",
        "take hold of the block",
    ),
    "table-hover": (
        "keep the gripper ten centimetres above the cube",
        "float the gripper over the cube",
        "stay with the hand ten centimetres above the block",
    ),
}


@dataclass(frozen=True)
class Settings:
    """Which runs, and how often each sentence is said."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    episodes: int = 50


def told(agent: Agent, plan: Plan, evaluators: Sequence[Evaluator], k: int, sentence: str, episodes: int) -> float:
    """Success in task k when the policy is told this sentence."""
    policy.instruct(agent, plan, sentence)
    return evaluators[k](agent, episodes).success


def main(s: Settings) -> None:
    torch.set_num_threads(1)
    known: dict[str, list[tuple[float, list[float], list[float]]]] = {}
    for folder in s.runs:
        agent, plan, _ = policy.load(folder)
        evaluators = [Evaluator(task, k=k) for k, task in enumerate(plan.tasks)]
        for k, task in enumerate(plan.tasks):
            own = told(agent, plan, evaluators, k, task.description, s.episodes)
            new = [told(agent, plan, evaluators, k, text, s.episodes) for text in WORDS[task.name]]
            others = [other.description for j, other in enumerate(plan.tasks) if j != k]
            wrong = [told(agent, plan, evaluators, k, text, s.episodes) for text in others]
            known.setdefault(task.name, []).append((own, new, wrong))
    print(f"success over {len(s.runs)} runs of {s.episodes} episodes: as learned; in other words; told another task")
    for name, rows in known.items():
        own, new, wrong = (np.array(column) for column in zip(*rows, strict=True))
        for text, column in zip(WORDS[name], new.T, strict=True):
            ratio = column.mean() / max(own.mean(), 1e-9)
            print(f"{name:12} {own.mean():.2f} {column.mean():.2f} ({ratio:.0%})  {text}")
        print(f"{name:12} another task's sentence {wrong.mean():.2f}")
    own, new = (np.array([np.mean(row[i]) for rows in known.values() for row in rows]) for i in (0, 1))
    low, high = interval(new)
    print(f"all: as learned {own.mean():.2f}, in other words {new.mean():.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main(tyro.cli(Settings))
