"""The fast Fetch step: the stock environment's bits in less time. Long: it holds a proof about meshes."""

import hashlib
import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from tasks.fetch import APART, APART_IN_POSTURE, POSTURE, SWEEP, TASKS, euler
from tasks.simulator import register_robotics, require_mujoco
from tasks.task import InputError
from tests.stopwatch import seconds_of_steps

BY_NAME = {task.name: task for task in TASKS}
EPISODES, STEPS = 30, 50
BEYOND = {"robot0:head_pan_joint": 0.6, "robot0:head_tilt_joint": 0.1}
HINGE, SLIDE = 0.3, 0.02
"""How far joints leave their ranges in the proof, in rad and m: more than 32,000 steps of full actions did.

Seen: 0.31 of the head's pan, which the arm pushes, 0.06 of its tilt, and 0.27 of the arm.
"""
CERTAIN = 5e-4
"""Metres that must be left between two bodies, beside the margins of the simulator."""


@pytest.fixture(scope="module")
def envs():
    """name -> an environment of ours, shared by the tests of this file, so that they find it used."""
    made = {task.name: task.make() for task in TASKS}
    yield made
    for env in made.values():
        env.close()


def stock(task):
    register_robotics()
    return gymnasium.make(task.make.args[0])


def action(rng, obs, episode):
    """Random and out of range; in some episodes down onto the table, or to the target or the object, which tumbles."""
    a = rng.uniform(-1.2, 1.2, 4)
    if episode % 3 == 1:
        has_object = len(obs["observation"]) == 25
        a[:3] += 10 * (obs["observation"][6:9] if has_object else obs["desired_goal"] - obs["achieved_goal"])
    if episode % 3 == 2:
        a[2] -= 0.5
    return a if episode % 5 == 4 else a.astype(np.float32)


def the_bytes(obs):
    return {key: (value.dtype, value.shape, value.tobytes()) for key, value in obs.items()}


def digest(env, episodes=(3, 4), drawn=False):
    """All bytes of what some episodes observe."""
    h = hashlib.sha256()
    for episode in episodes:
        rng = np.random.default_rng(episode)
        obs, _ = env.reset(seed=episode)
        for _ in range(STEPS):
            obs, reward, *_ = env.step(action(rng, obs, episode))
            if drawn:
                env.render()
            for value in (obs["observation"], obs["achieved_goal"], obs["desired_goal"], reward):
                h.update(value.tobytes())
    return h.hexdigest()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_bit_is_the_stock_one(name, envs):
    task, ours, theirs = BY_NAME[name], envs[name], stock(BY_NAME[name])
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    rng = np.random.default_rng(0)
    outcomes = set()
    for episode in range(EPISODES):
        seed = None if episode % 10 == 9 else episode  # without a seed, the generator goes on from where it stood
        (obs, info), (expected, expected_info) = ours.reset(seed=seed), theirs.reset(seed=seed)
        assert the_bytes(obs) == the_bytes(expected) and info == expected_info
        for step in range(STEPS):
            a = action(rng, obs, episode)
            kept = a.copy()
            obs, reward, terminated, truncated, info = ours.step(a)
            expected, expected_reward, _, _, expected_info = theirs.step(a)
            assert the_bytes(obs) == the_bytes(expected), f"episode {episode}, step {step}"
            assert reward.dtype == expected_reward.dtype and reward.tobytes() == expected_reward.tobytes()
            assert info == expected_info and type(info["is_success"]) is type(expected_info["is_success"])
            assert not terminated and not truncated and a.tobytes() == kept.tobytes()

            achieved, desired = obs["achieved_goal"], obs["desired_goal"]
            assert all(np.isfinite(value).all() for value in obs.values())
            assert task.goal_of(obs["observation"]).tobytes() == achieved.tobytes()
            assert task.reward(achieved, desired) == reward and task.success(achieved, desired) == info["is_success"]
            assert not task.terminated(achieved, desired)
            outcomes.add(float(reward))
    assert obs["observation"].shape == (task.obs_dim,) and step + 1 == task.horizon
    assert -1.0 in outcomes and (0.0 in outcomes or name in ("fetch-slide", "fetch-pick-and-place"))
    theirs.close()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_bit_is_the_stock_one_when_the_arm_is_forced(name, envs):
    """Full actions, held long, drive the arm to its limits and into itself. Joints stay in the boxes of the proof."""
    import mujoco

    ours, theirs = BY_NAME[name].make(), stock(BY_NAME[name])
    swept, in_posture = np.zeros(len(POSTURE)), []

    def advance():
        start = ours.posture.copy()
        in_posture.append(ours.in_posture())
        for _ in range(ours.substeps):
            mujoco.mj_step(ours.usual if in_posture[-1] else ours.model, ours.data)
            np.maximum(swept, abs(ours.posture - start) * in_posture[-1], out=swept)

    ours.advance = advance
    model, data = theirs.unwrapped.model, theirs.unwrapped.data
    state = mujoco.mjtState.mjSTATE_INTEGRATION
    states = np.zeros((2, mujoco.mj_stateSize(model, state)))
    ours.reset(seed=0)
    low, high = boxes(model, ours.data.qpos).T
    rng = np.random.default_rng(0)
    touching = set()
    for seed, steps in enumerate((100, 600)):
        ours.reset(seed=seed), theirs.reset(seed=seed)
        for step in range(steps):
            if step % 60 == 0:
                a = rng.choice([-1, 1], 4).astype(np.float32)
            (obs, *_), (expected, *_) = ours.step(a), theirs.step(a)
            assert the_bytes(obs) == the_bytes(expected), f"seed {seed}, step {step}"
            mujoco.mj_getState(model, data, states[0], state)
            mujoco.mj_getState(ours.model, ours.data, states[1], state)
            assert states[0].tobytes() == states[1].tobytes()
            angle = data.qpos[model.jnt_qposadr]
            assert ((low <= angle) & (angle <= high)).all()
            touching |= {frozenset(model.geom_bodyid[pair]) for pair in data.contact.geom}
    theirs.close(), ours.close()
    assert (swept < SWEEP).all() and 0.02 < np.mean(in_posture) < 0.98, (swept, np.mean(in_posture))
    assert not touching & {frozenset(model.body(body).id for body in pair) for pair in APART}
    assert len(touching) > 5


