"""Between which limits the numbers of a run lie."""

from __future__ import annotations

import dataclasses
import math
from typing import get_type_hints

from tasks import InputError

LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),  # torch takes no more
    "warmup": (0, math.inf),
    "eval_episodes": (0, math.inf),
    "replay": (1, 10**12),
    "lanes": (1, 1024),
    "threads": (1, 1024),
    "n_step": (1, 1000),
    "batch": (1, 2**20),
    "hidden": (1, 2**20),
    "tau": (0, 1),
    "dropout": (0, 0.99),
    "random": (0, 1),
    "epsilon": (0, 1),
    "anneal": (0, math.inf),
    "reflect": (0, 1),
    "moved": (0, 1),
    "reset_every": (0, math.inf),
    "balance": (0, 1),
    "reward_scale": (1e-6, 1e6),
    "alpha": (1e-6, math.inf),  # its logarithm is learned
    "entropy": (-math.inf, math.inf),
}
"""Where a count may be other than 1 or more, and another number other than 0 or more."""


def check_numbers(settings: object) -> None:
    """All numbers finite and within their limits, at least one hidden layer, subset <= critics."""
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value, flag = getattr(settings, field.name), f"--{field.name.replace('_', '-')}"
        if value == () and field.name == "hidden":
            raise InputError(f"{flag}: give at least one number")
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, bool) or not isinstance(x, int | float):
                continue
            whole = hints[field.name] in (int, int | None, tuple[int, ...])
            low, high = LIMITS.get(field.name, (1 if whole else 0, math.inf))
            if not (low <= x <= high and math.isfinite(x)):
                limits = f", {low} or more" if math.isinf(high) else f" from {low} to {high}"
                kind = "a whole" if whole else "a finite"
                raise InputError(f"{flag} {x}: must be {kind} number{limits if math.isfinite(low) else ''}")
    critics, subset = getattr(settings, "critics", 1), getattr(settings, "subset", 1)
    if subset > critics:
        raise InputError(f"--subset {subset}: must not be more than --critics {critics}")
