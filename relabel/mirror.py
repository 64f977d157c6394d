"""Reflected rows: where a scene is its own mirror image, each transition is worth two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relabel.rows import Rows
from tasks.mirror import Flip, Mirror, stacked
from tasks.task import Task

OBS, ACTION, NEXT_OBS, GOAL = 0, 1, 4, 5
"""Where in a row's columns what is reflected lies."""


class Mirrors:
    """Reflects rows, each as the task that learns from it declares; rows of tasks without a mirror stay."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        first = tasks[0]
        stays = Mirror(*(Flip.of(n, ()) for n in (first.obs_dim, first.action_dim, first.goal_dim)))
        mirrors = [task.mirror or stays for task in tasks]
        self.any = any(task.mirror is not None for task in tasks)
        self.flips = {
            column: stacked([getattr(mirror, name) for mirror in mirrors])
            for column, name in ((OBS, "obs"), (ACTION, "action"), (NEXT_OBS, "obs"), (GOAL, "goal"))
        }
        self.alike = {column: all((x == x[:1]).all() for x in flip) for column, flip in self.flips.items()}

    def __call__(self, rows: Rows, chosen: NDArray[np.bool_]) -> Rows:
        """The rows, those that are chosen (B,) reflected."""
        at = np.flatnonzero(chosen)
        k = rows.receiver[at]
        columns: list[NDArray[Any]] = list(rows.columns)
        for column, (sign, shift, order) in self.flips.items():
            x = columns[column][at]
            if self.alike[column]:
                x = x[:, order[0]] * sign[0] + shift[0]
            else:
                x = np.take_along_axis(x, order.take(k, 0), 1) * sign.take(k, 0) + shift.take(k, 0)
            columns[column] = columns[column].copy()
            columns[column][at] = x
        return rows._replace(columns=tuple(columns))
