"""Ratios of times on a machine that does other work as well."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

FEWEST, MOST = 12, 120


def seconds_of_steps(sides: dict[str, Any], actions: np.ndarray, least: float) -> dict[str, float]:
    """The least time that each of two environments takes for `actions` (T, A), the first and second in turn.

    Other work only ever adds to a time, so more rounds come nearer to the truth: they end once the first has taken
    at least `least` times the second's, and after MOST anyway.
    """
    best = dict.fromkeys(sides, np.inf)
    for seed in range(MOST):
        for side, env in sides.items():
            env.reset(seed=seed % 3)
            start = time.perf_counter()
            for action in actions:
                env.step(action)
            best[side] = min(best[side], time.perf_counter() - start)
        first, second = best.values()
        if seed + 1 >= FEWEST and first >= least * second:
            break
    return best
