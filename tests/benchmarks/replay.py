"""Milliseconds per `sample(256)` with future goals: our Replay beside stable-baselines3's HerReplayBuffer.

    python -m tests.benchmarks.replay

Both hold the same transitions in the sizes of FetchPush, relabel four of five of them, and are timed in alternating
rounds of one process, so that whatever else the machine does hits both. Stable-baselines3's buffer is filled by its
own `add`, one environment, one step at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from relabel.goals import parse
from relabel.replay import Replay
from tasks.task import Episode, Task, cost_outside, part, within

OBS, ACTION, GOAL, STEPS, RADIUS, BATCH = 25, 4, 3, 50, 0.05, 256


class Push(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """The spaces and the vectorised reward of FetchPush, without a simulator."""

    observation_space = gymnasium.spaces.Dict(
        {
            "observation": gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32),
            "achieved_goal": gymnasium.spaces.Box(-np.inf, np.inf, (GOAL,), np.float32),
            "desired_goal": gymnasium.spaces.Box(-np.inf, np.inf, (GOAL,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        """(B, G) x (B, G) -> (B,)"""
        return -(np.linalg.norm(achieved - desired, axis=-1) > RADIUS).astype(np.float32)


TASK = Task(
    name="push",
    make=Push,
    description="push the block to the target",
    obs_dim=OBS,
    action_dim=ACTION,
    goal_dim=GOAL,
    horizon=STEPS,
    goal_of=part(3, 6),
    success=partial(within, RADIUS),
    reward=partial(cost_outside, RADIUS),
    family="push",
    scene="push",
)


def episodes(count: int) -> list[Episode]:
    """`count` random walks of STEPS steps towards random goals."""
    rng = np.random.default_rng(0)
    observation = 0.02 * rng.standard_normal((count, STEPS + 1, OBS), np.float32).cumsum(1)
    action = rng.uniform(-1, 1, (count, STEPS, ACTION)).astype(np.float32)
    desired = np.repeat(0.1 * rng.standard_normal((count, 1, GOAL), np.float32), STEPS, 1)
    reward = cost_outside(RADIUS, observation[:, 1:, 3:6], desired).astype(np.float32)
    return [Episode(*columns, False) for columns in zip(observation, action, desired, reward, strict=True)]


def ours(data: list[Episode]) -> Replay:
    """Our replay, exactly full of `data`."""
    replay = Replay([TASK], len(data) * (STEPS + 1), parse("future"), 0.98)
    for episode in data:
        replay.stores[0].add(episode)
    return replay


def theirs(data: list[Episode], workers: int = 1) -> HerReplayBuffer:
    """Stable-baselines3's buffer, exactly full of `data`, filled by its own `add`: `workers` environments in step."""
    env = DummyVecEnv([Push] * workers)
    buffer = HerReplayBuffer(
        len(data) * STEPS,
        Push.observation_space,
        Push.action_space,
        env,
        "cpu",
        n_envs=workers,
        n_sampled_goal=4,
        goal_selection_strategy="future",
    )
    infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(workers)]
    ends: list[dict[str, Any]] = [{"TimeLimit.truncated": True} for _ in range(workers)]
    for first in range(0, len(data), workers):
        # (W, T + 1, O), (W, T, A), (W, T, G), (W, T)
        observation, action, desired, reward = map(np.stack, list(zip(*data[first : first + workers], strict=True))[:4])
        for t in range(STEPS):
            before, after = (
                {"observation": o, "achieved_goal": o[:, 3:6], "desired_goal": desired[:, t]}
                for o in (observation[:, t], observation[:, t + 1])
            )
            done = np.full(workers, t == STEPS - 1)
            buffer.add(before, after, action[:, t], reward[:, t], done, ends if done[0] else infos)
    return buffer


def race(replay: Replay, buffer: HerReplayBuffer, rounds: int, calls: int) -> np.ndarray:
    """ms per sample, (rounds, 2): ours, theirs. One round is `calls` samples of each, ours first and last by turns."""
    rng = np.random.default_rng(1)
    np.random.seed(1)  # noqa: NPY002 - stable-baselines3 draws from the global generator
    draws: tuple[Callable[[], Any], ...] = (lambda: replay.sample(rng, BATCH), lambda: buffer.sample(BATCH))
    for draw in draws:
        draw()
    spent = np.zeros((rounds, 2))
    for i in range(rounds):
        for k in (0, 1) if i % 2 == 0 else (1, 0):
            start = time.perf_counter()
            for _ in range(calls):
                draws[k]()
            spent[i, k] = (time.perf_counter() - start) * 1e3 / calls
    return spent


def main(sizes: tuple[int, ...] = (100_000, 1_000_000), rounds: int = 15, calls: int = 100) -> None:
    """Print one line per round, then the medians and the spread, for each number of stored transitions."""
    torch.set_num_threads(1)
    for size in sizes:
        start = time.perf_counter()
        data = episodes(size // STEPS)
        replay, buffer = ours(data), theirs(data)
        print(f"{size:,} transitions (filled in {time.perf_counter() - start:.0f} s), batch {BATCH}")
        spent = race(replay, buffer, rounds, calls)
        ratio = spent[:, 1] / spent[:, 0]
        print("round    ours     sb3   ratio     ms per sample")
        for i, (mine, other) in enumerate(spent):
            print(f"{i:5d} {mine:7.3f} {other:7.3f} {ratio[i]:7.2f}")
        middle = np.median(spent, 0)
        print(f"median {middle[0]:6.3f} {middle[1]:7.3f} {np.median(ratio):7.2f}")
        low, high = np.quantile(ratio, [0.25, 0.75])
        print(f"ratio: half of the rounds in {low:.2f}..{high:.2f}, all in {ratio.min():.2f}..{ratio.max():.2f}\n")


if __name__ == "__main__":
    main()
