"""The ring of episodes against a plain list of episodes, over random lengths, wrap-around and eviction.

Every observation is (x, episode, t) and every desired goal (x, -1 - episode, t), so a row says what it is. The walk,
the list and the chi-squared test below serve test_goals.py and test_replay.py too.
"""

from __future__ import annotations

import numpy as np
import pytest

from relabel.store import EpisodeStore, Memory, episodes, slots_for
from tasks.task import Episode, InputError, Task, never, part

LONGEST = 12


def same_place(achieved, desired):
    """(..., 3) x (..., 3) -> (...): the markers aside, the place x is reached."""
    return abs(achieved[..., 0] - desired[..., 0]) < 0.5


def walk_task(name="walk", **changes):
    """Walk on the line to x. What ends and what it pays is up to `changes`."""
    known = {"make": dict, "description": "walk to x", "obs_dim": 3, "action_dim": 2, "goal_dim": 3, "horizon": LONGEST}
    known |= {"goal_of": part(0, 3), "success": same_place, "family": "walk", "scene": "walk"}
    return Task(name=name, **{**known, **changes})


def walk(rng, number, length, goal_dim=3):
    """Episode `number`: a random walk of `length` steps whose goal changes at every step."""
    t = np.arange(length + 1)
    x = np.cumsum(rng.integers(-1, 2, length + 1))
    code = number * 16 + t[:-1]
    return Episode(
        observation=np.stack([x, np.full_like(t, number), t], 1).astype(np.float32),
        action=np.stack([code, -code], 1).astype(np.float32) / 2**20,
        desired=np.stack([rng.integers(-2, 3, length), np.full(length, -1 - number), t[:-1]], 1)[:, :goal_dim].astype(
            np.float32
        ),
        reward=(code + 0.5).astype(np.float32),
        terminated=bool(rng.random() < 0.5),
    )


class Kept:
    """What a store of `capacity` observations must hold: a list, whose oldest leave until the newest fits."""

    def __init__(self, capacity):
        self.capacity, self.episodes = capacity, []

    @property
    def used(self):
        return sum(len(e.observation) for e in self.episodes)

    @property
    def steps(self):
        """(episode, t) of every transition, oldest first."""
        return [(e, t) for e in self.episodes for t in range(len(e.action))]

    def add(self, episode):
        self.episodes.append(episode)
        while self.used > self.capacity:
            self.episodes.pop(0)


def fill(store, seed, count, first=0):
    """`count` random episodes into `store`; -> what it must hold."""
    rng, kept = np.random.default_rng(seed), Kept(store.capacity)
    for number in range(first, first + count):
        length = int(rng.integers(1, min(LONGEST, store.capacity - 1) + 1))
        episode = walk(rng, number, length, store.task.goal_dim)
        store.add(episode)
        kept.add(episode)
    return kept


