"""Ratios of times on a machine that does other work as well."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

FEWEST, MOST = 12, 120


def seconds_of_steps(sides: dict[str, Any], actions: np.ndarray, least: float) -> dict[str, float]:
    """The least time that each of two environments takes for `actions` (T, A), each step by itself, in turn.

    Other work only ever adds to a time, so more rounds come nearer to the truth, and the least of each step nearer than
    that of a whole episode, in which something always comes between. They end once the first has taken at least
    `least` times the second's, and after MOST anyway.
    """
    best = {side: np.full(len(actions), np.inf) for side in sides}
    for seed in range(MOST):
        for side, env in sides.items():
            env.reset(seed=seed % 3)
            for t, action in enumerate(actions):
                start = time.perf_counter()
                env.step(action)
                best[side][t] = min(best[side][t], time.perf_counter() - start)
        first, second = (least_times.sum() for least_times in best.values())
        if seed + 1 >= FEWEST and first >= least * second:
            break
    return {side: float(least_times.sum()) for side, least_times in best.items()}
