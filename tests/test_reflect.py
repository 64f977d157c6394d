"""Batches in the mirror against a loop over their rows; without a mirror the same bits as before."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import tasks
from relabel.batch import Batch
from relabel.mirror import Mirrors
from relabel.replay import Replay
from relabel.rows import Rows
from relabel.share import Sharing
from tasks.mirror import Flip, Mirror
from tests.test_mirror import by_hand
from tests.test_replay import MIXED, graded
from tests.test_store import fill, walk_task


def walkers(kinds):
    """Tasks of one layout, each with the mirror that its letter names; - has none."""
    of = {
        "a": Mirror(Flip.of(3, [0]), Flip.of(2, (), swap=[0, 1]), Flip.of(3, [0])),
        "b": Mirror(Flip.of(3, [0, 1], 2.5, [1], [0, 2]), Flip.of(2, [1]), Flip.of(3, [2], 1.5, [2])),
        "-": None,
    }
    return [walk_task(f"{kind}{i}", scene="s", mirror=of[kind]) for i, kind in enumerate(kinds)]


def replays(chosen, share, *reflect):
    """Replays that differ in the share of rows in the mirror only."""
    rated = [dataclasses.replace(task, reward=graded, reward_range=(-99.0, 99.0)) for task in chosen]
    out = [Replay(rated, 150, MIXED, 0.9, 1, sharing=Sharing(share), reflect=x) for x in reflect]
    for replay in out:
        for k, store in enumerate(replay.stores):
            fill(store, k, 30, 100 * k)
    return out


def one_by_one(chosen, batch, which):
    """The batch with these rows reflected, number by number."""
    out = [x.numpy().copy() for x in batch]
    for i in np.flatnonzero(which):
        mirror = chosen[int(batch.task[i])].mirror
        if mirror is not None:
            for column, flip in ((0, mirror.obs), (1, mirror.action), (4, mirror.obs), (5, mirror.goal)):
                out[column][i] = by_hand(flip, batch[column][i].numpy())
    return Batch(*map(torch.from_numpy, out))


def equal(one, other):
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("kinds", ["a", "b", "aa", "ab", "a-", "-ba", "-b-a"])
@pytest.mark.parametrize("n", [1, 3])
def test_rows_are_reflected_as_the_task_that_learns_them_declares(kinds, n):
    """Shared ones too; whole n-step windows; rewards, discounts and tasks stay."""
    chosen = walkers(kinds)
    plain, half, every = replays(chosen, "uniform", 0.0, 0.5, 1.0)
    rng = np.random.default_rng(3)
    batch = plain.sample(rng, 400, n)
    which = rng.random(400) < 0.5  # what comes of the generator after the rows are drawn
    assert 150 < which.sum() < 250
    assert equal(half.sample(np.random.default_rng(3), 400, n), one_by_one(chosen, batch, which))
    whole = every.sample(np.random.default_rng(3), 400, n)
    assert equal(whole, one_by_one(chosen, batch, np.ones(400, bool)))
    moved = (whole.obs != batch.obs).any(1).numpy()
    bare = np.array([chosen[k].mirror is None for k in batch.task.tolist()])
    assert not moved[bare].any() and moved[~bare].mean() > 0.5
    assert len(chosen) == 1 or (half.flow == plain.flow).all()


def test_without_reflection_nothing_is_drawn():
    """Neither where none is asked for nor where no task has a mirror."""
    states = []
    for kinds, share in (("ab", 0.0), ("--", 0.7), ("--", 0.0)):
        (replay,) = replays(walkers(kinds), "own", share)
        rng = np.random.default_rng(0)
        batch = replay.sample(rng, 100)
        states.append((batch, rng.bit_generator.state))
    assert all(equal(batch, states[0][0]) and state == states[0][1] for batch, state in states)


@pytest.mark.parametrize("kinds", ["a", "ab"])
def test_the_rows_that_came_in_are_left_as_they_were(kinds):
    chosen = walkers(kinds)
    (replay,) = replays(chosen, "own", 0.0)
    batch = replay.sample(np.random.default_rng(0), 50)
    columns = tuple(x.numpy().copy() for x in batch)
    rows = Rows(columns, columns[-1], np.zeros(50, bool))
    kept = [x.copy() for x in columns]
    mirrors = Mirrors(chosen)
    for which in (np.zeros(50, bool), np.arange(50) % 3 == 0):
        found = mirrors(rows, which)
        assert equal(Batch(*map(torch.from_numpy, found.columns)), one_by_one(chosen, batch, which))
        assert all(np.array_equal(x, y) for x, y in zip(columns, kept, strict=True))
        assert found.source is rows.source and found.hit is rows.hit


def test_a_run_reflects_its_tasks_own_rows():
    """As it collects them: what the mirror shows of a transition is judged alike."""
    task = tasks.get("fetch-reach")
    plain, mirrored = (Replay([task], 500, MIXED, 0.9, reflect=x) for x in (0.0, 1.0))
    env, rng = task.make(), np.random.default_rng(0)
    for seed in range(2):
        raw, _ = env.reset(seed=seed)
        seen, actions = [raw["observation"]], rng.uniform(-1, 1, (20, 4)).astype(np.float32)
        seen += [env.step(action)[0]["observation"] for action in actions]
        observation, goal = np.array(seen, np.float32), np.tile(raw["desired_goal"], (20, 1)).astype(np.float32)
        episode = tasks.Episode(observation, actions, goal, np.full(20, -1.0, np.float32), False)
        plain.add(0, episode), mirrored.add(0, episode)
    here, there = (replay.sample(np.random.default_rng(0), 200) for replay in (plain, mirrored))
    assert torch.equal(here.reward, there.reward) and not torch.equal(here.obs, there.obs)
    reward = task.reward(task.goal_of(there.next_obs.double()), there.goal.double())
    assert (reward == there.reward).float().mean() > 0.99
