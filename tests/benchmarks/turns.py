"""A process that waits for its turn: for each n on stdin the seconds of n updates, until 0."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any


def serve(make: Callable[[], Callable[[], Any]]) -> None:
    """Say that the update is ready, then what n of them took on the clock and of the core."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a package prints is no answer
    update = make()
    update()
    print("ready", file=answers, flush=True)
    while n := int(sys.stdin.readline() or 0):
        began = time.perf_counter(), time.process_time()
        for _ in range(n):
            update()
        print(time.perf_counter() - began[0], time.process_time() - began[1], file=answers, flush=True)
