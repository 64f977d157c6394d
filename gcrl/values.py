"""gcrl plot --values: V(s, g) where goals are places on a plane, and the paths taken to them, for each checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gcrl import checkpoint, policy
from gcrl.agents import Agent
from gcrl.evaluate import Evaluator
from relabel.batch import State
from tasks import InputError, Task
from tasks.floor import Floor, floor_of
from tasks.layout import picked

Floats = NDArray[np.floating[Any]]
GOALS = 4
"""Episodes of a task that are drawn: the first that an evaluation plays."""
MOMENTS = 4
"""Checkpoints that are drawn at most: evenly over the run, its first and its newest among them."""
POINTS = 80
"""Along the longer side of the plane."""


class Map(NamedTuple):
    """One panel: the values on a grid, and an episode there."""

    x: Floats
    """(X,)"""
    y: Floats
    """(Y,)"""
    value: Floats
    """(Y, X), nan in walls"""
    path: Floats
    """(T + 1, 2)"""
    goal: Floats
    """(2,)"""


def places(task: Task) -> tuple[list[int], list[int]]:
    """Which two numbers of an observation, and of a goal, are the place. Raises InputError if goals are no places."""
    columns = picked(task)
    pairs = [] if columns is None else [(int(i), g) for g, i in enumerate(columns) if i >= 0]
    if len(pairs) != 2:
        raise InputError(f"--values: a goal of {task.name} is no place on a plane: draw the curves alone")
    return [i for i, _ in pairs], [g for _, g in pairs]


def grid(floor: Floor | None, paths: Floats) -> tuple[Floats, Floats]:
    """x (X,) and y (Y,) over the maze, or, without one, a little beyond where the paths (N, 2) lead."""
    if floor is None:
        margin = 0.1 * np.ptp(paths, 0) + 1e-3
        low, high = paths.min(0) - margin, paths.max(0) + margin
    else:
        low, high = floor.box()
    cell = max(high - low) / POINTS
    x, y = (np.arange(a + cell / 2, b, cell) for a, b in zip(low, high, strict=True))
    return x, y


def maps(agent: Agent, task: Task, k: int, evaluator: Evaluator, device: Any) -> list[Map]:
    """The values towards GOALS goals, task being number k of the policy, and the episodes that pursue them.

    The rest of a state (speeds, posture) is that in which the episode begins.
    """
    columns, numbers = places(task)
    evaluator.play(agent, GOALS, device=device)
    floor = floor_of(evaluator.lanes[0].env)
    paths = [np.stack(lane.observation)[:, columns] for lane in evaluator.lanes]
    goals = [lane.desired[0] for lane in evaluator.lanes]
    targets = [goal[numbers] for goal in goals]
    x, y = grid(floor, np.concatenate([*paths, targets]))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    free = np.ones(len(points), bool) if floor is None else floor.free(points)
    found = []
    for lane, goal, path, target in zip(evaluator.lanes, goals, paths, targets, strict=True):
        obs = np.tile(lane.observation[0], (int(free.sum()), 1))
        obs[:, columns] = points[free]
        rows = len(obs)
        state = State(
            torch.as_tensor(obs, dtype=torch.float32, device=device),
            torch.as_tensor(np.tile(goal, (rows, 1)), dtype=torch.float32, device=device),
            torch.full((rows,), k, dtype=torch.int64, device=device),
        )
        value = np.full(len(points), np.nan)
        value[free] = agent.worth(state).cpu().numpy()
        found.append(Map(x, y, value.reshape(len(y), len(x)), path, target))
    return found


def picture(rows: list[tuple[int, list[Map]]], title: str, path: Path) -> None:
    """A row for each checkpoint, by its steps, and a column for each goal; a scale of colours for each row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * GOALS + 0.8, 2.6 * len(rows) + 0.5), layout="constrained")
    panels = figure.subplots(len(rows), GOALS, squeeze=False)
    for line, (step, found) in zip(panels, rows, strict=True):
        low, high = (f([f(one.value) for one in found]) for f in (np.nanmin, np.nanmax))
        for axes, one in zip(line, found, strict=True):
            image = axes.pcolormesh(one.x, one.y, one.value, vmin=low, vmax=high, cmap="viridis", shading="nearest")
            axes.plot(*one.path.T, color="white", linewidth=1)
            axes.plot(*one.path[0], "o", color="white", markersize=5)
            axes.plot(*one.goal, "*", color="red", markersize=10)
            axes.set(aspect="equal", xticks=[], yticks=[], facecolor="0.3")
        line[0].set_ylabel(f"after {step:,} steps")
        figure.colorbar(image, ax=list(line), label="V(s, g)")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def moments(run: Path) -> list[Path]:
    """The checkpoints to draw, oldest first. Raises InputError if there are none."""
    found = checkpoint.folders(run)[::-1]
    if not found:
        raise InputError(f"{run} has no checkpoint yet: let it train on with `gcrl train --resume {run}`")
    return [found[i] for i in sorted({round(i) for i in np.linspace(0, len(found) - 1, MOMENTS)})]


def draw(run: Path) -> list[Path]:
    """values.png into the folder of a run, of several tasks one for each. Raises InputError in one line."""
    chosen: list[tuple[int, Agent]] = []
    for folder in moments(run):
        agent, plan, step = policy.load(run, at=folder)
        chosen.append((step, agent))
    written = []
    for task in plan.tasks:
        places(task)
    for k, task in enumerate(plan.tasks):
        evaluator = Evaluator(task, GOALS, k=k)
        rows = [(step, maps(agent, task, k, evaluator, plan.device)) for step, agent in chosen]
        evaluator.close()
        name = "values.png" if len(plan.tasks) == 1 else f"values-{task.name.replace(':', '-').replace('/', '-')}.png"
        picture(rows, f"{task.name}, {plan.settings.agent}", run / name)
        written.append(run / name)
    return written
