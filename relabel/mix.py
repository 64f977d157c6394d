"""Old data and new in one batch, half and half (RLPD, Ball et al. 2023, arXiv 2302.02948)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from relabel.batch import Batch, State
from relabel.goals import Strategy
from relabel.replay import Replay
from relabel.score import Scores
from relabel.segment import Segment
from relabel.subgoal import Onward

B = TypeVar("B", Batch, Segment, State, Onward)


class Mixed:
    """Two replays as one: `share` of the rows of a batch come from `old`, or all while nothing else is there."""

    def __init__(self, old: Replay, new: Replay, share: float) -> None:
        self.old, self.new, self.share = old, new, share
        self.tasks, self.gamma, self.n_step = new.tasks, new.gamma, new.n_step

    def __len__(self) -> int:
        return len(self.old) + len(self.new)

    @property
    def replays(self) -> tuple[Replay, ...]:
        """As in `Replay`."""
        return self.old, self.new

    @property
    def flow(self) -> NDArray[np.int64]:
        """As in `Replay`."""
        return self.old.flow + self.new.flow

    def sample(self, rng: np.random.Generator, size: int, n: int | None = None, scores: Scores | None = None) -> Batch:
        """As `Replay.sample`, the old rows first."""
        few = self.of_old(size)
        parts = [r.sample(rng, m, n, scores) for r, m in ((self.old, few), (self.new, size - few)) if m]
        return joined(parts)

    def segments(self, rng: np.random.Generator, size: int, length: int, ahead: float | None = None) -> Segment:
        """As `Replay.segments`, the old ones first."""
        few = self.of_old(size)
        return joined([r.segments(rng, m, length, ahead) for r, m in ((self.old, few), (self.new, size - few)) if m])

    def starts(self, rng: np.random.Generator, size: int) -> State:
        """As `Replay.starts`, the old ones first."""
        few = self.of_old(size)
        return joined([r.starts(rng, m) for r, m in ((self.old, few), (self.new, size - few)) if m])

    def onward(self, rng: np.random.Generator, size: int, k: int) -> Onward:
        """As `Replay.onward`, the old ones first."""
        few = self.of_old(size)
        return joined([r.onward(rng, m, k) for r, m in ((self.old, few), (self.new, size - few)) if m])

    @contextmanager
    def under(self, relabel: Strategy) -> Iterator[None]:
        """As `Replay.under`."""
        with self.old.under(relabel), self.new.under(relabel):
            yield

    def of_old(self, size: int) -> int:
        """How many of so many rows are old."""
        if not len(self.new) or not len(self.old):
            return size if len(self.old) else 0
        return round(self.share * size)


def joined(parts: list[B]) -> B:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns: Any = [torch.cat(column) for column in zip(*parts, strict=True)]
    kind: Any = type(parts[0])
    return kind(*columns)
