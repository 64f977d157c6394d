"""The probe of `gym:` environments against small ones with known faults, and known ones. Long: each fault is one."""

from __future__ import annotations

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import tasks
from tasks.task import InputError


def vector(n):
    return Box(-np.inf, np.inf, (n,), np.float64)


class Plane(gymnasium.Env):
    """A point walks on a plane to a goal: a goal environment without fault, whose goal moves at every step."""

    action_space = Box(-2.0, 4.0, (2,), np.float32)
    observation_space = Dict({"observation": vector(3), "achieved_goal": vector(2), "desired_goal": vector(2)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal, self.asked = np.zeros(2), self.np_random.normal(size=2), 0
        return self.seen(), {}

    def seen(self):
        obs = np.append(self.position, 1.0)
        return {"observation": obs, "achieved_goal": self.position.copy(), "desired_goal": self.goal.copy()}

    def step(self, action):
        self.position = self.position + 0.1 * action
        paid = self.pay(self.position, self.goal)
        ended = np.linalg.norm(self.position - self.goal) < 0.3
        self.goal = self.goal + self.np_random.normal(size=2) * 0.1
        return self.seen(), float(paid), bool(ended), False, {}

    def pay(self, achieved, desired):
        return 1.0 * (np.linalg.norm(achieved - desired, axis=-1) < 0.5)

    def compute_reward(self, achieved, desired, info):
        return self.pay(achieved, desired)

    def compute_terminated(self, achieved, desired, info):
        return np.linalg.norm(achieved - desired, axis=-1) < 0.3


class ScalarEnd(Plane):
    def compute_terminated(self, achieved, desired, info):
        return bool(np.linalg.norm(achieved - desired) < 0.3)


class SwappedBatch(Plane):
    """Like the pen of gymnasium-robotics, it indexes rows for columns."""

    def compute_reward(self, achieved, desired, info):
        if achieved.ndim > 1:
            achieved[1] = desired[1]
        return self.pay(achieved, desired)


class Unseeded(Plane):
    """No seed decides where it starts, which is no fault of its reward."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = np.random.default_rng().normal(size=2)
        return self.seen(), {}


class ReadsInfo(Plane):
    def compute_reward(self, achieved, desired, info):
        return self.pay(achieved, desired) * info["weight"]


class Graded(Plane):
    def pay(self, achieved, desired):
        return -np.linalg.norm(achieved - desired, axis=-1)


class MayReadInfo(Plane):
    def compute_reward(self, achieved, desired, info):
        return self.pay(achieved, desired) * info.get("weight", 1.0)


class ReadsState(Plane):
    def compute_reward(self, achieved, desired, info):
        return self.pay(self.position, desired)


class Moves(Plane):
    def compute_reward(self, achieved, desired, info):
        self.position = self.position + 0.01
        return self.pay(achieved, desired)


class Tires(Plane):
    def compute_reward(self, achieved, desired, info):
        self.asked += 1
        return self.pay(achieved, desired) + (self.asked > 150)


class PaysForEffort(Plane):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward - 0.1 * float(np.square(action).sum()), terminated, truncated, info


class EndsOtherwise(Plane):
    def compute_terminated(self, achieved, desired, info):
        return np.zeros(achieved.shape[:-1], bool)


class NoEnd(Plane):
    compute_terminated = property()


class Fails(Plane):
    def __init__(self):
        raise RuntimeError("no\nlicence")


class Free(Plane):
    action_space = Box(-np.inf, np.inf, (2,), np.float32)


class Buttons(Plane):
    """Numbered from 5 on: stay, right, up."""

    action_space = Discrete(3, start=5)

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])[action - 5])


class PushesOtherwise(Buttons):
    """A goal environment of choices is asked what any other is asked."""

    def compute_reward(self, achieved, desired, info):
        return self.pay(achieved, desired) + 1.0


class Switches(Plane):
    action_space = MultiDiscrete([2, 2])


class Counts(Plane):
    action_space = Box(0, 9, (2,), np.int64)


class Camera(Plane):
    observation_space = Box(0, 255, (8, 8, 3), np.uint8)


class Nested(Plane):
    observation_space = Dict(Plane.observation_space.spaces | {"achieved_goal": Dict({"kettle": vector(7)})})


class More(Plane):
    observation_space = Dict(Plane.observation_space.spaces | {"force": vector(1)})


class Unlike(Plane):
    observation_space = Dict(Plane.observation_space.spaces | {"desired_goal": vector(3)})


FAULTS = {
    ReadsInfo: "its compute_reward cannot be asked about another goal .*info.*: make it a function",
    MayReadInfo: "its compute_reward cannot be asked about another goal .*info",
    ReadsState: "gives other rewards for the same two goals when its state is another: record in achieved_goal",
    Tires: "same twice",
    Moves: "changed by asking",
    PaysForEffort: "its compute_reward does not say what step says",
    EndsOtherwise: "its compute_terminated does not say what step says",
    NoEnd: "has no compute_terminated",
    Fails: "cannot be made: RuntimeError: no licence",
    Free: "actions without limits",
    PushesOtherwise: "its compute_reward does not say what step says",
    Switches: r"takes MultiDiscrete\(2,\) actions: choose one with Discrete or a vector of continuous",
    Counts: r"takes Box\(2,\) actions",
    Camera: r"has as observation a Box\(8, 8, 3\)",
    Nested: "has as achieved_goal a Dict",
    More: "observes a dict of .*force",
    Unlike: r"has as desired_goal a Box\(3,\)",
}
for env in (Plane, Graded, ScalarEnd, SwappedBatch, Unseeded, Buttons, *FAULTS):
    gymnasium.register(f"test/{env.__name__}-v0", entry_point=env, max_episode_steps=40)
gymnasium.register("test/Endless-v0", entry_point=Plane)


def task_of(env):
    return tasks.get(f"gym:test/{env.__name__}-v0")


@pytest.mark.parametrize(("env", "message"), FAULTS.items(), ids=[env.__name__ for env in FAULTS])
def test_what_cannot_be_relabelled_is_refused_in_one_line(env, message):
    with pytest.raises(InputError, match=message) as caught:
        task_of(env)
    assert f"gym:test/{env.__name__}-v0" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:Pendulm-v1", "did you mean gym:Pendulum-v1"),
        ("gym:FetchRech-v4", "gym:FetchReach-v4"),
        ("gym:", "import the package"),
        ("gym:some.module:Thing-v0", "import the package"),
        ("gym:FrozenLake-v1", "observation a Discrete"),
        ("gym:FrankaKitchen-v1", "achieved_goal a Dict"),
    ],
)
def test_unknown_and_unfit_ids_are_answered_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        tasks.get(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "batched"),
    [(Plane, (True, True)), (ScalarEnd, (True, False)), (SwappedBatch, (False, True)), (Unseeded, (True, True))],
)
def test_a_batch_is_asked_at_once_only_where_that_says_the_same(env, batched):
    task, rng = task_of(env), np.random.default_rng(0)
    assert (task.reward.batched, task.terminated.batched) == batched
    achieved, desired = rng.normal(size=(2, 4, 5, 2)) * 0.5
    distance = np.linalg.norm(achieved - desired, axis=-1)
    for form in (np.asarray, torch.as_tensor):
        a, d = form(achieved), form(desired)
        np.testing.assert_array_equal(task.reward(a, d), 1.0 * (distance < 0.5))
        np.testing.assert_array_equal(task.terminated(a, d), distance < 0.3)
        np.testing.assert_array_equal(task.success(a, d), distance < 0.5)
        assert type(task.reward(a, d)) is type(task.terminated(a, d)) is type(task.success(a, d)) is type(a)
        assert task.reward(a, d).dtype == a.dtype
        assert task.terminated(a, d).dtype in (np.bool_, torch.bool)
        np.testing.assert_array_equal(task.reward(a[:, :1], d), task.reward(a[:, [0] * 5], d))
        assert task.reward(a[0, 0], d[0, 0]).shape == task.terminated(a[0, 0], d[0, 0]).shape == ()
        assert task.reward(a[:0], d[:0]).shape == (0, 5)


def test_what_two_rewards_there_are_is_known_and_of_more_nothing():
    """So that a far goal is not taken for a reached one, and targets have bounds."""
    assert task_of(Plane).reward_range == (0.0, 1.0)
    assert task_of(Graded).reward_range == (-np.inf, np.inf)


def test_a_goal_environment_records_its_achieved_goal():
    task = task_of(Plane)
    assert (task.obs_dim, task.goal_dim, task.action_dim, task.horizon) == (5, 2, 2, 40)
    assert tasks.get("gym:test/Endless-v0").horizon == 1000
    env = task.make()
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    for _ in range(50):
        np.testing.assert_array_equal(task.goal_of(obs["observation"]), obs["achieved_goal"])
        obs, _, _, truncated, _ = env.step(np.array([-1.0, 1.0], np.float32))
        assert not truncated
    np.testing.assert_allclose(obs["achieved_goal"], [-10.0, 20.0], rtol=1e-5)  # 50 steps of 0.1 * (-2, 4)


def test_tasks_pickle_without_their_environment():
    task = task_of(Plane)
    again = pickle.loads(pickle.dumps(task))  # noqa: S301
    assert (again.reward, again.terminated, again.success) == (task.reward, task.terminated, task.success)
    assert len(pickle.dumps(task.reward)) < 300


def test_other_environments_are_tasks_of_one_goal():
    task = tasks.get("gym:Pendulum-v1")
    assert (task.obs_dim, task.action_dim, task.goal_dim, task.horizon, task.reward) == (3, 1, 0, 200, None)
    ours, stock = task.make(), gymnasium.make("Pendulum-v1")
    assert ours.action_space == Box(-1, 1, (1,), np.float32)
    np.testing.assert_array_equal(ours.reset(seed=3)[0], stock.reset(seed=3)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (150, 1)).astype(np.float32):
        obs, reward, *_ = ours.step(action)
        obs_, reward_, *_ = stock.step(2 * action)
        np.testing.assert_array_equal(obs, obs_)
        assert reward == reward_
    assert not any(ours.step(action)[3] for _ in range(100))
    none = task.goal_of(obs)
    assert none.shape == (0,)
    assert not task.success(none, none)
    assert not task.terminated(none, none)


def test_choices_are_vectors_whose_greatest_number_counts():
    task = tasks.get("gym:CartPole-v1")
    assert (task.obs_dim, task.action_dim, task.goal_dim, task.horizon, task.discrete) == (4, 2, 0, 500, True)
    assert not tasks.get("gym:Pendulum-v1").discrete
    ours, stock, rng = task.make(), gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    assert ours.action_space == Box(-1, 1, (2,), np.float32)
    np.testing.assert_array_equal(ours.reset(seed=3)[0], stock.reset(seed=3)[0])
    for action in rng.uniform(-1, 1, (9, 2)).astype(np.float32):
        ours_, stock_ = ours.step(action), stock.step(int(action[1] > action[0]))
        np.testing.assert_array_equal(ours_[0], stock_[0])
        assert ours_[1:3] == stock_[1:3]


def test_a_goal_environment_of_choices():
    task = task_of(Buttons)
    assert (task.obs_dim, task.goal_dim, task.action_dim, task.discrete) == (5, 2, 3, True)
    assert (task.reward.batched, task.terminated.batched) == (True, True)
    env = task.make()
    env.reset(seed=0)
    stays, up, also_stays, right = [0.9, 0.1, -1], [-1, -0.2, -0.1], [1, 1, 1], [0, 1, 0]
    for action, place in ((stays, [0, 0]), (up, [0, 0.4]), (also_stays, [0, 0.4]), (right, [0.4, 0.4])):
        obs = env.step(np.float32(action))[0]
        np.testing.assert_allclose(obs["achieved_goal"], place)


def test_actions_within_limits_reach_the_simulator_untouched():
    task = tasks.get("gym:HalfCheetah-v5")
    assert (task.obs_dim, task.action_dim, task.horizon) == (17, 6, 1000)
    ours, stock = task.make(), gymnasium.make("HalfCheetah-v5")
    np.testing.assert_array_equal(ours.reset(seed=3)[0], stock.reset(seed=3)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 6)).astype(np.float32):
        np.testing.assert_array_equal(ours.step(action)[0], stock.step(action)[0])


@pytest.mark.parametrize(
    ("name", "ours"), [("gym:FetchReach-v4", "fetch-reach"), ("gym:PointMaze_UMaze-v3", "point-maze-umaze")]
)
def test_simulators_of_the_registry_are_the_same_task_under_both_names(name, ours):
    task, ours, rng = tasks.get(name), tasks.get(ours), np.random.default_rng(0)
    assert (task.goal_dim, task.horizon, task.obs_dim) == (ours.goal_dim, ours.horizon, ours.obs_dim + ours.goal_dim)
    achieved = rng.normal(size=(200, task.goal_dim))
    desired = achieved + rng.normal(size=achieved.shape) * 10 ** rng.uniform(-2, 0.5, (200, 1))
    assert 0.1 < ours.success(achieved, desired).mean() < 0.9
    for question in ("reward", "success", "terminated"):
        np.testing.assert_array_equal(
            getattr(task, question)(achieved, desired), getattr(ours, question)(achieved, desired)
        )


def test_a_batch_of_the_pen_is_judged_row_by_row():
    assert not tasks.get("gym:HandManipulatePenRotate-v1").reward.batched
