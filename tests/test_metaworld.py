"""Meta-World's tasks: our arithmetic says what its simulator says, and what scene mates share is one dynamics."""

import functools
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasks.metaworld import SEEN, SETS, STOCK, TABLE, TASKS, make
from tasks.task import InputError

BY_NAME = dict(zip(TABLE, TASKS, strict=True))
SCENES = {task.scene: [name for name in TABLE if BY_NAME[name].scene == task.scene] for task in TASKS}
every_task = pytest.mark.parametrize("name", TABLE)
WALK, EPISODES, STEPS, AFTER = 60, 6, 250, 5
"""Random steps; then episodes of Meta-World's own policy, until a success and some steps."""


@pytest.fixture
def metaworld():
    return pytest.importorskip("metaworld")


def scripted(name):
    from metaworld.policies import ENV_POLICY_MAP

    return ENV_POLICY_MAP[f"{name}-v3"]()


def clipped(policy, obs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its policies warn of actions that are clipped
        return np.clip(policy.get_action(obs[:STOCK]), -1, 1).astype(np.float32)


@functools.cache
def played(name):
    """A random walk past the stock clock and scripted episodes, and the environment that they have used."""
    env, rng, steps = make(name), np.random.default_rng(0), []

    def go(obs, action):
        after, reward, terminated, truncated, info = env.step(action)
        steps.append((after, obs["desired_goal"], reward, terminated or truncated, info["success"]))
        return after

    obs, _ = env.reset(seed=0)
    env.stock.curr_path_length = 500 - WALK // 2
    for action in rng.uniform(-1, 1, (WALK, 4)).astype(np.float32):
        obs = go(obs, action)
    for episode in range(1, EPISODES):
        obs, _ = env.reset(seed=episode)
        policy, left = scripted(name), STEPS
        while left:
            obs = go(obs, clipped(policy, obs["observation"]))
            left = min(left - 1, AFTER) if steps[-1][-1] else left - 1
        if steps[-1][-1] or any(step[-1] for step in steps[-AFTER:]):
            break
    seen, desired, reward, ended, success = zip(*steps, strict=True)
    return SimpleNamespace(
        env=env,
        observation=np.array([obs["observation"] for obs in seen]),
        achieved=np.array([obs["achieved_goal"] for obs in seen]),
        desired=np.array(desired),
        reward=np.array(reward),
        ended=np.array(ended),
        success=np.array(success).astype(bool),
    )


@every_task
def test_success_is_that_of_the_simulator_on_every_step(name, metaworld):
    task, was = BY_NAME[name], played(name)
    assert was.success.any() and not was.success.all()
    np.testing.assert_array_equal(task.success(was.achieved, was.desired), was.success)
    np.testing.assert_array_equal(task.reward(was.achieved, was.desired), was.reward)
    np.testing.assert_array_equal(was.reward, was.success)
    assert not was.ended.any() and not task.terminated(was.achieved, was.desired).any()
    tensors = torch.as_tensor(was.achieved), torch.as_tensor(was.desired)
    np.testing.assert_array_equal(task.success(*tensors), was.success)
    single = task.goal_of(was.observation.astype(np.float32)), was.desired.astype(np.float32)
    assert (task.success(*single) == was.success).mean() > 0.99


@every_task
def test_goals_are_read_off_the_observation_and_what_was_achieved_is_reached(name, metaworld):
    task, was = BY_NAME[name], played(name)
    assert was.observation.shape[1:] == (task.obs_dim,) == (SEEN,)
    np.testing.assert_array_equal(task.goal_of(was.observation), was.achieved)
    np.testing.assert_array_equal(task.goal_of(torch.as_tensor(was.observation)), was.achieved)
    assert task.success(was.achieved, was.achieved).all()
    assert not task.success(was.achieved, np.full_like(was.achieved, np.nan)).any()


@every_task
def test_a_seed_says_it_all_and_the_rest_is_what_meta_world_does(name, metaworld):
    env, policy = played(name).env, scripted(name)
    env.reset(seed=9)
    obs, _ = env.reset(seed=9)
    stock = metaworld.env_dict.ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
    layout = {"rand_vec": env.stock._last_rand_vec, "env_cls": type(stock), "partially_observable": False}
    stock.set_task(metaworld.Task(env_name=name, data=pickle.dumps(layout)))
    expected, _ = stock.reset()
    assert not BY_NAME[name].success(obs["achieved_goal"], obs["desired_goal"])
    for _ in range(25):
        np.testing.assert_array_equal(obs["observation"][:STOCK], expected)
        action = clipped(policy, expected)
        obs, _, _, _, info = env.step(action)
        expected, dense, _, _, truth = stock.step(action)
        assert (info["dense_reward"], info["success"]) == (dense, truth["success"])
    again = env.reset()[0]["desired_goal"]
    assert (again != obs["desired_goal"]).any() == (name not in ("bin-picking", "hammer", "lever-pull", "sweep-into"))


@pytest.mark.parametrize("scene", [scene for scene, names in SCENES.items() if len(names) > 1])
def test_scene_mates_make_the_same_of_the_same_state(scene, metaworld):
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    names = SCENES[scene]
    for name, mate in zip(names, names[1:] + names[:1], strict=True):
        one, other, policy = played(name).env, played(mate).env, scripted(name)
        obs, _ = one.reset(seed=3)
        other.reset(seed=4)
        state = np.zeros(mujoco.mj_stateSize(one.model, kind))
        mujoco.mj_getState(one.model, one.data, state, kind)
        mujoco.mj_setState(other.model, other.data, state, kind)
        other.model.body_pos[:] = one.model.body_pos
        for _ in range(80):
            action = clipped(policy, obs["observation"])
            obs, *_ = one.step(action)
            there = other.step(action)[0]["observation"]
            np.testing.assert_array_equal(there[:4], obs["observation"][:4])
            np.testing.assert_array_equal(there[STOCK:], obs["observation"][STOCK:])


def test_hands_of_one_model_file_with_two_ranges_are_two_scenes(metaworld):
    envs = {name: played(name).env.stock for name in TABLE}
    ranges = {name: (env.model_name, *env.mocap_low, *env.mocap_high) for name, env in envs.items()}
    for names in SCENES.values():
        assert len({ranges[name][1:] for name in names}) == 1
    alike = {frozenset(name for name in TABLE if ranges[name] == ranges[mate]) for mate in TABLE}
    assert all(len({BY_NAME[name].scene for name in names}) == 1 for names in alike)


def test_the_table_is_that_of_meta_world(metaworld):
    theirs = metaworld.env_dict
    assert set(TABLE) == {name.removesuffix("-v3") for name in theirs.ALL_V3_ENVIRONMENTS}
    assert SETS["metaworld-mt10"] == [f"metaworld-{name.removesuffix('-v3')}" for name in theirs.MT10_V3]
    assert len(SETS["metaworld-mt50"]) == len(set(SETS["metaworld-mt50"])) == 50


@every_task
def test_a_task_pickles(name):
    task, rng = BY_NAME[name], np.random.default_rng(0)
    again = pickle.loads(pickle.dumps(task))  # noqa: S301
    achieved, desired = rng.normal(size=(2, 50, 4)) * 0.05
    np.testing.assert_array_equal(task.success(achieved, desired), again.success(achieved, desired))
    block = task.success(achieved.reshape(5, 10, 4), desired.reshape(5, 10, 4))
    np.testing.assert_array_equal(block.reshape(-1), task.success(achieved, desired))
    np.testing.assert_array_equal(task.success(*map(torch.as_tensor, (achieved, desired))).numpy(), block.reshape(-1))
    assert again.name == task.name and block.dtype == np.bool_


def test_without_meta_world_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(InputError, match=r"gcrl\[metaworld\]") as caught:
        TASKS[0].make()
    assert "\n" not in str(caught.value)


def test_naming_the_tasks_loads_no_simulator():
    code = "import sys, tasks.metaworld; print(sorted({'metaworld', 'mujoco', 'torch'} & set(sys.modules)))"
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, cwd=Path(__file__).parents[1], text=True).strip() == "[]"
