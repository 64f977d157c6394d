"""Data sets of others and of our own, as episodes: Minari, OGBench's npz, D4RL's hdf5, and what a run has kept.

Reading executes nothing that a file says and opens nothing outside of it: docs/data.md lists what is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from tasks import flat, hdf5, minari, runs
from tasks.recorded import Actions, Budget, Recorded, fit, shown
from tasks.source import Source
from tasks.task import Episode, InputError, Task, simulator

HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
"""How these files begin."""

write = minari.write


def read(path: Path | str, task: Task) -> list[Episode]:
    """All that a data set holds of this task, in its order. Raises InputError, one line, if it cannot be used.

    A run, and what we wrote ourselves, says of which tasks it is, and must name this one; of other data sets the
    caller says it. Rewards are those of the file, or the task's own where it has none.
    """
    source = open_source(Path(path))
    actions = _limits(source, task)
    ours = bool(source.tasks)
    return [fit(task, one, actions, ours) for one in _of(source, task)]


def tasks_in(path: Path) -> tuple[str, ...]:
    """The tasks of ours that a data set says it is of; none where it does not say."""
    return open_source(path).tasks


class Part(NamedTuple):
    """What there is of one task."""

    task: str
    """"" where the data set names none"""
    episodes: int
    steps: int
    length: tuple[int, int]
    """of the shortest and of the longest episode"""
    terminated: int
    """episodes that the task ended; the clock did the others"""
    sizes: tuple[int, int, int]
    """numbers of an observation, of an action (0: it is a choice) and of a goal (0: the file has none)"""
    returns: tuple[float, float, float] | None
    """least, mean and greatest sum of rewards of an episode; None: the file has no rewards"""


class Summary(NamedTuple):
    """What a data set holds, and what it says of itself."""

    format: str
    environment: str
    """"" where it does not say"""
    parts: tuple[Part, ...]


def describe(path: Path) -> Summary:
    """All of a data set, read and checked as far as that needs no task. Raises InputError."""
    source = open_source(path)
    names = source.tasks or ("",)
    return Summary(source.format, source.environment, tuple(_part(source, name) for name in names))


def _part(source: Source, name: str) -> Part:
    lengths, returns, ends, sizes = [], [], 0, (0, 0, 0)
    for one in source.episodes(name):
        lengths.append(len(one.action))
        ends += one.terminated
        goal = one.desired if one.desired is not None else one.achieved
        found = (
            one.observation.shape[1],
            *(x.shape[1] if x is not None and x.ndim == 2 else 0 for x in (one.action, goal)),
        )
        if len(lengths) > 1 and found != sizes:
            raise InputError(f"{one.where} has other sizes, {found}, than the episodes before, {sizes}: take it out")
        sizes = found
        if one.reward is not None:
            returns.append(float(one.reward.sum(dtype=np.float64)))
    if not lengths:
        return Part(name, 0, 0, (0, 0), 0, sizes, None)
    told = (min(returns), float(np.mean(returns)), max(returns)) if returns else None
    return Part(name, len(lengths), sum(lengths), (min(lengths), max(lengths)), ends, sizes, told)


def open_source(path: Path) -> Source:
    """Find out what a path leads to. Raises InputError if it is nothing that is read here."""
    try:
        if path.is_dir():
            return _open_folder(path)
        Budget.of(path)  # is it a file at all
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if start[:4] == ZIP:
        return flat.ogbench(path)
    if start != HDF5:
        raise InputError(f"{path} is neither HDF5 nor npz: give a Minari folder, a D4RL or OGBench file, or a run")
    with hdf5.opened(path) as file:
        minaris = not file.has("observations") and any(map(minari.EPISODE.fullmatch, file.names()))
    return minari.source(path) if minaris else flat.d4rl(path)


def _open_folder(path: Path) -> Source:
    if (path / "manifest.json").exists() or (path / "config.json").exists():
        return runs.source(path)
    for home in (path / "data", path):
        if (home / minari.MAIN).exists():
            return minari.source(home / minari.MAIN)
        if (home / minari.META).exists():
            minari.source(home / minari.MAIN)  # says what is wrong with it, if that is known
            raise InputError(f"{home} has no {minari.MAIN}: it is cut off, get it again")
    raise InputError(f"{path} is no data set: it has neither data/{minari.MAIN}, as Minari's have, nor a config.json")


def _of(source: Source, task: Task) -> Iterator[Recorded]:
    """The episodes of this task."""
    if source.tasks and task.name not in source.tasks:
        said = ", ".join(shown(task)[1:-1] for task in source.tasks)
        raise InputError(f"{source.path} is of {said}, not of {task.name}: give the task, or other data")
    for one in source.episodes(task.name):
        if task.goal_dim and one.desired is None and source.format == "Minari":
            raise InputError(f"{one.where} has no goals, {task.name} has: give the task that the data are of")
        yield one


def _limits(source: Source, task: Task) -> Actions | None:
    """What the actions of a file are to be rescaled from; None: they are in [-1, 1].

    The environment is the task's own: that of our registry, whatever the file says.
    """
    said = source.actions
    if said is not None and (said.first is not None or (np.abs([said.low, said.high]) == 1).all()):
        return said if said.first is not None else None
    if said is None and source.format != "Minari":
        return None
    env = simulator(task)
    scaled = isinstance(env, gymnasium.wrappers.RescaleAction)
    own: Any = env.env.action_space if scaled else env.action_space  # type: ignore[attr-defined]
    env.close()
    low, high = (np.asarray(x, np.float64) for x in (own.low, own.high))
    if said is not None and not (
        low.shape == said.low.shape and np.allclose(low, said.low) and np.allclose(high, said.high)
    ):
        raise InputError(
            f"{source.path} has actions from {shown(said.low.tolist())} to {shown(said.high.tolist())}, "
            f"{task.name} has others: give the task that the data are of"
        )
    return Actions(low, high) if scaled else None
