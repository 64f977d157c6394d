"""Every goal strategy against the set of goals written out step by step, and against its exact distribution."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from relabel.goals import (
    STRATEGIES,
    current,
    desired,
    episode,
    final,
    future,
    geometric,
    mixture,
    none,
    parse,
    random,
)
from relabel.store import EpisodeStore, Rows
from tasks.task import InputError
from tests.test_store import LONGEST, fill, fits, walk_task


def goals_of(store, chosen):
    """What a strategy's answer stands for: (B,) -> goals (B, G)."""
    slot = store.slot(np.where(chosen < 0, ~chosen, chosen))
    achieved = store.task.goal_of(store.observation[(slot + 1) % store.capacity])
    return np.where(chosen[:, None] < 0, store.desired[slot], achieved)


# What step t of episode e may get as its goal, as markers: achieved after step k is (e, k + 1), desired (-1 - e, k).
# `every` is each (episode, length) in the store.
ALLOWED = {
    "none": lambda e, t, length, every: {(-1 - e, t)},
    "current": lambda e, t, length, every: {(e, t + 1)},
    "future": lambda e, t, length, every: {(e, k) for k in range(t + 1, length + 1)},
    "final": lambda e, t, length, every: {(e, length)},
    "episode": lambda e, t, length, every: {(e, k) for k in range(1, length + 1)},
    "random": lambda e, t, length, every: {(f, k) for f, long in every for k in range(1, long + 1)},
    "desired": lambda e, t, length, every: {(-1 - f, k) for f, long in every for k in range(long)},
    "geometric": lambda e, t, length, every: {(e, k) for k in range(t + 1, length + 1)},
}
BARE = {**STRATEGIES, "geometric": partial(geometric, gamma=0.8)}
MIXED = {
    "future": ["future", "none"],
    "final:0.5": ["final", "none"],
    "episode:0.3,desired:0.3": ["episode", "desired", "none"],
    "random:0.2,current:0.3,future:0.5": ["random", "current", "future"],
    "geometric:0.7": ["geometric", "none"],
}
CASES = {name: (strategy, [name]) for name, strategy in BARE.items()}
CASES |= {f"--relabel {text}": (parse(text, gamma=0.8), names) for text, names in MIXED.items()}
cases = pytest.mark.parametrize(("strategy", "names"), CASES.values(), ids=CASES)


def rows_of(past, left, draws, size=None):
    """`draws` times the step of an episode with `past` steps before and `left` after it."""
    ones = np.ones(draws, np.int64)
    return Rows(ones * (past + 100), ones * past, ones * left, size or 200)


@cases
@pytest.mark.parametrize("seed", range(5))
def test_reachable_goals_are_exactly_the_allowed_ones(strategy, names, seed):
    """Both ends included and no border crossed, for every row of stores whose ring has wrapped many times."""
    store = EpisodeStore(walk_task(), (2, 9, 19, 26, 33)[seed])
    kept = fill(store, seed, 40)
    draws = 2000
    index = np.repeat(np.arange(store.size), draws)
    goals = goals_of(store, strategy(np.random.default_rng(seed), store.rows(index)))
    assert goals.shape == (len(index), 3)
    every = [(int(e.observation[0, 1]), len(e.action)) for e in kept.episodes]
    for (e, t), mine in zip(kept.steps, goals.reshape(-1, draws, 3), strict=True):
        e, length = int(e.observation[0, 1]), len(e.action)
        reached = {tuple(marker) for marker in np.unique(mine[:, 1:], axis=0).astype(int).tolist()}
        assert reached == set().union(*(ALLOWED[name](e, t, length, every) for name in names)), (e, t, length)


@cases
def test_the_goal_carries_its_own_place(strategy, names):
    """Place x belongs to the markers: goals are whole rows of what was achieved or desired, not mixed columns."""
    store = EpisodeStore(walk_task(), 60)
    kept = fill(store, 1, 40)
    goals = goals_of(store, strategy(np.random.default_rng(0), store.rows(np.arange(store.size))))
    known = {tuple(o) for e in kept.episodes for o in e.observation[1:].tolist()}
    known |= {tuple(o) for e in kept.episodes for o in e.desired.tolist()}
    assert {tuple(goal) for goal in goals.tolist()} <= known


