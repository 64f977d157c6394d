"""How fast are Fetch steps: stock and ours, one environment and several. Run: python -m tests.benchmarks.env

Stock environments live in a process of their own, as a user has them; the sides take turns, one episode each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from gcrl import collect
from tasks import TASKS
from tasks.simulator import register_robotics

HORIZON = 50
NAMES = ("fetch-reach", "fetch-push", "fetch-slide", "fetch-pick-and-place")
LANES, THREADS = (2, 4, 8, 16), (1, 2)
STOCK, PHYSICS, OURS = "stock, one", "stock, its mj_steps alone", "ours, one"
SYNC, ASYNC = "SyncVectorEnv of 2", "AsyncVectorEnv of 2"
Side = Callable[[int], float]
"""round -> seconds that an episode of HORIZON steps took, for each environment step"""


def actions(number: int, lanes: int = 1) -> np.ndarray[Any, Any]:
    """(HORIZON, lanes, 4), the same for all sides of a round."""
    return np.random.default_rng(number).uniform(-1, 1, (HORIZON, lanes, 4)).astype(np.float32)


def timed(step: Callable[[Any], Any], acts: Any) -> float:
    start = time.perf_counter()
    for a in acts:
        step(a)
    return time.perf_counter() - start


def one(env: gymnasium.Env[Any, Any]) -> Side:
    def play(number: int) -> float:
        env.reset(seed=number)
        return timed(env.step, actions(number)[:, 0]) / HORIZON

    return play


def physics(env: Any) -> Side:
    """Of a stock environment, what passes inside of its simulator's steps."""
    inner, clock = env.unwrapped._mujoco_step, [0.0]

    def mujoco_step(action: Any) -> None:
        start = time.perf_counter()
        inner(action)
        clock[0] += time.perf_counter() - start

    env.unwrapped._mujoco_step = mujoco_step
    whole = one(env)

    def play(number: int) -> float:
        clock[0] = 0.0
        whole(number)
        return clock[0] / HORIZON

    return play


def vector(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> Side:
    n = envs.num_envs

    def play(number: int) -> float:
        envs.reset(seed=number)
        return timed(envs.step, actions(number, n)) / HORIZON / n

    return play


def lanes(task: Any, n: int, threads: int) -> Side:
    """As a collector and an evaluation step."""
    several = [collect.Lane(task) for _ in range(n)]

    def play(number: int) -> float:
        for i, lane in enumerate(several):
            lane.reset(number + i)
        return timed(lambda a: collect.step(several, a, threads), actions(number, n)) / HORIZON / n

    return play


def stock(name: str) -> gymnasium.Env[Any, Any]:
    register_robotics()
    return gymnasium.make(TASKS[name].make.args[0])  # type: ignore[attr-defined]


def stock_sides(name: str) -> dict[str, Side]:
    kinds = {SYNC: gymnasium.vector.SyncVectorEnv, ASYNC: gymnasium.vector.AsyncVectorEnv}
    several = {side: vector(kind([partial(stock, name)] * 2)) for side, kind in kinds.items()}
    return {STOCK: one(stock(name)), PHYSICS: physics(stock(name)), **several}


def our_sides(name: str) -> dict[str, Side]:
    several = {f"ours, {n} lanes, {k} thread(s)": lanes(TASKS[name], n, k) for n in LANES for k in THREADS}
    return {OURS: one(TASKS[name].make()), **several}


def serve(pipe: Any, make: Callable[[str], dict[str, Side]], name: str) -> None:
    """In a process of its own: say which sides there are, then play them as asked."""
    sides = make(name)
    pipe.send(list(sides))
    while (asked := pipe.recv()) is not None:
        side, number = asked
        pipe.send(sides[side](number))


def measure(name: str, rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """side -> seconds a step (rounds,)"""
    context = multiprocessing.get_context("spawn")
    where, processes = {}, []
    for make in (stock_sides, our_sides):
        pipe, theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, make, name)))
        processes[-1].start()
        theirs.close()  # so that reading from a side that died is an error, not a wait
        where |= dict.fromkeys(pipe.recv(), pipe)
    seconds = {side: np.zeros(rounds) for side in where}
    for i in range(-1, rounds):  # the first warms up
        for j in np.roll(range(len(where)), i):
            side, pipe = list(where.items())[j]
            pipe.send((side, i + 1))
            seconds[side][max(i, 0)] = pipe.recv()
    for pipe in {id(pipe): pipe for pipe in where.values()}.values():
        pipe.send(None)
    for process in processes:
        process.join()
    return seconds


def spread(values: np.ndarray[Any, Any]) -> str:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=24, help="episodes of each side, taking turns")
    told = parser.parse_args()
    print(f"{collect.cores()} cores; medians of {told.rounds} rounds; ratios of steps/s: median (10th-90th percentile)")
    for name in told.task:
        seconds = measure(name, told.rounds)
        print(f"\n{name:32}{'us/step':>8}{'steps/s':>9}   {'/ stock, one':20}{'/ AsyncVectorEnv':20}/ stock's mj_steps")
        for side, s in seconds.items():
            us = np.median(s) * 1e6
            ratios = (spread(seconds[other] / s) for other in (STOCK, ASYNC, PHYSICS))
            print(f"{side:32}{us:8.0f}{1e6 / us:9.0f}   {next(ratios):20}{next(ratios):20}{next(ratios)}", flush=True)


if __name__ == "__main__":
    main()
