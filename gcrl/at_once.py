"""Calls made at once, or beside others, in threads: for what lets go of the interpreter's lock while it works."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar, cast

T = TypeVar("T")
Work = Callable[[], None]


class Crew:
    """Threads that wait for work. They are made when first needed and end with the process."""

    def __init__(self) -> None:
        self.size = 0
        self.work: SimpleQueue[Work] = SimpleQueue()
        self.growing = threading.Lock()

    def hire(self, size: int) -> None:
        """Be at least so many."""
        with self.growing:
            while self.size < size:
                self.size += 1
                threading.Thread(target=self._serve, args=(self.work,), name="gcrl lanes", daemon=True).start()

    @staticmethod
    def _serve(work: SimpleQueue[Work]) -> None:
        while True:
            work.get()()


LANES, BESIDE = Crew(), Crew()  # apart, so that what runs beside can have calls made at once
if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    for crew in (LANES, BESIDE):
        os.register_at_fork(after_in_child=crew.__init__)  # type: ignore[misc]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(calls: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """What each call returns. All are made, whoever of the threads is free taking the next; the caller is one of them.

    If some fail, the error of the first of these is raised when all have ended.
    """
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    todo = iter(enumerate(calls))  # its next() is one step of the interpreter, so no two threads get the same
    ended: SimpleQueue[None] = SimpleQueue()

    def take() -> None:
        for i, call in todo:
            try:
                results[i] = call()
            except BaseException as error:
                errors[i] = error
            ended.put(None)

    others = min(threads, len(calls)) - 1
    LANES.hire(others)
    for _ in range(others):
        LANES.work.put(take)
    take()
    for _ in calls:  # not for the others: one that comes late finds nothing to do
        ended.get()
    if errors:
        raise errors[min(errors)]
    return [results[i] for i in range(len(calls))]


def aside(call: Callable[[], T]) -> Callable[[], T]:
    """Begin the call in a thread of its own; what is answered waits for its end, and returns or raises what it did."""
    ended: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:
            ended.put((None, error))

    def wait() -> T:
        result, error = ended.get()
        if error is not None:
            raise error
        return cast(T, result)

    BESIDE.hire(1)
    BESIDE.work.put(work)
    return wait
