"""One contract for every task: its arithmetic says what its simulator says, a seed says it all. Long: each clause."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import math
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

import tasks
from tasks import approach
from tasks.simulator import register_robotics
from tasks.task import InputError

ROOT = Path(__file__).parents[1]
PAIRS = 400
TASKS = {name: task for name, task in tasks.TASKS.items() if task.family != "metaworld"}  # tests/test_metaworld.py
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


SIMULATORS = {"kitchen": "FrankaKitchen-v1"}
RADII = {"table-touch": 0.03, "table-nudge": 0.03, "fetch-push-beside": 0.025, "fetch-slide-beside": 0.025}
RADII |= {f"fetch-pick-and-place-{name}": r for name, r in (("around", 0.03), ("grip", 0.025))}
"""Where ours are not those of the simulator, 0.05."""


def stock_id(task):
    """The simulator's own name of a task, or of the scene of one that it does not know."""
    return SIMULATORS[task.scene] if task.scene in SIMULATORS else task.make.args[0]


@functools.cache
def stock(env_id):
    """The simulator's own environment, which is asked for its judgement but never stepped."""
    register_robotics()
    env = gymnasium.make(env_id, disable_env_checker=True)
    env.reset(seed=0)
    return env.unwrapped


def actions_of(env, rng, n):
    return rng.uniform(-1, 1, (n, *env.action_space.shape)).astype(np.float32)


@functools.cache
def played(name):
    """Some hundred random steps past the horizon, and the environment that they have used."""
    task = TASKS[name]
    env, rng = task.make(), np.random.default_rng(0)
    first, steps = [], []
    for episode in range(max(2, 300 // task.horizon)):
        obs, _ = env.reset(seed=episode)
        first.append(obs)
        for action in actions_of(env, rng, task.horizon + 2):
            desired = obs["desired_goal"].copy()
            obs, reward, terminated, truncated, info = env.step(action)
            success = info["is_success"] if "is_success" in info else info["success"]
            steps.append((obs["observation"], obs["achieved_goal"], desired, reward, terminated, truncated, success))
    columns = ["observation", "achieved", "desired", "reward", "terminated", "truncated", "success"]
    return SimpleNamespace(
        env=env, first=first, **dict(zip(columns, map(np.array, zip(*steps, strict=True)), strict=True))
    )


def turn(quat, angle):
    """quat (n, 4) after a turn by angle (n,) about the body's own z."""
    w, x, y, z = quat.T
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    return np.stack([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], 1)


@functools.cache
def pairs(name):
    """Goals on, near and far from achieved ones, (PAIRS, G) x 2; rotations also turned about z and negated."""
    task, rng = TASKS[name], np.random.default_rng(1)
    achieved = played(name).achieved[rng.integers(0, len(played(name).achieved), PAIRS)]
    desired = achieved + rng.normal(size=achieved.shape) * 10 ** rng.uniform(-5, 0.5, (PAIRS, 1))
    desired[::10] = achieved[::10]
    if task.family == "hand-manipulate":
        desired[:, 3:] /= np.linalg.norm(desired[:, 3:], axis=1, keepdims=True)
        desired[::2, 3:] = turn(desired[::2, 3:], rng.uniform(-math.pi, math.pi, PAIRS // 2))
        desired[::5, 3:] *= -1
    return achieved, desired


def judged(task, achieved, desired):
    """Success, reward and end of each row, by the simulator."""
    env, rows = stock(stock_id(task)), list(zip(achieved, desired, strict=True))
    if task.scene == "kitchen":  # this one is never stepped, so asking may change it
        name = task.make.args[0]
        env.tasks_to_complete = {name}
        reward = np.array([env.compute_reward({name: a}, {name: d}, {}) for a, d in rows])
        return reward > 0, reward, np.zeros(len(rows), bool)
    if task.family == "fetch":
        env.distance_threshold = RADII.get(task.name, 0.05)
    reward = np.array([env.compute_reward(a, d, {}) for a, d in rows])
    terminated = np.array([env.compute_terminated(a, d, {}) for a, d in rows])
    own = getattr(env, "_is_success", None)
    return (np.array([own(a, d) for a, d in rows]) if own else reward) > 0, reward, terminated


def scored(task, achieved, desired):
    return task.success(achieved, desired), task.reward(achieved, desired), task.terminated(achieved, desired)


def digest(env, seed=5, steps=12):
    """All that comes of a seed and some actions, in one word."""
    obs, _ = env.reset(seed=seed)
    seen = [*obs.values()]
    for action in actions_of(env, np.random.default_rng(seed), steps):
        obs, reward, terminated, _, _ = env.step(action)
        seen += [*obs.values(), float(reward), bool(terminated)]
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in seen)).hexdigest()


def print_digests():
    """What a fresh process says; run by the fixture below."""
    print(json.dumps({name: digest(task.make()) for name, task in TASKS.items()}))


@pytest.fixture(scope="module", autouse=True)
def fresh_process():
    code = "import sys, tasks; print(sorted({'torch', 'mujoco', 'gymnasium_robotics'} & set(sys.modules)))"
    code += "; from tests.test_tasks import print_digests; print_digests()"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield functools.cache(lambda: process.communicate()[0].splitlines())
        process.kill()


@every_task
def test_dimensions_are_those_of_the_environment(task):
    env, was = played(task.name).env, played(task.name)
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (task.action_dim,), np.float32)
    assert {key: space.shape for key, space in env.observation_space.spaces.items()} == {
        "observation": (task.obs_dim,),
        "achieved_goal": (task.goal_dim,),
        "desired_goal": (task.goal_dim,),
    }
    assert was.observation.shape[1:] == (task.obs_dim,)
    assert was.achieved.shape == was.desired.shape == (len(was.reward), task.goal_dim)
    stock(stock_id(task))
    longest = gymnasium.spec(stock_id(task)).max_episode_steps
    assert task.horizon == longest or (task in approach.TASKS and task.horizon < longest)  # these are over sooner


@every_task
def test_the_achieved_goal_is_read_off_the_observation_exactly(task):
    was = played(task.name)
    np.testing.assert_array_equal(task.goal_of(was.observation), was.achieved)
    np.testing.assert_array_equal(task.goal_of(torch.as_tensor(was.observation)), was.achieved)
    for obs in was.first:
        np.testing.assert_array_equal(task.goal_of(obs["observation"]), obs["achieved_goal"])


@every_task
def test_the_arithmetic_repeats_what_the_simulator_recorded_and_the_simulator_keeps_no_clock(task):
    was = played(task.name)
    assert len(was.truncated) > 2 * task.horizon
    assert not was.truncated.any()
    success, reward, terminated = scored(task, was.achieved, was.desired)
    np.testing.assert_array_equal(success, was.success.astype(bool))
    np.testing.assert_array_equal(reward, was.reward)
    np.testing.assert_array_equal(terminated, was.terminated)


@every_task
def test_the_arithmetic_judges_any_two_goals_as_the_simulator_does(task):
    achieved, desired = pairs(task.name)
    truth = judged(task, achieved, desired)
    assert 0.1 < truth[0].mean() < 0.9
    rows = [scored(task, a, d) for a, d in zip(achieved, desired, strict=True)]
    block = scored(task, achieved.reshape(4, -1, task.goal_dim), desired.reshape(4, -1, task.goal_dim))
    tensors = scored(task, torch.as_tensor(achieved), torch.as_tensor(desired))
    for true, row, batch, cube, tensor in zip(
        truth, zip(*rows, strict=True), scored(task, achieved, desired), block, tensors, strict=True
    ):
        for ours in (np.array(row), batch, cube.reshape(-1), tensor.numpy()):
            np.testing.assert_array_equal(ours, true)
    for success, reward, terminated in (scored(task, achieved, desired), tensors):
        assert success.dtype in (np.bool_, torch.bool)
        assert terminated.dtype in (np.bool_, torch.bool)
        assert (float(reward.min()), float(reward.max())) == task.reward_range
    one, many = task.success(achieved[0], desired), task.success(achieved[:1].repeat(PAIRS, 0), desired)
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.family != "hand-manipulate"])
def test_the_edge_itself_is_judged_as_the_simulator_does(name):
    task = tasks.get(name)
    edge = np.array(
        [
            r
            for radius in (0.01, 0.03, 0.05, 0.3, 0.45)
            for r in (np.nextafter(radius, 0), radius, np.nextafter(radius, 1))
        ]
    )
    desired = np.zeros((len(edge), task.goal_dim))
    achieved = desired.copy()
    achieved[:, 0] = edge
    for ours, true in zip(scored(task, achieved, desired), judged(task, achieved, desired), strict=True):
        np.testing.assert_array_equal(ours, true)


