"""What the pages under docs/ tell people to type works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import numpy as np

import tasks

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_a_task_is_added_to_a_scene_and_trained_with_its_neighbours(tmp_path):
    entry, training = blocks("scenes.md")
    short = training.replace("steps=6_000", f"steps=150, warmup=20, eval_episodes=1, runs=Path({str(tmp_path)!r})")
    assert short != training
    names: dict[str, object] = {"Path": Path}
    with mock.patch.dict(tasks.TASKS):
        exec(entry, names)
        task = tasks.get("table-behind")
        env, rng = task.make(), np.random.default_rng(0)
        obs, _ = env.reset(seed=3)
        for _ in range(20):
            obs, reward, *_, info = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
            achieved, desired = task.goal_of(obs["observation"]), obs["desired_goal"]
            np.testing.assert_array_equal(achieved, obs["achieved_goal"])
            assert (task.reward(achieved, desired), task.success(achieved, desired)) == (reward, info["is_success"])
        exec(short, names)
    folder = Path(str(names["folder"]))
    assert "table-behind" in (folder / "sharing.csv").read_text() and (folder / "sharing.png").exists()