def fits(counts, probabilities, z=4.5):
    """Chi-squared: do `counts` (K,) come from `probabilities` (K,)? Wrong about one true claim in 100,000."""
    counts, expected = np.asarray(counts, float), np.asarray(probabilities, float) * np.sum(counts)
    assert expected.min() > 20, "too few draws for a chi-squared test"
    freedom = len(expected) - 1
    if freedom == 0:
        return True
    # Wilson & Hilferty 1931: the cube root of chi-squared over its degrees of freedom is nearly normal.
    limit = freedom * (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3
    return ((counts - expected) ** 2 / expected).sum() < limit


def contents(store):
    """Every column of every transition, by number."""
    rows = store.rows(np.arange(store.size))
    slot = store.slot(rows.index)
    after = store.observation[(slot + 1) % store.capacity]
    columns = (store.action, store.desired, store.reward, store.terminated, store.died)
    return [rows.past, rows.left, store.observation[slot], after, *(c[slot] for c in columns)]


def expected(kept, task):
    """The same out of the list."""
    columns = [[] for _ in range(9)]
    for e, t in kept.steps:
        end = t == len(e.action) - 1 and e.terminated
        reached = end and bool(task.terminated(task.goal_of(e.observation[t + 1]), e.desired[t]))
        row = (t, len(e.action) - 1 - t, e.observation[t], e.observation[t + 1], e.action[t], e.desired[t], e.reward[t])
        for column, value in zip(columns, (*row, end, end and not reached), strict=True):
            column.append(value)
    return [np.asarray(column) for column in columns]


def same(left, right):
    for a, b in zip(left, right, strict=True):
        assert np.array_equal(a, b), (a, b)


@pytest.mark.parametrize("capacity", [2, 3, 5, 7, 13, 14, 20, 26, 40, 65])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("terminated", [same_place, never], ids=["ends", "clock"])
def test_equals_a_list_of_episodes_after_every_episode(capacity, seed, terminated):
    task = walk_task(terminated=terminated)
    store, kept, rng = EpisodeStore(task, capacity), Kept(capacity), np.random.default_rng(seed)
    seen = set()
    for number in range(100):
        episode = walk(rng, number, int(rng.integers(1, min(LONGEST, capacity - 1) + 1)))
        store.add(episode)
        kept.add(episode)
        assert len(store) == store.size == len(kept.steps)
        assert store.used == kept.used
        same(contents(store), expected(kept, task))
        slots = store.slot(np.arange(store.size))
        seen |= set(slots) | set((slots + 1) % capacity)
    assert seen == set(range(capacity)), "100 episodes go round every ring, and no slot is left out"


@pytest.mark.parametrize("length", [1, 4, 12])
@pytest.mark.parametrize("count", [1, 3])
def test_exactly_full(length, count):
    """The last slot is used, nothing leaves too early, and the next episode pushes out exactly one."""
    rng, task = np.random.default_rng(0), walk_task()
    store, kept = EpisodeStore(task, count * (length + 1)), Kept(count * (length + 1))
    for number in range(3 * count):
        episode = walk(rng, number, length)
        store.add(episode)
        kept.add(episode)
        same(contents(store), expected(kept, task))
        if number >= count - 1:
            assert store.used == store.capacity
            assert [e.observation[0, 1] for e in kept.episodes] == list(range(number - count + 1, number + 1))
            slots = store.slot(np.arange(store.size))
            assert set(slots) | set((slots + 1) % store.capacity) == set(range(store.capacity))
            index = store.sample(np.random.default_rng(number), 400).index
            assert set(index) == set(range(store.size))


@pytest.mark.parametrize("filled", [0, 5], ids=["empty", "filled"])
@pytest.mark.parametrize("length", [0, 8, 9, 100])
def test_an_episode_that_cannot_fit_is_refused_and_changes_nothing(length, filled):
    store = EpisodeStore(walk_task(), 8)
    fill(store, 0, filled)
    before = contents(store)
    with pytest.raises(InputError) as error:
        store.add(walk(np.random.default_rng(0), 99, length))
    assert str(error.value) == f"an episode of {length} steps does not fit a store of 8 observations"
    same(contents(store), before)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("reached", [True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_a_death_is_an_end_that_the_goal_in_force_does_not_explain(recorded, reached, ends):
    episode = walk(np.random.default_rng(0), 0, 4)
    episode.observation[:, 0], episode.desired[:, 0] = 0, 5
    episode.desired[-1, 0] = 0 if reached else 5
    store = EpisodeStore(walk_task(**({"terminated": same_place} if ends else {})), 10)
    store.add(episode._replace(terminated=recorded))
    slot = store.slot(np.arange(4))
    assert store.terminated[slot].tolist() == [False, False, False, recorded]
    assert store.died[slot].tolist() == [False, False, False, recorded and not (reached and ends)]


@pytest.mark.parametrize("seed", range(8))
def test_sampling_is_uniform_and_reaches_every_transition(seed):
    store = EpisodeStore(walk_task(), 30 + seed)
    fill(store, seed, 40)
    rows = store.sample(np.random.default_rng(seed), 1000 * store.size)
    assert fits(np.bincount(rows.index, minlength=store.size), np.full(store.size, 1 / store.size))
    assert rows.size == store.size
    for column in (rows.index, rows.past, rows.left):
        assert column.dtype == np.int64
        assert column.shape == (1000 * store.size,)
    past, left, *_ = contents(store)
    same((rows.past, rows.left), (past[rows.index], left[rows.index]))


def test_sampling_depends_on_the_generator_alone():
    store = EpisodeStore(walk_task(), 50)
    fill(store, 0, 30)
    one, two, other = (store.sample(np.random.default_rng(seed), 64).index for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize("episodes", [1, 2, 5])
def test_slots_hold_so_many_whole_episodes_and_not_one_more(episodes):
    task = walk_task()
    assert slots_for(episodes * task.horizon, task) == episodes * (task.horizon + 1)
    assert slots_for(episodes * task.horizon + 1, task) == episodes * (task.horizon + 1) + 2


@pytest.mark.parametrize("count", [0, 1, 3, 7, 50])
@pytest.mark.parametrize("used_before", [False, True])
def test_state_and_load_give_the_same_samples(count, used_before):
    """Also when the ring has wrapped, into a fresh store or one that held something else, and for what follows."""
    task, capacity = walk_task(terminated=same_place), 41
    store, again = EpisodeStore(task, capacity), EpisodeStore(task, capacity)
    kept = fill(store, 3, count)
    if used_before:
        fill(again, 4, 23, first=500)
    again.load(store.state())
    assert (again.size, again.used) == (store.size, store.used)
    same(contents(again), contents(store))
    if count:
        rows, rows_ = (s.sample(np.random.default_rng(5), 200) for s in (store, again))
        same((rows.index, rows.past, rows.left), (rows_.index, rows_.past, rows_.left))
    for number in range(1000, 1030):
        episode = walk(np.random.default_rng(number), number, number % LONGEST + 1)
        for holder in (store, again, kept):
            holder.add(episode)
        same(contents(store), expected(kept, task))
        same(contents(again), expected(kept, task))


def test_state_is_the_kept_episodes_oldest_first_and_a_copy():
    store = EpisodeStore(walk_task(), 41)
    kept = fill(store, 3, 50)
    assert store._tail < store.used, "the ring has wrapped inside the state"
    state = store.state()
    assert state["length"].dtype == np.int64
    assert state["terminated"].dtype == bool
    assert len(set(state["terminated"].tolist())) == 2
    before = {name: column.copy() for name, column in state.items()}
    fill(store, 7, 20, first=100)
    same(state.values(), before.values())
    back = list(episodes(state))
    assert len(back) == len(kept.episodes) > 2
    for episode, original in zip(back, kept.episodes, strict=True):
        same(episode, original)


def test_a_smaller_store_loads_the_newest():
    store, small = EpisodeStore(walk_task(), 60), EpisodeStore(walk_task(), 20)
    kept = fill(store, 3, 50)
    small.load(store.state())
    few = Kept(20)
    for episode in kept.episodes:
        few.add(episode)
    same(contents(small), expected(few, small.task))


def test_a_task_without_goal_keeps_its_rewards_and_ends():
    task = walk_task(goal_dim=0, goal_of=part(0, 0))
    store = EpisodeStore(task, 41)
    kept = fill(store, 0, 50)
    same(contents(store), expected(kept, task))
    assert store.desired.shape == (41, 0)
    slots = store.slot(np.arange(store.size))
    assert store.died[slots].tolist() == [e.terminated and t == len(e.action) - 1 for e, t in kept.steps]


@pytest.mark.parametrize("count", [3, 40])
def test_a_memory_of_one_store_says_what_that_store_says_beside_others(count):
    """What it spares itself changes nothing, not even what is drawn; 40 episodes go round the ring."""
    task, capacity = walk_task(), 45
    memories = Memory(task, capacity), Memory(task, capacity, 3)
    for memory in memories:
        fill(EpisodeStore(task, capacity, memory), 5, count)
    fill(EpisodeStore(task, capacity, memories[1], 1), 6, 9)
    zeros = np.zeros(500, np.int64)
    rngs = [np.random.default_rng(1) for _ in memories]
    drawn = [memory.draw(rng, zeros) for memory, rng in zip(memories, rngs, strict=True)]
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
    slots = [memory.slot(zeros, index) for memory, index in zip(memories, drawn, strict=True)]
    rows = [memory.rows(zeros, index) for memory, index in zip(memories, drawn, strict=True)]
    steps = rows[0].left + 1
    later = [memory.later(at, zeros, steps) for memory, at in zip(memories, slots, strict=True)]
    for a, b in (drawn, slots, later, *zip(*[(r.index, r.past, r.left) for r in rows], strict=True)):
        np.testing.assert_array_equal(a, b)
    assert len(np.unique(drawn[0])) == memories[0].size[0]
