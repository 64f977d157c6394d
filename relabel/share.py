"""Sharing strategies: from whose store each row of a batch comes, and which task it is learned for.

A strategy answers with two arrays of task numbers, receiver (n,) and source (n,). It sees how much each store holds and
which tasks belong together, never a tensor; so each is checked exhaustively, and any of them composes with any goal
strategy. What a row of another task is worth is the receiver's own arithmetic: `relabel/replay.py` recomputes goal,
reward and end. Strategies that ask how good a row is for a task are in `relabel/score.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from relabel.store import Index
from tasks.task import InputError, Task

Pairs = tuple[Index, Index]
"""receiver (n,), source (n,)"""


@dataclass(frozen=True)
class Pool:
    """What the stores of K tasks hold, and which tasks belong together. Labels are equal where tasks share them."""

    size: Index
    """(K,) transitions"""
    scene: Index
    """(K,) label of the dynamics"""
    skill: Index
    """(K,) label of the skill group inside the scene"""
    reads: NDArray[np.bool_]
    """(K, K) does each task (row) find what it observes, and its goal, in the observations of each (column)"""
    weight: NDArray[np.float64]
    """(K,) how many rows each task that has data gets, in proportion; it may be written to"""
    everyone: bool = False
    """does a task without data of its own learn from what others share"""

    @staticmethod
    def of(tasks: Sequence[Task], size: Index, everyone: bool = False) -> Pool:
        scene = labels([task.scene for task in tasks])
        columns = [set(task.columns or range(task.obs_dim)) for task in tasks]
        reads = np.array([[mine <= theirs for theirs in columns] for mine in columns])
        reads &= (scene[:, None] == scene) | ~np.array([[task.local] for task in tasks])
        skill = labels([(task.scene, task.skill) for task in tasks])
        return Pool(size, scene, skill, reads, np.ones(len(tasks)), everyone)

    def receivers(self, rng: np.random.Generator, n: int, rows: Index) -> Index:
        """n rows, stratified: its share for each task that has data; who gets the remainder is drawn.

        rows (K, K): how many each task (row) may learn from of each (column). With `everyone` these are enough.
        """
        filled = np.flatnonzero(rows.any(1) if self.everyone else self.size)
        m = len(filled)
        weight = self.weight[filled]
        if (weight == weight[0]).all():
            ends = (np.arange(m + 1) * n + rng.integers(m)) // m
        else:
            ends = (np.append(0.0, np.cumsum(weight) / weight.sum()) * n + rng.random()).astype(np.int64)
            ends[-1] = n
        return np.repeat(filled, np.diff(ends))

    def may(self, label: Index) -> NDArray[np.bool_]:
        """(K, K): may each task (row) learn from the data of each (column), where those of a label share."""
        return (label[:, None] == label) & self.reads


Strategy = Callable[[np.random.Generator, int, Pool], Pairs]


def labels(names: Sequence[object]) -> Index:
    """Equal numbers for equal names."""
    known = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names])


def own(rng: np.random.Generator, n: int, pool: Pool) -> Pairs:
    """Each task learns from its own data."""
    k = pool.receivers(rng, n, np.diag(pool.size))
    return k, k


def uniform(rng: np.random.Generator, n: int, pool: Pool) -> Pairs:
    """Each task learns from all data of its scene alike: the union of the stores (share all)."""
    rows = pool.may(pool.scene) * pool.size
    k = pool.receivers(rng, n, rows)
    return k, one_of(rng, k, rows)


def groups(rng: np.random.Generator, n: int, pool: Pool) -> Pairs:
    """As uniform, inside the skill groups that the tasks declare (MT-Opt, Kalashnikov et al. 2021, 2104.08212)."""
    rows = pool.may(pool.skill) * pool.size
    k = pool.receivers(rng, n, rows)
    return k, one_of(rng, k, rows)


def family(rng: np.random.Generator, n: int, pool: Pool) -> Pairs:
    """As uniform, over all scenes: the dynamics of what is shared may differ."""
    rows = pool.reads * pool.size
    k = pool.receivers(rng, n, rows)
    return k, one_of(rng, k, rows)


def random(rng: np.random.Generator, n: int, pool: Pool) -> Pairs:
    """Any transition of any task, learned for a random task of its scene that has data."""
    source = anything(rng, n, pool)
    able = pool.everyone | (pool.size > 0)
    return one_of(rng, source, (pool.may(pool.scene).T & able).astype(np.int64)), source


def anything(rng: np.random.Generator, n: int, pool: Pool) -> Index:
    """The sources (n,) of transitions drawn from all stores alike."""
    return one_of(rng, np.zeros(n, np.int64), pool.size[None])


def one_of(rng: np.random.Generator, row: Index, weights: Index) -> Index:
    """For each entry of `row` (n,) a column of that row of the whole-number `weights` (R, K), in their proportion."""
    ends = np.cumsum(weights, 1).take(row, 0)
    at = rng.integers(0, ends[:, -1])
    chosen: Index = (at[:, None] >= ends).sum(1)
    return chosen


STRATEGIES: Mapping[str, Strategy] = {f.__name__: f for f in (own, uniform, random, groups, family)}


def of(name: str) -> Strategy:
    """The strategy that rows are drawn by; uds shares as uniform does, and labels them its own way."""
    return uniform if name == "uds" else STRATEGIES[name]


def balanced(receiver: Index, hit: NDArray[np.bool_], quota: Index, wanted: Index) -> Index:
    """Of candidate rows, those to keep: for each task k quota[k], of which wanted[k] are hits as far as there are any.

    Success and failure rebalanced (MT-Opt, 2104.08212, section IV). Where a kind runs out the other fills the quota.
    """
    kept = []
    for k in np.flatnonzero(quota):
        mine = np.flatnonzero(receiver == k)
        won, lost = mine[hit[mine]], mine[~hit[mine]]
        wins = min(max(int(wanted[k]), int(quota[k]) - len(lost)), len(won))
        kept.append(np.concatenate((won[:wins], lost[: quota[k] - wins])))
    return np.concatenate(kept)


class Sharing(NamedTuple):
    """What `--share` says."""

    name: str = "own"
    number: float = 0.0
    """the percentile of hindsight and cds, the temperature of hipi"""

    @property
    def asks(self) -> bool:
        """Does it ask the agent what transitions are worth?"""
        return self.name in ("cds", "cds-soft", "hipi")


NUMBERS: Mapping[str, float] = {"hindsight": 90.0, "hipi": 1.0, "cds": 50.0, "cds-soft": 50.0}
"""The strategies of `relabel/score.py`, and their default numbers.

