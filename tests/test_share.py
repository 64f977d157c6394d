"""Sharing strategies against probabilities counted out task by task, and `balanced` against a walk over the rows."""

from __future__ import annotations

import itertools
from math import lcm

import numpy as np
import pytest

from relabel import share
from relabel.share import NAMES, NUMBERS, STRATEGIES, Pool, Sharing, balanced, labels, parse
from tasks.task import InputError
from tests.test_store import fits, walk_task

every_strategy = pytest.mark.parametrize("name", STRATEGIES)
PER_ROW = ("own", "uniform", "groups", "family")  # each row's task is given, its source is drawn


def pools(count, seed=0, largest=7):
    """Pools of 1 to 6 tasks in up to 3 scenes and 2 skills, some of them empty, never all."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        k = int(rng.integers(1, 7))
        size = rng.integers(0, largest, k) * rng.integers(0, 2, k)
        size[rng.integers(k)] += 1
        tasks = [walk_task(str(i), scene=f"s{rng.integers(3)}", skill=f"k{rng.integers(2)}") for i in range(k)]
        yield tasks, Pool.of(tasks, size)


def allowed(name, a, b):
    """May task a learn from what task b has recorded."""
    return {
        "own": a.name == b.name,
        "uniform": a.scene == b.scene,
        "random": a.scene == b.scene,
        "groups": (a.scene, a.skill) == (b.scene, b.skill),
        "family": True,
    }[name]


def joint(name, tasks, size):
    """P(receiver, source): (K, K), counted out."""
    out, ids = np.zeros((len(tasks),) * 2), [k for k, n in enumerate(size) if n]
    for i, j in itertools.product(ids, ids):
        if allowed(name, tasks[i], tasks[j]):
            if name == "random":  # any transition, then any task of its scene that has data
                mates = [k for k in ids if allowed(name, tasks[k], tasks[j])]
                out[i, j] = size[j] / sum(size) / len(mates)
            else:  # any task that has data, then any transition that it may have
                out[i, j] = size[j] / len(ids) / sum(size[k] for k in ids if allowed(name, tasks[i], tasks[k]))
    return out


class Every:
    """A generator whose draws run through all values: the first through each, the second through each for each."""

    def __init__(self):
        self.period = 1

    def integers(self, low, high=None):
        if high is None:
            return 0  # who gets the remainder of a quota: there is none
        assert low == 0
        high = np.asarray(high)
        out = np.arange(len(high)) // self.period % high
        self.period *= lcm(*set(high.tolist()))
        return out


@every_strategy
def test_the_distribution_is_exactly_the_counted_one(name):
    """Every value of every draw is played, so what comes out are probabilities and no sample of them."""
    for tasks, pool in pools(100):
        filled, total = np.flatnonzero(pool.size), int(pool.size.sum())
        unions = [sum(pool.size[j] for j in filled if allowed(name, tasks[k], tasks[j])) for k in filled]
        mates = [sum(allowed(name, tasks[k], tasks[j]) for j in filled) for k in filled]
        n = total * lcm(*mates) if name == "random" else len(filled) * lcm(*map(int, unions))
        receiver, source = STRATEGIES[name](Every(), n, pool)
        counts = np.zeros((len(tasks),) * 2, np.int64)
        np.add.at(counts, (receiver, source), 1)
        np.testing.assert_allclose(counts / n, joint(name, tasks, pool.size), atol=1e-12)


@every_strategy
def test_a_real_generator_fits_it(name):
    tasks = [walk_task(str(i), scene=s, skill=k) for i, (s, k) in enumerate(("ax", "ax", "ay", "bx", "ax"))]
    size = np.array([30, 10, 25, 5, 0])
    receiver, source = STRATEGIES[name](np.random.default_rng(0), 100_000, Pool.of(tasks, size))
    wanted = joint(name, tasks, size)
    counts = np.zeros_like(wanted)
    np.add.at(counts, (receiver, source), 1)
    assert (counts[wanted == 0] == 0).all()
    # Given the receivers, whose number is exact, the sources are drawn.
    for k in range(5) if name != "random" else [slice(None)]:
        row, drawn = wanted[k][wanted[k] > 0], counts[k][wanted[k] > 0]
        assert not len(row) or fits(drawn, row / row.sum())


@pytest.mark.parametrize("name", PER_ROW)
def test_every_task_with_data_gets_its_quota(name):
    """As many rows as any other, to one; as many in all as were asked for; from filled stores that it may see."""
    rng = np.random.default_rng(1)
    for tasks, pool in pools(300, largest=1000):
        for n in (0, 1, int(rng.integers(2, 40)), 256):
            receiver, source = STRATEGIES[name](rng, n, pool)
            counts = np.bincount(receiver, minlength=len(tasks))
            assert receiver.shape == source.shape == (n,) and receiver.dtype == source.dtype == np.int64
            assert counts.sum() == n and not counts[pool.size == 0].any()
            assert np.ptp(counts[pool.size > 0]) <= 1
            assert (pool.size[source] > 0).all()
            assert all(allowed(name, tasks[i], tasks[j]) for i, j in zip(receiver, source, strict=True))


def test_the_remainder_of_a_quota_is_spread_and_goes_round():
    """No half of the tasks has all of it, and none goes without for ever where there are fewer rows than tasks."""
    pool, rng = Pool.of([walk_task(str(i)) for i in range(8)], np.ones(8, np.int64)), np.random.default_rng(0)
    assert np.bincount(pool.receivers(rng, 20, np.diag(pool.size))).tolist() in ([2, 3] * 4, [3, 2] * 4)
    counts = sum(np.bincount(pool.receivers(rng, 3, np.diag(pool.size)), minlength=8) for _ in range(4000))
    assert fits(counts, np.full(8, 1 / 8))


@pytest.mark.parametrize("name", PER_ROW)
def test_rows_go_to_tasks_in_proportion_to_their_weights(name):
    """In each batch to one row; on average exactly, so that none goes without for ever, however little it deserves."""
    rng = np.random.default_rng(2)
    for tasks, pool in pools(60, largest=1000):
        pool.weight[:] = rng.choice([0.2, 1.0, rng.uniform(0.2, 1)], len(tasks))
        due = pool.weight * (pool.size > 0)
        due /= due.sum()
        for n in (0, 1, 3, int(rng.integers(2, 40)), 256):
            receiver, source = STRATEGIES[name](rng, n, pool)
            counts = np.bincount(receiver, minlength=len(tasks))
            assert receiver.shape == source.shape == (n,) and counts.sum() == n and receiver.dtype == np.int64
            assert (abs(counts - due * n) < 1 + 1e-9).all() and not counts[pool.size == 0].any()
            assert all(allowed(name, tasks[i], tasks[j]) for i, j in zip(receiver, source, strict=True))


@pytest.mark.parametrize("n", [1, 2, 5, 256])
@pytest.mark.parametrize("weight", [(0.2, 1.0, 1.0), (1.0, 0.2, 0.7), (1.0, 1.0, 0.05)], ids=str)
def test_weighted_quotas_are_exact_on_average(n, weight):
    pool, rng, times = (
        Pool.of([walk_task(str(i)) for i in range(3)], np.ones(3, np.int64)),
        np.random.default_rng(0),
        4000,
    )
    pool.weight[:] = weight
    counts = sum(np.bincount(pool.receivers(rng, n, np.diag(pool.size)), minlength=3) for _ in range(times))
    np.testing.assert_allclose(counts / times, n * np.array(weight) / sum(weight), atol=5 * 0.5 / times**0.5)


def test_equal_weights_are_the_plain_quotas_to_the_bit():
    """Whatever all weigh, and whatever an empty store does."""
    for _, pool in pools(100, largest=1000):
        draws = []
        for weight in (1.0, 0.2, 0.1 + 0.2):
            pool.weight[:] = np.where(pool.size > 0, weight, 9.0)
            rng = np.random.default_rng(0)
            draws.append(
                ([pool.receivers(rng, n, np.diag(pool.size)).tolist() for n in (1, 7, 256)], rng.bit_generator.state)
            )
        assert draws[0] == draws[1] == draws[2]
        filled, rng = np.flatnonzero(pool.size), np.random.default_rng(0)
        for n, drawn in zip((1, 7, 256), draws[0][0], strict=True):
            late = int(rng.integers(len(filled)))
            ends = [(i * n + late) // len(filled) for i in range(len(filled) + 1)]
            assert drawn == [int(k) for i, k in enumerate(filled) for _ in range(ends[i + 1] - ends[i])]


def test_a_pool_sees_its_stores_grow():
    size = np.array([3, 0])
    pool = Pool.of([walk_task("a"), walk_task("b")], size)
    rng = np.random.default_rng(0)
    assert set(pool.receivers(rng, 10, np.diag(pool.size)).tolist()) == {0}
    size[1] = 5
    assert set(pool.receivers(rng, 10, np.diag(pool.size)).tolist()) == {0, 1}


@every_strategy
def test_a_task_takes_no_data_that_lack_what_it_observes(name):
    """In one layout a short observation is zeros where it has no number: those are nobody's goals."""
    arm = walk_task("arm", scene="s", columns=(0, 2))
    whole, other = (walk_task(k, scene="s") for k in ("whole", "other"))
    receiver, source = STRATEGIES[name](np.random.default_rng(0), 3000, Pool.of([arm, whole, other], np.full(3, 9)))
    pairs = set(zip(receiver.tolist(), source.tolist(), strict=True))
    mixed = {(0, 1), (0, 2), (1, 2), (2, 1)}
    assert pairs == {(k, k) for k in range(3)} | (set() if name == "own" else mixed)


