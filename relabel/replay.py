"""Batches out of stores: sample, share between tasks, relabel, and score again. Long: one class holds all ways out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from relabel import score as rules
from relabel import segment, share, subgoal
from relabel.batch import Batch, State
from relabel.goals import Strategy
from relabel.judge import Judge
from relabel.merit import Merits
from relabel.mirror import Mirrors
from relabel.rows import Picks, Rows, joined, summed
from relabel.score import Scores
from relabel.segment import Segment
from relabel.share import Pairs, Pool, Sharing
from relabel.store import EpisodeStore, Index, Memory
from relabel.subgoal import Onward
from tasks.task import Episode, InputError, Task

Array = NDArray[np.float32]
Bools = NDArray[np.bool_]
BLOCKS = 4
"""How often a batch is drawn at most, where rows are chosen among candidates."""
OWN = 32
"""Rows of its own data on which a task's percentile is taken."""
KEPT = 0.5
"""Share of its rows that hindsight leaves to their own tasks: an episode is kept once as it is, once as it is best."""


class Replay:
    """The stores of all tasks, and how transitions leave them.

    `relabel` chooses the goals, `sharing` whose data a task learns from; `gamma` is the discount of one step, `n_step`
    how many steps a transition spans; `balance` the share of a task's rows that shall show reward (0: as it comes);
    `scale` multiplies each task's reward; `reflect` is the share of the rows that are seen in their task's mirror.
    `moved` of the rows are drawn up to five times, until they come from an episode that moved what its goals are about.
    With `end_at_goal` a step that arrives at the goal ends what is learned from, though not the episode.
    With `everyone` a task without data learns from what others share (own, groups, cds, hindsight and hipi excepted).
    `capacity` counts the observations of each store. Tasks share the layout of observation, action and goal
    (`tasks.layout.together`).
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        capacity: int,
        relabel: Strategy,
        gamma: float,
        n_step: int = 1,
        device: torch.device | str = "cpu",
        sharing: Sharing = Sharing(),  # noqa: B008 - immutable
        balance: float = 0.0,
        scale: Sequence[float] = (),
        reflect: float = 0.0,
        moved: float = 0.0,
        everyone: bool = False,
        end_at_goal: bool = False,
    ) -> None:
        if len({(t.obs_dim, t.action_dim, t.goal_dim) for t in tasks}) != 1:
            raise InputError("tasks of one replay must share the sizes of observation, action and goal")
        self.tasks, self.relabel, self.gamma, self.n_step = list(tasks), relabel, gamma, n_step
        self.device, self.balance, self.sharing = torch.device(device), balance, sharing
        self.scale = np.asarray(scale or [1.0] * len(tasks), np.float32)
        self.scaled = bool((self.scale != 1).any())
        self.memory = Memory(tasks[0], capacity, len(tasks))
        self.stores = [EpisodeStore(task, capacity, self.memory, k) for k, task in enumerate(tasks)]
        self.pool = Pool.of(tasks, self.memory.size, everyone)
        self.low = np.array([task.reward_range[0] for task in tasks], np.float32)
        self.judge, self.stay = Judge(tasks, end_at_goal), np.ones(len(tasks))
        """(K,) with `end_at_goal`: how many of the steps that begin at the goal go on; it may be written to"""
        self.flow = np.zeros((2, len(tasks), len(tasks)), np.int64)
        """rows that were drawn, and of these the ones that show reward: (receiver, source)"""
        self.merits = Merits(self.tasks, self.memory) if sharing.name == "hindsight" and len(tasks) > 1 else None
        self.mirrors, self.reflect, self.moved = Mirrors(self.tasks), reflect, moved
        share.check(tasks, sharing, self.pool, balance)

    def __len__(self) -> int:
        """Transitions over all tasks."""
        return int(self.memory.size.sum())

    @property
    def replays(self) -> tuple[Replay, ...]:
        """Of what there are several in `relabel.mix.Mixed`: this one."""
        return (self,)

    def add(self, k: int, episode: Episode) -> None:
        """Take in a finished episode of task k."""
        self.stores[k].add(episode)
        if self.merits is not None:
            first = len(self.stores[k]) - len(episode.action)
            slot = int(self.memory.slot(np.array([k]), np.array([first]))[0])
            self.merits.add(k, slot, episode, self.stores)

    def state(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Everything that a checkpoint keeps, in groups."""
        out = {f"replay.{k}": store.state() for k, store in enumerate(self.stores)}
        if len(self.tasks) > 1:
            out["sharing"] = {"flow": self.flow} | (self.merits.state() if self.merits is not None else {})
        return out

    def load(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Replace the contents by what `state` returned."""
        for k, store in enumerate(self.stores):
            store.load(state[f"replay.{k}"])
        if len(self.tasks) > 1:
            self.flow[:] = state["sharing"]["flow"]
        if self.merits is not None:
            self.merits.load(state["sharing"])

    def sample(self, rng: np.random.Generator, size: int, n: int | None = None, scores: Scores | None = None) -> Batch:
        """`size` transitions of n (none: n_step) steps, shared and relabelled.

        Every task that has data gets an equal share of the rows, except where the rows choose their task (random,
        hindsight, hipi). `scores` is asked by cds and hipi.
        """
        n = self.n_step if n is None else n
        if not len(self):
            raise InputError("the replay is empty: no episode has finished yet")
        rows = self._block(rng, size, n, scores)
        if self.balance:
            more = [self._block(rng, size, n, scores) for _ in range(BLOCKS - 1)]
            quota = np.bincount(rows.receiver, minlength=len(self.tasks))
            rows = joined([rows, *more])
            wanted = (self.balance * quota + rng.random(len(quota))).astype(np.int64)  # rounded at random
            rows = rows.take(share.balanced(rows.receiver, rows.hit, quota, wanted))
        self.count(rows.receiver, rows.source, rows.hit)
        if self.reflect and self.mirrors.any:
            rows = self.mirrors(rows, rng.random(len(rows.source)) < self.reflect)
        return self._batch(rows)

    @contextmanager
    def under(self, relabel: Strategy) -> Iterator[None]:
        """Inside, another strategy chooses the goals: values and actor may learn from different mixtures."""
        usual, self.relabel = self.relabel, relabel
        try:
            yield
        finally:
            self.relabel = usual

    def segments(self, rng: np.random.Generator, size: int, length: int, ahead: float | None = None) -> Segment:
        """`size` windows of `length` steps in a row; with `ahead` also the return to the episode's end, so discounted.

        Raises InputError where the sharing strategy chooses single transitions.
        """
        return segment.draw(self, rng, size, length, ahead)

    def starts(self, rng: np.random.Generator, size: int) -> State:
        """Where `size` episodes begin, each under a goal that one of its transitions is given."""
        return segment.starts(self, rng, size)

    def onward(self, rng: np.random.Generator, size: int, k: int) -> Onward:
        """`size` transitions, what lies k steps ahead on the way to their goals, and how far these are.

        Raises InputError where the sharing strategy chooses single transitions.
        """
        return subgoal.draw(self, rng, size, k)

    def _block(self, rng: np.random.Generator, size: int, n: int, scores: Scores | None) -> Rows:
        name = self.sharing.name
        if len(self.tasks) == 1:
            zeros = np.zeros(size, np.int64)
            return self._draw(rng, (zeros, zeros), n)
        if name in ("hipi", "hindsight"):
            return self._assigned(rng, size, n, scores)
        if name in ("cds", "cds-soft"):
            return self._admitted(rng, size, n, scores)
        return self._draw(rng, share.of(name)(rng, size, self.pool), n)

    def _draw(self, rng: np.random.Generator, pairs: Pairs, n: int) -> Rows:
        receiver, source = self.judge.sorted(*pairs)
        return self._label(rng, self.pick(rng, source, n), receiver)

    def _assigned(self, rng: np.random.Generator, size: int, n: int, scores: Scores | None) -> Rows:
        """Rows of all tasks alike; the task of each by how good its row is for every task of its scene."""
        picks = self.pick(rng, share.anything(rng, size, self.pool), n)
        possible = self.pool.may(self.pool.scene).T[picks.source] & (self.pool.size > 0)
        if self.sharing.name == "hindsight":
            assert self.merits is not None
            table = self.merits.table(picks.start)
            table = np.where(possible & ~np.isnan(table), table, -np.inf)
            best = rules.hindsight(rng, table, self.sharing.number)
            return self._label(rng, picks, np.where(rng.random(size) < KEPT, picks.source, best))
        row, receiver = np.nonzero(possible)
        rows = self._label(rng, picks.take(row), receiver)
        table, place = np.full(possible.shape, -np.inf), np.zeros(possible.shape, np.int64)
        table[possible] = self._asked(scores).ahead(self._batch(rows)).double().cpu().numpy()
        place[possible] = np.arange(len(row))
        return rows.take(place[np.arange(size), rules.hipi(rng, table, self.sharing.number)])

    def _admitted(self, rng: np.random.Generator, size: int, n: int, scores: Scores | None) -> Rows:
        """As uniform, without the shared rows that the receiving task values less than most of its own."""
        scores = self._asked(scores)
        threshold, spread = self._threshold(rng, n, scores)
        parts: list[Rows] = []
        missing = np.zeros(0, np.int64)
        for _ in range(BLOCKS):
            rows = self._draw(rng, share.uniform(rng, size, self.pool), n)
            k, q = rows.receiver, scores.q(self._batch(rows)).double().cpu().numpy()
            if not parts:
                missing = np.bincount(k, minlength=len(self.tasks))
            if self.sharing.name == "cds":
                keep = rules.cds(q, k != rows.source, threshold[k])
            else:
                keep = rules.soft_cds(rng, q, k != rows.source, threshold[k], spread[k])
            rank = np.full(len(k), size + 1)  # a row is the how-manieth of its task's kept ones
            for task in np.flatnonzero(missing):
                rank[k == task] = np.cumsum(keep[k == task])
            kept = rows.take(np.flatnonzero(keep & (rank <= missing[k])))
            parts.append(kept)
            missing = missing - np.bincount(kept.receiver, minlength=len(self.tasks))
            if not missing.any():
                break
        else:  # a task's own data fill what is left
            rest = np.repeat(np.arange(len(missing)), missing)
            parts.append(self._draw(rng, (rest, rest), n))
        return joined(parts)

    def _threshold(self, rng: np.random.Generator, n: int, scores: Scores) -> tuple[NDArray[np.float64], ...]:
        """Per task (K,): the percentile of Q on its own data, and how far Q spreads there."""
        threshold = np.full(len(self.tasks), -np.inf)
        if self.sharing.name == "cds" and self.sharing.number in (0.0, 100.0):  # everything, or nothing
            return np.where(self.sharing.number, np.inf, threshold), threshold
        filled = np.flatnonzero(self.pool.size)
        k = np.repeat(filled, OWN)
        rows = self._draw(rng, (k, k), n)
        q = scores.q(self._batch(rows)).double().cpu().numpy()
        q = q[np.argsort(rows.receiver, kind="stable")].reshape(-1, OWN)
        # by i / (n + 1): so that of rows like these that share is above, whatever n (Weibull 1939)
        threshold[filled] = np.percentile(q, self.sharing.number, axis=1, method="weibull")
        spread = np.ones(len(self.tasks))
        spread[filled] = q.std(1)
        return threshold, spread

    def _asked(self, scores: Scores | None) -> Scores:
        if scores is None:
            raise InputError(f"--share {self.sharing.name} needs an agent that values transitions")
        return scores

    def pick(self, rng: np.random.Generator, source: Index, n: int) -> Picks:
        """A transition of each source (B,), and the moment that becomes its goal."""
        memory = self.memory
        index = memory.draw(rng, source)
        at = memory.slot(source, index)
        if self.moved:
            again = rng.random(len(at)) < self.moved
            for _ in range(BLOCKS):
                again &= ~memory.moved.take(at)
                index[again] = memory.draw(rng, source[again])
                at = memory.slot(source, index)
        rows = memory.rows(source, index, at)
        chosen = self.relabel(rng, rows)
        wanted = chosen < 0  # ~j: the goal desired in transition j
        window = np.minimum(np.arange(n + 1), rows.left[:, None] + 1) if n > 1 else np.arange(2)
        goal = memory.slot(source, np.maximum(chosen, ~chosen))
        slots, goal = memory.later(at[:, None], source[:, None], window), memory.later(goal, source, 1 - wanted)
        start = memory.slot(source, rows.index - rows.past) if self.merits is not None else at
        return Picks(source, start, rows.left, slots, goal, wanted)

    def _label(self, rng: np.random.Generator, picks: Picks, receiver: Index) -> Rows:
        """The rows as task `receiver` (B,) sees them: its goal map, a goal of its own, its reward and end."""
        size, n = picks.slots.shape[0], picks.slots.shape[1] - 1
        obs, action, goal, reward, terminated = self.judged(rng, picks, receiver)
        total, discount, length = summed(reward, terminated, picks.left, self.gamma)
        shows = reward > self.low.take(receiver)[:, None]
        hit = shows[:, 0] if n == 1 else np.any(shows & (np.arange(n) < length[:, None]), axis=1)
        next_obs = obs[:, 1] if n == 1 else obs[np.arange(size), length]
        if self.scaled:
            total = total * self.scale.take(receiver)
        return Rows((obs[:, 0], action[:, 0], total, discount, next_obs, goal, receiver), picks.source, hit)

    def judged(
        self, rng: np.random.Generator, picks: Picks, receiver: Index
    ) -> tuple[Array, Array, Array, Array, Bools]:
        """Observation (B, n + 2, O), action (B, n + 2, A), goal (B, G), reward and end (B, n) for these tasks (B,)."""
        n = picks.slots.shape[1] - 1
        memory, goal_slot = self.memory, picks.goal
        if len(self.tasks) > 1:
            foreign = picks.wanted & (receiver != picks.source)
            alone = foreign & (self.pool.size.take(receiver) == 0)  # it has desired nothing yet: what was achieved
            picks, foreign = picks._replace(wanted=picks.wanted & ~alone), foreign & ~alone
            k = receiver[foreign]  # what another task desired is no goal of this one: one of its own
            goal_slot = memory.later(goal_slot, picks.source, alone.astype(np.int64))  # achieved at a step's end
            goal_slot[foreign] = memory.slot(k, memory.draw(rng, k))
        slots = np.concatenate((picks.slots, goal_slot[:, None]), 1)
        obs, action, desired, recorded, ends = memory.split(memory.gather(slots))  # (B, n + 2, ...)
        died = ends[:, :n, 0] > 0
        stays = rng.random(len(obs)) < self.stay.take(receiver) if self.judge.end_at_goal else None
        rows = receiver, obs, picks.wanted, desired[:, -1], recorded[:, :n, 0], died
        goal, reward, terminated = self.judge(*rows, stays)
        if self.sharing.name == "uds":  # shared rows are not scored, they get the least there is
            shared = receiver != picks.source
            reward = np.where(shared[:, None], self.low.take(receiver)[:, None], reward)
            terminated = np.where(shared[:, None], died, terminated)
        return obs, action, goal, reward, terminated

    def _batch(self, rows: Rows) -> Batch:
        columns = map(torch.from_numpy, rows.columns)
        return Batch(*(columns if self.device.type == "cpu" else (x.to(self.device) for x in columns)))

    def count(self, receiver: Index, source: Index, hit: Bools) -> None:
        """Take rows (B,) into `flow`."""
        k = len(self.tasks)
        if k > 1:
            pair = receiver * k + source
            self.flow[0] += np.bincount(pair, minlength=k * k).reshape(k, k)
            self.flow[1] += np.bincount(pair[hit], minlength=k * k).reshape(k, k)
