"""What a run asks of the machine: threads, and memory that is kept."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gcrl import layers
from tasks.task import InputError

KEPT = 1 << 30
"""Bytes that the process holds on to when they are free."""
LARGE = 1 << 25
"""Bytes from which a block, a replay say, still comes from the kernel and goes back to it."""
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)


TOO_LARGE = "too large for the memory: give less with --replay, --hidden, --critics, --lanes or --batch"


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises InputError where there is no more of it inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch says it with a RuntimeError
        if not isinstance(error, MemoryError) and "allocate" not in str(error) and "out of memory" not in str(error):
            raise
        raise InputError(TOO_LARGE) from error


def device(name: str) -> torch.device:
    """auto, cpu or cuda. Raises InputError."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: choose from auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine or this build of torch has no CUDA; use --device auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def prepare(threads: int, precision: str = "float32", device: str = "cpu") -> None:
    """Before the first network is made: threads and precision of products, and no page faults for the same memory anew.

    Raises InputError where nothing here multiplies bfloat16 fast.

    glibc hands blocks of 128 KiB and more back to the kernel as soon as they are free, and each step of a gradient
    descent would have them cleared again, page by page: an eighth of an update's time. Elsewhere nothing is changed.
    """
    rounded = precision == "bfloat16"
    if rounded and device == "cpu" and not layers.can_round():
        raise InputError("--precision bfloat16: this machine has no fast products of it, take float32")
    layers.round_products(rounded)
    torch.set_num_threads(threads)
    gc.freeze()  # what is imported stays: to walk through it again and again costs as much as Adam does
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for name, value in ((MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, KEPT), (TOP_PAD, 1 << 26)):
            libc.mallopt(name, value)
