"""OGBench's tasks: our step is its step, and our arithmetic says what its simulator says. Long: one file a module."""

import functools
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

import tasks
from gcrl.collect import Lane
from tasks.floor import floor_of
from tasks.ogbench import NAMES, PREFIX, TABLE
from tasks.task import InputError

ROOT = Path(__file__).parents[1]
QUICK = [
    "pointmaze-medium",
    "pointmaze-teleport",
    "antmaze-medium",
    "antsoccer-arena",
    "cube-double",
    "scene",
    "puzzle-3x3",
]
"""One of each layout; the rest is slow because its models are compiled twice."""
EPISODES, STEPS = 8, 12
every_name = pytest.mark.parametrize("name", NAMES)
every_layout = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TABLE]
)


@pytest.fixture
def ogbench():
    return pytest.importorskip("ogbench")


def task_of(name):
    return tasks.get(f"{PREFIX}{name}-v0")


def fresh(name):
    """The simulator as it comes."""
    env = gymnasium.make(f"{name}-v0", disable_env_checker=True, max_episode_steps=-1).unwrapped
    env.reset(seed=0)
    return env


def parts(stock):
    return (stock._model, stock._data) if hasattr(stock, "_model") else (stock.model, stock.data)


def near_the_goal(stock, rng):
    """Put what success reads near the target, on either side of the edge."""
    import mujoco

    model, data = parts(stock)
    if hasattr(stock, "cur_goal_xy"):
        xy = stock.cur_goal_xy + rng.normal(size=2) * stock._goal_tol
        if hasattr(stock, "set_agent_ball_xy"):
            stock.set_agent_ball_xy(xy + 3, xy)
        else:
            stock.set_xy(xy)
        return
    for i, mocap in enumerate(getattr(stock, "_cube_target_mocap_ids", ())):
        data.joint(f"object_joint_{i}").qpos[:3] = data.mocap_pos[mocap] + rng.normal(size=3) * [0.02, 0.02, 0]
    if hasattr(stock, "_target_drawer_pos"):
        data.joint("drawer_slide").qpos[0] = np.clip(stock._target_drawer_pos + rng.normal() * 0.025, -0.16, 0)
        data.joint("window_slide").qpos[0] = np.clip(stock._target_window_pos + rng.normal() * 0.025, 0, 0.2)
    if hasattr(stock, "_target_button_states"):
        stock._cur_button_states = stock._target_button_states.copy()
        stock._cur_button_states[rng.integers(stock._num_buttons)] ^= rng.random() < 0.3
        stock._apply_button_states()
    mujoco.mj_forward(model, data)


