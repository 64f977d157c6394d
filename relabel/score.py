"""Sharing steered by values: which task a transition serves best, and which transitions a task should accept.

Three rules on plain arrays. Where the values come from is the agent's affair: its `draw` hands two functions to
`Replay.sample` (`Scores`), so nothing here knows a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relabel.batch import Batch
from relabel.store import Index

Floats = NDArray[np.floating]


class Scores(NamedTuple):
    """How an agent values transitions under the task and goal that they are labelled with."""

    q: Callable[[Batch], Tensor]
    """Q(s, a, z): (B,)"""
    ahead: Callable[[Batch], Tensor]
    """r_z(s, a) + discount V(s', z) - log pi(a | s, z): (B,), the last term where the agent has a density"""


def hipi(rng: np.random.Generator, table: Floats, temperature: float = 1.0) -> Index:
    """A task for each row: q(z | s, a) = exp(x_z - log Z_z) / sum_z' exp(x_z' - log Z_z'), x = table / temperature.

    table (B, K): r_z(s, a) + gamma V(s', z) - log pi(a | s, z), -inf where a task cannot have the row. log Z_z is that
    of the sum of exp(x_z) over the batch, per task, so that a task of large rewards does not take everything (HIPI,
    Eysenbach et al. 2020, arXiv 2002.11089, eq. 6 and algorithm 1). A deterministic policy has no density: its table
    is without the last term. Returns tasks (B,).
    """
    x = table / temperature
    log_z = logsumexp(x, 0)
    x = x - np.where(np.isfinite(log_z), log_z, 0.0)  # a task that can have no row of these has none
    return np.asarray((x + rng.gumbel(size=x.shape)).argmax(1))  # a draw from exp(x) / sum exp(x) (Gumbel 1954)


def hindsight(rng: np.random.Generator, table: Floats, percent: float = 90.0) -> Index:
    """A task for each row, any of those whose score is at or above this percentile of the row's scores.

    table (B, K): where the return of the row's episode under task k lies among those of recent episodes, -inf where a
    task cannot have the row (generalized hindsight, Li et al. 2020, arXiv 2002.11708). Returns tasks (B,).
    """
    possible = (table > -np.inf).sum(1)
    place = table.shape[1] - possible + np.ceil(percent / 100 * (possible - 1)).astype(np.int64)
    least = np.take_along_axis(np.sort(table, 1), place[:, None], 1)
    return np.asarray(np.where(table >= least, rng.random(table.shape), -1.0).argmax(1))


def cds(q: Floats, shared: NDArray[np.bool_], threshold: Floats) -> NDArray[np.bool_]:
    """Which rows to accept (B,): all of a task's own, and shared ones with Q_i(s, a) >= the task's threshold (B,).

    The threshold is the percentile of Q_i on task i's own data (CDS, Yu et al. 2021, arXiv 2109.08128, eq. 6).
    """
    return ~shared | (q >= threshold)


def soft_cds(
    rng: np.random.Generator, q: Floats, shared: NDArray[np.bool_], threshold: Floats, temperature: Floats
) -> NDArray[np.bool_]:
    """CDS's soft form: a shared row is accepted with probability sigmoid((Q_i - threshold) / temperature): bool (B,).

    All arrays (B,). The paper's temperature is a running average of the margins; ours is given.
    """
    delta = (q - threshold) / np.maximum(temperature, 1e-6)
    return ~shared | (rng.random(len(q)) < 0.5 * (1 + np.tanh(delta / 2)))


def logsumexp(x: Floats, axis: int) -> Floats:
    """log sum exp x over an axis; -inf where all of it is, or there is nothing."""
    top = x.max(axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis))
