"""How fast is a Fetch step: stock and ours, whole and the physics alone. Run: python -m tests.benchmarks.env"""

import time

import gymnasium
import numpy as np

from tasks.fetch import TASKS, Fetch

ROUNDS = 24
"""Each round is one episode per side, one after the other, from the same seed with the same actions."""


def whole(env: gymnasium.Env, actions: np.ndarray) -> float:
    """Seconds that the steps of one episode take."""
    start = time.perf_counter()
    for a in actions:
        env.step(a)
    return time.perf_counter() - start


def physics(env: Fetch, actions: np.ndarray) -> float:
    """Seconds that one episode spends in its simulator steps alone."""
    seconds = 0.0
    for a in actions:
        env.begin(a)
        start = time.perf_counter()
        env.advance()
        seconds += time.perf_counter() - start
        env.observe()
    return seconds


def spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (10, 50, 90))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    print("median of", ROUNDS, "alternating episodes, us/step; ratios: median (10th-90th percentile) over rounds")
    print(f"{'':22}{'whole step':>16}{'physics alone':>16}   {'whole':20}{'stock physics':20}")
    print(f"{'task':22}{'stock':>8}{'ours':>8}{'stock':>8}{'ours':>8}   {'stock / ours':20}{'/ our whole step':20}")
    for task in TASKS:
        ours = task.make()
        stock = gymnasium.make(task.make.args[0])
        plain = task.make()
        plain.model = plain.stock.model  # the physics of the stock environment, for the same actions
        sides = ((stock, whole), (ours, whole), (plain, physics), (ours, physics))
        rng = np.random.default_rng(0)
        seconds = np.zeros((ROUNDS, len(sides)))
        for i in range(ROUNDS):
            actions = rng.uniform(-1, 1, (task.horizon, 4)).astype(np.float32)
            for j in np.roll(range(len(sides)), i):
                env, timed = sides[j]
                env.reset(seed=i)
                seconds[i, j] = timed(env, actions)
        us = np.median(seconds, axis=0) / task.horizon * 1e6
        stock_s, ours_s, physics_s, _ = seconds.T
        print(
            f"{task.name:22}{us[0]:8.0f}{us[1]:8.0f}{us[2]:8.0f}{us[3]:8.0f}"
            f"   {spread(stock_s / ours_s):20}{spread(physics_s / ours_s):20}",
            flush=True,
        )
        stock.close()
        ours.close()
        plain.close()


if __name__ == "__main__":
    main()
