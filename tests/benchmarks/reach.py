"""FetchReach: how soon our agents reach 90 % success, in steps and in seconds, beside Stable-Baselines3's SAC with HER.

    python -m tests.benchmarks.reach [--seeds 5] [--steps 6000] [--lines ours sb3] [--threads 1]

Ours run at their default settings. SB3's SAC runs with what rl-baselines3-zoo publishes for FetchReach
(hyperparams/sac.yml, where `normalize: True` is observations and rewards), with less of that normalisation, and
with those of our settings that it has too. SB3 steps the stock environment, we our faster one; both simulate the same
bits. The lines of a seed run one after the other in one process, and one evaluator plays the same episodes for all of
them, off the clock.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3 import __version__ as sb3_version
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import tasks
from gcrl import run
from gcrl.evaluate import Evaluator
from gcrl.settings import Plan, default
from gcrl.train import Training
from tasks.simulator import register_robotics

TASK = "fetch-reach"
ENOUGH = 0.9
ZOO: dict[str, Any] = {
    "buffer_size": 1_000_000,
    "ent_coef": "auto",
    "batch_size": 256,
    "gamma": 0.95,
    "learning_rate": 1e-3,
    "learning_starts": 1000,
    "replay_buffer_class": HerReplayBuffer,
    "replay_buffer_kwargs": {"goal_selection_strategy": "future", "n_sampled_goal": 4},
    "policy_kwargs": {"net_arch": [64, 64]},
}
OURS = ZOO | {"gamma": 0.98, "learning_starts": 200, "policy_kwargs": {"net_arch": [256, 256]}}


class Point(NamedTuple):
    """One evaluation."""

    step: int
    success: float
    seconds: float
    """of training so far"""


Curve = list[Point]
Score = Callable[[Any], float]
"""agent -> share of the evaluation's episodes that end in success"""


def ours(agent: str, seed: int, steps: int, every: int, score: Score) -> Curve:
    """Train one of our agents at its default settings."""
    training = Training(Plan.of(replace(default(agent), task=TASK, seed=seed, steps=steps, device="cpu")))
    curve, seconds = [], 0.0
    while training.steps < steps:
        start = time.perf_counter()
        training.step()
        seconds += time.perf_counter() - start
        if training.steps % every == 0:
            curve.append(Point(training.steps, score(training.agent), seconds))
    return curve


class Played:
    """A model of SB3 as one of our agents, for the evaluator."""

    def __init__(self, model: Any) -> None:
        self.model, self.norm, self.goal_of = model, model.get_vec_normalize_env(), tasks.get(TASK).goal_of

    def act(self, state: Any, carry: Any = None) -> tuple[torch.Tensor, Any]:
        obs, goal = state.obs.numpy(), state.goal.numpy()
        seen = {"observation": obs, "achieved_goal": self.goal_of(obs), "desired_goal": goal}
        seen = seen if self.norm is None else self.norm.normalize_obs(seen)
        return torch.from_numpy(self.model.predict(seen, deterministic=True)[0]), carry


class Watch(BaseCallback):
    """Scores the model every so many steps, and counts the seconds between."""

    def __init__(self, every: int, score: Score) -> None:
        super().__init__()
        self.every, self.score, self.curve, self.seconds = every, score, [], 0.0

    def _on_training_start(self) -> None:
        self.since = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            self.seconds += time.perf_counter() - self.since
            self.curve.append(Point(self.num_timesteps, self.score(Played(self.model)), self.seconds))
            self.since = time.perf_counter()
        return True


def stock() -> gymnasium.Env[Any, Any]:
    register_robotics()
    return gymnasium.make("FetchReach-v4")


def sb3(
    kind: type[Any],
    settings: dict[str, Any],
    normalise: dict[str, Any] | None,
    make: Callable[[], gymnasium.Env[Any, Any]],
    seed: int,
    steps: int,
    every: int,
    score: Score,
) -> Curve:
    """Train an algorithm of SB3's on `make()`, with VecNormalize(**normalise) around it, if any."""
    env: Any = DummyVecEnv([lambda: Monitor(make())])
    if normalise is not None:
        env = VecNormalize(env, gamma=settings["gamma"], **normalise)
    model = kind("MultiInputPolicy", env, seed=seed, device="cpu", **copy.deepcopy(settings))
    watch = Watch(every, score)
    model.learn(steps, callback=watch)
    env.close()
    return watch.curve


@dataclass(frozen=True)
class Line:
    """One way of training."""

    name: str
    steps: int
    every: int
    """steps between evaluations"""
    train: Callable[[int, int, int, Score], Curve]
    """seed, steps, every, score -> curve"""
    beside: str = "ours td3"
    """the line that it is compared with; the first one where that does not run"""


