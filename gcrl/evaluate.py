"""python -m gcrl.evaluate: success at the last step over episodes with fixed seeds, with a bootstrap interval."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from gymnasium.error import DependencyNotInstalled

from gcrl import policy, video
from gcrl.agents import Agent
from gcrl.cli import guarded, parse
from gcrl.collect import Lane, episode_seed, seen, step
from gcrl.run import RunError
from tasks import InputError, SimulatorError, Task

SEED = 0
FILMED = 5
"""Episodes of a task that a video shows."""


def evaluation_seed(seed: int, n: int) -> int:
    """The reset seed of the n-th episode: one that no training run plays, those being counted from three numbers."""
    return episode_seed(seed, n, 0, 1)


class Outcome(NamedTuple):
    """Of one episode."""

    success: float
    success_any: float
    score: float
    length: float


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

    @staticmethod
    def of(outcomes: Sequence[Outcome]) -> Result:
        last, ever, score, length = np.asarray(outcomes, float).T
        judged = ~np.isnan(last)
        if judged.any():  # a task without goals has no success, beside others that have
            last, ever = last[judged], ever[judged]
        return Result(len(outcomes), last.mean(), *interval(last), ever.mean(), score.mean(), length.mean())


def interval(values: np.ndarray[Any, Any], draws: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of values (N,) (Efron 1979); the same for the same values."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def lanes_for(tasks: int, episodes: int) -> int:
    """How many simulators of each task play side by side: five, or as many as so many tasks leave memory for."""
    return max(1, min(5, episodes, 25 // tasks))


class Evaluator:
    """Environments kept for evaluation, so that training's are not disturbed; the policy knows the task as number k."""

    def __init__(self, task: Task, lanes: int = 5, render_mode: str | None = None, k: int = 0) -> None:
        self.task, self.k = task, k
        self.lanes = [Lane(task, None if i else render_mode) for i in range(lanes)]
        self.frames: list[Any] = []
        """of the first episodes, if there is a render mode"""
        self.filmed = 0 if render_mode is None else FILMED

    def __call__(self, agent: Agent, episodes: int, seed: int = SEED, device: torch.device | str = "cpu") -> Result:
        """`play`, and how it went."""
        return Result.of(self.play(agent, episodes, seed, device))

    def play(self, agent: Agent, episodes: int, seed: int = SEED, device: torch.device | str = "cpu") -> list[Outcome]:
        """Play `episodes` episodes without exploration. Draws nothing from any generator that training uses."""
        outcomes: list[Outcome] = []
        for start in range(0, episodes, len(self.lanes)):
            numbers = range(start, min(start + len(self.lanes), episodes))
            outcomes += self._play(agent, [evaluation_seed(seed, n) for n in numbers], device)
        return outcomes

    def _play(self, agent: Agent, seeds: list[int], device: torch.device | str) -> list[Outcome]:
        lanes = self.lanes[: len(seeds)]
        for lane, seed in zip(lanes, seeds, strict=True):
            lane.reset(seed)
        running, carry = list(range(len(lanes))), None
        while running:
            # Finished lanes keep their row, so that a policy's carry keeps its shape.
            action, carry = agent.act(seen(lanes, np.full(len(lanes), self.k), device), carry)
            over = step([lanes[i] for i in running], action.cpu().numpy()[running])
            if self.filmed and running[0] == 0:
                self.frames.append(lanes[0].env.render())
            running = [i for i, ended in zip(running, over, strict=True) if not ended]
        self.filmed = max(0, self.filmed - 1)
        return [self._outcome(lane) for lane in lanes]

    def close(self) -> None:
        """Let the simulators go, with what they draw on."""
        for lane in self.lanes:
            lane.env.close()

    def _outcome(self, lane: Lane) -> Outcome:
        if self.task.reward is None:
            return Outcome(np.nan, np.nan, sum(lane.reward), len(lane.reward))
        achieved = self.task.goal_of(np.stack(lane.observation[1:]))
        success = np.asarray(self.task.success(achieved, np.stack(lane.desired[:-1])))
        return Outcome(float(success[-1]), float(success.any()), sum(lane.reward), len(lane.reward))


ALL = "all"
"""What the mean over tasks is called in tables."""


def every(
    evaluators: Sequence[Evaluator], agent: Agent, episodes: int, seed: int = SEED, device: torch.device | str = "cpu"
) -> dict[str, Result]:
    """How each task went, by name, and, of several, all their episodes together as ALL."""
    played = {e.task.name: e.play(agent, episodes, seed, device) for e in evaluators}
    results = {name: Result.of(outcomes) for name, outcomes in played.items()}
    if len(played) > 1:
        results[ALL] = Result.of([outcome for outcomes in played.values() for outcome in outcomes])
    return results