@cases
@pytest.mark.parametrize("count", [0, 1, 77])
def test_every_strategy_answers_with_one_number_per_row(strategy, names, count):
    store = EpisodeStore(walk_task(), 60)
    fill(store, 1, 40)
    rows = store.sample(np.random.default_rng(0), count)
    first, again = (strategy(np.random.default_rng(3), rows) for _ in range(2))
    assert first.shape == (count,)
    assert first.dtype == np.int64
    np.testing.assert_array_equal(first, again)
    numbers = np.where(first < 0, ~first, first)
    assert ((numbers >= 0) & (numbers < store.size)).all()


@pytest.mark.parametrize("left", range(LONGEST))
@pytest.mark.parametrize("past", [0, 3])
def test_future_and_episode_are_uniform_with_both_ends(past, left):
    """Rounding a real number would halve the ends."""
    rng, rows = np.random.default_rng(left), rows_of(past, left, 20_000)
    ahead = future(rng, rows) - rows.index
    assert fits(np.bincount(ahead, minlength=left + 1), np.full(left + 1, 1 / (left + 1)))
    length = past + left + 1
    anywhere = episode(rng, rows) - rows.index + rows.past
    assert fits(np.bincount(anywhere, minlength=length), np.full(length, 1 / length))


@pytest.mark.parametrize("left", range(LONGEST))
@pytest.mark.parametrize("gamma", [0.5, 0.8, 0.99])
def test_geometric_is_geometric_and_its_tail_lies_on_the_end(left, gamma):
    rows = rows_of(3, left, 20_000)
    ahead = geometric(np.random.default_rng(left), rows, gamma) - rows.index
    exact = [(1 - gamma) * gamma**k for k in range(left)] + [gamma**left]
    counts = np.bincount(ahead, minlength=left + 1)
    keep = min(left, 8 if gamma == 0.5 else left)  # pool what is too rare for chi-squared
    assert len(counts) == left + 1
    assert fits([*counts[:keep], counts[keep:].sum()], [*exact[:keep], sum(exact[keep:])])


def test_geometric_without_a_future_is_current():
    rows = rows_of(3, 5, 100)
    np.testing.assert_array_equal(geometric(np.random.default_rng(0), rows, 0.0), rows.index)


@pytest.mark.parametrize("size", [1, 2, 30])
def test_random_and_desired_are_uniform_over_the_store(size):
    rows = rows_of(0, 0, 2000 * size, size)
    for strategy, sign in ((random, 1), (desired, -1)):
        chosen = strategy(np.random.default_rng(size), rows)
        numbers = chosen if sign == 1 else ~chosen
        assert fits(np.bincount(numbers, minlength=size), np.full(size, 1 / size))


def test_strategies_without_chance():
    rows = Rows(np.array([4, 9]), np.array([0, 2]), np.array([3, 0]), 20)
    for strategy, answer in ((none, [~4, ~9]), (current, [4, 9]), (final, [7, 9])):
        np.testing.assert_array_equal(strategy(np.random.default_rng(0), rows), answer)


