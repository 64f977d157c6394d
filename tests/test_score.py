"""Sharing steered by values against its formulas, slowly, in float64; episodes rated. Long: a formula a strategy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from relabel.merit import RECENT, Merits, mean_return
from relabel.score import cds, hindsight, hipi, logsumexp, soft_cds
from relabel.store import EpisodeStore, Memory
from tasks.task import Episode, part
from tests.test_store import LONGEST, fits, same_place, walk, walk_task

INF = math.inf


def tables(count, seed=0, rows=7):
    """Random (B, K), some of it -inf, never a whole row; now and then a whole column."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        b, k = int(rng.integers(1, rows)), int(rng.integers(2, 6))
        table = rng.normal(0, 2, (b, k)) * 10.0 ** rng.integers(-1, 2) + 50 * rng.normal(size=k)
        impossible = rng.random((b, k)) < rng.choice([0, 0.4])
        impossible[:, : k - 1] |= rng.random(k - 1) < 0.15
        impossible[np.arange(b), rng.integers(0, k, b)] &= rng.random() < 0.5
        impossible[impossible.all(1), -1] = False
        yield np.where(impossible, -INF, table), rng


# HIPI ---------------------------------------------------------------------------------------------------------------


def slow_hipi(table, temperature):
    """q(z | row) by the paper's formula: exp(x / t - log mean_batch exp(x / t)), normalised over the tasks."""
    out = np.zeros(table.shape)
    for b, k in np.argwhere(table > -INF):
        top = max(table[:, k])
        column = [math.exp((x - top) / temperature) for x in table[:, k]]
        out[b, k] = math.exp((table[b, k] - top) / temperature) / (sum(column) / len(column))
    return out / out.sum(1, keepdims=True)


def drawn(table, temperature, copies, seed=0):
    """How often each row gets each task (B, K). Copies of a batch have the same mean per column."""
    chosen = hipi(np.random.default_rng(seed), np.tile(table, (copies, 1)), temperature).reshape(copies, -1)
    return np.stack([np.bincount(c, minlength=table.shape[1]) for c in chosen.T])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
def test_hipi_is_the_papers_formula(temperature):
    seen = 0
    for table, _ in tables(25, rows=5):
        wanted = slow_hipi(table, temperature)
        for counts, p in zip(drawn(table, temperature, 6000), wanted, strict=True):
            assert counts[p == 0].sum() == 0
            likely = p > 0.005
            assert counts[~likely].sum() <= 6000 * p[~likely].sum() * 2 + 30
            if likely.sum() > 1:
                assert fits(counts[likely], p[likely] / p[likely].sum())
                seen += 1
    assert seen > 20


def test_hipi_never_takes_what_cannot_be():
    """Nor is it led astray by a task that can have no row of the batch: one without data yet, or of another scene."""
    for table, rng in tables(300, 1):
        for temperature in (1e-6, 1.0, 1e6):
            chosen = hipi(rng, table, temperature)
            assert chosen.dtype == np.int64
            assert (table[np.arange(len(table)), chosen] > -INF).all()
    table = np.array([[-INF, 0.0, 0.0]] * 4000)
    assert fits(np.bincount(hipi(np.random.default_rng(0), table))[1:], [0.5, 0.5])


def test_hipi_forgets_a_constant_of_a_task():
    """A task whose rewards are all larger by 100 takes no more than before, to the very draw."""
    for table, _ in tables(100, 2):
        table = np.round(table * 2**10) / 2**10  # so that the sums below are exact
        shift = 64.0 * np.arange(table.shape[1])
        one, other = (hipi(np.random.default_rng(5), x) for x in (table, table + shift))
        assert (one == other).mean() > 0.99
    table = np.random.default_rng(0).normal(size=(3, 3))
    assert (abs(slow_hipi(table, 1.0) - slow_hipi(table + np.array([0, 500, -500]), 1.0)) < 1e-9).all()


