"""Goal strategies: which moment becomes the goal of which transition (Andrychowicz et al. 2017, arXiv 1707.01495, 4.5).

A strategy maps transitions to transitions, by number: the goal of row i becomes what was *achieved* at the end of
transition `strategy(rng, rows)[i]`, or, where the answer is the bitwise complement ~j, the goal that was *desired* in
transition j. No strategy sees a tensor, so each is checked exhaustively, and any of them composes with any way of
sharing data between tasks.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate

import numpy as np

from relabel.store import Index, Rows
from tasks.task import InputError

Strategy = Callable[[np.random.Generator, Rows], Index]


def none(rng: np.random.Generator, rows: Rows) -> Index:
    """The goal that was desired at the time."""
    return ~rows.index


def current(rng: np.random.Generator, rows: Rows) -> Index:
    """What the transition itself achieved."""
    return rows.index


def future(rng: np.random.Generator, rows: Rows) -> Index:
    """Any moment from now to the end of the episode."""
    return rows.index + rng.integers(0, rows.left + 1)


def final(rng: np.random.Generator, rows: Rows) -> Index:
    """The end of the episode."""
    return rows.index + rows.left


def episode(rng: np.random.Generator, rows: Rows) -> Index:
    """Any moment of the episode."""
    return rows.index - rows.past + rng.integers(0, rows.past + rows.left + 1)


def random(rng: np.random.Generator, rows: Rows) -> Index:
    """Any moment of any episode."""
    return rng.integers(0, rows.size, len(rows.index))


def desired(rng: np.random.Generator, rows: Rows) -> Index:
    """The goal that was desired at any moment of any episode."""
    return ~rng.integers(0, rows.size, len(rows.index))


def geometric(rng: np.random.Generator, rows: Rows, gamma: float = 0.99) -> Index:
    """An offset of k steps with probability (1 - gamma) gamma^k; beyond the end, the end (Eysenbach et al. 2022)."""
    return rows.index + np.minimum(rng.geometric(1 - gamma, len(rows.index)) - 1, rows.left)


def mixture(parts: Sequence[tuple[Strategy, float]], rng: np.random.Generator, rows: Rows) -> Index:
    """Each row by one of the parts, chosen with its weight. The weights sum to 1."""
    # Every part answers for every row: cheaper than picking rows apart, and a strategy costs next to nothing.
    weights = accumulate(weight for _, weight in parts)
    draw = rng.random(len(rows.index))
    goals = parts[-1][0](rng, rows)
    for (strategy, _), below in reversed(list(zip(parts[:-1], weights, strict=False))):
        goals = np.where(draw < below, strategy(rng, rows), goals)
    return goals


STRATEGIES: Mapping[str, Strategy] = {
    f.__name__: f for f in (none, future, final, episode, random, current, desired, geometric)
}
RATIO = 0.8  # k = 4 relabelled transitions for each original one


def parse(text: str, gamma: float = 0.99, flag: str = "--relabel") -> Strategy:
    """The strategy that `flag` names.

    "future" alone relabels RATIO of the rows; "future:0.4,desired:0.4" gives each its share. What is left keeps its own
    goal. `gamma` is the discount that `geometric` draws with. Raises InputError for anything else.
    """
    text = " ".join(text.split())  # whatever was typed, the error is one line
    parts: list[tuple[Strategy, float]] = []
    for item in text.split(","):
        name, colon, weight = item.strip().partition(":")
        if name not in STRATEGIES:
            near = difflib.get_close_matches(name, STRATEGIES, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(STRATEGIES)}"
            raise InputError(f"{flag} {text}: no strategy is called {name!r}; {hint}")
        strategy = partial(geometric, gamma=gamma) if name == "geometric" else STRATEGIES[name]
        try:
            share = float(weight) if colon else (1.0 if name == "none" else RATIO)
        except ValueError:
            share = np.nan
        if not 0 < share <= 1:
            raise InputError(f"{flag} {text}: the share of {name} must be a number in (0, 1], not {weight!r}")
        parts.append((strategy, share))
    kept = 1 - sum(share for _, share in parts)
    if kept < -1e-9:
        raise InputError(f"{flag} {text}: the shares sum to {1 - kept:g}, more than 1; write one behind each, name:0.4")
    if kept > 1e-9:
        parts.append((none, kept))
    return parts[0][0] if len(parts) == 1 else partial(mixture, parts)
