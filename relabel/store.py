"""A ring of finished episodes that samples transitions in O(batch).

Every observation is stored once: an episode of T steps takes T + 1 consecutive slots of a ring, so the next observation
of slot s is slot s + 1. The transitions themselves are numbered without gaps, oldest 0, newest size - 1, and the steps
of one episode are neighbours: that numbering is all that a relabelling strategy ever sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.task import Episode, InputError, Task

Index = NDArray[np.int64]
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rows:
    """Transitions of one store, by number. All arrays are int64 (B,)."""

    index: Index
    """number of the transition, 0 <= index < size"""
    past: Index
    """steps of its episode before it"""
    left: Index
    """steps of its episode after it"""
    size: int | Index
    """transitions in the store, or in each row's store (B,)"""


def slots_for(transitions: int, task: Task) -> int:
    """The capacity that holds so many transitions of whole episodes: T + 1 observations for each T of them."""
    return transitions + -(-transitions // task.horizon)


class Memory:
    """Where several stores of one layout lie side by side, so that one gather serves rows of all of them.

    Store k owns the slots from k * capacity on; a slot here is counted over all stores.
    """

    def __init__(self, task: Task, capacity: int, stores: int = 1) -> None:
        self.capacity = capacity
        self.alone = stores == 1  # then its number is 0, and nothing needs to look it up
        ends = np.cumsum((task.obs_dim, task.action_dim, task.goal_dim, 1, 1)).tolist()
        self.columns = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        # One row a slot, so that a batch costs one gather; what has a name in a store is a view of it.
        self.table = np.zeros((stores * capacity, ends[-1]), np.float32)
        self.place = np.zeros((stores * capacity, 2), np.int64)  # steps of the episode before and after
        self.moved = np.zeros(stores * capacity, bool)
        """is the goal map elsewhere at the end of the episode than at its start"""
        self.slots = np.zeros(stores * capacity, np.int64)  # ring of transitions -> the store's ring of observations
        self.first, self.size = np.zeros((2, stores), np.int64)  # oldest transition, and how many there are
        self.longest = 0  # steps of the longest episode that was ever added

    def rows(self, store: Index, index: Index, slots: Index | None = None) -> Rows:
        """The transitions of these numbers (B,) in these stores (B,), and where in their episodes they lie.

        `slots` are `slot(store, index)`, for those who have them.
        """
        place = self.place.take(self.slot(store, index) if slots is None else slots, 0)
        return Rows(index, place[:, 0], place[:, 1], int(self.size[0]) if self.alone else self.size.take(store))

    def draw(self, rng: np.random.Generator, store: Index) -> Index:
        """A transition of each of these stores (B,)."""
        return rng.integers(0, self.size[0], len(store)) if self.alone else rng.integers(0, self.size.take(store))

    def slot(self, store: Index, index: Index) -> Index:
        """Where the observation of transition `index` of `store` lies."""
        if self.alone:
            return self.slots.take(self.first[0] + index, mode="wrap")
        base = store * self.capacity
        return base + self.slots.take(base + (self.first.take(store) + index) % self.capacity)

    def later(self, slots: Index, store: Index, steps: Index) -> Index:
        """The slots that lie so many steps after; each store is a ring. All arrays broadcast."""
        out = slots + steps
        if self.alone:
            return out % self.capacity
        out -= self.capacity * (out >= (store + 1) * self.capacity)
        return out

    def gather(self, slots: Index) -> Array:
        """All that lies in these slots (...): (..., width), for `split`."""
        return self.table.take(slots, 0)

    def split(self, rows: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Views (..., size) of gathered rows: observation, action, desired goal, recorded reward, died."""
        observation, action, desired, reward, died = (rows[..., column] for column in self.columns)
        return observation, action, desired, reward, died


class EpisodeStore:
    """Finished episodes of one task; the oldest make room for the newest.

    `capacity` counts observations (an episode of T steps needs T + 1). It is store k of a `memory` that it shares with
    others, or the only one of its own.
    """

    def __init__(self, task: Task, capacity: int, memory: Memory | None = None, k: int = 0) -> None:
        self.task, self.capacity, self._k = task, capacity, k
        self._memory = memory = Memory(task, capacity) if memory is None else memory
        mine = slice(k * capacity, (k + 1) * capacity)
        self._table, self._place, self._slot = memory.table[mine], memory.place[mine], memory.slots[mine]
        self._moved = memory.moved[mine]
        self.observation, self.action, self.desired, reward, died = memory.split(self._table)
        self.reward = reward[:, 0]
        self.died = died[:, 0]
        """1 where the MDP ended for a reason that no goal changes (a fall, say), else 0"""
        self.terminated = np.zeros(capacity, bool)
        """as recorded, under the goal in force"""
        self._tail = self.used = 0  # next free slot, slots in use

    @property
    def size(self) -> int:
        return int(self._memory.size[self._k])

    @property
    def _first(self) -> int:
        return int(self._memory.first[self._k])

    def __len__(self) -> int:
        """Transitions in the store."""
        return self.size

    def add(self, episode: Episode) -> None:
        """Append one finished episode. Raises InputError if it has no step or can never fit."""
        length = len(episode.action)
        if not 0 < length < self.capacity:
            raise InputError(f"an episode of {length} steps does not fit a store of {self.capacity} observations")
        while self.used + length + 1 > self.capacity:
            self._forget_oldest()
        slots = (self._tail + np.arange(length + 1)) % self.capacity
        steps = slots[:-1]
        self.observation[slots] = episode.observation
        self.action[steps] = episode.action
        self.desired[steps] = episode.desired
        self.reward[steps] = episode.reward
        self.terminated[steps] = False
        self.died[steps] = 0
        self.terminated[steps[-1]] = episode.terminated
        achieved, first = self.task.goal_of(episode.observation[-1]), self.task.goal_of(episode.observation[0])
        self.died[steps[-1]] = episode.terminated and not self.task.terminated(achieved, episode.desired[-1])
        self._moved[steps] = self.task.reward is None or not self.task.success(achieved, first)
        self._place[steps, 0] = np.arange(length)
        self._place[steps, 1] = np.arange(length)[::-1]
        self._slot[(self._first + self.size + np.arange(length)) % self.capacity] = steps
        self._tail = (self._tail + length + 1) % self.capacity
        self.used += length + 1
        self._memory.size[self._k] += length
        self._memory.longest = max(self._memory.longest, length)

    def sample(self, rng: np.random.Generator, n: int) -> Rows:
        """n transitions, uniform with replacement."""
        return self.rows(rng.integers(0, self.size, n))

    def rows(self, index: Index) -> Rows:
        """The transitions of these numbers, and where in their episodes they lie."""
        place = self._place.take(self.slot(index), 0)
        return Rows(index, place[:, 0], place[:, 1], self.size)

    def slot(self, index: Index) -> Index:
        """Where in the ring the observation of transition `index` lies; the next one lies at (slot + 1) % capacity."""
        return self._slot.take(self._first + index, mode="wrap")

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything stored, oldest first: what a checkpoint keeps. `length` and `terminated` are one per episode."""
        steps = self.slot(np.arange(self.size))
        past, left = self._place[steps].T
        ends = left == 0
        return {
            "observation": self.observation[(self._tail - self.used + np.arange(self.used)) % self.capacity],
            "action": self.action[steps],
            "desired": self.desired[steps],
            "reward": self.reward[steps],
            "length": past[ends] + 1,
            "terminated": self.terminated[steps][ends],
        }

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace the contents by what `state()` returned: the same transitions under the same numbers."""
        self._tail = self.used = 0
        self._memory.first[self._k] = self._memory.size[self._k] = 0
        for episode in episodes(state):
            self.add(episode)

    def _forget_oldest(self) -> None:
        length = int(self._place[self._slot[self._first], 1]) + 1
        self._memory.first[self._k] = (self._first + length) % self.capacity
        self._memory.size[self._k] -= length
        self.used -= length + 1


def episodes(state: Mapping[str, NDArray[Any]]) -> Iterator[Episode]:
    """The episodes in an `EpisodeStore.state()`, oldest first (views)."""
    slot = step = 0
    for length, terminated in zip(state["length"].tolist(), state["terminated"].tolist(), strict=True):
        steps = slice(step, step + length)
        observation = state["observation"][slot : slot + length + 1]
        yield Episode(observation, state["action"][steps], state["desired"][steps], state["reward"][steps], terminated)
        slot, step = slot + length + 1, step + length
