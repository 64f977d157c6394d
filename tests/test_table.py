"""Seven tasks on one table: the same simulation, goals that lie where they should, and success that really occurs."""

import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch

from tasks.fetch import TASKS as FETCH
from tasks.simulator import register_robotics
from tasks.table import AROUND, LIFT, NUDGE, OVER, REACH, SPREAD, TASKS
from tests.stopwatch import seconds_of_steps

BY_NAME = {task.name: task for task in TASKS}
SEEDS, STEPS = range(8), 50
every_task = pytest.mark.parametrize("name", BY_NAME)
OPEN, SHUT = 1.0, -1.0


@pytest.fixture(scope="module")
def envs():
    """name -> an environment, shared by the tests of this file, so that they find it used."""
    made = {task.name: task.make() for task in TASKS}
    yield made
    for env in made.values():
        env.close()


@pytest.fixture(scope="module")
def stock():
    register_robotics()
    env = gymnasium.make("FetchPickAndPlace-v4").unwrapped
    yield env
    env.close()


def over(place, up=OVER):
    return place + np.array([0.0, 0.0, up])


def towards(obs, place, fingers):
    return np.append(np.clip(10 * (place - obs[:3]), -1, 1), fingers).astype(np.float32)


def reach(obs, goal, step):
    return towards(obs, goal, SHUT)


def hover(obs, goal, step):
    return towards(obs, over(obs[3:6]), OPEN)


def touch(obs, goal, step):
    """Open fingers, first to over the block, then down."""
    up = OVER if np.linalg.norm(obs[6:8]) > 0.01 else 0.0
    return towards(obs, over(obs[3:6], up), OPEN)


def push(obs, goal, step):
    """Shut fingers, down behind the block, then along the line to the goal."""
    block, way = obs[3:6], goal[:2] - obs[3:5]
    ahead = way / max(np.linalg.norm(way), 1e-9)
    behind = block - np.append(0.08 * ahead, 0)
    lag = obs[6:8]
    off_line = abs(lag[0] * ahead[1] - lag[1] * ahead[0])
    if np.linalg.norm(way) < 0.02:
        return np.zeros(4, np.float32)
    if obs[2] < block[2] + 0.03 and lag @ ahead > 0 and off_line < 0.02:
        return np.append(np.clip(4 * way, -0.3, 0.3), (0, SHUT)).astype(np.float32)
    if np.linalg.norm(behind[:2] - obs[:2]) > 0.01:
        return towards(obs, over(behind), SHUT)
    return towards(obs, behind, SHUT)


def carry(obs, goal, step):
    """Grasp, then to the goal: a point, or a height over where the block is."""
    if np.linalg.norm(obs[6:9]) > 0.015:
        return touch(obs, goal, step)
    if obs[9] + obs[10] > 0.052:
        return towards(obs, obs[3:6], SHUT)
    return towards(obs, np.append(obs[3:5], goal) if goal.shape == (1,) else goal, SHUT)


CONTROLLERS = dict(zip(BY_NAME, (reach, touch, hover, push, push, carry, carry), strict=True))


def wander(obs, goal, step):
    rng = np.random.default_rng(step)
    return np.append(rng.uniform(-1, 1, 3) + 5 * obs[6:9], rng.uniform(-1, 1)).astype(np.float32)


def played(env, controller, seed, steps=STEPS):
    """[(obs (25,), achieved (G,), desired (G,), reward, success, action (4,))] of an episode."""
    seen, _ = env.reset(seed=seed)
    rows = []
    for step in range(steps):
        action = controller(seen["observation"], seen["desired_goal"], step)
        seen, reward, terminated, truncated, info = env.step(action)
        assert not terminated and not truncated
        rows.append((*seen.values(), reward, info["is_success"], action))
    return [np.array(column) for column in zip(*rows, strict=True)]


