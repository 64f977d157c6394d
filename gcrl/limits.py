"""What can be checked of settings: the limits of numbers, and what must fit together."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from gcrl.bodies import BODIES
from gcrl.surgery import SURGERIES
from tasks import InputError, Task

S = TypeVar("S")
MOST = 2**63 - 1
LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),  # torch takes no more
    "warmup": (0, math.inf),
    "utd": (0, 10**6),
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
    "best": (1e-6, 1),
    "lr_end": (0, 1),
    "percentile": (0, 100),
    "data_share": (0, 1),
    "reward_scale": (1e-6, 1e6),
    "alpha": (1e-6, math.inf),  # its logarithm is learned
    "entropy": (-math.inf, math.inf),
    "expectile": (0, 1),
    "temperature": (1e-6, math.inf),
    "trace": (0, 1),
    "target": (-math.inf, math.inf),
    "pessimism": (0, 1),
    "mix": (0, 1),
    "sigma": (1e-6, math.inf),
    "multiplier": (1e-6, math.inf),  # its logarithm is learned
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
            most = MOST if whole else sys.float_info.max
            if not (low <= x <= high and -most <= x <= most):
                if whole and x > most and math.isinf(high):
                    raise InputError(f"{flag}: must be a whole number below 2^63")
                limits = f", {low} or more" if math.isinf(high) else f" from {low} to {high}"
                kind = "a whole" if whole else "a finite"
                raise InputError(f"{flag} {x}: must be {kind} number{limits if math.isfinite(low) else ''}")
    critics, subset = getattr(settings, "critics", 1), getattr(settings, "subset", 1)
    if subset > critics:
        raise InputError(f"--subset {subset}: must not be more than --critics {critics}")


def check_weights(algorithm: Any, task_id: str, chosen: Sequence[Task]) -> None:
    """Do the ways in which tasks share weights and gradients exist, and fit what tells the tasks apart."""
    for name, known in (("weights", BODIES), ("surgery", ("none", *SURGERIES))):
        if (value := getattr(algorithm, name, None)) is not None and value not in known:
            raise InputError(f"--{name} {value}: choose from {', '.join(known)}")
    weights = getattr(algorithm, "weights", "conditioned")
    if weights in ("heads", "tied") and "onehot" not in task_id:
        raise InputError(f"--weights {weights} needs to know each row's task: give --task-id onehot or onehot+goal")
    if weights == "modular" and len(algorithm.hidden) < 2:
        raise InputError("--weights modular: needs two hidden layers or more, as in --hidden 256 256")
    if weights != "conditioned" and task_id == "goal" and not chosen[0].goal_dim:
        raise InputError(f"--weights {weights}: {chosen[0].name} has no goal, and one task needs no identity")


def check_data(s: Any) -> None:
    """Is there something to learn from, and do the flags about it say what can be."""
    if s.offline and not s.data:
        raise InputError("--offline: there is nothing to learn from, give --data PATH")
    if s.offline and s.explore == "relay":
        raise InputError("--explore relay: nothing is explored with --offline; drop one of them")
    if s.best < 1 and not s.data:
        raise InputError("--best chooses among the episodes of --data: give some, or drop it")


def typed(s: S, algorithm: type[Any]) -> S:
    """Settings as Python code may give them, in the types that config.json has: names for paths, NumPy's numbers.

    `algorithm` is the kind that the agent's numbers must be of. Raises InputError for what a resume would refuse.
    """
    given: Any = s
    if type(given.algorithm) is not algorithm:
        raise InputError(f"--agent {given.agent} has numbers of its own: begin with default({given.agent!r})")
    init = None if given.init is None else str(given.init)
    runs = Path(given.runs) if isinstance(given.runs, str) else given.runs
    return plain(dataclasses.replace(given, runs=runs, init=init, algorithm=plain(given.algorithm)))


def plain(part: S) -> S:
    """A dataclass of settings with plain values, checked against what its fields are declared to be."""
    found = {}
    for name, hint in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if get_origin(hint) is tuple:
            several = value if isinstance(value, list | tuple | np.ndarray) else (value,)
            value = tuple(str(x) if isinstance(x, Path) else item(x) for x in several)
        else:
            value = item(value)
        if not fits(value, hint):
            wanted = hint.__name__ if isinstance(hint, type) and not get_args(hint) else hint
            raise InputError(f"--{name.replace('_', '-')} {value!r}: must be {wanted}")
        found[name] = value
    return dataclasses.replace(part, **found)  # type: ignore[type-var]


def item(value: Any) -> Any:
    """Python's number for NumPy's."""
    return value.item() if isinstance(value, np.generic) else value


def fits(value: object, hint: Any) -> bool:
    """Is a value what its field is declared to be. A whole number passes for any number."""
    if isinstance(hint, UnionType):
        return any(fits(value, kind) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(x, get_args(hint)[0]) for x in value)
    if hint in (int, float):
        return type(value) in (int, hint)
    return not isinstance(hint, type) or isinstance(value, hint)