@pytest.mark.parametrize("weights", [[1.0], [0.8, 0.2], [0.2, 0.8], [0.1, 0.2, 0.3, 0.4], [1 / 3] * 3])
def test_mixture_gives_every_row_its_parts_by_weight(weights):
    """Whichever the row: the choice must not depend on where in the batch a row lies."""
    parts = [(partial(_answer, i), weight) for i, weight in enumerate(weights)]
    rows = Rows(np.arange(7 * 5000), *(np.zeros(7 * 5000, np.int64),) * 2, 7 * 5000)
    answers = mixture(parts, np.random.default_rng(0), rows)
    np.testing.assert_array_equal(answers // 10, rows.index)
    for block in (answers % 10).reshape(7, -1):
        assert fits(np.bincount(block, minlength=len(weights)), weights)


def _answer(i, rng, rows):
    return rows.index * 10 + i


def test_ratio_is_four_to_one():
    rows = rows_of(3, 4, 50_000)
    for text in ("future", "final", "episode", "random", "current", "geometric"):
        kept = (parse(text)(np.random.default_rng(0), rows) < 0).sum()
        assert fits([len(rows.index) - kept, kept], [4 / 5, 1 / 5]), text


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("none", {"none": 1}),
        ("none:0.5", {"none": 1}),
        ("future", {"future": 0.8, "none": 0.2}),
        ("final", {"final": 0.8, "none": 0.2}),
        ("episode", {"episode": 0.8, "none": 0.2}),
        ("random", {"random": 0.8, "none": 0.2}),
        ("current", {"current": 0.8, "none": 0.2}),
        ("desired", {"desired": 0.8, "none": 0.2}),
        ("geometric", {"geometric": 0.8, "none": 0.2}),
        ("future:1", {"future": 1}),
        ("future:1.0", {"future": 1}),
        ("future:1e-1", {"future": 0.1, "none": 0.9}),
        (" future:0.4 , desired:0.4 ", {"future": 0.4, "desired": 0.4, "none": 0.2}),
        ("future,none:0.2", {"future": 0.8, "none": 0.2}),
        ("future:0.1,final:0.2,random:0.7", {"future": 0.1, "final": 0.2, "random": 0.7}),
        ("future:0.1," * 9 + "future:0.1", {"future": 1}),
    ],
)
def test_parse_reads_the_shares(text, shares):
    """As the parts say them, and as the goals come out."""
    strategy = parse(text)
    parts = strategy.args[0] if isinstance(strategy, partial) and strategy.func is mixture else [(strategy, 1.0)]
    found = dict.fromkeys(STRATEGIES, 0.0)
    for part, weight in parts:
        found[getattr(part, "func", part).__name__] += weight
    assert {name: share for name, share in found.items() if share} == pytest.approx(shares)
    # 1 step into an episode of 100 in a store of 10,000: the strategies' answers overlap too rarely to matter.
    rows = Rows(*(np.full(20_000, x) for x in (5001, 1, 98)), 10_000)
    chosen = strategy(np.random.default_rng(0), rows)
    kept, wanted = (chosen == ~5001).mean(), (chosen < 0).mean()
    assert kept == pytest.approx(shares.get("none", 0), abs=0.02)
    assert wanted == pytest.approx(shares.get("none", 0) + shares.get("desired", 0), abs=0.02)


def test_parse_hands_gamma_to_geometric():
    rows = rows_of(0, 10**6, 50_000, 10**7)
    for gamma in (0.5, 0.98):
        ahead = parse("geometric:1", gamma)(np.random.default_rng(0), rows) - rows.index
        assert ahead.mean() == pytest.approx(gamma / (1 - gamma), rel=0.02)
    assert parse("geometric:1").keywords == {"gamma": 0.99}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("futur", "did you mean future?"),
        ("Future", "did you mean future?"),
        ("geometry:0.5", "did you mean geometric?"),
        ("future:0.5,finale:0.5", "did you mean final?"),
        ("xyz", f"choose from {', '.join(STRATEGIES)}"),
        ("", "no strategy is called ''"),
        (",", "no strategy is called ''"),
        ("future,", "no strategy is called ''"),
        (":0.5", "no strategy is called ''"),
        ("__class__", "no strategy is called '__class__'"),
        ("future\nrandom", "no strategy is called 'future random'"),
        ("future:0", "the share of future must be a number in (0, 1], not '0'"),
        ("future:-0.1", "not '-0.1'"),
        ("future:1.01", "not '1.01'"),
        ("future:inf", "not 'inf'"),
        ("future:-inf", "not '-inf'"),
        ("future:nan", "not 'nan'"),
        ("none:nan", "the share of none"),
        ("future:", "not ''"),
        ("future:x", "not 'x'"),
        ("future:0.4:0.4", "not '0.4:0.4'"),
        ("future:50%", "not '50%'"),
        ("random:0.5,future:\n\n", "the share of future"),
        ("future,final", "the shares sum to 1.6, more than 1"),
        ("none,future", "the shares sum to 1.8, more than 1"),
        ("future:0.7,final:0.4", "the shares sum to 1.1, more than 1"),
    ],
)
def test_parse_refuses_in_one_line(text, says):
    with pytest.raises(InputError) as error:
        parse(text)
    message = str(error.value)
    assert says in message
    assert message.startswith("--relabel ")
    assert len(message.splitlines()) == 1