def same_state(ours, theirs):
    """Bring the stock simulator where ours is, goal and all."""
    import mujoco

    for name in (
        "cur_goal_xy",
        "_cur_button_states",
        "_target_button_states",
        "_target_drawer_pos",
        "_target_window_pos",
    ):
        if hasattr(ours, name):
            setattr(theirs, name, np.copy(getattr(ours, name)))
    kind, (model, data) = mujoco.mjtState.mjSTATE_INTEGRATION, parts(ours)
    state = np.zeros(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    if hasattr(ours, "_apply_button_states"):
        theirs._apply_button_states()
    mujoco.mj_setState(*parts(theirs), state, kind)
    mujoco.mj_forward(*parts(theirs))
    mujoco.mj_setState(*parts(theirs), state, kind)


@functools.cache
def played(name):
    """Short episodes near the goal and away from it, step by step beside the stock simulator."""
    task = task_of(name)
    env, theirs, rng, steps = task.make(), fresh(name), np.random.default_rng(0), []
    for episode in range(EPISODES):
        env.reset(seed=episode)
        if episode % 4:
            near_the_goal(env.stock, rng)
        same_state(env.stock, theirs)
        action = rng.uniform(-1, 1, task.action_dim)
        for _ in range(STEPS * (10 if name.startswith("point") else 1)):
            now = np.clip(action + 0.5 * rng.normal(size=task.action_dim), -1, 1).astype(np.float32)
            seen, reward, terminated, truncated, _ = env.step(now.copy())
            stock_obs, stock_reward, _, _, stock_info = theirs.step(now.copy())
            steps.append(
                (
                    seen,
                    seen["desired_goal"],
                    reward,
                    terminated,
                    truncated,
                    stock_obs,
                    stock_reward,
                    stock_info["success"],
                )
            )
            if theirs.__dict__.get("_teleport_info"):
                same_state(env.stock, theirs)  # they draw the way out elsewhere
    seen, *columns = zip(*steps, strict=True)
    keys = ("desired", "reward", "terminated", "truncated", "stock_obs", "stock_reward", "stock_success")
    return SimpleNamespace(
        env=env,
        task=task,
        observation=np.array([one["observation"] for one in seen]),
        achieved=np.array([one["achieved_goal"] for one in seen]),
        **dict(zip(keys, map(np.array, columns), strict=True)),
    )


@every_layout
def test_success_is_that_of_the_simulator_on_every_step(name, ogbench):
    was = played(name)
    theirs = was.stock_success.astype(bool)
    assert theirs.any() and not theirs.all()
    np.testing.assert_array_equal(was.task.success(was.achieved, was.desired), theirs)
    np.testing.assert_array_equal(was.task.terminated(was.achieved, was.desired), theirs)
    np.testing.assert_array_equal(was.terminated, theirs)
    np.testing.assert_array_equal(was.task.reward(was.achieved, was.desired), was.stock_reward - 1)
    np.testing.assert_array_equal(was.reward, was.stock_reward - 1)
    assert not was.truncated.any()
    single = was.achieved.astype(np.float32), was.desired.astype(np.float32)
    assert (was.task.success(*single) == theirs).mean() > 0.99
    tensors = torch.as_tensor(was.achieved), torch.as_tensor(was.desired)
    np.testing.assert_array_equal(was.task.success(*tensors), theirs)
    np.testing.assert_array_equal(was.task.reward(*tensors), was.reward)


@every_layout
def test_a_step_is_that_of_the_simulator(name, ogbench):
    np.testing.assert_array_equal(played(name).observation, played(name).stock_obs)


@every_layout
def test_goals_are_read_off_the_observation_and_the_oracle_s_are_ogbench_s_own(name, ogbench):
    was, short = played(name), [n for n in NAMES if n == f"{PREFIX}{name}-oraclerep-v0"]
    assert was.observation.shape[1:] == (was.task.obs_dim,) and was.desired.shape[1:] == (was.task.goal_dim,)
    np.testing.assert_array_equal(was.task.goal_of(was.observation), was.achieved)
    assert was.task.success(was.achieved, was.achieved).all()
    assert not was.task.success(was.achieved, np.full_like(was.achieved, np.nan)).any()
    for task in map(tasks.get, short):
        oracle = task.goal_of(was.observation)
        assert oracle.shape[1:] == (task.goal_dim,)
        np.testing.assert_array_equal(task.goal_of(torch.as_tensor(was.observation)), oracle)
        reached = task.success(oracle, task.goal_of(was.desired))
        np.testing.assert_array_equal(reached, was.task.success(was.achieved, was.desired))
        stock = was.env.stock
        if hasattr(stock, "compute_oracle_observation"):
            np.testing.assert_array_equal(oracle[-1], stock.compute_oracle_observation())
        else:
            np.testing.assert_array_equal(task.goal_of(was.desired[-1]), stock.get_oracle_rep())


def digest(env, seed=5, steps=8):
    obs, info = env.reset(seed=seed)
    seen = [*obs.values(), info["task_id"]]
    for action in np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32):
        obs, reward, terminated, _, _ = env.step(action)
        seen += [*obs.values(), reward, terminated]
    return hashlib.sha256(b"".join(np.asarray(x, float).tobytes() for x in seen)).hexdigest()


@every_layout
def test_a_seed_says_it_all_and_touches_no_generator_but_its_own(name, ogbench):
    used, other = played(name).env, task_of(name).make()
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert digest(used) == digest(other) == digest(used)
    assert digest(used, 6) != digest(used)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@every_layout
