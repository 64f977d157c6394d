"""Milliseconds per SAC update: ours, Stable-Baselines3's, sbx's (JAX), and the least that its matrix products can take.

    python -m tests.benchmarks.update [--threads 1 2] [--rounds 15] [--updates 20]

Batch 256, hidden 3 x 256, two critics, 16 numbers in (ours: 13 and a goal of 3), 4 actions. Each side is a process of
its own, so that JAX and torch never share a thread pool; all are bound to the same `threads` cores and take turns, so
only one is ever at work. The peers' `train` draws its batches itself: its like is ours with the draw,
which also relabels.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from gcrl.layers import can_round

BATCH, HIDDEN, CRITICS = 256, (256, 256, 256), 2
OBS, GOAL, ACTION, STEPS, GAMMA = 13, 3, 4, 50, 0.98
CUBE = 256
"""Side of the product whose rate is the machine's."""


def products(inputs: int, outputs: int) -> list[int]:
    """Multiplications per row in each layer of a network."""
    return [a * b for a, b in pairwise((inputs, *HIDDEN, outputs))]


def least_flop() -> float:
    """Of one update, matrix products alone, and of these only what the mathematics needs: 1107.8e6.

    The critics' loss: the actor and the slow critics forward at s', the critics forward at (s, a), and back to their
    weights. The actor's: the actor and the critics forward at s, the critics back to the action and no weight, the
    actor back to its weights. No layer goes back to an observation.
    """
    actor = products(OBS + GOAL, 2 * ACTION)
    critic = products(OBS + GOAL + ACTION, 1)
    q, pi = CRITICS * sum(critic), sum(actor)
    to_hidden = CRITICS * sum(critic[1:])
    critic_loss = (pi + q) + q + (q + to_hidden)
    actor_loss = (pi + q) + (to_hidden + CRITICS * ACTION * HIDDEN[0]) + (pi + sum(actor[1:]))
    return 2.0 * BATCH * (critic_loss + actor_loss)


class Flat(gymnasium.Env[np.ndarray, np.ndarray]):
    """Spaces for the peers, who are never stepped."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS + GOAL,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)


Run = Callable[[int], Any]
"""n -> after n updates"""


def floor() -> Run:
    """As many products as make up the least work of n updates."""
    a, b = torch.randn(2, CUBE, CUBE)
    out = torch.empty(CUBE, CUBE)

    def run(n: int) -> None:
        for _ in range(round(n * least_flop() / (2 * CUBE**3))):
            torch.mm(a, b, out=out)

    return run


def ours(transitions: int, layer_norm: bool, draw: bool, compiled: bool = False) -> Run:
    """Our SAC; without `draw` on one batch again and again."""
    from gcrl.agents import AGENTS
    from gcrl.encoder import Spec
    from relabel.goals import parse
    from relabel.replay import Replay
    from tasks.task import Episode, Task, cost_outside, part, within

    reach, reward = partial(within, 0.05), partial(cost_outside, 0.05)
    task = Task(
        name="flat",
        make=Flat,
        description="nothing",
        obs_dim=OBS,
        action_dim=ACTION,
        goal_dim=GOAL,
        horizon=STEPS,
        goal_of=part(0, GOAL),
        success=reach,
        reward=reward,
        family="flat",
        scene="flat",
    )
    replay, rng = Replay([task], transitions // STEPS * (STEPS + 1), parse("future"), GAMMA), np.random.default_rng(0)
    for _ in range(transitions // STEPS):
        observation = 0.02 * rng.standard_normal((STEPS + 1, OBS), np.float32).cumsum(0)
        action = rng.uniform(-1, 1, (STEPS, ACTION)).astype(np.float32)
        desired = np.repeat(0.1 * rng.standard_normal((1, GOAL), np.float32), STEPS, 0)
        recorded = reward(observation[1:, :GOAL], desired).astype(np.float32)
        replay.stores[0].add(Episode(observation, action, desired, recorded, False))
    kind = AGENTS["sac"]
    settings = kind.Settings(batch=BATCH, hidden=HIDDEN, critics=CRITICS, layer_norm=layer_norm)
    agent = kind(Spec.of([task], GAMMA), settings)
    batch = agent.draw(replay, rng)
    if compiled:
        agent.compile_update()

    def run(n: int) -> None:
        for _ in range(n):
            agent.update(agent.draw(replay, rng) if draw else batch)

    return run


def theirs(module: str, transitions: int, at_once: bool) -> Run:
    """The SAC of a package with SB3's interface; `at_once`: one call of `train` for all n updates, else n calls."""
    from importlib import import_module

    from stable_baselines3.common.logger import configure

    options = {} if module == "sbx" else {"device": "cpu"}
    model = import_module(module).SAC(
        "MlpPolicy",
        Flat(),
        buffer_size=transitions,
        batch_size=BATCH,
        gamma=GAMMA,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=0,
        **options,
    )
    model.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    for i in range(transitions):
        obs, next_obs = 0.1 * rng.standard_normal((2, 1, OBS + GOAL), np.float32)
        action = rng.uniform(-1, 1, (1, ACTION)).astype(np.float32)
        done = np.array([i % STEPS == STEPS - 1])
        model.replay_buffer.add(obs, next_obs, action, -np.ones(1), done, [{"TimeLimit.truncated": bool(done[0])}])

    def run(n: int) -> None:
        for _ in range(1 if at_once else n):
            model.train(gradient_steps=n if at_once else 1, batch_size=BATCH)

    return run


