"""gcrl data collect: episodes of a task from policies, by hand, by chance or out of runs, and mixtures of these.

What is recorded depends on the seed alone: each episode has a reset seed and a generator of its own, counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import tasks
from gcrl import checkpoint, policy
from gcrl.cli import parse, stop_signals, until
from gcrl.collect import Lane, episode_seed, seen, step
from gcrl.limits import check_numbers
from tasks import Episode, InputError, Task, datasets, ogbench, oracle
from tasks.recorded import fit, recorded
from tasks.scripted import CONTROLLERS, Controller

Actions = NDArray[np.float32]
Generators = Sequence[np.random.Generator]
Act = Callable[[Sequence[Lane], Any, Generators], tuple[Actions, Any]]
"""Of lanes, what it handed out at the step before (None: nothing yet), and their generators: actions (B, A)."""
LANES = 5
"""Episodes that are played side by side."""


@dataclasses.dataclass(frozen=True)
class Collect:
    """Play policies and record what happens, as a Minari folder."""

    out: Path
    """the folder to make"""
    task: str = "fetch-reach"
    """what to play"""
    policy: tuple[str, ...] = ("random",)
    """who plays: random, scripted, run:PATH, run:PATH@STEP; several with their shares, random:0.5 scripted:0.5.
    An ogbench task is played by one of its own scripts instead: navigate, stitch, explore, play, noisy"""
    episodes: int = 100
    """how many"""
    steps: int | None = None
    """of an ogbench task's script: how many in all, in place of --episodes"""
    noise: float = 0.0
    """standard deviation of what is added to each action (not to random ones)"""
    random: float = 0.0
    """share of the steps in which the action is drawn instead (where it is not anyhow)"""
    seed: int = 0
    """of all that is drawn"""
    device: str = "auto"
    """auto, cpu or cuda: where policies of runs are asked"""


@dataclass(frozen=True)
class Player:
    """One of those who play."""

    act: Act
    task: Task
    """in the layout that it knows"""
    drawn: bool = False
    """are its actions drawn anyhow"""


def uniform(task: Task, lanes: Sequence[Lane], carry: Any, rngs: Generators) -> tuple[Actions, None]:
    """(B, A) uniform in [-1, 1]"""
    return np.stack([rng.uniform(-1, 1, task.action_dim) for rng in rngs]).astype(np.float32), None


def scripted(control: Controller, lanes: Sequence[Lane], carry: Any, rngs: Generators) -> tuple[Actions, None]:
    return np.stack([control(lane.observation[-1], lane.desired[-1]) for lane in lanes]), None


def trained(
    agent: Any, k: int, device: Any, lanes: Sequence[Lane], carry: Any, rngs: Generators
) -> tuple[Actions, Any]:
    """What an agent does without exploration; the task is its number k."""
    action, carry = agent.act(seen(lanes, np.full(len(lanes), k), device), carry)
    return action.cpu().numpy(), carry


def player(name: str, task: Task, device: str = "auto") -> Player:
    """Who plays under this name. Raises InputError if nobody does."""
    if name == "random":
        return Player(partial(uniform, task), task, drawn=True)
    if name == "scripted":
        if task.name not in CONTROLLERS:
            raise InputError(f"--policy scripted: nobody wrote one for {task.name}, but for {', '.join(CONTROLLERS)}")
        return Player(partial(scripted, CONTROLLERS[task.name]), task)
    if name.startswith("run:") and len(name) > 4:
        return _of_run(name.removeprefix("run:"), task, device)
    raise InputError(f"--policy {name}: choose from random, scripted, run:PATH, run:PATH@STEP")


def _of_run(name: str, task: Task, device: str) -> Player:
    """The policy of a run's newest checkpoint, or of the one at a step."""
    path, at, number = name.rpartition("@")
    folder, number = (Path(path), number) if at and number.isdecimal() else (Path(name), "")
    agent, plan, _ = policy.load(folder, device, _checkpoint(folder, int(number)) if number else None)
    known = [t.name for t in plan.tasks]
    if task.name not in known:
        raise InputError(f"--policy run:{name}: that run has learnt {', '.join(known)}, not {task.name}")
    k = known.index(task.name)
    return Player(partial(trained, agent, k, plan.device), plan.tasks[k])


def _checkpoint(folder: Path, number: int) -> Path:
    there = {int(p.name): p for p in reversed(checkpoint.folders(folder))}
    if number not in there:
        raise InputError(
            f"{folder} has no checkpoint at step {number}, only at {', '.join(map(str, there)) or 'none'}: "
            f"a run keeps its {checkpoint.KEEP} newest; train one with --steps {number} to have it"
        )
    return there[number]


