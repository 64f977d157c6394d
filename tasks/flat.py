"""Two formats that hold all episodes end to end: OGBench's npz (Park et al. 2025, arXiv 2410.20092) and D4RL's hdf5
(Fu et al. 2020, arXiv 2004.07219).

They count differently. OGBench has a row for each observation, T + 1 of an episode, and its terminals mark the last of
them; the action there leads nowhere. D4RL has a row for each transition, T of an episode: what follows the last one is
in next_observations only.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks import hdf5, npz
from tasks.recorded import Recorded, flags, recorded, shown
from tasks.source import Source
from tasks.task import InputError

GOAL = ("infos", "goal")
"""Where D4RL keeps the goal in force."""


def ogbench(path: Path) -> Source:
    """Neither rewards nor desired goals: the task's own reward, for the last achieved goal of each episode."""
    return Source("OGBench", path, (), "", partial(_ogbench, path))


def d4rl(path: Path) -> Source:
    """Rewards as recorded; the goals of infos/goal, or where there are none the last achieved one of each episode.

    Without next_observations the last transition of each episode is left out: nobody knows what it led to.
    """
    return Source("D4RL", path, (), "", partial(_d4rl, path))


def _ogbench(path: Path, name: str) -> Iterator[Recorded]:
    with npz.opened(path) as file:
        observation, action, ends = _columns(path, file, ("observations", "actions", "terminals"))
    ends = flags(f"{path}: 'terminals'", ends, len(observation))
    if not ends[-1]:
        raise InputError(f"{path}: its last row ends no episode, as terminals must say in OGBench: is it cut off?")
    for number, (start, stop) in enumerate(pairwise([0, *(np.flatnonzero(ends) + 1).tolist()])):
        yield recorded(f"{path}, episode {number}", observation[start:stop], action[start : stop - 1])


def _d4rl(path: Path, name: str) -> Iterator[Recorded]:
    with hdf5.opened(path) as file:
        observation, action, reward = _columns(path, file, ("observations", "actions", "rewards"))
        rows = len(observation)
        if observation.ndim != 2:
            raise InputError(f"{path}: observations have shape {shown(observation.shape)}, not a row for each step")
        dead, late = (flags(f"{path}: {x!r}", file.array(x), rows) for x in ("terminals", "timeouts"))
        following = file.array("next_observations") if file.has("next_observations") else None
        goals = None
        if file.has(GOAL[0]) and file.group(GOAL[0]).has(GOAL[1]):
            (goals,) = _columns(path, file.group(GOAL[0]), GOAL[1:])
    for what, x in (("next_observations", following), ("infos/goal", goals)):
        if x is not None and len(x) != rows:
            raise InputError(f"{path}: {what} has {len(x)} rows, observations {rows}: it is cut off, get it again")
    if following is not None and following.shape != observation.shape:
        raise InputError(f"{path}: next_observations has shape {shown(following.shape)}, not that of observations")
    stops = np.flatnonzero(dead | late) + 1
    for number, (start, stop) in enumerate(pairwise(sorted({0, *stops.tolist(), rows}))):
        where = f"{path}, episode {number}"
        seen = observation[start:stop]
        if following is not None:
            apart = ~np.isclose(following[start : stop - 1], seen[1:], 1e-4, 1e-4, equal_nan=True).all(1)
            if apart.any():
                row = start + int(np.argmax(apart))
                raise InputError(
                    f"{where}: the next observation of row {row} is not the observation of row {row + 1}, "
                    f"and neither terminals nor timeouts end an episode there: mark its end"
                )
            seen = np.concatenate((seen, following[stop - 1 : stop]))
        elif len(seen) == 1:
            continue  # its only transition is the one left out
        last = start + len(seen) - 1
        goal = None if goals is None else goals[start:last]
        ended = bool(dead[stop - 1]) and last == stop
        yield recorded(where, seen, action[start:last], reward[start:last], ended, goal)


def _columns(path: Path, file: Any, names: tuple[str, ...]) -> list[NDArray[Any]]:
    """Arrays of equally many rows."""
    found = [file.array(name) for name in names]
    for name, x in zip(names, found, strict=True):
        if not x.ndim or not len(x) or len(x) != len(found[0]):
            raise InputError(f"{path}: {name!r} has shape {shown(x.shape)}, and {names[0]} {shown(found[0].shape)}")
    return found
