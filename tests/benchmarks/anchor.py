"""Sharing at its smallest: FetchReach with eight fixed goals as eight tasks, learned from random episodes alone.

    python -m tests.benchmarks.anchor --seeds 3

160 random episodes, 20 a task; one-hot identity, no goal in the state and no hindsight; DDPG, 2,500 updates of 256. The
figure is the return plus 50: of the 50 steps of an episode, how many are spent at the goal.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial

import gymnasium
import numpy as np
import torch
import tyro

import tasks
from gcrl.agents import AGENTS
from gcrl.collect import Collector
from gcrl.encoder import Spec
from gcrl.evaluate import Evaluator, interval
from relabel import goals, share
from relabel.replay import Replay
from relabel.store import slots_for
from tasks import Episode, Task

TASKS, EPISODES, GAMMA = 8, 20, 0.98


class Fixed(gymnasium.Wrapper):
    """An environment of the arm with one goal."""

    def __init__(self, env, goal):
        super().__init__(env)
        self.fixed = goal

    def reset(self, **options):
        obs, info = self.env.reset(**options)
        self.env.goal = self.fixed
        return {**obs, "desired_goal": self.fixed.copy()}, info


def make(task: Task, goal: tuple[float, ...], render_mode: str | None = None):
    return Fixed(task.make(render_mode=render_mode), np.array(goal))


def fixed_goals(seed: int) -> list[Task]:
    """Eight tasks, their goals drawn as the simulator draws them."""
    reach = tasks.get("fetch-reach")
    env = reach.make()
    drawn = [env.reset(seed=1000 * seed + k)[0]["desired_goal"] for k in range(TASKS)]
    return [
        dataclasses.replace(reach, name=f"reach-{k}", make=partial(make, reach, tuple(goal)))
        for k, goal in enumerate(drawn)
    ]


def record(chosen: list[Task], seed: int) -> list[tuple[int, Episode]]:
    """Random episodes of every task."""
    rng = np.random.default_rng(seed)
    collector, found = Collector(chosen, 1, seed), []
    while len(found) < TASKS * EPISODES:
        found += collector.step(rng.uniform(-1, 1, (1, 4)).astype(np.float32))
    return found


def learn(name: str, chosen: list[Task], data: list[tuple[int, Episode]], s: Settings, seed: int) -> float:
    """Steps at the goal, of 50, averaged over the tasks."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    capacity = slots_for(EPISODES * 50, chosen[0])
    replay = Replay(chosen, capacity, goals.parse(s.relabel), GAMMA, sharing=share.parse(name))
    kind = AGENTS[s.agent]
    agent = kind(
        Spec.of(chosen, GAMMA, s.task_id), kind.Settings(lr=s.lr, action_penalty=s.action_penalty, hidden=(256, 256))
    )
    for k, episode in data:
        replay.add(k, episode)
        seen = np.concatenate((chosen[k].goal_of(episode.observation), episode.desired))
        agent.encode.observe(torch.from_numpy(episode.observation), torch.from_numpy(seen), k)
    for _ in range(s.updates):
        agent.update(agent.draw(replay, rng))
    scores = [Evaluator(task, k=k)(agent, s.episodes).mean_return + 50 for k, task in enumerate(chosen)]
    return float(np.mean(scores))


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    share: tuple[str, ...] = ("own", "uniform", "random", "hindsight", "hipi", "cds", "cds-soft", "uds")
    seeds: int = 3
    agent: str = "ddpg"
    updates: int = 2500
    lr: float = 2e-3
    """twice the agent's own: 2,500 updates are few"""
    action_penalty: float = 1.0
    """as in OpenAI's baselines (Plappert et al. 2018, table 2): with less, a task's actor may saturate for good"""
    episodes: int = 5
    """played per task at the end"""
    relabel: str = "none"
    task_id: str = "onehot"


def main(s: Settings) -> None:
    torch.set_num_threads(1)
    print(f"{'share':12} steps at the goal, of 50: mean [95 %], seeds; seconds a seed")
    for name in s.share:
        began, found = time.perf_counter(), []
        for seed in range(s.seeds):
            chosen = fixed_goals(seed)
            found.append(learn(name, chosen, record(chosen, seed), s, seed))
        low, high = interval(np.array(found))
        each = ", ".join(f"{x:.1f}" for x in found)
        seconds = (time.perf_counter() - began) / s.seeds
        print(f"{name:12} {np.mean(found):5.1f} [{low:.1f}, {high:.1f}]  {each}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
