"""What every format is once it has been recognised: who it says it is, and its episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.recorded import Actions, Recorded


@dataclass(frozen=True)
class Source:
    format: str
    """Minari, OGBench, D4RL or a run of gcrl"""
    path: Path
    tasks: tuple[str, ...]
    """the tasks of ours that it says it is of; empty: it does not say"""
    environment: str
    """what it says it was made in, for people to read"""
    episodes: Callable[[str], Iterator[Recorded]]
    """those of one of its tasks, or all where it names none"""
    actions: Actions | None = None
    """what it says of its actions"""