def test_hipi_of_equal_values_is_a_random_task():
    counts = drawn(np.array([[-7, 0, 3, 1e6, -1e6]]), 1.0, 20_000)[0]
    assert fits(counts, np.full(5, 0.2))


def test_hipi_at_no_temperature_takes_the_row_that_is_best_for_its_task():
    """Against the task's other rows: x minus the greatest of its column."""
    for table, rng in tables(100, 3):
        wanted = table - table.max(0, where=table > -INF, initial=-1e300)
        best = wanted.max(1)
        chosen = hipi(rng, table, 1e-6)
        np.testing.assert_allclose(wanted[np.arange(len(table)), chosen], best, atol=1e-4)


def test_logsumexp():
    for table, _ in tables(100, 4):
        for axis in (0, 1):
            found = logsumexp(table, axis)
            for x, line in zip(found, np.moveaxis(table, axis, -1), strict=True):
                top = max(line)
                known = -INF if top == -INF else top + math.log(sum(math.exp(y - top) for y in line))
                assert x == pytest.approx(known, abs=1e-12)
    assert logsumexp(np.array([[1e4, 1e4], [-1e4, -1e4]]), 1) == pytest.approx(np.array([1e4, -1e4]) + math.log(2))


# Generalized hindsight ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [0.0, 10.0, 50.0, 75.0, 90.0, 100.0])
def test_hindsight_takes_any_task_from_the_percentile_on(percent):
    """Of the tasks that the row can have; the next higher score where the percentile falls between two."""
    for table, _ in tables(40, 5, rows=4):
        table = np.round(table)  # ties
        chosen = hindsight(np.random.default_rng(0), np.tile(table, (400, 1)), percent).reshape(400, -1)
        for line, tasks in zip(table, chosen.T, strict=True):
            possible = line[line > -INF]
            least = np.percentile(possible, percent, method="higher")
            counts = np.bincount(tasks, minlength=len(line))
            assert ((counts > 0) == (line >= least)).all()
            assert fits(counts[line >= least], np.full((line >= least).sum(), 1 / (line >= least).sum()))


# CDS ----------------------------------------------------------------------------------------------------------------


def test_cds_takes_all_own_rows_and_shared_ones_from_the_threshold_on():
    q = np.array([0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 5.0, 5.0])
    shared = np.array([1, 1, 1, 0, 0, 0, 1, 1], bool)
    threshold = np.array([1.0, 1, 1, 1, 1, 1, INF, -INF])
    assert cds(q, shared, threshold).tolist() == [False, True, True, True, True, True, False, True]


class Says:
    """A generator that answers u."""

    def __init__(self, u):
        self.u = u

    def random(self, shape):
        return np.full(shape, self.u)


def test_soft_cds_accepts_with_a_sigmoid():
    rng = np.random.default_rng(0)
    q, threshold, temperature = rng.normal(0, 3, 500), rng.normal(0, 3, 500), rng.uniform(0.1, 4, 500)
    p = np.array([1 / (1 + math.exp(-(a - b) / t)) for a, b, t in zip(q, threshold, temperature, strict=True)])
    for u in (0.0, 0.1, 0.5, 0.9, 0.999):
        found = soft_cds(Says(u), q, np.ones(500, bool), threshold, temperature)
        assert (found == (u < p))[abs(u - p) > 1e-9].all()
        assert soft_cds(Says(u), q, np.zeros(500, bool), threshold, temperature).all()
    taken = soft_cds(rng, np.zeros(20_000), np.ones(20_000, bool), np.full(20_000, 1.0), np.full(20_000, 2.0))
    assert fits([taken.sum(), (~taken).sum()], [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5))])
    even = soft_cds(np.random.default_rng(0), np.ones(2000), np.ones(2000, bool), np.ones(2000), np.zeros(2000))
    assert fits([even.sum(), (~even).sum()], [0.5, 0.5])  # on the threshold, without a spread
    flat = soft_cds(Says(0.5), np.array([1.0, 1.0, 1.0]), np.ones(3, bool), np.array([0.9, 1.1, -INF]), np.zeros(3))
    assert flat.tolist() == [True, False, True]  # no spread: the hard rule, and no division by zero