@every_task
def test_the_arithmetic_says_what_every_step_said(name, envs):
    task, env = BY_NAME[name], envs[name]
    ended = []
    for controller in (CONTROLLERS[name], wander):
        for seed in SEEDS:
            obs, achieved, desired, reward, success, _ = played(env, controller, seed)
            assert obs.shape == (STEPS, task.obs_dim) and desired.shape == (STEPS, task.goal_dim)
            assert env.observation_space["achieved_goal"].shape == env.observation_space["desired_goal"].shape
            assert env.observation_space["achieved_goal"].shape == (task.goal_dim,)
            assert (desired == desired[0]).all() and np.isfinite(obs).all()
            np.testing.assert_array_equal(task.goal_of(obs), achieved)
            for kind in (np.asarray, torch.as_tensor):
                o, d = kind(obs), kind(desired)
                a = task.goal_of(o)
                cubes = [x.reshape(2, 5, -1, task.goal_dim) for x in (a, d)]
                np.testing.assert_array_equal(task.reward(a, d), reward)
                np.testing.assert_array_equal(task.success(a, d), success.astype(bool))
                np.testing.assert_array_equal(task.success(*cubes).reshape(-1), success.astype(bool))
                np.testing.assert_array_equal(task.reward(*cubes).reshape(-1), reward)
                assert not task.terminated(a, d).any()
            assert set(reward.tolist()) <= set(task.reward_range)
            if controller is not wander:
                ended.append(success[-1])
    assert np.mean(ended) >= (0.6 if "push" in name or "nudge" in name else 1.0), ended


def test_observations_are_those_of_the_stock_whatever_the_task(envs, stock):
    for seed, script in enumerate((wander, carry, push)):
        expected, _ = stock.reset(seed=seed)
        goal = expected["desired_goal"]
        rows, actions = [expected["observation"]], []
        for step in range(STEPS):
            actions.append(script(expected["observation"], goal, step))
            expected = stock.step(actions[-1])[0]
            rows.append(expected["observation"])
        for env in envs.values():
            ours = [env.reset(seed=seed)[0]["observation"]]
            ours += [env.step(action)[0]["observation"] for action in actions]
            assert np.array(ours).tobytes() == np.array(rows).tobytes()


@every_task
def test_goals_lie_where_they_should_and_are_never_reached_at_the_start(name, envs):
    task, env = BY_NAME[name], envs[name]
    starts = [env.reset(seed=seed)[0] for seed in range(300)]
    obs, achieved, goal = (
        np.array([s[key] for s in starts]) for key in ("observation", "achieved_goal", "desired_goal")
    )
    home, floor = env.stock.initial_gripper_xpos, env.stock.height_offset
    assert (achieved == task.goal_of(obs)).all() and not task.success(achieved, goal).any()
    assert (task.reward(achieved, goal) == -1).all()
    least, most = goal.min(0), goal.max(0)
    if name == "table-reach":
        assert (abs(goal - home)[:, :2] <= SPREAD).all()
        assert floor <= least[2] < floor + 0.03 and home[2] + SPREAD - 0.03 < most[2] <= home[2] + SPREAD
    elif name in ("table-touch", "table-hover"):
        assert (goal == [0, 0, -OVER if name == "table-hover" else 0]).all()
    elif name == "table-lift":
        assert (goal >= floor + LIFT[0]).all() and (goal <= floor + LIFT[1]).all() and (most - least > 0.16).all()
    else:
        spread = REACH if name == "table-nudge" else SPREAD
        assert (abs(goal - home)[:, :2] <= spread).all() and (most - least > 1.8 * spread)[:2].all()
        assert (goal[:, 2] >= floor).all()
        in_air = (goal[:, 2] > floor).mean()
        assert 0.4 < in_air < 0.6 if name == "table-pick-and-place" else in_air == 0
    if name == "table-nudge":
        way = np.linalg.norm(goal[:, :2] - obs[:, 3:5], axis=1)
        assert NUDGE[0] <= way.min() < NUDGE[0] + 0.005 and NUDGE[1] - 0.005 < way.max() <= NUDGE[1] + 1e-9
        middle, half = env.model.body("table0").pos, env.model.geom_size[env.model.body("table0").geomadr[0]]
        assert (abs(goal - middle)[:, :2] < half[:2] - 0.02).all()
    resting = np.array([[0.0, 0.0, floor + up] for up in (-0.01, 0.0, 0.02)])  # 0.018: on a corner
    if name == "table-lift":
        assert not task.success(resting[:, None, 2:], goal).any()


