"""The arithmetic that tasks are made of: the same answer from NumPy and Torch, for one row and for any batch."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial
from operator import itemgetter

import numpy as np
import pytest
import torch

from tasks.layout import Spread
from tasks.task import InputError, SimulatorError, Task, bonus_if, cost_outside, distance, identity, never, part, within

RADIUS = 1.0
SCORES = {
    "distance": distance,
    "within": partial(within, RADIUS),
    "cost_outside": partial(cost_outside, RADIUS),
    "bonus_if": partial(bonus_if, partial(within, RADIUS)),
    "never": never,
}
EXPECTED = {
    "distance": math.dist,
    "within": lambda a, d: math.dist(a, d) < RADIUS,
    "cost_outside": lambda a, d: -1.0 if math.dist(a, d) > RADIUS else 0.0,
    "bonus_if": lambda a, d: 1.0 if math.dist(a, d) < RADIUS else 0.0,
    "never": lambda a, d: False,
}
BACKENDS = {
    "float32": partial(np.asarray, dtype=np.float32),
    "float64": partial(np.asarray, dtype=np.float64),
    "torch": partial(torch.tensor, dtype=torch.float32),
}
# Leading axes of achieved and desired; the last two are how a batch of n steps and a (B, K) table broadcast.
LEADING = [((), ()), ((7,), (7,)), ((4, 3), (4, 3)), ((6,), ()), ((4, 3), (4, 1)), ((4, 1), (1, 3)), ((1, 3), (4, 1))]

backends = pytest.mark.parametrize("array", BACKENDS.values(), ids=BACKENDS)
scores = pytest.mark.parametrize("name", SCORES)


def task(**changes):
    """A task without a goal; nothing here steps a simulator."""
    known = {"name": "t", "make": dict, "description": "d", "obs_dim": 3, "action_dim": 1, "horizon": 5}
    return Task(**{**known, "family": "f", "scene": "s", **changes})


@backends
@scores
@pytest.mark.parametrize(("left", "right"), LEADING, ids=str)
def test_scores_equal_plain_python_on_every_row(name, array, left, right):
    rng = np.random.default_rng(0)
    achieved, desired = rng.normal(0, 0.6, (*left, 3)), rng.normal(0, 0.6, (*right, 3))
    got = np.asarray(SCORES[name](array(achieved), array(desired)))
    pairs = [x.reshape(-1, 3) for x in np.broadcast_arrays(achieved, desired)]
    assert got.shape == np.broadcast_shapes(left, right)
    expected = [EXPECTED[name](a, d) for a, d in zip(*pairs, strict=True)]
    np.testing.assert_allclose(got.ravel(), expected, rtol=1e-5)


@backends
@scores
def test_scores_see_both_sides_of_the_radius(name, array):
    """The rows of the test above would not tell a broken threshold if they all lay on one side."""
    rng = np.random.default_rng(0)
    got = np.asarray(SCORES[name](array(rng.normal(0, 0.6, (50, 3))), array(rng.normal(0, 0.6, (50, 3)))))
    assert len(np.unique(got)) == {"distance": 50, "never": 1}.get(name, 2)


@backends
def test_at_exactly_the_radius_there_is_no_success_and_no_cost(array):
    """As in Fetch: success is d < threshold, the reward is -(d > threshold)."""
    achieved, desired = array([3.0, 4.0]), array([0.0, 0.0])
    assert float(distance(achieved, desired)) == 5
    assert not within(5.0, achieved, desired)
    assert float(cost_outside(5.0, achieved, desired)) == 0
    assert within(5.01, achieved, desired)
    assert float(cost_outside(4.99, achieved, desired)) == -1


@backends
@scores
def test_scores_have_one_kind_of_answer(name, array):
    x = array([[0.0, 1.0]])
    got = SCORES[name](x, x)
    wanted = "bool" if name in ("within", "never") else "float"
    assert wanted in str(got.dtype)
    assert isinstance(got, type(x))


@backends
def test_never_is_false_even_for_nan_and_for_no_goal_at_all(array):
    assert not never(array([[math.nan, 0.0]]), array([[math.nan, 1.0]])).any()
    assert not never(array([math.nan]), array([math.nan]))
    nothing = never(array(np.zeros((4, 0))), array(np.zeros((4, 0))))
    assert tuple(nothing.shape) == (4,)
    assert not nothing.any()
    assert not never(array(np.zeros(0)), array(np.zeros(0)))


@backends
@pytest.mark.parametrize("leading", [(), (4,), (4, 2)], ids=str)
@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 2), (2, 5), (3, None), (-2, None)], ids=str)
def test_part_is_the_slice_of_the_last_axis(array, leading, start, stop):
    x = array(np.arange(math.prod(leading) * 6).reshape(*leading, 6))
    for select in (part(start, stop), pickle.loads(pickle.dumps(part(start, stop)))):  # noqa: S301 - our own bytes
        np.testing.assert_array_equal(np.asarray(select(x)), np.asarray(x)[..., start:stop])
        assert isinstance(select(x), type(x))


@scores
def test_scores_pickle(name):
    rng = np.random.default_rng(0)
    achieved, desired = rng.normal(0, 0.6, (2, 50, 3))
    again = pickle.loads(pickle.dumps(SCORES[name]))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again(achieved, desired), SCORES[name](achieved, desired))


def test_a_task_pickles():
    score, bonus = SCORES["within"], SCORES["bonus_if"]
    made = task(goal_dim=2, goal_of=part(1, 3), success=score, reward=bonus, terminated=score, reward_range=(0, 1))
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own bytes
    observation, desired = np.random.default_rng(0).normal(0, 0.6, (50, 3)), np.zeros(2)
    np.testing.assert_array_equal(again.goal_of(observation), observation[:, 1:])
    for f in (field.name for field in fields(Task)):
        old, new = getattr(made, f), getattr(again, f)
        if f in ("success", "reward", "terminated"):
            np.testing.assert_array_equal(new(observation[:, 1:], desired), old(observation[:, 1:], desired))
        elif f != "goal_of":
            assert new == old, f


def test_a_task_without_goal_reaches_nothing():
    """What goal_dim 0 stands on: the empty goal of any observation, never reached, and only the recorded reward."""
    plain, observation = task(), np.ones((4, 3))
    achieved = plain.goal_of(observation)
    assert plain.goal_dim == 0
    assert achieved.shape == (4, 0)
    assert not plain.success(achieved, achieved).any()
    assert not plain.terminated(achieved, achieved).any()
    assert plain.reward is None


def test_a_task_cannot_change():
    with pytest.raises(FrozenInstanceError):
        task().name = "other"
    assert replace(task(), name="other").name == "other"


def test_the_two_errors_of_the_border():
    assert issubclass(InputError, ValueError)
    assert issubclass(SimulatorError, RuntimeError)
    assert str(InputError("what, where")) == "what, where"


ALIKE = {
    "partial": lambda: partial(within, 0.5),
    "words": lambda: partial(within, radius=0.5),
    "nested": lambda: partial(bonus_if, partial(within, 0.5)),
    "part": lambda: part(1, 3),
    "list": lambda: itemgetter((Ellipsis, [1, 2])),
    "array": lambda: partial(within, np.arange(3.0)),
    "long array": lambda: itemgetter((Ellipsis, np.arange(5000))),
    "dataclass": lambda: Spread(part(0, 1), (), 3),
}


def test_functions_that_are_built_alike_are_the_same():
    """And no two others; what is compared can be hashed, whatever the function holds."""
    known = [identity(make()) for make in ALIKE.values()]
    assert known == [identity(make()) for make in ALIKE.values()] and len(set(known)) == len(ALIKE)
    changed = np.arange(5000)
    changed[2500] = 0
    others = [
        partial(within, 0.6),
        partial(cost_outside, 0.5),
        part(1, 4),
        itemgetter((Ellipsis, [1, 3])),
        partial(within, np.arange(3.0) + 1),
        itemgetter((Ellipsis, changed)),
        Spread(part(0, 1), (), 4),
        Spread(part(0, 2), (), 3),
    ]
    assert not {identity(other) for other in others} & set(known)
    own = partial(within, {"radius": 1})
    assert identity(own) == identity(own) and hash(identity(own))