@dataclasses.dataclass(frozen=True)
class Settings:
    """Evaluate a trained policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """its folder, runs/<id>"""
    episodes: int = 100
    """how many to play, of each task"""
    task: tuple[str, ...] = ()
    """play only these of its tasks"""
    instruction: str | None = None
    """tell the policy this sentence in place of the tasks' own (a run with --task-id language)"""
    seed: int = SEED
    """of the episodes; the default is the one that training evaluates with"""
    video: bool = False
    """also write some episodes of each task as video*.mp4 into the folder"""
    json: bool = False
    """end with one JSON object on a line of its own"""
    device: str = "auto"
    """auto, cpu or cuda"""


def report(s: Settings) -> dict[str, Any]:
    """Play the episodes and say how they went: the task's figures, or those of all with each task's below "tasks".

    Raises InputError for a run or a flag that cannot be used.
    """
    if s.episodes < 1:
        raise InputError(f"--episodes {s.episodes}: must be at least 1")
    if s.seed < 0:
        raise InputError(f"--seed {s.seed}: must be 0 or more")
    if s.video:
        os.environ.setdefault("MUJOCO_GL", "egl")
    s = dataclasses.replace(s, run=Path(s.run))
    agent, plan, step = policy.load(s.run, s.device)
    if s.video:
        video.check(s.run)
    names = [task.name for task in plan.tasks]
    for name in s.task:
        if name not in names:
            raise InputError(f"--task {name}: {s.run} has learnt {', '.join(names)}")
    if s.instruction is not None:
        policy.instruct(agent, plan, s.instruction)
    chosen = [(k, task) for k, task in enumerate(plan.tasks) if not s.task or task.name in s.task]
    try:
        lanes, mode = lanes_for(len(chosen), s.episodes), "rgb_array" if s.video else None
        evaluators = [Evaluator(task, lanes, mode, k) for k, task in chosen]
        results = every(evaluators, agent, s.episodes, s.seed, plan.device)
        for e in evaluators if s.video else ():
            name = (
                "video.mp4" if len(evaluators) == 1 else f"video-{e.task.name.replace(':', '-').replace('/', '-')}.mp4"
            )
            print(video.write(e.frames, s.run / name))
            e.close()
    except (InputError, SimulatorError, RunError):
        raise
    except Exception as error:  # each simulator has its own for a machine that it cannot draw on
        if not s.video:
            raise
        lacks = isinstance(error, DependencyNotInstalled)
        cure = "mend that" if lacks else "mend that, set MUJOCO_GL to egl, osmesa or glfw"
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"--video: {plan.name} cannot be drawn here ({said}): {cure}, or drop the flag") from error
    *tasks, last = [{"task": name, "step": step, **figures(result)} for name, result in results.items()]
    return {**last, "tasks": tasks} if tasks else last


def figures(result: Result) -> dict[str, Any]:
    """A result under the names that are printed; what is not a number is None, as JSON has it."""
    said = result._asdict()
    said = {"return": said.pop("mean_return"), **said}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in said.items()}


def main(args: Sequence[str]) -> int:
    s = parse(Settings, args, prog="python -m gcrl.evaluate")
    r = report(s)
    if "tasks" in r:
        print("\n".join(table([*r["tasks"], r])))
    else:
        if r["success"] is not None:
            interval = f"[{r['success_low']:.3f}, {r['success_high']:.3f}]"
            print(f"success at the last step {r['success']:.3f}  95 % {interval}")
            print(f"success at any step      {r['success_any']:.3f}")
        print(f"return                   {r['return']:.2f}  over {r['episodes']} episodes of {r['length']:.0f} steps")
    if s.json:
        print(json.dumps(r))
    return 0


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines, one for each task."""
    width = max(len(row["task"]) for row in rows)
    lines = [f"{'task':{width}}  success  95 % interval   any step     return  episodes"]
    for row in rows:
        if row["success"] is None:
            said = f"{'-':>7}  {'-':14}  {'-':>8}"
        else:
            interval = f"[{row['success_low']:.3f}, {row['success_high']:.3f}]"
            said = f"{row['success']:7.3f}  {interval:14}  {row['success_any']:8.3f}"
        lines.append(f"{row['task']:{width}}  {said}  {row['return']:9.2f}  {row['episodes']:8}")
    return lines


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