# Merits -------------------------------------------------------------------------------------------------------------


def cost(achieved, desired):
    return -1.0 * ~same_place(achieved, desired)


def graded(achieved, desired):
    return -abs(achieved[..., 0] - desired[..., 0]) - 0.25 * achieved[..., 2]


def backwards(observation):
    """A goal map of its own: (-x, episode, t)."""
    return observation * np.array([-1, 1, 1], np.float32)


TASKS = [
    walk_task("ends", reward=cost, terminated=same_place),
    walk_task("mirror", reward=graded, goal_of=backwards),
    walk_task("ends graded", reward=graded, terminated=same_place, goal_of=backwards),
    walk_task("elsewhere", reward=cost, scene="other"),
]


def step_by_step(task, episode, goals):
    """The mean over goals of the return up to the end that each goal makes."""
    returns = []
    for goal in goals:
        total = 0.0
        for after in episode.observation[1:]:
            achieved = task.goal_of(after)
            total += float(task.reward(achieved, goal))
            if bool(task.terminated(achieved, goal)):
                break
        returns.append(total)
    return sum(returns) / len(returns)


def played(count, seed=0, tasks=3):
    """(task, episode), as a run adds them."""
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(tasks)), walk(rng, number, int(rng.integers(1, LONGEST + 1)))) for number in range(count)]


@pytest.mark.parametrize("task", TASKS[:3], ids=lambda task: task.name)
def test_the_mean_return_is_that_of_a_loop(task):
    cut = 0
    for _, episode in played(60):
        goals = np.stack([e.desired[-1] for _, e in played(6, 1)])
        assert mean_return(task, episode, goals) == pytest.approx(step_by_step(task, episode, goals), abs=1e-4)
        endless = walk_task(reward=task.reward, goal_of=task.goal_of)
        cut += mean_return(task, episode, goals) != pytest.approx(step_by_step(endless, episode, goals), abs=1e-4)
    assert (cut > 20) == ("ends" in task.name), "an end that matters"


def surpassed(x, others):
    """The share of the others that x surpasses, counted one by one; equal ones count half."""
    return sum(1.0 if x > y else 0.5 if x == y else 0.0 for y in others) / len(others) if len(others) else np.nan


def test_merits_say_which_share_of_recent_returns_a_return_surpasses():
    """Small stores that wrap; more episodes than count as recent; tasks that begin late, and one of another scene."""
    memory = Memory(TASKS[0], 60, 4)
    stores = [EpisodeStore(task, 60, memory, k) for k, task in enumerate(TASKS)]
    merits = Merits(TASKS, memory)
    order = [(0, e) for _, e in played(5, 7)] + played(120) + [(3, e) for _, e in played(4, 8)]
    goals, recent, rated = [[] for _ in TASKS], [[] for _ in TASKS], {}
    for number, (k, episode) in enumerate(order):
        stores[k].add(episode)
        first = int(memory.slot(np.array([k]), np.array([stores[k].size - len(episode.action)]))[0])
        merits.add(k, first, episode, stores)
        goals[k].append(episode.desired[-1])
        row = [
            step_by_step(t, episode, goals[j][-RECENT:]) if goals[j] and t.scene == TASKS[k].scene else np.nan
            for j, t in enumerate(TASKS)
        ]
        recent[k].append(np.array(row, np.float32))
        rated[first] = k, episode, np.array(row, np.float32)
        if len(goals[k]) == 1:  # what was there before the task's first goal is rated by it now
            for j, old, late in rated.values():
                if TASKS[j].scene == TASKS[k].scene:
                    late[k] = step_by_step(TASKS[k], old, goals[k])
        if number % 13 == 0 or number == len(order) - 1:
            known = [row for rows in recent for row in rows[-RECENT:]]
            columns = [[x for x in column if not np.isnan(x)] for column in zip(*known, strict=True)]
            for store, task in enumerate(TASKS):
                index = np.arange(stores[store].size)
                rows = memory.rows(np.full(len(index), store), index)
                starts = memory.slot(np.full(len(index), store), index - rows.past)
                found = merits.table(starts)
                for s, line in zip(starts.tolist(), found, strict=True):
                    for x, shown, others in zip(rated[s][2], line, columns, strict=True):
                        wanted = np.nan if np.isnan(x) else surpassed(x, others)
                        np.testing.assert_allclose(shown, wanted, atol=1e-9, err_msg=task.name)
    assert len(recent[0]) > RECENT and any(len(r) < RECENT for r in recent)


