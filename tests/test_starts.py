"""Initial states out of a replay, told by numbers that say where they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relabel.goals import parse
from relabel.replay import Replay
from relabel.segment import starts
from relabel.share import Sharing
from tasks.task import Episode, InputError
from tests.problems import POINT, SWAP, script


def episode(first, steps, goal_dim=2, obs_dim=2):
    """It observes first, first + 1, ..., in the second column a half more, and wants its own negative."""
    observation = np.repeat(first + np.arange(steps + 1.0)[:, None], obs_dim, 1).astype(np.float32)
    observation[:, 1] += 0.5
    desired = -observation[:-1, :goal_dim]
    return Episode(observation, np.zeros((steps, 2), np.float32), desired, np.zeros(steps, np.float32), False)


def filled(tasks, lengths, capacity=1000, relabel="future:1", **told):
    """Episodes in turn to the tasks: the n-th begins at 100 n."""
    replay = Replay(tasks, capacity, parse(relabel), 0.9, **told)
    for n, steps in enumerate(lengths):
        replay.add(n % len(tasks), episode(100.0 * n, steps, tasks[0].goal_dim, tasks[0].obs_dim))
    return replay


def test_episodes_begin_where_they_begin_under_a_goal_of_their_own():
    state = starts(filled([POINT], [5, 3, 9]), np.random.default_rng(0), 2000)
    first, goal = state.obs[:, 0], state.goal[:, 0]
    assert set(first.tolist()) == {0.0, 100.0, 200.0}
    assert ((goal > first) & (goal <= first + 9)).all()
    assert state.task.dtype == torch.int64 and not state.task.any()
    share = torch.stack([(first == x).float().mean() for x in (0.0, 100.0, 200.0)])
    torch.testing.assert_close(share, torch.tensor([5.0, 3.0, 9.0]) / 17, atol=0.04, rtol=0)


def test_also_where_the_rings_have_come_round():
    """21 slots of each task hold five episodes of three steps: the oldest are gone, and one lies over the end."""
    state = starts(filled([POINT, SWAP], [3] * 26, capacity=21), np.random.default_rng(0), 600)
    for k in (0, 1):
        assert set(state.obs[state.task == k, 0].tolist()) == {100.0 * n for n in range(16 + k, 26, 2)}


@pytest.mark.parametrize("sharing", ["own", "uniform", "uds"])
def test_a_tasks_starts_are_its_own_by_its_own_goal_map(sharing):
    """SWAP's goals have the columns the other way round; the rows of one map are scored together."""
    state = starts(filled([POINT, SWAP, POINT], [4] * 12, 60, sharing=Sharing(sharing)), np.random.default_rng(0), 600)
    n = (state.obs[:, 0] / 100).long()
    assert torch.equal(state.obs[:, 0], 100.0 * n)
    assert torch.equal(n % 3, state.task)
    assert torch.equal(state.task.bincount(), torch.tensor([200, 200, 200]))
    goal = torch.where(state.task[:, None] == 1, state.goal.flip(1), state.goal)
    steps = goal - state.obs
    assert torch.equal(steps[:, 0], steps[:, 1]) and set(steps[:, 0].tolist()) == {1.0, 2.0, 3.0, 4.0}


def test_tasks_without_goals_have_starts_too():
    replay = filled([script(goals=False)], [4, 4], relabel="none")
    state = starts(replay, np.random.default_rng(0), 50)
    assert state.goal.shape == (50, 0) and set(state.obs[:, 0].tolist()) == {0.0, 100.0}


def test_an_empty_replay_has_none():
    with pytest.raises(InputError, match="empty"):
        starts(Replay([POINT], 100, parse("future"), 0.9), np.random.default_rng(0), 5)
