"""python -m gcrl.evaluate: success at the last step over episodes with fixed seeds, with a bootstrap interval."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro

from gcrl import policy, video
from gcrl.agents import Agent
from gcrl.cli import guarded, parse
from gcrl.collect import Lane, episode_seed, seen
from gcrl.run import RunError
from tasks import InputError, SimulatorError, Task

SEED = 0


def evaluation_seed(seed: int, n: int) -> int:
    """The reset seed of the n-th episode: one that no training run plays, those being counted from three numbers."""
    return episode_seed(seed, n, 0, 1)


class Result(NamedTuple):
    """Over the episodes of one evaluation."""

    episodes: int
    success: float
    """share of the episodes whose last step succeeded; nan for a task without goals"""
    success_low: float
    success_high: float
    """its 95 % bootstrap interval"""
    success_any: float
    """share with success at any step"""
    mean_return: float
    """undiscounted"""
    length: float
    """mean steps"""


def interval(values: np.ndarray[Any, Any], draws: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of values (N,) (Efron 1979); the same for the same values."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


class Evaluator:
    """Environments kept for evaluation, so that training's are not disturbed."""

    def __init__(self, task: Task, lanes: int = 5, render_mode: str | None = None) -> None:
        self.task = task
        self.lanes = [Lane(task, render_mode) for _ in range(lanes)]
        self.frames: list[Any] = []
        self.rendered = render_mode is not None

    def __call__(self, agent: Agent, episodes: int, seed: int = SEED, device: torch.device | str = "cpu") -> Result:
        """Play `episodes` episodes without exploration. Draws nothing from any generator that training uses."""
        outcomes = []
        for start in range(0, episodes, len(self.lanes)):
            numbers = range(start, min(start + len(self.lanes), episodes))
            outcomes += self._play(agent, [evaluation_seed(seed, n) for n in numbers], device)
        last, ever, score, length = np.asarray(outcomes, float).T
        return Result(episodes, last.mean(), *interval(last), ever.mean(), score.mean(), length.mean())

    def _play(
        self, agent: Agent, seeds: list[int], device: torch.device | str
    ) -> list[tuple[float, float, float, int]]:
        lanes = self.lanes[: len(seeds)]
        for lane, seed in zip(lanes, seeds, strict=True):
            lane.reset(seed)
        running, carry = [True] * len(lanes), None
        while any(running):
            # Finished lanes keep their row, so that a policy's carry keeps its shape.
            action, carry = agent.act(seen(lanes, np.zeros(len(lanes), np.int64), device), carry)
            for i, (lane, a) in enumerate(zip(lanes, action.cpu().numpy(), strict=True)):
                if running[i]:
                    running[i] = not lane.step(a)
                    if self.rendered and i == 0:
                        self.frames.append(lane.env.render())
        return [self._outcome(lane) for lane in lanes]

    def _outcome(self, lane: Lane) -> tuple[float, float, float, int]:
        if self.task.goal_dim == 0:
            return np.nan, np.nan, sum(lane.reward), len(lane.reward)
        achieved = self.task.goal_of(np.stack(lane.observation[1:]))
        success = np.asarray(self.task.success(achieved, np.stack(lane.desired[:-1])))
        return float(success[-1]), float(success.any()), sum(lane.reward), len(lane.reward)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Evaluate a trained policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """its folder, runs/<id>"""
    episodes: int = 100
    """how many to play"""
    seed: int = SEED
    """of the episodes; the default is the one that training evaluates with"""
    video: bool = False
    """also write the first episodes as video.mp4 into the folder"""
    json: bool = False
    """end with one JSON object on a line of its own"""
    device: str = "auto"
    """auto, cpu or cuda"""


def report(s: Settings) -> dict[str, Any]:
    """Play the episodes and say how they went. Raises InputError for a run or a flag that cannot be used."""
    if s.episodes < 1:
        raise InputError(f"--episodes {s.episodes}: must be at least 1")
    if s.seed < 0:
        raise InputError(f"--seed {s.seed}: must be 0 or more")
    if s.video:
        os.environ.setdefault("MUJOCO_GL", "egl")
        video.check()
    agent, plan, step = policy.load(s.run, s.device)
    try:
        evaluator = Evaluator(plan.task, render_mode="rgb_array" if s.video else None)
        result = evaluator(agent, s.episodes, s.seed, plan.device)
        if s.video:
            print(video.write(evaluator.frames, s.run / "video.mp4"))
    except (InputError, SimulatorError, RunError):
        raise
    except Exception as error:  # each simulator has its own for a machine that it cannot draw on
        if not s.video:
            raise
        raise InputError(
            f"--video: {plan.task.name} cannot be drawn here ({type(error).__name__}: {error}): "
            f"mend that, set MUJOCO_GL to egl, osmesa or glfw, or drop the flag"
        ) from error
    said = result._asdict()
    return {"task": plan.task.name, "step": step, "return": said.pop("mean_return"), **said}


def main(args: Sequence[str]) -> int:
    s = parse(Settings, args, prog="python -m gcrl.evaluate")
    r = report(s)
    if not math.isnan(r["success"]):
        print(f"success at the last step {r['success']:.3f}  95 % [{r['success_low']:.3f}, {r['success_high']:.3f}]")
        print(f"success at any step      {r['success_any']:.3f}")
    print(f"return                   {r['return']:.2f}  over {r['episodes']} episodes of {r['length']:.0f} steps")
    if s.json:
        print(json.dumps({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in r.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