BOTH, SEEN = {"norm_obs": True, "norm_reward": True}, {"norm_obs": True, "norm_reward": False}
LINES = [
    Line("ours td3", 2000, 250, partial(ours, "td3")),
    Line("ours ddpg", 2000, 250, partial(ours, "ddpg")),
    Line("ours sac", 4000, 250, partial(ours, "sac")),
    Line("sb3 zoo", 6000, 500, partial(sb3, SAC, ZOO, BOTH, stock)),
    Line("sb3 zoo, rewards as they are", 6000, 500, partial(sb3, SAC, ZOO, SEEN, stock)),
    Line("sb3 zoo, nothing normalised", 6000, 500, partial(sb3, SAC, ZOO, None, stock)),
    Line("sb3 our settings", 6000, 500, partial(sb3, SAC, OURS, SEEN, stock)),
]


def to_enough(curve: Curve) -> tuple[float, float]:
    """Steps and seconds to the first evaluation with enough success that the next confirms; inf if there is none."""
    for point, after in pairwise(curve):
        if min(point.success, after.success) >= ENOUGH:
            return point.step, point.seconds
    return np.inf, np.inf


def race(lines: Sequence[Line], seeds: int, cap: int, episodes: int) -> dict[str, list[Curve]]:
    """name -> a curve for each seed. All lines run within each seed, so that a busy machine is busy for all."""
    evaluator = Evaluator(tasks.get(TASK))
    curves: dict[str, list[Curve]] = {line.name: [] for line in lines}
    for line in lines:  # what is slow only once is not on the clock
        line.train(0, min(60, cap), 60, lambda agent: 0.0)
    for seed in range(seeds):
        for line in lines:
            curve = line.train(
                seed, min(line.steps, cap), min(line.every, cap), lambda agent: evaluator(agent, episodes).success
            )
            curves[line.name].append(curve)
            said = "  ".join(f"{p.step}: {p.success:.2f} ({p.seconds:.1f} s)" for p in curve)
            print(f"seed {seed}  {line.name}\n    {said}", flush=True)
    return curves


def tables(curves: dict[str, list[Curve]], beside: dict[str, str]) -> dict[str, Any]:
    """Print the medians over the seeds, and each line beside another; what the JSON line holds of them."""
    print("\nmedians over the seeds: success (seconds of training)")
    for name, seeds in curves.items():
        points = [Point(*np.median(column, 0)) for column in zip(*seeds, strict=True)]
        print(f"  {name:30}" + "  ".join(f"{p.step:.0f}: {p.success:.2f} ({p.seconds:.1f})" for p in points))
    print(f"\n{'':32}steps to 90 %  seconds  ms/step      median ratio of steps, seconds, ms/step to")
    reached = {name: np.array([to_enough(curve) for curve in seeds]) for name, seeds in curves.items()}
    pace = {name: np.array([1e3 * c[-1].seconds / c[-1].step for c in seeds]) for name, seeds in curves.items()}
    out = {}
    for name, seeds in curves.items():
        other = beside[name] if beside[name] in curves else next(iter(curves))
        (steps, seconds), ms = np.median(reached[name], 0), np.median(pace[name])
        with np.errstate(invalid="ignore"):
            ratios = [*np.median(reached[name] / reached[other], 0), np.median(pace[name] / pace[other])]
        print(
            f"  {name:30}{steps:13.0f}{seconds:9.1f}{ms:9.2f}   " + "".join(f"{x:8.2f}" for x in ratios) + f"   {other}"
        )
        out[name] = {
            "curves": seeds,
            "steps_to_90": reached[name][:, 0].tolist(),
            "seconds_to_90": reached[name][:, 1].tolist(),
            "ms_per_step": pace[name].tolist(),
            "beside": other,
            "ratios": [float(x) for x in ratios],
        }
    return out


def finite(x: Any) -> Any:
    """For JSON: null where there is no number."""
    if isinstance(x, dict):
        return {key: finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [finite(value) for value in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


def flags(about: str | None, steps: int, seeds: int, names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--steps", type=int, default=steps, help="environment steps of a line, at most")
    parser.add_argument("--episodes", type=int, default=50, help="of one evaluation")
    parser.add_argument("--threads", type=int, default=1, help="of a matrix product, for all lines")
    parser.add_argument("--lines", nargs="+", default=[""], help=f"beginnings of names: {'; '.join(names)}")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def report(name: str, args: argparse.Namespace, lines: Sequence[Line]) -> None:
    """Race, print, and end with one line of JSON."""
    lines = [line for line in lines if line.name.startswith(tuple(args.lines))]
    curves = race(lines, args.seeds, args.steps, args.episodes)
    results = tables(curves, {line.name: line.beside for line in lines})
    versions = run.versions() | {"stable-baselines3": sb3_version}
    print(json.dumps(finite({"benchmark": name, **vars(args), "versions": versions, "lines": results})))


if __name__ == "__main__":
    report("reach", flags(__doc__, 6000, 5, [line.name for line in LINES]), LINES)