def test_each_seed_draws_one_of_the_five_and_goals_lie_where_they_are_registered(name, ogbench):
    env, stock = played(name).env, played(name).env.stock
    assert len(stock.task_infos) == 5
    drawn = {env.reset(seed=seed)[1]["task_id"] for seed in range(40)}
    assert drawn == {1, 2, 3, 4, 5}
    targets = []
    for number in sorted(drawn):
        obs, info = env.reset(seed=0, options={"task_id": number})
        assert info["task_id"] == number
        assert not played(name).task.success(obs["achieved_goal"], obs["desired_goal"])
        targets.append(np.concatenate([obs[key][env.read] for key in ("achieved_goal", "desired_goal")]))
        if hasattr(stock, "cur_goal_xy"):
            goal = stock.task_infos[number - 1]["goal_ij"]
            assert stock.xy_to_ij(stock.cur_goal_xy) == tuple(goal)
            np.testing.assert_array_equal(obs["desired_goal"][env.read], stock.cur_goal_xy)
    assert len({target.round(1).tobytes() for target in targets}) == 5


def test_an_arm_s_goal_shows_the_target_to_the_last_number(ogbench):
    """The simulator's own goal is looked at after the cube has settled; what it compares with is 0.04 mm away."""
    env = played("cube-double").env
    obs, _ = env.reset(seed=0)
    stock = env.stock
    theirs = np.concatenate([stock._data.mocap_pos[i] for i in stock._cube_target_mocap_ids])
    goal = obs["desired_goal"]
    np.testing.assert_allclose(goal[env.read], (theirs - np.tile([0.425, 0, 0], 2)) * 10, atol=1e-12)
    assert 0 < abs(goal - stock._cur_goal_ob).max() < 0.001
    env = played("puzzle-3x3").env
    goal = env.reset(seed=0)[0]["desired_goal"]
    np.testing.assert_array_equal(goal[20::4], env.stock._target_button_states)
    np.testing.assert_array_equal(goal[19::4] + goal[20::4], 1)


def test_physics_is_asked_only_at_walls_and_is_the_same_along_them(ogbench):
    """A long walk that leans on walls and rounds corners, to the bit."""
    env, theirs, rng = task_of("pointmaze-large").make(), fresh("pointmaze-large"), np.random.default_rng(3)
    env.reset(seed=0)
    same_state(env.stock, theirs)
    asked, step = [], env.mujoco.mj_step
    env.mujoco = SimpleNamespace(mj_step=lambda *args: asked.append(step(*args)))
    for t in range(3000):
        if t % 40 == 0:
            way = rng.uniform(-1, 1, 2)
        action = np.clip(way + 0.3 * rng.normal(size=2), -1, 1).astype(np.float32)
        np.testing.assert_array_equal(env.step(action)[0]["observation"], theirs.step(action)[0])
    assert 300 < len(asked) < 2700


def test_their_return_is_ours_one_step_later():
    """OGBench asks whether this state is the goal, r(s, g); here the next one is asked, r(s', g)."""
    task, gamma = task_of("pointmaze-medium"), 0.9
    walk = np.stack([np.linspace(10, 0, 6), np.zeros(6)], 1).astype(np.float32)
    goal = np.repeat(walk[-1:], 5, 0)
    ours = sum(gamma**t * r for t, r in enumerate(task.reward(walk[1:], goal)))
    theirs = sum(gamma**t * -1.0 for t in range(5))  # each state before the goal's own costs one
    assert theirs == pytest.approx(-1 + gamma * ours)


def test_the_table_is_what_ogbench_registers(ogbench):
    own = [
        spec
        for spec in gymnasium.registry.values()
        if str(spec.entry_point).startswith(("ogbench.loco", "ogbench.mani"))
    ]
    goals = {spec.id: spec for spec in own if not {"visual", "singletask"} & set(spec.id.split("-"))}
    assert set(goals) - {"humanoidmaze-teleport-v0"} == {f"{name}-v0" for name in TABLE}
    for name, (_, horizon, _) in TABLE.items():
        assert goals[f"{name}-v0"].max_episode_steps == horizon == task_of(name).horizon


