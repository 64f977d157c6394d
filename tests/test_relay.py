"""Relay: who may go first, who is chosen, when the own task takes over; what is stored and restored meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcrl.collect import Collector
from gcrl.relay import FORGET, LEAST, RECENT, SURE, Relay
from tasks.layout import together
from tasks.task import Episode
from tests.problems import POINT, ROW, SWAP
from tests.test_store import fits, same_place, walk_task

TASKS = [walk_task(name, scene=scene) for name, scene in (("a", "s"), ("b", "s"), ("c", "s"), ("d", "other"))]


def mirrored(achieved, desired):
    """A success of another task: (...)."""
    return abs(achieved[..., 0] + desired[..., 0]) < 0.5


def episode(places, desired):
    """Through `places` (T + 1,), wanting `desired` (T,)."""
    observation, wanted = np.zeros((len(places), 3), np.float32), np.zeros((len(desired), 3), np.float32)
    observation[:, 0], wanted[:, 0] = places, desired
    return Episode(observation, np.zeros((len(desired), 2), np.float32), wanted, np.zeros(len(desired)), False)


WON, LOST, STILL = episode([0, 1, 2, 3], [9, 2, 9]), episode([0, 1, 2, 3], [7, 7, 7]), episode([0, 1, 0], [5, 5])


class Loop:
    """The same bookkeeping by recounting everything that has happened."""

    def __init__(self, tasks):
        self.tasks, self.past = tasks, []

    def end(self, k, chosen, e):
        self.past.append((k, chosen, e))

    def rate(self, k):
        won = []
        for own, _, e in self.past:
            if own == k:
                pairs = zip(e.observation[1:], e.desired, strict=True)
                won.append(any(bool(self.tasks[k].success(a, d)) for a, d in pairs))
        return sum(won[-RECENT:]) / len(won[-RECENT:]) if won else 0.0

    def easier(self, k):
        alike = [j for j, task in enumerate(self.tasks) if task.scene == self.tasks[k].scene]
        return [j for j in alike if self.rate(j) >= SURE and self.rate(j) > self.rate(k)]

    def counts(self):
        out = np.zeros((len(self.tasks), len(self.tasks) + 1, 2))
        for k, chosen, e in self.past:
            out[k, chosen] *= FORGET
            out[k, chosen, int(bool(self.tasks[k].success(e.observation[-1], e.observation[0])))] += 1
        return out


@pytest.mark.parametrize("seed", range(2))
def test_it_counts_what_a_loop_counts(seed):
    """Over random episodes: rates, who may go first, and forgotten counts of the arm that was played."""
    rng = np.random.default_rng(seed)
    tasks = [*TASKS[:2], walk_task("c", scene="s", success=mirrored), TASKS[3]]
    relay, loop, several = Relay(tasks, 1), Loop(tasks), 0
    skill = rng.permutation([0.1, 0.6, 0.9, 0.9])
    for number in range(150):
        k = int(rng.integers(4))
        relay.begin(0, k, np.random.default_rng(number))
        chosen, easier = int(relay.chosen[0]), loop.easier(k)
        assert relay.easier(k) == easier and relay.rate(k) == pytest.approx(loop.rate(k))
        assert chosen == relay.first[0] and chosen in (*easier, -1)
        several += len(easier) > 1
        places = np.cumsum(rng.integers(-1, 2, 6))
        wanted = np.full(5, 40.0)
        if rng.random() < skill[k]:
            at = rng.integers(5)
            wanted[at] = places[at + 1] if tasks[k].success is same_place else -places[at + 1]
        e = episode(places, wanted)
        relay.end(0, k, e)
        loop.end(k, chosen, e)
    np.testing.assert_allclose(relay.counts, loop.counts())
    assert several > 5


def taught(lost=(0,), won=(1,), times=6, lanes=2):
    """A relay of four tasks; those of `won` always succeed, those of `lost` never."""
    relay = Relay(TASKS, lanes)
    for k in (*won, *lost):
        for _ in range(times):
            relay.end(0, k, WON if k in won else LOST)
    return relay


def test_only_a_sure_and_easier_task_of_the_scene_goes_first():
    relay = taught(lost=(0, 2), won=(1, 3))
    assert [relay.easier(k) for k in range(4)] == [[1], [], [1], []]
    for _ in range(RECENT // 2):
        relay.end(0, 2, WON)
    assert relay.easier(0) == [1, 2] and relay.easier(2) == [1]
    for _ in range(RECENT // 2 + 1):
        relay.end(0, 1, LOST)
    assert relay.rate(1) < SURE and relay.easier(0) == [2]
    for _ in range(RECENT):
        relay.end(0, 2, WON), relay.end(0, 1, WON)
    assert relay.easier(2) == [], "none is easier than what always succeeds"


def test_the_choice_is_thompsons():
    """The greatest of one draw for each from Beta(1 + moved, 1 + still), nobody included."""
    relay = taught(lost=(0,), won=(1, 2))
    relay.counts[0] = np.random.default_rng(0).uniform(0, 9, (5, 2))
    arms = [1, 2, -1]
    for seed in range(200):
        relay.begin(1, 0, np.random.default_rng(seed))
        draws = np.random.default_rng(seed).beta(*(1 + relay.counts[0, arms].T))
        assert relay.first[1] == relay.chosen[1] == arms[int(np.argmax(draws))]
        assert relay.first[0] == -1
    relay.counts[0] = 0
    relay.counts[0, 2], relay.counts[0, [1, -1]] = (30, 0), (0, 30)
    firsts = []
    for seed in range(200):
        relay.begin(0, 0, np.random.default_rng(seed))
        firsts.append(int(relay.first[0]))
    assert firsts.count(2) > 195


def test_what_moved_the_own_goal_is_what_counts():
    """An end that would be a success for the start has taught nothing."""
    relay = Relay(TASKS, 1)
    for e, column in ((LOST, 0), (WON, 0), (STILL, 1)):
        before = relay.counts.copy()
        relay.end(0, 0, e)
        grown = relay.counts - FORGET * before
        assert grown[0, -1, column] == 1 and abs(grown).sum() == 1
    relay.chosen[0] = 2
    relay.end(0, 1, STILL)
    assert relay.counts[1, 2].tolist() == [0, 1] and not relay.counts[1, [0, 1, 3, 4]].any()


def test_the_goal_is_a_recent_one_of_who_goes_first():
    relay, seen = Relay(TASKS, 1), set()
    for x in range(2 * RECENT):
        relay.end(0, 1, episode([0, x + 1.0], [x + 1.0]))
    relay.counts[0, 1] = (1000, 0)
    relay.end(0, 0, LOST)
    for seed in range(400):
        relay.begin(0, 0, np.random.default_rng(seed))
        if relay.first[0] == 1:
            seen.add(float(relay.goal[0, 0]))
    assert seen == {float(x + 1) for x in range(RECENT, 2 * RECENT)}


@pytest.mark.parametrize("steps", range(1, 13))
def test_the_own_task_takes_over_at_success_or_half_way(steps):
    relay = taught()
    for reached in (False, True):
        relay.first[:], relay.goal[:, 0] = 1, 4.0
        relay.advance(1, 0, np.array([4.0 if reached else 0.0, 0, 0], np.float32), steps)
        assert relay.first.tolist() == [1, -1 if reached or steps >= TASKS[1].horizon // 2 else 1]
    relay.first[:] = -1
    relay.advance(0, 0, np.zeros(3, np.float32), steps)
    assert relay.first.tolist() == [-1, -1]


def test_effort_goes_where_tasks_fail():
    """1 for what never succeeds and for what nobody has tried, LEAST for what always does, and in between the rest."""
    assert Relay(TASKS, 1).effort().tolist() == [1.0] * 4
    relay = taught(lost=(0,), won=(1,))
    for e in (WON, LOST, LOST, LOST):
        relay.end(0, 2, e)
    for e in (WON,) * 9 + (LOST,):
        relay.end(0, 3, e)
    assert relay.effort().tolist() == [1.0, LEAST, 0.75, LEAST]
    for _ in range(RECENT):
        relay.end(0, 1, LOST)
    assert relay.effort()[1] == 1.0, "what was forgotten is practised again"


def test_the_next_episode_is_drawn_by_effort():
    relay = taught(lost=(0,), won=(1, 3))
    for e in (WON, LOST):
        relay.end(0, 2, e)
    rng = np.random.default_rng(0)
    counts = np.bincount([relay.choose(rng) for _ in range(6000)], minlength=4)
    assert fits(counts, np.array([1, LEAST, 0.5, LEAST]) / (1.5 + 2 * LEAST))


@pytest.mark.parametrize("times", [0, 3, 2 * RECENT])
def test_a_relay_comes_back_to_the_bit(times):
    one = taught(times=times)
    one.begin(1, 0, np.random.default_rng(1))
    snapshot = {name: x.copy() for name, x in one.snapshot().items()}
    other = taught(lost=(2,), won=(3, 0), times=5)
    other.restore(snapshot)
    for number in range(40):
        for relay in (one, other):
            relay.begin(number % 2, number % 3, np.random.default_rng(number))
            relay.advance(0, number % 3, np.zeros(3, np.float32), number % 9)
            relay.end(number % 2, number % 3, (WON, LOST, STILL)[number % 7 % 3])
        known, found = one.snapshot(), other.snapshot()
        assert known.keys() == found.keys()
        assert all(np.array_equal(x, found[name]) and x.dtype == found[name].dtype for name, x in known.items())


# In a collector -----------------------------------------------------------------------------------------------------

POINTS = together((POINT, ROW, SWAP))


def collecting(lanes=3):
    """A collector whose row task always succeeds and moves what the others want."""
    collector = Collector(POINTS, lanes, 0, relay=True)
    for _ in range(5):
        place = np.array([[0, 0], [0.5, 0.5]], np.float32)
        collector.relay.end(0, 1, Episode(place, np.zeros((1, 2)), place[1:, [1, 0]] * [1, 0], np.zeros(1), False))
    collector.relay.counts[:, 1] = (50, 0)
    return collector


def acts(steps, lanes, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, lanes, 2)).astype(np.float32)


def test_the_policy_pursues_the_first_task_and_the_own_one_is_stored():
    collector, finished, relayed = collecting(), [], 0
    wanted, rows, early = [[] for _ in range(3)], {(0.5, 0.0)}, 0
    for a in acts(120, 3):
        state, own = collector.state(), [lane.desired[-1] for lane in collector.lanes]
        for i in range(3):
            first = int(collector.relay.first[i])
            seen = int(state.task[i]), state.goal[i].tolist()
            if first < 0:
                assert seen == (collector.task[i], own[i].tolist())
            else:
                assert seen[0] == first == 1 != collector.task[i] and tuple(seen[1]) in rows
                relayed += 1
            assert torch.equal(state.obs[i], torch.from_numpy(collector.lanes[i].observation[-1]))
            wanted[i].append((int(collector.task[i]), own[i]))
        first, task = collector.relay.first.copy(), collector.tasks[1]
        goal = collector.relay.goal.copy()
        for k, e in collector.step(a):
            finished.append((k, e))
            rows |= {tuple(e.desired[-1].tolist())} if k == 1 else set()
        for i, lane in enumerate(collector.lanes):
            if lane.action:  # the same episode: does the own task take over
                reached = task.success(task.goal_of(lane.observation[-1]), goal[i])
                stays = first[i] >= 0 and len(lane.action) < task.horizon // 2 and not reached
                assert collector.relay.first[i] == (first[i] if stays else -1)
                early += bool(reached and first[i] >= 0 and len(lane.action) < task.horizon // 2)
            else:
                k, goals = wanted[i][0][0], np.stack([goal for _, goal in wanted[i]])
                assert any(k == j and np.array_equal(e.desired, goals) for j, e in finished[-3:])
                wanted[i] = []
    assert relayed > 50 and early > 0 and {k for k, _ in finished} == {0, 1, 2}


def test_a_collector_plays_what_fails_more_often():
    """The row task, which always succeeds, gets LEAST of what each of the others gets."""
    collector = collecting()
    collector.relay.end = lambda lane, k, episode: None
    played = [k for a in acts(2000, 3) for k, _ in collector.step(a)]
    counts = np.bincount(played, minlength=3)
    assert counts.sum() == 300 and fits(counts, np.array([1, LEAST, 1]) / (2 + LEAST), z=5)


def test_without_relay_nobody_goes_first():
    collector = Collector(POINTS, 2, 0)
    assert collector.relay is None and not any(name.startswith("relay") for name in collector.snapshot())


@pytest.mark.parametrize("cut", [0, 1, 4, 19, 20, 23, 41])
def test_a_collector_is_restored_in_the_middle_of_a_relay(cut):
    one = collecting()
    for a in acts(cut, 3):
        one.step(a)
    snapshot, state = {name: x.copy() for name, x in one.snapshot().items()}, [x.clone() for x in one.state()]
    used = Collector(POINTS, 3, 0, relay=True)
    for a in acts(30, 3, 1):
        used.step(a)
    for other in (Collector(POINTS, 3, 0, relay=True), used):
        assert other.restore(snapshot) is True
        assert all(torch.equal(x, y) for x, y in zip(other.state(), state, strict=True))
        again = other.snapshot()
        assert again.keys() == snapshot.keys()
        assert all(np.array_equal(x, snapshot[name]) for name, x in again.items())
    among = 0
    for a in acts(70, 3, 2):
        before = [x.clone() for x in one.state()]
        assert all(torch.equal(x, y) for x, y in zip(before, used.state(), strict=True))
        among += int((one.relay.first >= 0).sum())
        done = [[(k, *(x.tolist() for x in e[:4])) for k, e in c.step(a)] for c in (one, used)]
        assert done[0] == done[1]
    assert among > 20