CDS's paper has the 90th percentile; at the 50th every task of docs/results.md's smallest anchor is learned.
"""
NAMES = (*STRATEGIES, "uds", *NUMBERS)


def parse(text: str) -> Sharing:
    """The sharing that `--share` names: a name, or a name with its number, "cds:50". Raises InputError."""
    text = " ".join(text.split())
    name, colon, number = text.partition(":")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(NAMES)}"
        raise InputError(f"--share {text}: no strategy is called {name!r}; {hint}")
    if not colon:
        return Sharing(name, NUMBERS.get(name, 0.0))
    low, high = (1e-6, 1e6) if name == "hipi" else (0.0, 100.0)
    try:
        value = float(number)
    except ValueError:
        value = np.nan
    if name not in NUMBERS or not low <= value <= high:
        cure = f"{name} takes a number from {low:g} to {high:g}" if name in NUMBERS else f"{name} takes no number"
        raise InputError(f"--share {text}: {cure}")
    return Sharing(name, value)


def check(tasks: Sequence[Task], sharing: Sharing, pool: Pool, balance: float = 0.0) -> None:
    """InputError unless what is to be shared can be labelled for another task, and what is to stand out can."""
    for task in tasks:
        if balance and not np.isfinite(task.reward_range[0]):
            raise InputError(f"--balance: {task.name} declares no least reward (reward_range), so none stands out")
    if sharing.name == "own":
        return
    label = {"family": np.zeros_like(pool.scene), "groups": pool.skill}.get(sharing.name, pool.scene)
    for k, task in enumerate(tasks):
        if (label == label[k]).sum() == 1:
            continue
        if task.reward is None:
            raise InputError(
                f"--share {sharing.name}: {task.name} has only recorded rewards, so no other task's data can "
                f"be scored for it: use --share own, or leave it out"
            )
        if sharing.name == "uds" and not np.isfinite(task.reward_range[0]):
            raise InputError(f"--share uds: {task.name} declares no least reward (reward_range)")