@every_name
def test_a_task_pickles_and_broadcasts(name):
    task, rng = tasks.get(name), np.random.default_rng(0)
    again = pickle.loads(pickle.dumps(task))  # noqa: S301
    achieved, noise = rng.normal(size=(2, 60, task.goal_dim))
    desired = achieved + noise * rng.choice([0, 0.05, 1.5], (60, 1))
    success = task.success(achieved, desired)
    assert success.dtype == np.bool_ and success[(achieved == desired).all(1)].all() and not success.all()
    np.testing.assert_array_equal(again.success(achieved, desired), success)
    block = (x.reshape(6, 10, -1) for x in (achieved, desired))
    np.testing.assert_array_equal(task.success(*block).reshape(-1), success)
    assert again.name == name and tasks.get(name).description == task.description


def test_names_are_one_scene_where_the_dynamics_are_one():
    assert len(NAMES) == len(set(NAMES)) == 42
    every = [tasks.get(name) for name in NAMES]
    for task in every:
        mates = [other for other in every if other.family == task.family]
        assert {(mate.obs_dim, mate.action_dim) for mate in mates} == {(task.obs_dim, task.action_dim)}
        assert {mate.name.replace("-oraclerep", "") for mate in mates if mate.scene == task.scene} == {
            task.name.replace("-oraclerep", "")
        }
    assert [task.name for task in tasks.find(["ogbench:pointmaze-*"])] == NAMES[:4]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ogbench:pointmaze-medum-v0", "did you mean ogbench:pointmaze-medium-v0"),
        ("pointmaze-medium-v0", "or ogbench:pointmaze-medium-v0"),
        ("cube-single-v0", "did you mean .*ogbench:cube-single-v0"),
        ("ogbench:zzz", r"gcrl\[ogbench\]"),
        ("ogbench:powderworld-easy-v0", r"gcrl\[ogbench\]"),
        ("ogbench:nothing-*", r"gcrl\[ogbench\]"),
    ],
)
def test_an_unknown_name_is_answered_in_one_line(name, hint):
    with pytest.raises(InputError, match=hint) as caught:
        tasks.find([name])
    assert "\n" not in str(caught.value)


def test_without_ogbench_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(InputError, match=r"gcrl\[ogbench\]") as caught:
        Lane(task_of("pointmaze-medium"))
    assert "\n" not in str(caught.value)


def test_naming_the_tasks_loads_no_simulator():
    code = "import sys, tasks; tasks.get('ogbench:cube-single-v0'); "
    code += "print(sorted({'ogbench', 'mujoco', 'torch'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


def test_a_maze_leaves_no_file_behind(tmp_path, monkeypatch, ogbench):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task_of("pointmaze-medium").make().close()
    assert not list(tmp_path.iterdir())


def test_lanes_play_it(ogbench):
    lane = Lane(task_of("cube-single"))
    assert lane.unlocked
    lane.reset(0)
    lane.step(np.zeros(5, np.float32))
    episode = lane.episode()
    assert episode.observation.shape == (2, 28) and episode.desired.shape == (1, 28) and episode.reward.tolist() == [-1]


def test_the_plan_of_a_maze_is_the_stock_one(ogbench):
    """Every cell of a maze that is not symmetric, and places that the ball can be at."""
    env = tasks.get("ogbench:pointmaze-large-v0").make()
    floor, stock = floor_of(env), env.unwrapped.stock
    for cell in np.ndindex(stock.maze_map.shape):
        middle = np.array(stock.ij_to_xy(cell))
        near = middle + 0.49 * stock._maze_unit * np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]])
        assert (floor.free(near) == (stock.maze_map[cell] != 1)).all(), cell
    assert not np.array_equal(floor.wall, floor.wall[::-1])
    env.close()
