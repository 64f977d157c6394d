"""Stable-Baselines3's SAC and sb3-contrib's TQC with hindsight on the Fetch tasks, as rl-baselines3-zoo runs them.

The numbers are those of github.com/DLR-RM/rl-baselines3-zoo at 22e3ff2 (April 2026), hyperparams/sac.yml and tqc.yml.
For SAC it publishes FetchReach alone: on the other tasks SAC is given TQC's. `normalize: True` there is observations
and rewards; TQC's entries for Push, PickAndPlace and Slide have none. The environment is the stock one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import gymnasium
import torch
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import tasks
from gcrl.evaluate import Evaluator
from tasks import Task
from tasks.simulator import register_robotics

HINDSIGHT: dict[str, Any] = {
    "buffer_size": 1_000_000,
    "gamma": 0.95,
    "learning_rate": 1e-3,
    "replay_buffer_class": HerReplayBuffer,
    "replay_buffer_kwargs": {"goal_selection_strategy": "future", "n_sampled_goal": 4},
}
REACH = HINDSIGHT | {"ent_coef": "auto", "batch_size": 256, "learning_starts": 1000}
SAC_REACH = REACH | {"policy_kwargs": {"net_arch": [64, 64]}}
TQC_REACH = REACH | {"policy_kwargs": {"net_arch": [64, 64], "n_critics": 1}}
OBJECT = HINDSIGHT | {
    "batch_size": 2048,
    "tau": 0.05,
    "policy_kwargs": {"net_arch": [512, 512, 512], "n_critics": 2},
}
"""Push, PickAndPlace and Slide"""
OURS = REACH | {"gamma": 0.98, "learning_starts": 200, "policy_kwargs": {"net_arch": [256, 256]}}
"""those of our defaults that SB3 has too"""
BOTH, SEEN = {"norm_obs": True, "norm_reward": True}, {"norm_obs": True, "norm_reward": False}


class Point(NamedTuple):
    """One evaluation."""

    step: int
    success: float
    seconds: float
    """of training so far"""


Curve = list[Point]


@dataclass(frozen=True)
class Budget:
    """What a line may spend, and when it is evaluated: at the end of it anyhow."""

    steps: int
    seconds: float
    every: int
    """steps between evaluations"""
    every_seconds: float | None
    """of training between them; none: by steps"""
    episodes: int
    """of one evaluation; 0: none is played"""


@dataclass
class Watch:
    """The seconds of training, the evaluations off that clock, and the end of the budget.

    Everyone plays the same episodes: our environment simulates the stock one's bits.
    """

    budget: Budget
    curve: Curve = field(default_factory=list)

    def start(self, task: Task, k: int = 0) -> None:
        """The clock runs; who is watched knows the task as number k."""
        self.evaluator = Evaluator(task, k=k) if self.budget.episodes else None
        self.seconds, self.steps, self.since = 0.0, 0, time.perf_counter()

    def go_on(self, steps: int, agent: Any) -> bool:
        """After so many steps: is there budget left?"""
        b, seconds = self.budget, self.seconds + time.perf_counter() - self.since
        last = steps >= b.steps or seconds >= b.seconds
        if b.every_seconds is None:
            due = steps // b.every > self.steps // b.every
        else:
            due = seconds // b.every_seconds > self.seconds // b.every_seconds
        if last or due:
            success = self.evaluator(agent, b.episodes).success if self.evaluator else 0.0
            self.curve.append(Point(steps, success, seconds))
            self.seconds, self.since = seconds, time.perf_counter()
        self.steps = steps
        if last and self.evaluator:
            self.evaluator.close()
        return not last


class Played:
    """A model of SB3 as one of our agents, for the evaluator."""

    def __init__(self, model: Any, task: Task) -> None:
        self.model, self.norm, self.goal_of = model, model.get_vec_normalize_env(), task.goal_of

    def act(self, state: Any, carry: Any = None) -> tuple[torch.Tensor, Any]:
        obs, goal = state.obs.numpy(), state.goal.numpy()
        seen = {"observation": obs, "achieved_goal": self.goal_of(obs), "desired_goal": goal}
        seen = seen if self.norm is None else self.norm.normalize_obs(seen)
        return torch.from_numpy(self.model.predict(seen, deterministic=True)[0]), carry


class Watched(BaseCallback):
    """Shows a model to the watch after each step."""

    def __init__(self, watch: Watch, task: Task) -> None:
        super().__init__()
        self.watch, self.task = watch, task

    def _on_training_start(self) -> None:
        self.played = Played(self.model, self.task)
        self.watch.start(self.task)

    def _on_step(self) -> bool:
        return self.watch.go_on(self.num_timesteps, self.played)


def stock(name: str) -> gymnasium.Env[Any, Any]:
    """The environment that one of our Fetch tasks stands for."""
    register_robotics()
    return gymnasium.make(tasks.get(name).make.args[0])


def sb3(
    kind: type[Any],
    settings: dict[str, Any],
    normalise: dict[str, Any] | None,
    make: Callable[[str], gymnasium.Env[Any, Any]],
    task: str,
    seed: int,
    watch: Watch,
) -> None:
    """Train an algorithm with SB3's interface on `make(task)`, with VecNormalize(**normalise) around it, if any."""
    env: Any = DummyVecEnv([lambda: Monitor(make(task))])
    if normalise is not None:
        env = VecNormalize(env, gamma=settings["gamma"], **normalise)
    model = kind("MultiInputPolicy", env, seed=seed, device="cpu", **copy.deepcopy(settings))
    model.learn(watch.budget.steps, callback=Watched(watch, tasks.get(task)))
    env.close()


Train = Callable[[str, int, Watch], None]
"""task, seed, watch -> when its budget is spent"""


def lines(task: str) -> dict[str, Train]:
    """name -> how a peer trains on this task; sb3-contrib's where it is installed."""
    train = partial(partial, sb3)
    if task == "fetch-reach":
        out = {
            "sb3 zoo": train(SAC, SAC_REACH, BOTH, stock),
            "sb3 zoo, rewards as they are": train(SAC, SAC_REACH, SEEN, stock),
            "sb3 zoo, nothing normalised": train(SAC, SAC_REACH, None, stock),
        }
    else:
        out = {
            "sb3 as tqc zoo": train(SAC, OBJECT, None, stock),
            "sb3 as tqc zoo, observations normalised": train(SAC, OBJECT, SEEN, stock),
        }
    out["sb3 our settings"] = train(SAC, OURS, SEEN, stock)
    if find_spec("sb3_contrib") is None:
        print("sb3-contrib is not installed and TQC left out: pip install -e '.[bench]'")
        return out
    from sb3_contrib import TQC

    if task == "fetch-reach":
        out["tqc zoo"] = train(TQC, TQC_REACH, BOTH, stock)
        out["tqc zoo, rewards as they are"] = train(TQC, TQC_REACH, SEEN, stock)
    else:
        out["tqc zoo"] = train(TQC, OBJECT, None, stock)
        out["tqc zoo, observations normalised"] = train(TQC, OBJECT, SEEN, stock)
    out["tqc our settings"] = train(TQC, OURS, SEEN, stock)
    return out
