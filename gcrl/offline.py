"""Data sets in a run: read, in the layout of its tasks, the best of them, and known again when the run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import tasks
from gcrl.settings import Plan
from relabel.share import Pool
from tasks import Episode, InputError, Task, datasets
from tasks.layout import laid


def load(plan: Plan) -> list[list[Episode]]:
    """The episodes of each task in --data, in the run's layout. Raises InputError if a file or a task has none."""
    s = plan.settings
    found: list[list[Episode]] = [[] for _ in plan.tasks]
    for given in s.data:
        path, names = _meant(given, plan.tasks)
        for name in names:
            k = [task.name for task in plan.tasks].index(name)
            own = tasks.get(name)
            found[k] += [laid(episode, own, plan.tasks[k]) for episode in datasets.read(path, own)]
    if s.data and not any(found):
        raise InputError(f"--data {' '.join(s.data)}: it holds no episode, give data that do")
    if s.offline and (empty := unfed(plan, found)):
        cure = "give data of it, leave it out, or have it learn from others' of its scene by --share uniform"
        raise InputError(f"--data holds nothing of {', '.join(empty)}: {cure}")
    return [best(mine, s.best) for mine in found]


def unfed(plan: Plan, found: Sequence[Sequence[Episode]]) -> list[str]:
    """The tasks that have no data, nor learn from others' as the run shares them."""
    pool, name = Pool.of(plan.tasks, np.array([len(mine) for mine in found])), plan.settings.share.split(":")[0]
    theirs = np.eye(len(found), dtype=bool)
    if name in ("uniform", "random", "uds", "family"):
        theirs = pool.reads if name == "family" else pool.may(pool.scene)
    fed = np.any(theirs & (pool.size > 0), axis=1).tolist()
    return [task.name for task, has in zip(plan.tasks, fed, strict=True) if not has]


def _meant(given: str, chosen: Sequence[Task]) -> tuple[Path, list[str]]:
    """The path, and which of the tasks it holds data of."""
    names = [task.name for task in chosen]
    name, sign, rest = given.partition("=")
    if sign and (name in names or not Path(given).exists()):
        if name not in names:
            raise InputError(f"--data {given}: {name} is not among --task {' '.join(names)}")
        return Path(rest), [name]
    path = Path(given)
    if len(names) == 1:
        return path, names
    declared = datasets.tasks_in(path)
    if mine := [name for name in declared if name in names]:
        return path, mine
    if declared:
        raise InputError(f"--data {given} is of {', '.join(declared)}, which --task {' '.join(names)} has not")
    raise InputError(f"--data {given} does not say which of {', '.join(names)} it is of: give --data TASK={given}")


def best(episodes: list[Episode], share: float) -> list[Episode]:
    """The share of the episodes with the highest returns as recorded, one at least, in their order."""
    if share == 1 or not episodes:
        return episodes
    returns = np.array([float(episode.reward.sum()) for episode in episodes])
    keep = np.argsort(-returns, kind="stable")[: max(1, round(share * len(episodes)))]
    return [episodes[i] for i in sorted(keep)]


def digest(found: Sequence[Sequence[Episode]]) -> str:
    """By which the same data are known again."""
    sha = hashlib.sha256()
    for mine in found:
        sha.update(f"{len(mine)};".encode())
        for episode in mine:
            for x in episode[:4]:
                sha.update(np.ascontiguousarray(x).tobytes())
            sha.update(bytes([episode.terminated]))
    return sha.hexdigest()


def slots(found: Sequence[Sequence[Episode]]) -> int:
    """Observations of the task that has most."""
    return max(sum(len(episode.observation) for episode in mine) for mine in found) + 1