@dataclass(frozen=True)
class Side:
    """One way to update."""

    name: str
    make: Callable[[], Run]
    needs: str = ""
    """the package, if not everyone has it"""


def sides(transitions: int) -> list[Side]:
    flat = partial(ours, transitions, layer_norm=False)
    norm = partial(ours, transitions, layer_norm=True)
    chosen = [Side("floor", floor)]
    for how in ("", ", compiled", *((", bfloat16", ", compiled, bfloat16") if can_round() else ())):
        compiled = "compiled" in how
        chosen += [
            Side(f"ours{how}", partial(flat, draw=False, compiled=compiled)),
            Side(f"ours{how}, draw", partial(flat, draw=True, compiled=compiled)),
        ]
        if "bfloat16" not in how:
            chosen.append(Side(f"ours{how}, layer norm, draw", partial(norm, draw=True, compiled=compiled)))
    return [
        *chosen,
        Side("sb3, draw", partial(theirs, "stable_baselines3", transitions, True)),
        Side("sbx, draw, all in a call", partial(theirs, "sbx", transitions, True), "sbx"),
        Side("sbx, draw, one a call", partial(theirs, "sbx", transitions, False), "sbx"),
    ]


def ratios(names: list[str]) -> Iterator[tuple[str, str]]:
    """Which to divide by which: ours by the floor, and each peer by each of ours that does the same."""
    for name in names:
        if name.startswith("ours") and "draw" not in name:
            yield name, "floor"
    for peer in names:
        if peer.startswith("sb"):
            yield from ((peer, name) for name in names if name.startswith("ours") and "draw" in name)


def serve(side: Side, threads: int, pipe: Connection) -> None:
    """For each n that comes, the seconds that n updates take: on the wall, and of all its cores. Ends with 0."""
    torch.set_num_threads(threads)
    if side.name.startswith("ours"):  # each as its own training runs
        from gcrl import machine

        machine.prepare(threads, "bfloat16" if "bfloat16" in side.name else "float32")
    torch.manual_seed(0)
    run = side.make()
    pipe.send(None)
    while n := pipe.recv():
        start = np.array([time.perf_counter(), time.process_time()])
        run(n)
        pipe.send(np.array([time.perf_counter(), time.process_time()]) - start)


def race(chosen: list[Side], threads: int, rounds: int, updates: int) -> np.ndarray:
    """ms per update, on the wall and of all cores: (rounds, sides, 2).

    A round is `updates` of each; who begins goes round.
    """
    context = multiprocessing.get_context("spawn")  # no thread pool of ours goes along
    pipes, workers = [], []
    for side in chosen:
        mine, other = context.Pipe()
        worker = context.Process(target=serve, args=(side, threads, other), daemon=True)
        worker.start()
        other.close()  # so that its death is the pipe's end, not a wait for ever
        mine.recv()
        pipes.append(mine)
        workers.append(worker)
    spent = np.zeros((rounds, len(chosen), 2))
    for i in range(-1, rounds):  # round -1 compiles
        for k in np.roll(range(len(chosen)), -i):
            pipes[k].send(updates)
            seconds = pipes[k].recv()
            if i >= 0:
                spent[i, k] = 1e3 * seconds / updates
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(0)
        worker.join()
    return spent


def spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:7.2f} ({low:.2f}-{high:.2f})"


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    threads: tuple[int, ...] = (1,)
    """how many cores and threads each side has; several: one after the other"""
    rounds: int = 15
    updates: int = 20
    """of each side in a round"""
    transitions: int = 100_000
    """in each replay"""


def main(s: Settings) -> None:
    chosen = sides(s.transitions)
    for package in sorted({side.needs for side in chosen if side.needs and find_spec(side.needs) is None}):
        print(f"{package} is not installed and left out: pip install -e '.[bench]'")
        chosen = [side for side in chosen if side.needs != package]
    names = [side.name for side in chosen]
    cores = sorted(os.sched_getaffinity(0))
    print(f"least work of an update: {least_flop() / 1e6:.1f} MFLOP of matrix products")
    for threads in s.threads:
        os.sched_setaffinity(0, cores[:threads])  # the children have it from here, and size their pools by it
        os.environ["OMP_NUM_THREADS"] = str(threads)
        wall, busy = np.moveaxis(race(chosen, threads, s.rounds, s.updates), 2, 0)
        rate = least_flop() / 1e6 / wall[:, names.index("floor")]
        print(f"\n{threads} core(s), {s.rounds} rounds of {s.updates} updates: median (10th-90th percentile)")
        print(f"{'rate of a 256-cubed product, GFLOP/s':44}{spread(rate)}\n{'ms per update':66}cores at work")
        for name, ms, cpu in zip(names, wall.T, busy.T, strict=True):
            print(f"  {name:42}{spread(ms):22}{np.median(cpu / ms):10.2f}")
        print("ratio within a round")
        for top, under in ratios(names):
            print(f"  {f'{top} / {under}':60}{spread(wall[:, names.index(top)] / wall[:, names.index(under)])}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
