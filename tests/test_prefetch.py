"""Batches drawn several at once: which rows each has, what waits, and where nothing is drawn before its time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcrl.collect import Collector
from relabel.batch import Batch
from relabel.goals import parse
from relabel.mix import Mixed
from relabel.prefetch import MOST, ROWS, Prefetch
from relabel.replay import Replay
from relabel.score import Scores
from relabel.share import parse as parse_sharing
from tests.problems import POINT
from tests.test_agents import PROBLEMS

SIZE = 30
LINES = PROBLEMS["two tasks"]


def replay(tasks=(POINT,), share="own", **told) -> Replay:
    """With some episodes of each task."""
    out = Replay(tasks, 1000, parse("future"), 0.9, sharing=parse_sharing(share), **told)
    collector, rng = Collector(tasks, 4, 0), np.random.default_rng(0)
    for _ in range(30):
        for k, episode in collector.step(rng.uniform(-1, 1, (4, tasks[0].action_dim)).astype(np.float32)):
            out.add(k, episode)
    return out


def standing(source: Replay, at: float) -> None:
    """From now on all that it holds has been seen at one place."""
    state = source.stores[0].state()
    source.stores[0].load({**state, "observation": np.full_like(state["observation"], at)})


def same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("ordered", ["tasks", "old and new", ""])
@pytest.mark.parametrize("n", [None, 3])
def test_a_large_draw_is_dealt_out(ordered, n):
    source = Mixed(replay(), replay(), 0.4) if ordered == "old and new" else replay(LINES if ordered else [POINT])
    ours, rng, theirs = Prefetch(source), np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(2):
        whole = source.sample(theirs, SIZE * MOST, n)
        order = np.arange(SIZE * MOST)
        rows = [order[j::MOST] if ordered else order[j * SIZE :][:SIZE] for j in range(MOST)]  # a card each, or a cut
        for mine in reversed(rows):
            assert same(ours.sample(rng, SIZE, n), Batch(*(torch.stack([x[i] for i in mine]) for x in whole)))
        assert rng.bit_generator.state == theirs.bit_generator.state


def test_each_batch_has_as_many_rows_of_each_task():
    ours, rng = Prefetch(replay(LINES, "uniform")), np.random.default_rng(0)
    for _ in range(3 * MOST):
        counts = np.bincount(ours.sample(rng, SIZE).task, minlength=len(LINES))
        assert counts.min() >= SIZE // len(LINES) and counts.sum() == SIZE


def test_old_and_new_keep_their_shares():
    old, new = replay(), replay()
    for source, at in ((old, 1.0), (new, 2.0)):
        standing(source, at)
    ours, rng = Prefetch(Mixed(old, new, 0.4)), np.random.default_rng(0)
    assert [int((ours.sample(rng, SIZE).obs[:, 0] == 1).sum()) for _ in range(2 * MOST)] == [12] * 2 * MOST


@pytest.mark.parametrize("share", ["own", "uniform", "uds", "hindsight", "random"])
def test_what_waits_survives(share):
    source = replay(LINES, share)
    ours, rng = Prefetch(source), np.random.default_rng(0)
    for size, n, times in ((SIZE, None, 3), (7, 2, MOST)):
        for _ in range(times):
            ours.sample(rng, size, n)
    again, state = Prefetch(source), rng.bit_generator.state
    again.sample(np.random.default_rng(9), SIZE)  # is dropped
    again.load(ours.state())
    assert {key: len(waits) for key, waits in again.waiting.items() if waits} == {(SIZE, 1): MOST - 3}
    other = np.random.default_rng(0)
    other.bit_generator.state = state
    for _ in range(2 * MOST):
        assert same(ours.sample(rng, SIZE), again.sample(other, SIZE))
        assert same(ours.sample(rng, 7, 2), again.sample(other, 7, 2))


def test_an_episode_comes_at_most_seven_updates_later():
    source = replay()
    ours, rng = Prefetch(source), np.random.default_rng(0)
    ours.sample(rng, SIZE)
    standing(source, 5.0)
    seen = [bool((ours.sample(rng, SIZE).obs == 5).all()) for _ in range(MOST + 1)]
    assert seen == [False] * (MOST - 1) + [True] * 2


VALUES = Scores(lambda b: b.reward, lambda b: b.reward + 1)


@pytest.mark.parametrize(
    ("told", "size"),
    [
        *(({"share": share}, SIZE) for share in ("cds", "cds-soft", "hipi")),
        ({"balance": 0.3}, SIZE),
        *(({}, size) for size in (ROWS, ROWS // 2 + 1)),
    ],
)
def test_where_batches_are_drawn_one_by_one(told, size):
    source = replay(LINES, **told)
    ours, rng, theirs = Prefetch(source), np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(3):
        assert same(ours.sample(rng, size, None, VALUES), source.sample(theirs, size, None, VALUES))
        assert rng.bit_generator.state == theirs.bit_generator.state
    assert not ours.state()


def test_other_goals_are_drawn_at_once_and_the_usual_ones_wait():
    source = replay()
    ours, rng = Prefetch(source), np.random.default_rng(0)
    ours.sample(rng, SIZE)
    waits = list(ours.waiting[SIZE, 1])
    with ours.under(parse("random")):
        theirs = np.random.default_rng(0)
        theirs.bit_generator.state = rng.bit_generator.state
        batch = ours.sample(rng, SIZE)
        assert same(batch, source.sample(theirs, SIZE))
    assert same(ours.sample(rng, SIZE), waits[-1])


def test_all_else_is_the_sources():
    source = replay()
    ours = Prefetch(source)
    one, two = (x.starts(np.random.default_rng(0), 5) for x in (ours, source))
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    assert (
        len(ours) == len(source)
        and ours.gamma == source.gamma
        and ours.replays == (source,)
        and ours.flow is source.flow
    )
