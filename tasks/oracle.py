"""Data that scripts can make for OGBench's tasks (arXiv 2410.20092): the same seed gives the same data, to the bit.

Which kinds there are, how long their episodes are and how much noise is in the actions is that paper's. Each episode
has seeds of its own, made from the seed and its number; they seed whatever draws: ours, NumPy's global generator where
the wheel's own scripts use it, the simulator and its action space.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks import ogbench
from tasks.task import Episode, InputError, Task


class Kind(NamedTuple):
    """How a script behaves."""

    steps: int
    """of an episode"""
    noise: float
    """of an action, where it is not that of the plan"""
    random: float = 0.0
    """share of actions that are drawn uniformly"""


class Made(NamedTuple):
    """An episode, and what its file has besides."""

    episode: Episode
    state: dict[str, NDArray[Any]]
    """(T + 1, ...) by name: qpos, qvel and where there are buttons button_states"""


class Script(Protocol):
    """Plays one episode."""

    def __call__(self, seed: int, steps: int) -> Made: ...


MAZE = {"navigate": Kind(1000, 0.5), "stitch": Kind(200, 0.5), "explore": Kind(500, 1.0)}
"""From goal to goal; to a goal four cells away, and stay; straight on for ten steps, then elsewhere."""
ARM = {"play": Kind(1000, 0.1), "noisy": Kind(1000, 0.1, 0.1)}
"""Plans with noise that lasts; the wheel's closed loops, with noise in each action and some random ones."""
PUZZLE = {**ARM, "noisy": Kind(1000, 0.1, 0.2)}


def kinds(name: str) -> dict[str, Kind]:
    """What can be made for `ogbench:<name>`; empty where a policy would have to be learnt first."""
    short = name.removeprefix(ogbench.PREFIX)
    if short.startswith("pointmaze-giant"):
        return {**MAZE, "navigate": Kind(2000, 0.5)}
    if short.startswith("pointmaze"):
        return MAZE
    return PUZZLE if short.startswith("puzzle") else ARM if short.startswith(("cube", "scene")) else {}


def episodes(name: str, kind: str, steps: int, seed: int = 0, noise: float | None = None) -> Iterator[Episode]:
    """Episodes of `ogbench:<name>` of `steps` steps in all, the last one cut short. Raises InputError at once."""
    return (made.episode for made in makes(name, kind, steps, seed, noise))


def makes(name: str, kind: str, steps: int, seed: int = 0, noise: float | None = None) -> Iterator[Made]:
    """As `episodes`, with what a file has besides."""
    task, known = ogbench.task_of(name), kinds(name)
    if kind not in known:
        can = f"the kinds are {', '.join(known)}" if known else "no script can play it, a policy has to be trained"
        raise InputError(f"'{kind}' data of {name}: {can}")
    if steps < 1:
        raise InputError(f"{steps} steps of {name}: make at least 1")
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or more")
    behaviour = known[kind] if noise is None else known[kind]._replace(noise=noise)
    return _played(script(task, kind, behaviour), behaviour.steps, steps, seed)


def _played(play: Script, length: int, steps: int, seed: int) -> Iterator[Made]:
    for number in count():
        if number * length >= steps:
            return
        own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        yield play(own, min(length, steps - number * length))


def script(task: Task, kind: str, behaviour: Kind) -> Script:
    """Who plays these data; the simulator is loaded here."""
    if kind in MAZE:
        from tasks.oracle_maze import Walk

        return Walk(task, kind, behaviour)
    from tasks.oracle_arm import Manipulation

    return Manipulation(task, kind, behaviour)


def write(path: Path, made: Iterator[Made]) -> int:
    """The file in OGBench's layout, T + 1 rows an episode, the last of which has no action (zeros); the steps in it."""
    rows: dict[str, list[NDArray[Any]]] = {}
    for episode, state in made:
        end = np.zeros(len(episode.observation), bool)
        end[-1] = True
        action = np.concatenate([episode.action, np.zeros_like(episode.action[:1])])
        row = {"observations": episode.observation, "actions": action, "terminals": end, **state}
        for key, x in row.items():
            rows.setdefault(key, []).append(x)
    np.savez_compressed(path, **{key: np.concatenate(xs) for key, xs in rows.items()})  # type: ignore[arg-type]
    return sum(len(x) - 1 for x in rows["terminals"])


def episode_of(task: Task, observation: list[Any], action: list[Any], desired: list[Any] | None = None) -> Episode:
    """What was seen (T + 1) and done (T). The goal is the one pursued, or else what was achieved in the end."""
    seen = np.array(observation, np.float32)
    achieved = task.goal_of(seen)
    goals = np.repeat(achieved[-1:], len(action), 0) if desired is None else np.array(desired, np.float32)
    assert task.reward is not None
    reward = task.reward(achieved[1:], goals).astype(np.float32)
    return Episode(seen, np.array(action, np.float32), goals, reward, False)