def boxes(model, qpos, held=None):
    """Lowest and highest position (J, 2) of every joint in the proof, infinite where any will do; qpos: at reset.

    held: name -> (low, high), of joints that do not leave these.
    """
    rows = []
    for j, (low, high) in enumerate(model.jnt_range):
        if model.joint(j).name in (held or {}):
            rows.append(held[model.joint(j).name])
            continue
        start = qpos[model.jnt_qposadr[j]]
        if model.jnt_type[j] == 2:  # a slide starts below its range or has none
            low, high = (low, high) if model.jnt_limited[j] else (start, start)
            rows.append((min(low, start) - SLIDE, high + SLIDE))
        elif model.jnt_limited[j]:
            beyond = BEYOND.get(model.joint(j).name, HINGE)
            rows.append((low - beyond, high + beyond))
        else:
            rows.append((-np.inf, np.inf))
    return np.array(rows)


def levers(model, geom, corners, shared):
    """The joints that move a geom but not the shared bodies, and how far (m) a unit of each moves a point at most."""
    reach, arm, body = {}, 0.0, int(model.geom_bodyid[geom])
    while body not in shared:
        for j in range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body]):
            assert model.jnt_type[j] in (2, 3) and not model.jnt_pos[j].any()
            off_axis = corners if arm else np.cross(corners, model.jnt_axis[j])
            reach[j] = 1.0 if model.jnt_type[j] == 2 else arm + np.linalg.norm(off_axis, axis=1).max()
        arm += np.linalg.norm(model.body_pos[body])
        body = int(model.body_parentid[body])
    return reach


def ancestors(model, body):
    return {body} | (ancestors(model, int(model.body_parentid[body])) if body else set())


def proved_apart(model, qpos, first, second, held=None, most=60_000):
    """Do two bodies stay apart for all positions of the joints between them, in their boxes?

    At the centre of a box of joint positions there must be a plane between the two convex bodies, with more room than
    any position in the box can take away: the sum of lever times half the box's width. Else halve the box.
    """
    import mujoco

    data = mujoco.MjData(model)
    pair = [int(np.flatnonzero(model.geom_bodyid == model.body(name).id)[0]) for name in (first, second)]
    assert all(model.body_geomnum[model.geom_bodyid[geom]] == 1 for geom in pair)
    solids = []
    for geom in pair:
        mesh = model.geom_dataid[geom]
        start = model.mesh_vertadr[mesh]
        vertices = model.mesh_vert[start : start + model.mesh_vertnum[mesh]].astype(float)
        cube = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, 8).T
        solids.append(vertices if mesh >= 0 else cube * model.geom_size[geom])
    shared = set.intersection(*(ancestors(model, int(model.geom_bodyid[geom])) for geom in pair))
    reach = {}
    data.qpos[:] = qpos
    for geom, solid in zip(pair, solids, strict=True):
        turn = np.zeros(9)
        mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
        reach |= levers(model, geom, solid @ turn.reshape(3, 3).T + model.geom_pos[geom], shared)
    joints, reach = list(reach), np.array(list(reach.values()))
    box = np.clip(boxes(model, qpos, held)[joints], -np.pi, np.pi)
    room = model.geom_margin[pair].sum() + model.geom_gap[pair].sum() + CERTAIN
    todo = [(box.mean(1), (box[:, 1] - box[:, 0]) / 2, np.zeros(3))]
    closest = np.zeros(6)
    for _ in range(most):
        if not todo:
            return True
        centre, half, plane = todo.pop()
        data.qpos[model.jnt_qposadr[joints]] = centre
        mujoco.mj_kinematics(model, data)
        mujoco.mj_geomDistance(model, data, *pair, 2.0, closest)  # only a hint: where the plane might be
        a, b = (
            x @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            for geom, x in zip(pair, solids, strict=True)
        )
        normals = np.array([closest[3:] - closest[:3], plane, b.mean(0) - a.mean(0)])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        gaps = (b @ normals.T).min(0) - (a @ normals.T).max(0)
        if gaps.max() - reach @ half > room:
            continue
        widest = (reach * half).argmax()
        half = np.where(np.arange(len(half)) == widest, half / 2, half)
        step = np.where(np.arange(len(half)) == widest, half, 0)
        todo += [(centre - step, half, normals[gaps.argmax()]), (centre + step, half, normals[gaps.argmax()])]
    return False