def test_a_goal_that_is_local_is_not_read_off_other_scenes():
    tasks = [walk_task("a", scene="s", local=True), walk_task("b", scene="s"), walk_task("c", scene="t")]
    receiver, source = STRATEGIES["family"](np.random.default_rng(0), 3000, Pool.of(tasks, np.full(3, 9)))
    pairs = set(zip(receiver.tolist(), source.tolist(), strict=True))
    assert pairs == set(itertools.product(range(3), repeat=2)) - {(0, 2)}


def test_labels_are_equal_where_names_are():
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = [("ab"[i], "xyz"[j]) for i, j in rng.integers(0, (2, 3), (int(rng.integers(1, 9)), 2))]
        found = labels(names)
        assert [[a == b for b in found] for a in found] == [[a == b for b in names] for a in names]
        assert set(found.tolist()) == set(range(len(set(names))))


def test_skills_of_two_scenes_are_apart():
    for tasks, pool in pools(50):
        for (a, i), (b, j) in itertools.product(zip(tasks, itertools.count()), repeat=2):
            assert (pool.scene[i] == pool.scene[j]) == (a.scene == b.scene)
            assert (pool.skill[i] == pool.skill[j]) == ((a.scene, a.skill) == (b.scene, b.skill))


# Balance ------------------------------------------------------------------------------------------------------------