@every_task
def test_single_precision_moves_no_more_than_the_edge(task):
    achieved, desired = pairs(task.name)
    truth = judged(task, achieved, desired)
    for single in (np.float32, torch.float32):
        a, d = (
            x.astype(single) if single is np.float32 else torch.as_tensor(x, dtype=single) for x in (achieved, desired)
        )
        for ours, true in zip(scored(task, a, d), truth, strict=True):
            assert (np.asarray(ours) == true).mean() > 0.99


@every_task
def test_a_task_pickles(task):
    again = pickle.loads(pickle.dumps(task))  # noqa: S301
    achieved, desired = pairs(task.name)
    for ours, theirs in zip(scored(task, achieved, desired), scored(again, achieved, desired), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (again.name, stock_id(again), again.reward_range) == (task.name, stock_id(task), task.reward_range)
    np.testing.assert_array_equal(again.goal_of(played(task.name).observation), played(task.name).achieved)


@every_task
def test_a_used_environment_and_a_fresh_process_make_the_same_of_a_seed(task, fresh_process):
    env = played(task.name).env
    data = env.unwrapped.data
    data.qacc_warmstart[:] = data.qfrc_applied[:] = data.ctrl[:] = 0.5  # whatever an episode may leave behind
    assert digest(env) == digest(env) == json.loads(fresh_process()[1])[task.name]


def test_importing_the_tasks_loads_neither_simulator_nor_torch(fresh_process):
    assert fresh_process()[0] == "[]"


def test_imports_run_one_way():
    """tasks <- relabel <- gcrl"""
    for package, forbidden in (("tasks", {"relabel", "gcrl", "torch"}), ("relabel", {"gcrl"})):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.split(".")[0] for name in names} & forbidden, file


