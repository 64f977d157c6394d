"""Batches drawn several in one call, which costs less than one by one, and handed out one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from relabel.batch import Batch
from relabel.goals import Strategy
from relabel.mix import Mixed
from relabel.replay import Replay
from relabel.score import Scores

MOST = 8
"""Batches in one call. None is more than seven updates old."""
ROWS = 2048
"""Rows in one call. From there on a row costs the same, whether it is drawn in one call or in another."""


class Prefetch:
    """A source whose `sample` draws up to MOST batches at once, so that an episode may come up to seven updates later.

    One by one as before: batches that the agent's values choose (cds, hipi), that are balanced one by one, or that
    are drawn under another strategy. All else is the source's. What waits is part of a checkpoint, so that a resumed
    run learns from the same rows.
    """

    def __init__(self, source: Replay | Mixed) -> None:
        self.source = source
        self.several = not any(replay.sharing.asks or replay.balance for replay in source.replays)
        self.ordered = isinstance(source, Mixed) or len(source.tasks) > 1
        """are rows in the order of their tasks, or old before new; else one is like the other"""
        self.waiting: dict[tuple[int, int], list[Batch]] = {}
        """batches by size and number of steps, the next one last"""
        self.tasks, self.gamma, self.n_step = source.tasks, source.gamma, source.n_step
        self.segments, self.starts, self.onward = source.segments, source.starts, source.onward

    @property
    def replays(self) -> tuple[Replay, ...]:
        """As in `Replay`."""
        return self.source.replays

    @property
    def flow(self) -> NDArray[np.int64]:
        """As in `Replay`; what waits is in it."""
        return self.source.flow

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, rng: np.random.Generator, size: int, n: int | None = None, scores: Scores | None = None) -> Batch:
        """As `Replay.sample`."""
        n = self.source.n_step if n is None else n
        many = min(MOST, ROWS // size) if self.several else 1
        if many < 2:
            return self.source.sample(rng, size, n, scores)
        waiting = self.waiting.setdefault((size, n), [])
        if not waiting:
            waiting += (dealt if self.ordered else cut)(self.source.sample(rng, size * many, n, scores), many)
        return waiting.pop()

    @contextmanager
    def under(self, relabel: Strategy) -> Iterator[None]:
        """As `Replay.under`."""
        several, self.several = self.several, False
        try:
            with self.source.under(relabel):
                yield
        finally:
            self.several = several

    def state(self) -> dict[str, NDArray[Any]]:
        """What waits: the columns of the batches (m, size, ...), for a checkpoint."""
        return {
            f"{size}.{n}.{name}": torch.stack([getattr(b, name) for b in batches]).cpu().numpy()
            for (size, n), batches in self.waiting.items()
            if batches
            for name in Batch._fields
        }

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what waits by what `state` returned."""
        self.waiting, device = {}, self.source.replays[0].device
        for key in {key.rpartition(".")[0] for key in state}:
            size, n = map(int, key.split("."))
            columns = [torch.from_numpy(state[f"{key}.{name}"]).to(device).unbind() for name in Batch._fields]
            self.waiting[size, n] = [Batch(*mine) for mine in zip(*columns, strict=True)]


def cut(rows: Batch, many: int) -> list[Batch]:
    """One large batch as `many`, each a run of its rows: views, of the strides that a small draw would have."""
    columns = [x.unflatten(0, (many, -1)).unbind() for x in rows]
    return [Batch(*mine) for mine in zip(*columns, strict=True)]


def dealt(rows: Batch, many: int) -> list[Batch]:
    """One large batch as `many`, dealt like cards: where rows are in the order of their tasks, each gets as many."""
    return cut(Batch(*(x.unflatten(0, (-1, many)).transpose(0, 1).flatten(0, 1) for x in rows)), many)


Source = Replay | Mixed | Prefetch
"""What an agent draws from."""
