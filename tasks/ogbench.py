"""OGBench's goal-conditioned tasks with state observations, `ogbench:<name>` (Park et al. 2024, arXiv 2410.20092).

A goal is a full observation, as there: networks that compare states with goals, or set themselves states as subgoals,
need both in one space, and the published figures are of such goals. What success reads is a part of it, listed below;
the rest (the arm's pose in the goal's picture) is shown and does not count. `-oraclerep` in a name, as in
`cube-single-oraclerep-v0`, leaves of the goal what success reads, in the order of OGBench's own oracle representation.

In the simulator success compares with the target itself, which the goal's observation shows a few physics steps later.
Our desired goal holds the target's exact numbers there. A target is one of five, drawn by the seed of the reset.
"""

from __future__ import annotations

import difflib
import operator
from functools import partial
from typing import Any, NamedTuple

from tasks.task import Array, InputError, Task, distance, part

PREFIX = "ogbench:"
CURE = 'pip install "gcrl[ogbench]"'


class Part(NamedTuple):
    """Numbers of a goal that must be near the desired ones."""

    start: int
    stop: int
    step: int = 1
    tolerance: float = 0.5
    """in the observation's unit, edge included"""

    def of(self, goal: Array) -> Array:
        return goal[..., self.start : self.stop : self.step]


class Family(NamedTuple):
    obs_dim: int
    action_dim: int
    parts: tuple[Part, ...]
    words: str
    """the goal in words, `{}` being the maze or the number"""
    kind: str
    """which of tasks.ogbench_sim steps it"""


def reached(parts: tuple[Part, ...], achieved: Array, desired: Array) -> Array:
    """Each part within its tolerance: bool (...)."""
    first, *others = parts
    there = distance(first.of(achieved), first.of(desired)) <= first.tolerance
    for one in others:
        there = there & (distance(one.of(achieved), one.of(desired)) <= one.tolerance)
    return there


def cost_before(parts: tuple[Part, ...], achieved: Array, desired: Array) -> Array:
    """-1 until reached, then 0: (...). OGBench's own 0 and 1, less one, as its algorithms train with."""
    return 1.0 * reached(parts, achieved, desired) - 1.0


def columns(parts: tuple[Part, ...]) -> list[int]:
    """Where in the observation what success reads stands."""
    return [i for one in parts for i in range(one.start, one.stop, one.step)]


def moved(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same parts of a goal that consists of them only."""
    out, start = list[Part](), 0
    for one in parts:
        stop = start + len(columns((one,)))
        out.append(Part(start, stop, 1, one.tolerance))
        start = stop
    return tuple(out)


def cubes(n: int) -> Family:
    """Decimetres; after the arm's 19 numbers each cube has place (3), quaternion (4), cosine and sine of its yaw."""
    parts = tuple(Part(19 + 9 * i, 22 + 9 * i, tolerance=0.4) for i in range(n))
    return Family(19 + 9 * n, 5, parts, "bring {} to their places", "arm")


def buttons(n: int) -> Family:
    """Each button has its state as two numbers, one of them 1, then position and speed. States differ by 1, or not."""
    return Family(19 + 4 * n, 5, (Part(20, 19 + 4 * n, 4),), "bring the {} lights into the pattern", "arm")


SCENE = (Part(19, 22, tolerance=0.4), Part(29, 34, 4), Part(36, 37, tolerance=0.72), Part(38, 39, tolerance=0.6))
"""The cube, two buttons, the drawer (18 in a metre) and the window (15 in a metre), 4 cm each."""
POINT = Family(2, 2, (Part(0, 2, tolerance=1.0),), "roll the ball to the target in OGBench's {} maze", "point")
"""x and y (m), which are all there is to see."""
ANT = Family(29, 8, (Part(0, 2),), "walk the ant to the target in OGBench's {} maze", "walker")
HUMANOID = Family(69, 21, (Part(0, 2),), "walk the humanoid to the target in OGBench's {} maze", "walker")
SOCCER = Family(42, 8, (Part(15, 17),), "dribble the ball to the target in OGBench's {}", "walker")

TABLE: dict[str, tuple[Family, int, str]] = {
    **{f"pointmaze-{maze}": (POINT, 1000, maze) for maze in ("medium", "large", "giant", "teleport")},
    **{f"antmaze-{maze}": (ANT, 1000, maze) for maze in ("medium", "large", "giant", "teleport")},
    **{
        f"humanoidmaze-{maze}": (HUMANOID, horizon, maze)
        for maze, horizon in (("medium", 2000), ("large", 2000), ("giant", 4000))
    },
    "antsoccer-arena": (SOCCER, 1000, "arena"),
    "antsoccer-medium": (SOCCER, 1000, "medium maze"),
    "cube-single": (cubes(1), 200, "one cube"),
    "cube-double": (cubes(2), 500, "two cubes"),
    "cube-triple": (cubes(3), 1000, "three cubes"),
    "cube-quadruple": (cubes(4), 1000, "four cubes"),
    "cube-octuple": (cubes(8), 1500, "eight cubes"),
    "scene": (
        Family(40, 5, SCENE, "bring cube, buttons, drawer and window into the state shown", "arm"),
        750,
        "",
    ),
    "puzzle-3x3": (buttons(9), 500, "3 by 3"),
    "puzzle-4x4": (buttons(16), 500, "4 by 4"),
    "puzzle-4x5": (buttons(20), 1000, "4 by 5"),
    "puzzle-4x6": (buttons(24), 1000, "4 by 6"),
}
"""Layout, steps of an episode, and the word that the description wants. Registered, but its model lacks a material and
does not compile: humanoidmaze-teleport."""
NAMES = [f"{PREFIX}{name}-v0" for name in TABLE] + [
    f"{PREFIX}{name}-oraclerep-v0" for name, (family, *_) in TABLE.items() if family is not POINT
]


def make(name: str, oracle: bool, render_mode: str | None = None) -> Any:
    """The environment of a name of TABLE."""
    from tasks import ogbench_sim

    family = TABLE[name][0]
    at = columns(family.parts) if oracle else None
    sim: Any = {"point": ogbench_sim.Point, "walker": ogbench_sim.Walker, "arm": ogbench_sim.Arm}[family.kind]
    return sim(ogbench_sim.stock(f"{name}-v0"), family, at, render_mode)


def task_of(name: str) -> Task:
    """The task called `ogbench:<name>`; InputError, with the nearest names, if there is none."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(NAMES[:4])} and so on"
        raise InputError(f"unknown task '{name}': {hint} Its environments come with {CURE}")
    oracle = name.endswith("-oraclerep-v0")
    short = name.removeprefix(PREFIX).removesuffix("-v0").removesuffix("-oraclerep")
    family, horizon, word = TABLE[short]
    parts = moved(family.parts) if oracle else family.parts
    success = partial(reached, parts)
    body = short.split("-")[0] if family.kind != "arm" else short
    return Task(
        name=name,
        make=partial(make, short, oracle),
        description=family.words.format(word).replace("one cube to their places", "the cube to its place"),
        obs_dim=family.obs_dim,
        action_dim=family.action_dim,
        goal_dim=len(columns(parts)) if oracle else family.obs_dim,
        horizon=horizon,
        goal_of=operator.itemgetter((Ellipsis, columns(family.parts))) if oracle else part(0, None),
        success=success,
        reward=partial(cost_before, parts),
        terminated=success,
        reward_range=(-1.0, 0.0),
        family=f"ogbench-{body}",
        scene=f"ogbench-{short}",
    )
