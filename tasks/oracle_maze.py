"""A ball that follows cells to its goal, with noise: OGBench's point maze data (arXiv 2410.20092)."""

from __future__ import annotations

from collections import deque
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tasks.oracle import Kind, Made, episode_of
from tasks.task import Task, simulator

Cell = tuple[int, int]
AWAY = 4
"""Cells between the ends of an episode to be stitched."""
STRAIGHT = 10
"""Steps in one direction where there is no goal."""


class Walk:
    """Plays the episodes of one maze."""

    def __init__(self, task: Task, kind: str, behaviour: Kind) -> None:
        self.task, self.kind, self.noise = task, kind, behaviour.noise
        self.env = cast(Any, simulator(task))
        free = np.argwhere(self.env.stock.maze_map == 0).tolist()
        self.cells: list[Cell] = [(i, j) for i, j in free]
        self.known = set(self.cells)
        self.vertices = [cell for cell in self.cells if not self.hallway(cell)]
        self.onward = cache(self._onward)

    def hallway(self, cell: Cell) -> bool:
        """Can one only go through, straight on? No goal is put there."""
        i, j = cell
        down = [other in self.known for other in ((i - 1, j), (i + 1, j))]
        right = [other in self.known for other in ((i, j - 1), (i, j + 1))]
        return (all(down) and not any(right)) or (all(right) and not any(down))

    def beside(self, cell: Cell) -> list[Cell]:
        i, j = cell
        return [other for other in ((i - 1, j), (i, j - 1), (i + 1, j), (i, j + 1)) if other in self.known]

    def far(self, cell: Cell) -> dict[Cell, int]:
        """How many cells away each cell is that can be reached."""
        out, todo = {cell: 0}, deque([cell])
        while todo:
            here = todo.popleft()
            for other in self.beside(here):
                if other not in out:
                    out[other] = out[here] + 1
                    todo.append(other)
        return out

    def _onward(self, goal: Cell) -> dict[Cell, Cell]:
        """Where to go next from each cell: one that is nearer to the goal; from the goal nowhere."""
        far = self.far(goal)
        return {cell: min([cell, *self.beside(cell)], key=far.__getitem__) for cell in far}

    def ends(self, rng: np.random.Generator) -> tuple[Cell, Cell]:
        """Where an episode begins, and its first goal."""
        start = self.cells[rng.integers(len(self.cells))]
        if self.kind != "stitch":
            return start, self.vertices[rng.integers(len(self.vertices))]
        near = [cell for cell, far in self.far(start).items() if far == AWAY] or [start]
        return start, near[rng.integers(len(near))]

    def __call__(self, seed: int, steps: int) -> Made:
        rng, env = np.random.default_rng(seed), self.env
        start, goal = self.ends(rng)
        obs, _ = env.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})
        seen: list[Any] = [obs["observation"]]
        actions, desired = list[Any](), list[Any]()
        qpos, qvel = [env.qpos.copy()], [env.qvel.copy()]
        noise = rng.normal(0.0, self.noise, (steps, 2))
        straight = rng.normal(size=(steps // STRAIGHT + 1, 2))
        for t in range(steps):
            to = straight[t // STRAIGHT] if self.kind == "explore" else self.toward(goal)
            action = np.clip(to / (np.sqrt((to * to).sum()) + 1e-6) + noise[t], -1, 1).astype(np.float32)
            desired.append(env.goal)
            obs, _, reached, _, _ = env.step(action)
            actions.append(action)
            seen.append(obs["observation"])
            qpos.append(env.qpos.copy())
            qvel.append(env.qvel.copy())
            if reached and self.kind == "navigate":
                goal = self.vertices[rng.integers(len(self.vertices))]
                env.aim(goal)
        state = {"qpos": np.array(qpos, np.float32), "qvel": np.array(qvel, np.float32)}
        return Made(episode_of(self.task, seen, actions, desired), state)

    def toward(self, goal: Cell) -> NDArray[np.float64]:
        """The way (m) to the middle of the next cell."""
        stock, xy = self.env.stock, self.env.qpos
        here = stock.xy_to_ij(xy)
        return np.asarray(stock.ij_to_xy(self.onward(goal).get(here, here))) - xy
