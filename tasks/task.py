"""What a task is: a goal, a reward and an end, written as arithmetic on (achieved, desired).

A task's functions are pure and take NumPy arrays or Torch tensors with any leading axes, so that one function scores
a replay batch, a learned model's imagination and the simulator's own step. They are built from
`functools.partial` and `operator.itemgetter`, never from lambdas, so that a task pickles.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import gymnasium

    from tasks.mirror import Mirror

Array = Any
"""A NumPy array or a Torch tensor."""

Score = Callable[[Array, Array], Array]
"""(achieved (..., G), desired (..., G)) -> (...)"""


class InputError(ValueError):
    """Something a person typed, or a file, that cannot be used. Its text is one line: what, where, what to do."""


class SimulatorError(RuntimeError):
    """A simulator broke its contract in the middle of a run (a NaN, a wrong shape). One line, like InputError."""


def simulator(task: Task, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The task's, made. Raises InputError, in one line, whatever it is that keeps this machine from it."""
    try:
        return task.make(render_mode=render_mode)
    except InputError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        chosen = os.environ.get("MUJOCO_GL")  # it is loaded even where nothing is drawn
        others = ", ".join(name for name in ("egl", "osmesa", "glfw") if name != chosen)
        cure = f"; MUJOCO_GL is {chosen}, which this machine may not have: set it to one of {others}, or unset it"
        raise InputError(f"the simulator of {task.name} cannot be made ({said}){cure if chosen else ''}") from error


def distance(achieved: Array, desired: Array) -> Array:
    """Euclidean distance over the last axis, (..., G) x (..., G) -> (...), in the goal's unit."""
    return ((achieved - desired) ** 2).sum(-1) ** 0.5


def within(radius: float, achieved: Array, desired: Array) -> Array:
    """Nearer than `radius`: bool (...)."""
    return distance(achieved, desired) < radius


def cost_outside(radius: float, achieved: Array, desired: Array) -> Array:
    """-1 while farther than `radius`, else 0: (...)."""
    return -1.0 * (distance(achieved, desired) > radius)


def bonus_if(reached: Score, achieved: Array, desired: Array) -> Array:
    """1 where `reached`, else 0: (...)."""
    return 1.0 * reached(achieved, desired)


def never(achieved: Array, desired: Array) -> Array:
    """False everywhere: bool (...). The end of a task that only the clock ends."""
    return (achieved != desired).any(-1) & False


def part(start: int, stop: int | None) -> Callable[[Array], Array]:
    """The slice [start:stop] of the last axis, as a function that pickles."""
    return operator.itemgetter((Ellipsis, slice(start, stop)))


def identity(x: Any) -> Any:
    """Equal and hashable for functions that are built alike; `partial` and `itemgetter` themselves compare as objects.

    What cannot be looked into is itself only.
    """
    if isinstance(x, functools.partial):
        return identity(x.func), identity(x.args), identity(sorted(x.keywords.items()))
    if isinstance(x, operator.itemgetter):
        return operator.itemgetter, identity(x.__reduce__()[1])
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return type(x), *(identity(getattr(x, field.name)) for field in dataclasses.fields(x))
    if isinstance(x, slice):
        return slice, x.start, x.stop, x.step
    if isinstance(x, np.ndarray):
        return x.shape, x.dtype.str, x.tobytes()
    if isinstance(x, tuple | list):
        return tuple(map(identity, x))
    return x if isinstance(x, Hashable) else id(x)


def choice(action: NDArray[np.floating]) -> NDArray[np.float32]:
    """The choice that these numbers mean, as data hold it: (..., A) -> (..., A), 1 for the greatest and else -1."""
    greatest = action.argmax(-1)[..., None]  # of equals the first
    return np.where(np.arange(action.shape[-1]) == greatest, np.float32(1), np.float32(-1))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One MDP of the many that a policy serves.

    `make(render_mode=None)` returns a gymnasium environment without autoreset whose actions are Box(-1, 1, (A,)). Where
    goal_dim > 0 it observes a dict of observation (O,), achieved_goal (G,) and desired_goal (G,), and the achieved goal
    can be read off the observation by `goal_of`; where goal_dim is 0 it observes a vector (O,), and reward and
    termination are the recorded ones.
    """

    name: str
    make: Callable[..., gymnasium.Env[Any, Any]]
    description: str
    """The goal in words: what a person would tell the robot."""
    obs_dim: int
    action_dim: int
    goal_dim: int = 0
    discrete: bool = False
    """An action is a choice, that of the greatest of its A numbers; data hold 1 for what was chosen and else -1."""
    horizon: int
    """Steps until the clock ends an episode."""
    goal_of: Callable[[Array], Array] = part(0, 0)
    """observation (..., O) -> achieved goal (..., G)"""
    success: Score = never
    reward: Score | None = None
    """r_t = reward(achieved at t + 1, desired at t). None: the recorded reward is the only one (goal_dim 0)."""
    terminated: Score = never
    """Does reaching (achieved at t + 1, desired at t) end the episode."""
    reward_range: tuple[float, float] = (-math.inf, math.inf)
    family: str
    """Tasks of one family share the body and the layout of observation and action."""
    scene: str
    """Tasks of one scene share the dynamics, so that their data may be shared without bias."""
    skill: str = ""
    """Tasks of one scene and one skill are so near that `--share groups` lets them share (MT-Opt, arXiv 2104.08212)."""
    local: bool = False
    """The goal can be read off observations of its own scene only: in others the numbers there mean something else."""
    columns: tuple[int, ...] = ()
    """Where the numbers of the observation lie in the longest one of the family; empty: it is one of those."""
    places: tuple[int, ...] = ()
    """Numbers of the observation that only say where in the scene things are, and it is the same everywhere: what
    matters can be told from the other numbers and from how far the goal is."""
    mirror: Mirror | None = None
    """The reflection that leaves the scene as it is."""
    easier: tuple[str, ...] = ()
    """Tasks of the scene that bring the robot where this one can begin; a default run learns them too, first."""
    end_at_goal: bool = False
    """What a default run learns from ends where a step arrives at the goal: for goals that are hard to stay at."""
    n_step: int = 1
    """Steps of reward before a default run bootstraps: more where the control rate is high for the way to go."""
    budget: int = 100_000
    """Environment steps of a default training run."""


class Episode(NamedTuple):
    """One finished episode of T steps."""

    observation: NDArray[np.float32]
    """(T + 1, O)"""
    action: NDArray[np.float32]
    """(T, A) in [-1, 1]"""
    desired: NDArray[np.float32]
    """(T, G): the goal in force when the action was taken"""
    reward: NDArray[np.float32]
    """(T,) as recorded"""
    terminated: bool
    """the MDP ended with the last step (False: the clock did)"""