def row_by_row(receiver, hit, quota, wanted):
    """Take rows one after another while their kind has room: a kind's room is what the other kind leaves."""
    kept = []
    for k, n in enumerate(quota):
        supply = {kind: sum(r == k and h == kind for r, h in zip(receiver, hit, strict=True)) for kind in (True, False)}
        room = {True: 0, False: 0}
        for _ in range(n):  # the kind that is further below its share first, as long as there is any of it
            kind = room[True] < wanted[k]
            kind = kind if room[kind] < supply[kind] else not kind
            room[kind] += 1
        for i, (r, h) in enumerate(zip(receiver, hit, strict=True)):
            if r == k and room[h] > 0:
                room[h] -= 1
                kept.append(i)
    return sorted(kept)


def test_balanced_is_what_a_walk_over_the_rows_keeps():
    rng, short = np.random.default_rng(0), set()
    for _ in range(400):
        k = int(rng.integers(1, 5))
        receiver = rng.integers(0, k, int(rng.integers(1, 60)))
        hit = rng.random(len(receiver)) < rng.choice([0, 0.1, 0.5, 1])
        supply = np.bincount(receiver, minlength=k)
        quota = rng.integers(0, supply + 1)
        quota[np.argmax(supply)] = supply.max() // 2 + 1
        wanted = np.round(quota * rng.choice([0, 0.25, 0.5, 0.9, 1])).astype(np.int64)
        kept = balanced(receiver, hit, quota, wanted)
        assert sorted(kept.tolist()) == row_by_row(receiver.tolist(), hit.tolist(), quota.tolist(), wanted.tolist())
        assert np.bincount(receiver[kept], minlength=k).tolist() == quota.tolist()
        wins = np.bincount(receiver[kept], hit[kept], minlength=k)
        short |= set(np.sign(wins - wanted).tolist())
    assert short == {-1, 0, 1}, "too few hits, enough, and too few of the others: a case is not seen"


# What is typed ------------------------------------------------------------------------------------------------------


def test_what_share_names():
    assert set(NAMES) == {*STRATEGIES, "uds", "hindsight", "hipi", "cds", "cds-soft"}
    assert set(STRATEGIES) == {"own", "uniform", "random", "groups", "family"}
    assert {name: f.__name__ for name, f in STRATEGIES.items()} == {name: name for name in STRATEGIES}
    for name in NAMES:
        assert parse(name) == parse(f"  {name}\n") == Sharing(name, NUMBERS.get(name, 0.0))
    assert parse("cds:50") == Sharing("cds", 50.0)
    assert parse("cds-soft:0") == Sharing("cds-soft", 0.0)
    assert parse("hindsight:100") == Sharing("hindsight", 100.0)
    assert parse("hipi:0.1") == Sharing("hipi", 0.1)
    assert Sharing() == parse("own")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("unifrom", "did you mean uniform"),
        ("xyz", "choose from own, uniform"),
        ("", "choose from own, uniform"),
        ("two\nlines", "no strategy is called 'two lines'"),
        ("own:1", "own takes no number"),
        ("uds:0", "uds takes no number"),
        ("uniform:", "uniform takes no number"),
        ("cds:", "cds takes a number from 0 to 100"),
        ("cds:x", "cds takes a number from 0 to 100"),
        ("cds:-1", "cds takes a number from 0 to 100"),
        ("cds:nan", "cds takes a number from 0 to 100"),
        ("cds-soft:100.1", "cds-soft takes a number from 0 to 100"),
        ("hindsight:1e9", "hindsight takes a number from 0 to 100"),
        ("hipi:0", "hipi takes a number from 1e-06 to 1e+06"),
        ("hipi:inf", "hipi takes a number from 1e-06 to 1e+06"),
        ("hipi:1:2", "hipi takes a number"),
    ],
)
def test_what_share_cannot_mean(text, word):
    with pytest.raises(InputError) as caught:
        share.parse(text)
    said = str(caught.value)
    assert word in said and said.startswith("--share ") and "\n" not in said
