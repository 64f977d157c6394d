"""Milliseconds per `sample(256)` with future goals: our Replay beside SB3's and tianshou's HerReplayBuffer.

    python -m tests.benchmarks.replay [--sizes 100_000 1_000_000] [--batches 1 2 4 8 16]

All hold the same transitions in the sizes of FetchPush, relabel four of five of them, and are timed in alternating
rounds of one process, so that whatever else the machine does hits all. Ours is as a run draws, several batches in a
call (`relabel.prefetch`), and one batch a call. SB3's buffer is filled by its own `add`, one
environment, one step at a time; tianshou's takes over a plain buffer of all. Tianshou rewrites whole episodes and hands
out NumPy, the others tensors. `--batches` K: what a batch of ours costs if one call draws K of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from relabel.goals import parse
from relabel.prefetch import Prefetch
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


def tianshous(data: list[Episode]) -> Any:
    """Tianshou's buffer, exactly full of `data`."""
    from tianshou.data import Batch, HERReplayBuffer, ReplayBuffer

    observation, action, desired, reward = map(np.stack, list(zip(*data, strict=True))[:4])
    before, after = (
        Batch(observation=flat(o), achieved_goal=flat(o[..., 3:6]), desired_goal=flat(desired))
        for o in (observation[:, :-1], observation[:, 1:])
    )
    count = len(data) * STEPS
    end, never = np.arange(count) % STEPS == STEPS - 1, np.zeros(count, bool)
    whole = ReplayBuffer.from_data(before, flat(action), flat(reward), never, end, end, after)
    buffer = HERReplayBuffer(count, partial(cost_outside, RADIUS), STEPS, future_k=5.0)  # 1 - 1 / 5 are relabelled
    buffer.update(whole)
    return buffer


def flat(x: np.ndarray) -> np.ndarray:
    """(E, T, ...) -> (E * T, ...), a copy"""
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])


Draw = Callable[[], Any]


def race(draws: Mapping[str, Draw], rounds: int, calls: int) -> np.ndarray:
    """ms per call, (rounds, sides). One round is `calls` calls of each; who begins goes round."""
    np.random.seed(1)  # noqa: NPY002 - stable-baselines3 and tianshou draw from the global generator
    sides = list(draws.values())
    for draw in sides:
        draw()
    spent = np.zeros((rounds, len(sides)))
    for i in range(rounds):
        for k in np.roll(range(len(sides)), -i):
            start = time.perf_counter()
            for _ in range(calls):
                sides[k]()
            spent[i, k] = (time.perf_counter() - start) * 1e3 / calls
    return spent


def spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:8.3f} ({low:.3f}-{high:.3f})"


def drawing(replay: Replay, buffers: Mapping[str, Any]) -> dict[str, Draw]:
    """A batch of ours, as a run draws it and alone, and one of each buffer."""
    mine, alone = (partial(x.sample, np.random.default_rng(1), BATCH) for x in (Prefetch(replay), replay))
    return {"ours": mine, "one a call": alone} | {
        name: partial(buffer.sample, BATCH) for name, buffer in buffers.items()
    }


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    sizes: tuple[int, ...] = (100_000, 1_000_000)
    """transitions stored"""
    rounds: int = 15
    calls: int = 100
    """of each side in a round"""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    """drawn in one call of ours"""


def main(s: Settings) -> None:
    torch.set_num_threads(1)
    known: dict[str, Callable[[list[Episode]], Any]] = {"sb3": theirs, "tianshou": tianshous}
    if find_spec("tianshou") is None:
        print("tianshou is not installed and left out: pip install -e '.[bench]'")
        del known["tianshou"]
    for size in s.sizes:
        start = time.perf_counter()
        data = episodes(size // STEPS)
        replay = ours(data)
        draws = drawing(replay, {name: make(data) for name, make in known.items()})
        print(f"{size:,} transitions (filled in {time.perf_counter() - start:.0f} s), batch {BATCH}")
        spent = race(draws, s.rounds, s.calls)
        print(f"{s.rounds} rounds: median (10th-90th percentile)   ms per sample, times ours")
        for k, name in enumerate(draws):
            print(f"  {name:10}{spread(spent[:, k])}  {spread(spent[:, k] / spent[:, 0])}")
        rng = np.random.default_rng(2)
        several = {str(k): partial(replay.sample, rng, BATCH * k) for k in s.batches}
        spent = race(several, s.rounds, s.calls) / np.array(s.batches)
        print("batches of ours in a call   ms per batch, times the first")
        for k, name in enumerate(several):
            print(f"  {name:10}{spread(spent[:, k])}  {spread(spent[:, k] / spent[:, 0])}")
        print(flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
