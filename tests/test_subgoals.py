"""What lies ahead of a transition, against a walk through the episodes, over rings, tasks and goal strategies."""

from __future__ import annotations

import numpy as np
import pytest

from relabel import share
from relabel.goals import parse
from relabel.mix import Mixed
from relabel.replay import Replay
from relabel.subgoal import NEVER
from tasks.task import Episode, InputError
from tests.problems import POINT, ROW, SWAP, script

GAMMA = 0.9


def episodes(seed, count, task):
    """Of unequal length; observation 0 says which step of which episode it is, so that it can be found again."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        t = int(rng.integers(1, 9))
        observation = rng.normal(size=(t + 1, task.obs_dim)).astype(np.float32)
        observation[:, 0] = 1000 * seed + 20 * i + np.arange(t + 1)
        action = rng.uniform(-1, 1, (t, 2)).astype(np.float32)
        desired = rng.normal(size=(t, task.goal_dim)).astype(np.float32)
        yield Episode(observation, action, desired, np.zeros(t, np.float32), False)


def check(tasks, replay, kept, b, k):
    """Every column of every row against its episode."""
    place = {float(e.observation[t, 0]): (e, t) for e in kept for t in range(len(e.observation))}
    for i in range(len(b.obs)):
        e, t = place[float(b.obs[i, 0])]
        task, end = tasks[int(b.task[i])], len(e.action)
        np.testing.assert_array_equal(b.action[i], e.action[t])
        np.testing.assert_array_equal(b.next_obs[i], e.observation[t + 1])
        achieved = task.goal_of(e.observation)
        steps = int(b.steps[i])
        if steps == NEVER:
            assert not any(np.array_equal(achieved[u], b.goal[i]) for u in range(t + 1, end + 1))
        else:
            np.testing.assert_array_equal(achieved[t + steps], b.goal[i])
        assert float(b.fade[i]) == pytest.approx(GAMMA ** (steps - 1))
        way = min(k, steps, end - t)
        np.testing.assert_array_equal(b.way[i], e.observation[t + way])
        np.testing.assert_array_equal(b.way_goal[i], achieved[t + way])
        np.testing.assert_array_equal(b.near_goal[i], achieved[min(t + k, end)])
        assert float(b.reward[i]) == pytest.approx(float(task.reward(achieved[t + 1], b.goal[i].numpy())))
        assert float(b.discount[i]) == pytest.approx(GAMMA)


@pytest.mark.parametrize("strategy", ["future:1", "final:1", "random:1", "episode:0.5,desired:0.3", "geometric:1"])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_what_lies_ahead(strategy, k):
    task = script()
    replay, kept = Replay([task], 120, parse(strategy), GAMMA), list(episodes(1, 40, task))
    for e in kept:
        replay.add(0, e)  # more than it holds: the ring has wrapped around
    b = replay.onward(np.random.default_rng(0), 200, k)
    check([task], replay, kept, b, k)
    if strategy == "future:1":
        assert int(b.steps.max()) < NEVER
    if strategy == "random:1":
        assert int(b.steps.max()) == NEVER


@pytest.mark.parametrize("tasks", [(POINT, SWAP), (POINT, POINT)], ids=["two maps", "one map"])
def test_it_is_the_receivers_goal_that_is_achieved(tasks):
    replay = Replay(tasks, 500, parse("future:1"), GAMMA, sharing=share.parse("uniform"))
    kept = []
    for j, task in enumerate(tasks):
        for e in episodes(j + 1, 20, task):
            kept.append(e)
            replay.add(j, e)
    b = replay.onward(np.random.default_rng(0), 100, 3)
    assert set(b.task.tolist()) == {0, 1}
    assert any((float(x) < 2000) != (int(k) == 0) for x, k in zip(b.obs[:, 0], b.task, strict=True))  # shared
    check(tasks, replay, kept, b, 3)


def test_steps_are_those_of_the_strategy():
    """Future goals lie a uniform number of steps ahead."""
    task = script()
    replay = Replay([task], 100, parse("future:1"), GAMMA)
    replay.add(0, Episode(*(np.zeros((n, d), np.float32) for n, d in ((7, 4), (6, 2), (6, 2))), np.zeros(6), False))
    steps = replay.onward(np.random.default_rng(0), 6000, 2).steps
    assert steps.min() == 1
    assert steps.max() == 6
    assert steps.double().mean() == pytest.approx(np.mean([(n + 1) / 2 for n in range(1, 7)]), abs=0.06)


def test_old_and_new_in_one():
    old, new = (Replay([POINT], 500, parse("none"), GAMMA) for _ in "ab")
    for j, replay in enumerate((old, new)):
        for e in episodes(j + 1, 20, POINT):
            replay.add(0, e)
    mixed = Mixed(old, new, 0.25)
    with mixed.under(parse("future:1")):
        b = mixed.onward(np.random.default_rng(0), 40, 3)
    assert (b.obs[:10, 0] < 2000).all()
    assert (b.obs[10:, 0] >= 2000).all()
    assert int(b.steps.max()) < NEVER
    assert mixed.gamma == GAMMA


def test_sharing_by_transitions_is_refused():
    replay = Replay([ROW, ROW], 100, parse("future:1"), GAMMA, sharing=share.parse("hipi"))
    replay.add(0, next(episodes(1, 1, ROW)))
    with pytest.raises(InputError, match="chooses single transitions"):
        replay.onward(np.random.default_rng(0), 10, 3)
