"""What the pages under docs/ tell people to type works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import numpy as np

import tasks
from relabel import goals
from tasks import fetch
from tests.problems import SPEC, batch

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_a_long_file_says_why_in_its_first_line():
    root = DOCS.parent
    files = [path for top in ("gcrl", "tasks", "relabel", "tests") for path in (root / top).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        first, *others = path.read_text().splitlines() or [""]
        assert len(others) < 300 or "Long: " in first, f"{path}: {len(others) + 1} lines, and no reason"


def test_a_task_a_strategy_and_an_algorithm_are_added():
    """Each piece stands at the end of the file that it names."""
    entry, strategy, algorithm = blocks("extending.md")
    names = dict(vars(fetch))
    exec(entry, names)
    task = names["HOVER"]
    achieved, desired = np.array([[1.3, 0.7, 0.5], [1.3, 0.8, 0.5]]), np.array([1.31, 0.71, 0.9])
    assert task.success(achieved, desired).tolist() == [True, False]
    assert task.reward(achieved, desired).tolist() == [0.0, -1.0]
    names = dict(vars(goals))
    exec(strategy, names)
    index, left = np.full(500, 7), np.full(500, 9)
    rows = goals.Rows(index, index, left, 100)
    assert set(names["soon"](np.random.default_rng(0), rows)) == {7, 8, 9, 10, 11}
    names = {}
    exec(algorithm, names)
    agent = names["Sarsa"](SPEC, names["Sarsa"].Settings(hidden=(8,)))
    assert agent.update(batch(16))["critic_loss"].isfinite()


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
