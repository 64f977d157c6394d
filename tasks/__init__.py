"""The tasks a policy can serve, by name: those of the tables, and `gym:<id>` and `ogbench:<name>`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import gymnasium as _gymnasium

from tasks import approach, fetch, hand, kitchen, maze, metaworld, ogbench, table
from tasks.gymnasium import task_of
from tasks.task import Episode, InputError, SimulatorError, Task

__all__ = ["TASKS", "Episode", "InputError", "SimulatorError", "Task", "find", "get"]

FAMILIES = (fetch, approach, table, maze, hand, kitchen, metaworld)
TASKS: dict[str, Task] = {task.name: task for family in FAMILIES for task in family.TASKS}
PREFIX = "scene:"
"""Before a scene that has the name of one of its tasks."""
SETS: dict[str, list[str]] = {**metaworld.SETS}
"""Names that stand for several tasks."""


def find(names: Sequence[str]) -> list[Task]:
    """The tasks of these names; a pattern with *, a set, a scene or a family stands for all of its tasks.

    A name that a task has too is the task's; `scene:` before it makes it the scene's.
    """
    if not names:
        raise InputError("--task: give at least one; `gcrl list` shows all")
    found: list[Task] = []
    for name in names:
        known = [TASKS[member] for member in SETS.get(name, ())]
        alike = [task for task in TASKS.values() if "*" in name and fnmatchcase(task.name, name)]
        if name.startswith(ogbench.PREFIX):
            alike = [ogbench.task_of(known) for known in ogbench.NAMES if fnmatchcase(known, name)]
        scene = [task for task in TASKS.values() if task.scene == name.removeprefix(PREFIX)]
        family = [task for task in TASKS.values() if task.family == name]
        found += [get(name)] if name in TASKS else known or alike or scene or family or [get(name)]
    return found


def get(name: str) -> Task:
    """The task called `name`; InputError, with the nearest names, if there is none."""
    if name.startswith("gym:"):
        return task_of(name.removeprefix("gym:"))
    if name.startswith(ogbench.PREFIX):
        return ogbench.task_of(name)
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, [*TASKS, *SETS]) + [f"gym:{name}"] * (name in _gymnasium.registry)
    near += [known for known in ogbench.NAMES if known == ogbench.PREFIX + name]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"unknown task '{name}': {hint}`gcrl list` shows all")


def with_easier(asked: Sequence[Task]) -> list[Task]:
    """The tasks, each after those that make it easier."""
    known, out = {task.name for task in asked}, list[Task]()
    for task in asked:
        easier = [name for name in task.easier if name not in known]
        known.update(easier)
        out += [*map(get, easier), task]
    return out
