"""Sharing without a simulator: three tasks of the table, each with data that were recorded on another one.

    python -m tests.benchmarks.multidata --agents iql cql --seeds 3

A policy that has learnt to reach, to touch and to hover plays all three. What it played for one task is called the next
one's data, under goals of that one: touching has only seen hovering, hovering only reaching, reaching only touching. So
no task's own data show how it is done, and all the data together do. With --rotate 0 every task has its own, and
sharing has little to give but may take. Success is averaged over the tasks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from gcrl import machine
from gcrl.collect import Collector, Lane
from gcrl.evaluate import Evaluator, interval
from gcrl.settings import Plan, command_line
from gcrl.training import Training, replay
from relabel.prefetch import Prefetch
from relabel.store import slots_for
from tasks import Episode

TASKS = ("table-reach", "table-touch", "table-hover")


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    agents: tuple[str, ...] = ("iql", "cql")
    """an agent may bring flags, "cql --weight 1" """
    share: tuple[str, ...] = ("own", "uniform", "cds", "uds")
    seeds: int = 3
    episodes: int = 20
    """of data, a task"""
    rotate: int = 1
    """whose data a task's own are: those of the one so many places before it; 0: the right ones"""
    online: int = 6_000
    """steps that the policy which plays learns for"""
    noise: float = 0.3
    """deviation of what is added to its actions"""
    updates: int = 4_000
    flags: str = "--hidden 128 128 --batch 256 --lr 1e-3 --relabel future:0.6"
    """of every line, as of gcrl.train"""
    played: int = 25
    """episodes of each task at the end"""


def player(s: Settings, seed: int) -> Training:
    """Who plays: DDPG, trained on all three."""
    training = Training(Plan.of(command_line(["--task", *TASKS, "--agent", "ddpg", "--seed", str(seed)])[0]))
    while training.steps < s.online:
        training.step()
    return training


def record(training: Training, s: Settings, seed: int) -> list[list[Episode]]:
    """Of each task, episodes that were played for the one `rotate` places before it in TASKS, under its own goals."""
    rng, chosen = np.random.default_rng(seed), training.plan.tasks
    found: list[list[Episode]] = [[] for _ in chosen]
    collector = Collector(chosen, len(chosen), seed + 1000)
    lanes = [Lane(task) for task in chosen]
    while min(map(len, found)) < s.episodes:
        action = training.agent.act(collector.state())[0].numpy()
        action = np.clip(action + s.noise * rng.normal(size=action.shape), -1, 1).astype(np.float32)
        for j, episode in collector.step(action):
            k = (j + s.rotate) % len(chosen)
            lanes[k].reset(int(rng.integers(2**31)))
            goal = lanes[k].desired[-1]
            found[k].append(episode._replace(desired=np.tile(goal, (len(episode.action), 1))))
    return [mine[: s.episodes] for mine in found]


def learn(line: str, share: str, found: list[list[Episode]], s: Settings, seed: int) -> float:
    """Success over the tasks."""
    name, *flags = line.split()
    args = ["--task", *TASKS, "--agent", name, "--share", share, "--seed", str(seed), "--n-step", "1"]
    plan = Plan.of(command_line([*args, *s.flags.split(), *flags])[0])
    training = Training(plan)
    training.replay = replay(plan, slots_for(50 * s.episodes, plan.tasks[0]))
    training.source = Prefetch(training.replay)
    for k, mine in enumerate(found):
        for episode in mine:
            training.replay.add(k, episode)
            training.observe(k, episode)
    for _ in range(s.updates):
        training.learn()
    return float(np.mean([Evaluator(task, k=k)(training.agent, s.played).success for k, task in enumerate(plan.tasks)]))


def main(s: Settings) -> None:
    torch.set_num_threads(1)
    machine.prepare(1)
    data = []
    for seed in range(s.seeds):
        training = player(s, seed)
        data.append(record(training, s, seed))
        able = [Evaluator(task, k=k)(training.agent, s.played).success for k, task in enumerate(training.plan.tasks)]
        print(f"seed {seed}: the policy that plays succeeds in {', '.join(f'{x:.2f}' for x in able)}", flush=True)
    print(f"{'':24}{'share':10} success over the tasks: mean [95 %], seeds; seconds a seed")
    for line in s.agents:
        for share in s.share:
            began = time.perf_counter()
            found = [learn(line, share, data[seed], s, seed) for seed in range(s.seeds)]
            low, high = interval(np.array(found))
            each, seconds = ", ".join(f"{x:.2f}" for x in found), (time.perf_counter() - began) / s.seeds
            said = f"{np.mean(found):.2f} [{low:.2f}, {high:.2f}]  {each}; {seconds:.0f} s"
            print(f"{line:24}{share:10} {said}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
