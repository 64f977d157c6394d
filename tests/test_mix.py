"""Old data and new in one batch: how many rows of each, in which order, and under whose goals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from relabel.batch import Batch
from relabel.goals import current, none, parse
from relabel.mix import Mixed
from relabel.replay import Replay
from tasks.task import InputError
from tests.problems import POINT
from tests.test_agents import explored

GAMMA = 0.9


def replay(at: float | None) -> Replay:
    """Points that stand still `at` some place; None: nothing yet."""
    out = Replay([POINT], 1000, parse("none"), GAMMA)
    if at is None:
        return out
    filled = explored([POINT], "none", 80)
    state = filled.stores[0].state()
    state["observation"][:] = at
    out.stores[0].load(state)
    return out


@pytest.mark.parametrize(("share", "old"), [(0.5, 5), (0.25, 2), (1.0, 10), (0.0, 0), (0.04, 0)])
def test_so_many_rows_are_old(share, old):
    mixed = Mixed(replay(1.0), replay(2.0), share)
    rng = np.random.default_rng(0)
    for obs in (mixed.sample(rng, 10).obs, mixed.segments(rng, 10, 3).obs[:, 0]):
        assert obs.shape == (10, 2)
        assert (obs[:old] == 1).all() and (obs[old:] == 2).all()
    assert len(mixed) == len(mixed.old) + len(mixed.new)


def test_whoever_is_empty_gives_nothing():
    rng = np.random.default_rng(0)
    assert (Mixed(replay(1.0), replay(None), 0.1).sample(rng, 10).obs == 1).all()
    assert (Mixed(replay(None), replay(2.0), 0.9).sample(rng, 10).obs == 2).all()
    with pytest.raises(InputError, match="empty"):
        Mixed(replay(None), replay(None), 0.5).sample(rng, 10)


def test_each_part_is_what_its_replay_draws():
    parts = [explored([POINT], "future", steps) for steps in (80, 160)]
    mixed = Mixed(parts[0], parts[1], 0.5).sample(np.random.default_rng(3), 64)
    rng = np.random.default_rng(3)
    expected = Batch(*map(torch.cat, zip(*(part.sample(rng, 32) for part in parts), strict=True)))
    assert all(torch.equal(x, y) for x, y in zip(mixed, expected, strict=True))


def test_other_goals_inside_of_under_only():
    mixed = Mixed(replay(1.0), replay(2.0), 0.5)
    rng = np.random.default_rng(0)
    with mixed.under(current):
        b = mixed.sample(rng, 10)
    assert torch.equal(b.goal, b.next_obs)
    assert mixed.old.relabel is none and mixed.new.relabel is none
    with pytest.raises(ZeroDivisionError), mixed.under(current):
        raise ZeroDivisionError
    assert mixed.old.relabel is none
    assert not torch.equal(mixed.sample(rng, 10).goal, b.goal)
