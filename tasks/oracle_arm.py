"""The scripts of OGBench's wheel play with its arm: plans, and closed loops with noise (arXiv 2410.20092)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tasks import ogbench_sim
from tasks.ogbench import PREFIX
from tasks.oracle import Kind, Made, episode_of
from tasks.task import Task

SMOOTHING, LEAST = 0.5, 0.4
"""Steps over which the noise of a plan lasts; the shortest move of a closed loop, where the distance to go is 1."""
SPREAD = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
"""Of the noise in a closed loop: along x, y and z, in turning, in closing the fingers."""
STACKING = {"single": (0.0, 0.0), "double": (0.0, 0.25), "triple": (0.05, 0.35), "quadruple": (0.1, 0.5)}
STACKING |= {"octuple": (0.0, 0.35)}
"""How often a cube is to be put on another: an episode's share is drawn from this range."""
CUBE = slice(14, 17)
"""Where qpos says where the cube is."""


@contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, which the wheel's scripts draw from, begins anew, and is afterwards as it was."""
    was = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(was)  # noqa: NPY002


def scripts(stock: Any, kind: str, noise: float, puzzle: bool) -> dict[str, Any]:
    """The wheel's, by what they do."""
    from importlib import import_module

    group, end = ("plan", "Plan") if kind == "play" else ("markov", "Markov")
    how = {"noise": noise, "noise_smoothing": SMOOTHING} if kind == "play" else {"min_norm": LEAST}
    out = {}
    for what in ("cube", "button", "drawer", "window"):
        module = import_module(f"ogbench.manipspace.oracles.{group}.{what}_{group}")
        own: dict[str, Any] = {"gripper_always_closed": True} if puzzle and what == "button" else {}
        out[what] = getattr(module, f"{what.capitalize()}{end}Oracle")(env=stock, **how, **own)
    return out


class Manipulation:
    """Plays the episodes of one scene: what can be moved is, one after the other, to places drawn at random."""

    def __init__(self, task: Task, kind: str, behaviour: Kind) -> None:
        self.task, self.kind, self.behaviour = task, kind, behaviour
        self.short = task.name.removeprefix(PREFIX).replace("-oraclerep", "")
        self.stock = ogbench_sim.stock(self.short, mode="data_collection", terminate_at_goal=False)
        ogbench_sim.ready(self.stock)
        self.stepper = ogbench_sim.Stepper(self.stock)
        self.scripts = scripts(self.stock, kind, behaviour.noise, self.short.startswith("puzzle"))

    def __call__(self, seed: int, steps: int) -> Made:
        with numpy_seeded(seed):
            while True:  # the next draws, if a cube was lost
                made = self.play(seed, steps)
                if not self.short.startswith("scene") or in_sight(made.state["qpos"]):
                    return made
                seed = int(np.random.SeedSequence(seed).generate_state(1)[0])

    def play(self, seed: int, steps: int) -> Made:
        stock, rng = self.stock, np.random.default_rng(seed)
        self.stepper.damp()
        obs, info = stock.reset(seed=seed)
        stock.action_space.seed(seed)
        low, high = STACKING.get(self.short.split("-")[1], (0.5, 0.5))
        stacking, spread = rng.uniform(low, high), rng.uniform(0, self.behaviour.noise) * SPREAD
        script = self.scripts[info["privileged/target_task"]]
        script.reset(obs, info)
        seen, actions, states = [obs], list[Any](), [self.state()]
        for _ in range(steps):
            if rng.random() < self.behaviour.random:
                action = stock.action_space.sample()
            else:
                action = np.asarray(script.select_action(obs, info))
                if self.kind == "noisy":
                    action = action + rng.normal(0.0, spread)
            action = np.clip(action, -1, 1).astype(np.float32)
            self.stepper(action)
            obs, info = stock.compute_observation(), stock.compute_ob_info()
            seen.append(obs)
            actions.append(action)
            states.append(self.state())
            if script.done:
                obs, info = stock.set_new_target(p_stack=stacking)
                script = self.scripts[info["privileged/target_task"]]
                script.reset(obs, info)
        state = {key: np.array([one[key] for one in states]) for key in states[0]}
        return Made(episode_of(self.task, seen, actions), state)

    def state(self) -> dict[str, Any]:
        data, buttons = self.stock.data, getattr(self.stock, "_cur_button_states", None)
        out = {"qpos": data.qpos.astype(np.float32), "qvel": data.qvel.astype(np.float32)}
        return out if buttons is None else {**out, "button_states": buttons.astype(np.int64)}


def in_sight(qpos: Any) -> bool:
    """Is the cube all the time on the table's visible part, or in the drawer? qpos (T + 1, nq)"""
    _, y, z = qpos[:, CUBE].T
    return not (y >= 0.29).any() and not ((y <= -0.3) & ((z < 0.06) | (z > 0.08))).any()