def shares(asked: Sequence[str]) -> dict[str, float]:
    """Policies and their shares of the episodes, which sum to 1: equal ones where none is given. Raises InputError."""
    names, given = [], []
    items = [item for words in asked for item in words.split(",")]
    for item in items:
        name, colon, number = item.rpartition(":")
        try:
            share = float(number) if colon else None
        except ValueError:  # a path
            share = None
        names.append(item if share is None else name)
        given.append(share)
    text = " ".join(items)
    if not items or len(set(names)) < len(names) or not all(names):
        raise InputError(f"--policy {text}: name each policy once, as in random:0.5 scripted:0.5")
    if all(share is None for share in given):
        return dict.fromkeys(names, 1 / len(names))
    parts = [np.nan if share is None else share for share in given]
    if not (all(0 < part <= 1 for part in parts) and abs(sum(parts) - 1) < 1e-6):
        raise InputError(f"--policy {text}: the shares must be above 0 and sum to 1, as in random:0.5 scripted:0.5")
    return dict(zip(names, parts, strict=True))


def counts(parts: Sequence[float], n: int) -> list[int]:
    """n episodes in these shares: who is owed most of one gets what is left."""
    owed = np.asarray(parts) * n
    out = np.floor(owed + 1e-9).astype(int)
    out[np.argsort(out - owed, kind="stable")[: n - out.sum()]] += 1
    return out.tolist()


def collect(players: Sequence[Player], shares: Sequence[float], task: Task, s: Collect) -> Iterator[Episode]:
    """The episodes, those of one player in batches, the batches shuffled."""
    batches: list[tuple[int, int]] = []
    for i, n in enumerate(counts(shares, s.episodes)):
        batches += [(i, min(LANES, n - start)) for start in range(0, n, LANES)]
    lanes: dict[int, list[Lane]] = {}  # of each layout
    first = 0
    for b in np.random.default_rng(episode_seed(s.seed, 0, 0, 5)).permutation(len(batches)):
        i, size = batches[b]
        mine = lanes.setdefault(id(players[i].task), [])
        mine += [Lane(players[i].task) for _ in range(size - len(mine))]
        for e in play(players[i], mine[:size], first, s):
            yield fit(
                task, recorded("the simulator", e.observation, e.action, e.reward, e.terminated, e.desired), None, True
            )
        first += size


def play(one: Player, lanes: Sequence[Lane], first: int, s: Collect) -> list[Episode]:
    """An episode in each lane, numbered from `first`."""
    numbers = range(first, first + len(lanes))
    rngs = [np.random.default_rng(episode_seed(s.seed, n, 0, 4)) for n in numbers]
    for lane, n in zip(lanes, numbers, strict=True):
        lane.reset(episode_seed(s.seed, n, 0, 3))  # counted as no episode of a training or an evaluation is
    running, carry = list(range(len(lanes))), None
    while running:
        actions, carry = one.act(lanes, carry, rngs)  # finished lanes keep their row, and a carry its shape
        if not one.drawn:
            actions = np.stack([disturbed(x, rng, s) for x, rng in zip(actions, rngs, strict=True)])
        if one.task.discrete:
            chosen = np.arange(one.task.action_dim) == actions.argmax(1)[:, None]
            actions = np.where(chosen, 1, -1).astype(np.float32)
        over = step([lanes[i] for i in running], actions[running])
        running = [i for i, ended in zip(running, over, strict=True) if not ended]
    return [lane.episode() for lane in lanes]


def disturbed(action: Actions, rng: np.random.Generator, s: Collect) -> Actions:
    """An action (A,) with noise, or in its place a drawn one."""
    noise, other, drawn = rng.normal(size=action.shape), rng.uniform(-1, 1, action.shape), rng.random() < s.random
    return np.clip(other if drawn else action + s.noise * noise, -1, 1).astype(np.float32)


def main(args: Sequence[str]) -> int:
    s = parse(Collect, args, "gcrl data collect")
    check_numbers(s)
    task = tasks.get(s.task)
    if task.name.startswith(ogbench.PREFIX) and set(s.policy) & set(oracle.kinds(task.name)):
        by_script(s, task)
        print(s.out)
        return 0
    if s.steps is not None:
        raise InputError(f"--steps {s.steps}: only scripts of ogbench tasks count them; give --episodes")
    parts = shares(s.policy)
    players = [player(name, task, s.device) for name in parts]
    said = ", ".join(f"{share:g} {name}" for name, share in parts.items())
    said += f", noise {s.noise:g}" * (s.noise > 0) + f", {s.random:g} of the actions drawn" * (s.random > 0)
    played = collect(players, list(parts.values()), task, s)
    bar = tqdm(played, total=s.episodes, unit="episode", desc=task.name, disable=None)
    with stop_signals() as stop:
        datasets.write(s.out, task, until(stop, bar), algorithm_name=said)
    print(s.out)
    return 0


def by_script(s: Collect, task: Task) -> int:
    """Record what a script of OGBench's plays; how many episodes. Raises InputError."""
    if len(s.policy) > 1 or s.random:
        raise InputError(f"--policy {' '.join(s.policy)}: a script of {task.name} plays alone, with its own noise")
    (kind,) = s.policy
    steps = s.steps or s.episodes * oracle.kinds(task.name)[kind].steps
    played = oracle.episodes(task.name, kind, steps, s.seed, s.noise or None)
    bar = tqdm(played, unit="episode", desc=task.name, disable=None)
    with stop_signals() as stop:
        return datasets.write(s.out, task, until(stop, bar), algorithm_name=kind)