def test_bodies_that_are_left_out_never_touch(envs):
    robots = set()
    for env in envs.values():
        env.reset(seed=0)
        model, qpos = env.stock.model, env.data.qpos.copy()
        robot = [b for b in range(model.nbody) if model.body(b).name.startswith("robot0:")]
        parts = model.body_pos[robot[1:]], model.jnt_range[:13], model.jnt_limited[:13], model.mesh_vert
        assert [model.joint(joint).qposadr[0] for joint in POSTURE] == list(range(4, 8))
        assert np.shares_memory(env.posture, env.data.qpos[4:8]) and env.posture.size == 4
        known = set(robots)
        robots.add(tuple(part.tobytes() for part in parts))
        for pair in APART:
            if "table0" in pair or not known:
                assert proved_apart(model, qpos, *pair), pair
        for pair in APART_IN_POSTURE if not known else ():
            assert proved_apart(model, qpos, *pair, POSTURE), pair
    assert len(robots) == 1, "the robot, unlike its place and its table, is the same in all tasks"
    for first, second in (("wrist_roll", "forearm_roll"), ("shoulder_lift", "torso_lift")):  # close, and they do touch
        assert not proved_apart(model, qpos, f"robot0:{first}_link", f"robot0:{second}_link", most=1_000)


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("usual", [False, True])
def test_the_model_is_the_stock_one_but_for_what_may_touch(name, usual, envs):
    ours, theirs = envs[name].usual if usual else envs[name].model, envs[name].stock.model
    for field in dir(theirs):
        value = getattr(theirs, field)
        if isinstance(value, np.ndarray) and not field.endswith(("contype", "conaffinity")):
            assert value.tobytes() == getattr(ours, field).tobytes(), field

    def touch(model, kind):
        by, with_ = getattr(model, f"{kind}_contype")[:, None], getattr(model, f"{kind}_conaffinity")
        return ((by & with_) | (by & with_).T) != 0

    bodies, geoms = touch(theirs, "body"), touch(theirs, "geom")
    for pair in APART + APART_IN_POSTURE * usual:
        a, b = (theirs.body(body).id for body in pair)
        on_a, on_b = theirs.geom_bodyid == a, theirs.geom_bodyid == b
        bodies[a, b] = bodies[b, a] = False
        geoms[np.ix_(on_a, on_b)] = geoms[np.ix_(on_b, on_a)] = False
    different = theirs.geom_bodyid[:, None] != theirs.geom_bodyid
    assert (touch(ours, "body") == bodies)[~np.eye(len(bodies), dtype=bool)].all()
    assert (touch(ours, "geom") == geoms)[different].all()


def test_environments_of_one_file_share_models_and_drawing_writes_in_none(envs):
    one, other = envs["fetch-reach"], BY_NAME["fetch-reach"].make()
    assert (one.model, one.usual) == (other.model, other.usual) and one.data is not other.data
    before = [model.site_pos.copy() for model in (one.model, one.usual)]
    other.reset(seed=1)
    other.stock._render_callback()  # it moves the drawn target
    assert all((a == b.site_pos).all() for a, b in zip(before, (one.model, one.usual), strict=True))
    assert one.model is not envs["fetch-push"].model
    other.close()


