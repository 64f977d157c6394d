"""The tasks a policy can serve, by name: the tables of the families, and gymnasium's environments as `gym:<id>`."""

from __future__ import annotations

import difflib

import gymnasium as _gymnasium

from tasks import fetch, hand, maze
from tasks.gymnasium import task_of
from tasks.task import Episode, InputError, SimulatorError, Task

__all__ = ["TASKS", "Episode", "InputError", "SimulatorError", "Task", "get"]

TASKS: dict[str, Task] = {task.name: task for table in (fetch, maze, hand) for task in table.TASKS}


def get(name: str) -> Task:
    """The task called `name`; InputError, with the nearest names, if there is none."""
    if name.startswith("gym:"):
        return task_of(name.removeprefix("gym:"))
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS) + [f"gym:{name}"] * (name in _gymnasium.registry)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"unknown task '{name}': {hint}`gcrl list` shows all")