def test_a_task_that_has_learned_keeps_what_it_has_learned():
    """A master's episodes surpass the others' under its own task, and not under theirs."""
    tasks = [walk_task(str(k), reward=reward) for k, reward in enumerate((graded, cost))]
    memory = Memory(tasks[0], 200, 2)
    stores = [EpisodeStore(task, 200, memory, k) for k, task in enumerate(tasks)]
    merits = Merits(tasks, memory)
    for number in range(2 * RECENT):
        k = number % 2
        observation = np.zeros((5, 3), np.float32)
        observation[:, 0] = 7 + number % 3 * 0.1 if k == 0 else 40 + number
        desired = np.full((4, 3), 7.0 if k == 0 else -5.0, np.float32) * [1, 0, 0]
        episode = Episode(observation, np.zeros((4, 2), np.float32), desired, np.zeros(4, np.float32), False)
        stores[k].add(episode)
        first = memory.slot(np.array([k]), np.array([stores[k].size - 4]))
        merits.add(k, int(first[0]), episode, stores)
    master, other = (merits.table(merits._starts(k)) for k in range(2))
    assert (master[:, 0] > master[:, 1]).all() and (other[:, 0] < other[:, 1]).all()


@pytest.mark.parametrize("count", [0, 1, 5, 80])
def test_merits_come_back_to_the_bit(count):
    """Also before every task has had an episode."""
    both = []
    for _ in range(2):
        memory = Memory(TASKS[0], 60, 3)
        both.append((memory, [EpisodeStore(task, 60, memory, k) for k, task in enumerate(TASKS[:3])]))
    one, other = (Merits(TASKS[:3], memory) for memory, _ in both)
    for k, episode in played(count):
        both[0][1][k].add(episode)
        first = both[0][1][k].size - len(episode.action)
        one.add(k, int(both[0][0].slot(np.array([k]), np.array([first]))[0]), episode, both[0][1])
    for old, new in zip(both[0][1], both[1][1], strict=True):
        new.load(old.state())
    other.load(one.state())
    for k in range(3):
        index = np.arange(both[0][1][k].size)
        found = []
        for merits, (memory, _) in zip((one, other), both, strict=True):
            rows = memory.rows(np.full(len(index), k), index)
            found.append(merits.table(memory.slot(np.full(len(index), k), index - rows.past)))
        assert np.array_equal(*found, equal_nan=True)
    states = [merits.state() for merits in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, x in states[0].items():
        assert x.dtype == states[1][name].dtype and np.array_equal(x, states[1][name], equal_nan=True), name


def test_a_part_of_the_observation_is_rated_by_its_own_size():
    """Goals of one number among observations of three."""
    task = walk_task("x", goal_dim=1, goal_of=part(0, 1), reward=lambda a, d: -abs(a - d).sum(-1))
    for _, episode in played(10):
        assert mean_return(task, episode, np.zeros((4, 1))) == pytest.approx(-abs(episode.observation[1:, 0]).sum())