def test_what_came_before_does_not_matter(envs):
    """The same bytes from a used environment, a fresh one, in a fresh process and with every frame drawn."""
    used = {name: digest(env) for name, env in envs.items()}
    assert used == {task.name: digest(task.make()) for task in TASKS}
    code = """if True:
        import sys
        from tasks.fetch import TASKS
        assert not {"mujoco", "gymnasium_robotics"} & set(sys.modules), "the simulator is imported by make only"
        from tests.test_fetch import digest
        for task in TASKS:
            print(task.name, digest(task.make()))
        try:
            env = TASKS[3].make(render_mode="rgb_array")
            env.reset(seed=0)
            frame = env.render()
        except Exception:
            print("drawn", "impossible")
        else:
            print("drawn", digest(env, (4,), drawn=True), frame.shape, frame.dtype, frame.std() > 1)
    """
    fresh = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"MUJOCO_GL": "egl", **os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    words = dict(line.split(" ", 1) for line in fresh.stdout.splitlines())
    drawn = words.pop("drawn")
    assert words == used
    if drawn != "impossible":
        assert drawn == f"{digest(envs['fetch-pick-and-place'], (4,))} (480, 480, 3) uint8 True"


@pytest.mark.parametrize(("name", "floor"), [("fetch-reach", 1.75), ("fetch-pick-and-place", 1.5)])
def test_faster_than_stock(name, floor, envs):
    sides = {"stock": stock(BY_NAME[name]), "ours": envs[name]}
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 4)).astype(np.float32)
    best = seconds_of_steps(sides, actions, floor)
    sides["stock"].close()
    assert best["stock"] >= floor * best["ours"], best


def test_a_shorter_observation_lies_in_the_longest_where_its_columns_say(envs):
    reach, env = BY_NAME["fetch-reach"], envs["fetch-pick-and-place"]
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        obs, *_ = env.step(action(rng, obs, 0))
        env.has_object = False  # what an observation without an object is of the same state
        short = env.vector()
        env.has_object = True
        assert short.tobytes() == obs["observation"][list(reach.columns)].tobytes()
        assert len(np.unique(short)) == reach.obs_dim == len(short)
    for task in TASKS:
        assert len(task.columns) == (0 if task.obs_dim == 25 else task.obs_dim), task.name


def test_a_stretched_arm_is_slow_and_that_is_seen_by_who_hits_the_puck(envs):
    """With full force in the air: .8 m/s up to x = 1.15 m, less than .5 from 1.34 m on."""
    env = envs["fetch-slide"]
    env.reset(seed=0)
    for _ in range(20):
        obs = env.step(np.array([-1.0, 0.0, 0.3, 0.0], np.float32))[0]
    x = [obs["observation"][0]]
    while x[-1] < 1.36:
        x.append(env.step(np.array([1.0, 0.0, 0.0, 0.0], np.float32))[0]["observation"][0])
    place, speed = np.array(x[:-1]), np.diff(x) / env.dt
    assert speed[(place > 0.6) & (place < 1.15)].min() > 0.75 and speed[place > 1.34].max() < 0.5
    assert np.ptp(speed[(place > 0.7) & (place < 1.05)]) < 0.05
    assert 0 in BY_NAME["fetch-push"].places and 0 not in BY_NAME["fetch-slide"].places


def test_euler_angles_of_a_gimbal_lock_are_the_stock_ones():
    register_robotics()
    from gymnasium_robotics.utils.rotations import mat2euler

    for pitch in (-1.0, 1.0):
        for angle in np.linspace(-3, 3, 7):
            c, s = np.cos(angle), np.sin(angle)
            mat = np.array([[0, pitch * s, pitch * c], [0, c, -s], [-pitch, 0, 0]])
            mat[1, 2] = mat[2, 2] = 0.0  # exactly locked
            assert euler(mat.ravel()).tobytes() == mat2euler(mat).tobytes()


def test_tasks_pickle():
    for task, same in zip(TASKS, pickle.loads(pickle.dumps(TASKS)), strict=True):  # noqa: S301
        observation = np.arange(2.0 * task.obs_dim).reshape(2, -1)
        assert same.name == task.name and same.make.args == task.make.args
        assert (same.goal_of(observation) == task.goal_of(observation)).all()


@pytest.mark.parametrize("version", ["3.12.0", "3.12.1rc1", "4.0", "3.2.7", "2.3.7"])
def test_a_wrong_mujoco_is_named_with_its_cure(version, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    with pytest.raises(InputError, match=rf"{version}.*pip install \"mujoco>=3.3,<3.12\"") as error:
        TASKS[0].make()
    assert "\n" not in str(error.value)


def test_a_right_mujoco_passes(monkeypatch):
    for version in ("3.3.0", "3.11.0", "3.3.7.post1"):
        monkeypatch.setattr("importlib.metadata.version", lambda _, version=version: version)
        require_mujoco()
