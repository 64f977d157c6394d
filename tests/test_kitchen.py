"""Seven objects of one kitchen: our answers are the simulator's, step by step, wherever the objects have been put."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch

from tasks.kitchen import RADIUS, TASKS
from tasks.simulator import register_robotics

BY_NAME = {task.name: task for task in TASKS}
every_task = pytest.mark.parametrize("name", BY_NAME)
SLACK = 1e-4
"""More than the stock's noise on the position of an object."""


@pytest.fixture(scope="module")
def envs():
    """name -> an environment, shared by the tests of this file, so that they find it used."""
    made = {task.name: task.make() for task in TASKS}
    yield made
    for env in made.values():
        env.close()


@pytest.fixture(scope="module")
def stock():
    """All seven objects, and what has been done stays to be done, so that each step says all that is done."""
    register_robotics()
    env = gymnasium.make(
        "FrankaKitchen-v1",
        terminate_on_tasks_completed=False,
        remove_task_when_completed=False,
        max_episode_steps=-1,
        disable_env_checker=True,
    )
    yield env
    env.close()


def simulator():
    from gymnasium_robotics.envs.franka_kitchen import kitchen_env

    return kitchen_env


def subtask(task):
    return task.make.args[0]


def put(env, where):
    """Objects to where (7 joint vectors by subtask) in one simulator."""
    robot = env.unwrapped.robot_env
    qpos = robot.data.qpos.copy()
    for name, joints in where.items():
        qpos[simulator().OBS_ELEMENT_INDICES[name]] = joints
    robot.set_state(qpos, 0 * robot.data.qvel)


def on_the_way(rng):
    """Every object somewhere from where it starts to where it should be, and beyond; kettles do not turn over."""
    sim = simulator()
    start = dict(zip(("slide cabinet", "microwave"), np.zeros((2, 1)), strict=True))
    start |= {name: np.zeros(2) for name in ("bottom burner", "top burner", "light switch", "hinge cabinet")}
    start["kettle"] = np.array([-0.269, 0.35, 1.62, 0.99, 0.0, 0.0, -0.06])
    share = rng.choice([0.0, 0.5, 0.9, 1.0], len(start)) + rng.uniform(-0.2, 0.2, len(start))
    return {
        name: at + s * (sim.OBS_ELEMENT_GOALS[name] - at) for s, (name, at) in zip(share, start.items(), strict=True)
    }


@every_task
def test_every_step_says_what_the_simulator_says(name, envs, stock):
    task, env = BY_NAME[name], envs[name]
    rng, told = np.random.default_rng(0), []
    for seed in range(6):
        ours, _ = env.reset(seed=seed)
        theirs, _ = stock.reset(seed=seed)
        assert set(ours) == {"observation", "achieved_goal", "desired_goal"}
        for step in range(6):
            if step % 3 == 1:
                where = on_the_way(rng)
                put(env, where), put(stock, where)
            action = rng.uniform(-1, 1, 9).astype(np.float32)
            ours, reward, terminated, truncated, info = env.step(action)
            theirs, _, _, _, said = stock.step(action)
            obs, achieved, desired = ours["observation"], ours["achieved_goal"], ours["desired_goal"]
            assert obs[:18].tobytes() == theirs["observation"][:18].tobytes(), "the robot, with its noise"
            np.testing.assert_allclose(obs, theirs["observation"], atol=SLACK)
            np.testing.assert_array_equal(achieved, theirs["achieved_goal"][subtask(task)])
            np.testing.assert_array_equal(desired, theirs["desired_goal"][subtask(task)])
            np.testing.assert_array_equal(task.goal_of(obs), achieved)

            done = subtask(task) in said["step_task_completions"]
            assert info["is_success"] == done and reward == float(done)
            assert task.success(achieved, desired) == done and task.reward(achieved, desired) == reward
            assert not terminated and not truncated and not task.terminated(achieved, desired)
            told.append(done)
    assert 0.1 < np.mean(told) < 0.9, "both answers were seen"


def test_an_untouched_kitchen_has_nothing_done_and_other_objects_do_not_count(envs):
    goals = simulator().OBS_ELEMENT_GOALS
    for name, env in envs.items():
        task = BY_NAME[name]
        seen, _ = env.reset(seed=0)
        assert not task.success(seen["achieved_goal"], seen["desired_goal"])
        put(env, {other: goal for other, goal in goals.items() if other != subtask(task)})
        assert not env.step(np.zeros(9, np.float32))[4]["is_success"], name
        put(env, {subtask(task): goals[subtask(task)]})
        assert env.step(np.zeros(9, np.float32))[4]["is_success"], name


def test_goals_are_the_numbers_of_their_objects():
    sim = simulator()
    assert sim.BONUS_THRESH == RADIUS and {subtask(task) for task in TASKS} == set(sim.OBS_ELEMENT_GOALS)
    columns = np.arange(59)
    for task in TASKS:
        np.testing.assert_array_equal(task.goal_of(columns), sim.OBS_ELEMENT_INDICES[subtask(task)] + 9)
        assert task.goal_dim == len(sim.OBS_ELEMENT_GOALS[subtask(task)])
    assert gymnasium.spec("FrankaKitchen-v1").max_episode_steps == {task.horizon for task in TASKS}.pop()


@every_task
def test_the_arithmetic_takes_any_leading_axes(name):
    task, rng = BY_NAME[name], np.random.default_rng(0)
    desired = np.broadcast_to(simulator().OBS_ELEMENT_GOALS[subtask(task)], (4, 25, task.goal_dim))
    achieved = desired + rng.normal(size=desired.shape) * 10 ** rng.uniform(-2, 0, (4, 25, 1))
    truth = [
        [np.linalg.norm(a - d) < RADIUS for a, d in zip(*rows, strict=True)]
        for rows in zip(achieved, desired, strict=True)
    ]
    assert 0.1 < np.mean(truth) < 0.9
    for kind in (np.array, torch.tensor):
        np.testing.assert_array_equal(task.success(kind(achieved), kind(desired)), truth)
        np.testing.assert_array_equal(task.reward(kind(achieved), kind(desired)), np.array(truth, float))
        assert task.terminated(kind(achieved), kind(desired)).shape == (4, 25)


def test_a_seed_says_it_all_and_what_is_handed_out_is_a_copy(envs):
    env, fresh = envs["kitchen-kettle"], BY_NAME["kitchen-kettle"].make()
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (9,), np.float32)
    digests = []
    for one in (env, fresh, env):
        rng = np.random.default_rng(0)
        seen, _ = one.reset(seed=4)
        rows = [seen["observation"]]
        for _ in range(5):
            seen, *_ = one.step(rng.uniform(-1, 1, 9).astype(np.float32))
            rows.append(seen["observation"])
            seen["desired_goal"][:] = seen["achieved_goal"][:] = np.nan
        assert np.isfinite(rows).all() and one.observation_space["observation"].shape == rows[0].shape
        digests.append(np.array(rows).tobytes())
    assert len(set(digests)) == 1
    fresh.close()


def test_tasks_pickle_and_are_of_one_scene():
    assert {(task.scene, task.family) for task in TASKS} == {("kitchen", "kitchen")}
    for task, same in zip(TASKS, pickle.loads(pickle.dumps(TASKS)), strict=True):  # noqa: S301
        assert (same.name, repr(same.make.args)) == (task.name, repr(task.make.args))
        np.testing.assert_array_equal(same.goal_of(np.arange(59)), task.goal_of(np.arange(59)))