@every_task
def test_a_seed_says_it_all(name, envs):
    env, fresh = envs[name], BY_NAME[name].make()
    first = played(env, wander, 5, 10)
    for other in (env, fresh):
        for ours, theirs in zip(first, played(other, wander, 5, 10), strict=True):
            assert ours.tobytes() == theirs.tobytes()
    goals = {env.reset(seed=seed)[0]["desired_goal"].tobytes() for seed in range(5)}
    goals.add(env.reset()[0]["desired_goal"].tobytes())
    assert len(goals) == (1 if name in ("table-touch", "table-hover") else 6)
    seen, *_ = env.reset(seed=3)
    seen["desired_goal"][:] = np.nan
    assert np.isfinite(env.step(np.zeros(4, np.float32))[0]["desired_goal"]).all(), "the caller's goal is a copy"
    fresh.close()


def test_touching_is_having_the_block_between_the_fingers(envs):
    """Neither closed fingers on top of the block nor beside it, pressed or pushing; open ones around it do."""
    task, env = BY_NAME["table-touch"], envs["table-touch"]
    sides = [(0, 0, 0), (0.045, 0, 0), (-0.045, 0, 0), (0, 0.045, 0), (0, -0.045, 0), (0.03, 0.03, 0)]
    nearest = []
    for seed in range(2):
        for side in sides:
            seen, _ = env.reset(seed=seed)
            for step in range(60):
                obs = seen["observation"]
                off = np.add(side, (0, 0, OVER if step < 25 else 0))
                place = obs[3:6] + (off if step < 40 else 0.0)  # beside or on top, then against it
                seen, _, _, _, info = env.step(towards(obs, place, SHUT))
                assert not info["is_success"], (seed, side, step)
            nearest.append(np.linalg.norm(seen["achieved_goal"]))
        assert played(env, touch, seed)[4][-1]
    assert AROUND + 0.005 < min(nearest) < 0.05
    one_inch = np.array([0.025, 0.0, 0.0])  # half the block's width: its side is in the middle between the fingers
    assert task.success(one_inch, np.zeros(3)) and not task.success(1.4 * one_inch, np.zeros(3))


def test_untouched_blocks_come_nowhere(envs):
    for name, env in envs.items():
        for seed in SEEDS:
            assert not played(env, lambda obs, goal, step: np.zeros(4, np.float32), seed, 20)[4].any(), name


def test_the_target_is_drawn_where_the_goal_is(envs):
    block = np.array([1.3, 0.7, 0.425])
    where = {
        "table-reach": [1, 2, 3],
        "table-touch": block,
        "table-hover": over(block),
        "table-push": [1, 2, 3],
        "table-nudge": [1, 2, 3],
        "table-lift": [1.3, 0.7, 0.6],
        "table-pick-and-place": [1, 2, 3],
    }
    for name, env in envs.items():
        goal = np.array([0.6]) if name == "table-lift" else np.array([1.0, 2.0, 3.0])
        if name in ("table-touch", "table-hover"):
            goal = env.reset(seed=0)[0]["desired_goal"]
        np.testing.assert_allclose(env.aim.shown(block, goal), where[name])
    code = """if True:
        import numpy as np
        from tasks.table import TASKS
        env = TASKS[5].make(render_mode="rgb_array")
        seen, _ = env.reset(seed=0)
        try:
            frame = env.render()
        except Exception:
            raise SystemExit("impossible")
        site = env.stock.data.site("target0").xpos
        np.testing.assert_allclose(site, [*seen["observation"][3:5], *seen["desired_goal"]], atol=1e-6)
        print(frame.shape)
    """
    drawn = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"MUJOCO_GL": "egl", **os.environ},
        capture_output=True,
        text=True,
    )
    assert "(480, 480, 3)" in drawn.stdout or "impossible" in drawn.stderr, drawn.stderr


def test_a_step_costs_what_a_fetch_step_costs(envs):
    sides = {"fetch": FETCH[3].make(), "table": envs["table-pick-and-place"]}
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 4)).astype(np.float32)
    best = seconds_of_steps(sides, actions, 1 / 1.15)
    sides["fetch"].close()
    assert best["table"] <= 1.15 * best["fetch"], best


def test_tasks_pickle_and_are_of_one_scene():
    assert {(task.scene, task.family, task.obs_dim, task.horizon) for task in TASKS} == {("table", "fetch", 25, 50)}
    assert len({task.description for task in TASKS}) == len(TASKS) == 7
    for task, same in zip(TASKS, pickle.loads(pickle.dumps(TASKS)), strict=True):  # noqa: S301
        observation = np.arange(50.0).reshape(2, -1)
        assert same.name == task.name and repr(same.make.args) == repr(task.make.args)
        np.testing.assert_array_equal(same.goal_of(observation), task.goal_of(observation))