def test_names_and_scenes_are_consistent():
    for name, task in tasks.TASKS.items():
        assert tasks.get(name) is task
        assert task.name == name
        mates = [other for other in tasks.TASKS.values() if other.scene == task.scene]
        assert {(mate.obs_dim, mate.action_dim, mate.family) for mate in mates} == {
            (task.obs_dim, task.action_dim, task.family)
        }
    assert len({task.description for task in tasks.TASKS.values()}) == len(tasks.TASKS)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fetch-rech", "did you mean fetch-reach"),
        ("Pendulum-v1", "gym:Pendulum-v1"),
        ("zzz", "gcrl list"),
        ("", "gcrl list"),
    ],
)
def test_an_unknown_name_is_answered_in_one_line(name, hint):
    with pytest.raises(InputError, match=hint) as caught:
        tasks.get(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["point-maze-umaze", "point-maze-umaze-bend"])
def test_mazes_leave_no_files_behind(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tasks.get(name).make().close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scene", ["point-maze-umaze", "point-maze-medium", "ant-maze-umaze"])
def test_a_region_is_a_cell_of_the_same_maze(scene):
    """Goals all over the region, starts all over the rest of the maze, and it moves as the whole maze does."""
    whole = played(scene).env
    maze = whole.unwrapped.maze
    mates = [task for name, task in tasks.TASKS.items() if task.scene == scene and name != scene]
    assert len(mates) == len({task.make.keywords["cell"] for task in mates}) == 5
    for task in mates:
        env, cell = played(task.name).env, np.array(task.make.keywords["cell"])
        starts = [env.reset(seed=seed)[0] for seed in range(60)]
        goal, start = (np.array([s[key] for s in starts]) for key in ("desired_goal", "achieved_goal"))
        assert not task.success(start, goal).any()
        off = (goal - maze.cell_rowcol_to_xy(cell)) / maze.maze_size_scaling
        assert (abs(off) <= 0.25).all() and (np.ptp(off, axis=0) > 0.4).all()
        cells = {tuple(maze.cell_xy_to_rowcol(xy)) for xy in start}
        assert len(cells) > 4 and tuple(cell) not in cells
        assert all(maze.maze_map[row][column] != 1 for row, column in cells)

        words = task.name.removeprefix(scene + "-").split("-")
        assert " ".join(words) in task.description
        x, y = maze.cell_rowcol_to_xy(cell)
        assert [y > 0, x > 0] == ["upper" in words, "right" in words] or words in (["bend"], ["middle"])

        actions = actions_of(env, np.random.default_rng(0), 20)
        env.reset(seed=1), whole.reset(seed=1)
        state = [x.copy() for x in (env.unwrapped.data.qpos, env.unwrapped.data.qvel)]
        getattr(whole.unwrapped, "point_env", getattr(whole.unwrapped, "ant_env", None)).set_state(*state)
        for action in actions:
            ours, theirs = env.step(action)[0]["observation"], whole.step(action)[0]["observation"]
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("name", ["hand-reach", "hand-block-rotate-z", "hand-pen"])
def test_drawing_a_hand_changes_nothing(name):
    env = tasks.get(name).make()
    sim = env.unwrapped
    sim.mujoco_renderer = SimpleNamespace(render=lambda mode: "frame", close=lambda: None)  # no display needed
    plain = digest(env)
    env.reset(seed=5)
    before = sim.data.qpos.copy()
    assert env.render() == "frame"
    np.testing.assert_array_equal(sim.data.qpos, before)
    assert digest(env) == plain


@pytest.mark.parametrize("name", ["hand-block", "hand-pen", "hand-pen-rotate"])
def test_hands_judge_any_rotation_as_the_simulator_does(name):
    """The stock batch is not the judge: it gives row 2, not column 2, of the pen's angles the desired turn."""
    task, rng = tasks.get(name), np.random.default_rng(2)
    achieved, noise = rng.normal(size=(2, 1500, 7))
    achieved[:6, 3:] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 1, 0], [1, 0, -1, 0]]
    desired = achieved + noise * 10 ** rng.uniform(-4, 0, (1500, 1))
    desired[:6] = achieved[:6]
    for goal in (achieved, desired):
        goal[:, 3:] /= np.linalg.norm(goal[:, 3:], axis=1, keepdims=True)
    desired[6:, 3:] = turn(desired[6:, 3:], rng.uniform(-math.pi, math.pi, 1494) * (rng.random(1494) < 0.5))
    success, reward, _ = judged(task, achieved, desired)
    assert 0.1 < success.mean() < 0.9
    np.testing.assert_array_equal(task.success(achieved, desired), success)
    np.testing.assert_array_equal(task.reward(torch.as_tensor(achieved), torch.as_tensor(desired)), reward)
