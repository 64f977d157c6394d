"""NumPy's npz by our own rules: plain arrays of numbers, no pickled object, no more than the file can hold."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tasks.hdf5 import damage
from tasks.recorded import Budget, shown
from tasks.task import InputError

PIECE = 2**20
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Npz:
    """Arrays by name."""

    path: Path
    file: zipfile.ZipFile
    budget: Budget

    def has(self, name: str) -> bool:
        return f"{name}.npy" in self.file.NameToInfo

    def array(self, name: str) -> NDArray[Any]:
        """The array (N, ...) of this name. Raises InputError if there is none, or it breaks our rules."""
        where = f"{self.path}: {shown(name)}"
        if not self.has(name):
            raise InputError(f"{where} is missing: is it another format?")
        info = self.file.NameToInfo[f"{name}.npy"]
        if info.compress_type not in PLAIN or info.flag_bits & 1:
            raise InputError(f"{where} is packed in a way that is not read here: write it with numpy.savez_compressed")
        with damage(self.path, shown(name)), self.file.open(info) as stream:
            version = npy.read_magic(stream)
            if version not in HEADERS:
                raise ValueError(f"npy version {version}")
            shape, by_column, dtype = HEADERS[version](stream)
            if dtype.kind not in "fiub" or dtype.itemsize > 8:
                raise InputError(f"{where} does not hold plain numbers: objects are not read, they could run code")
            size = self.budget.take(where, shape, dtype.itemsize)
            if info.file_size - stream.tell() != size:
                raise InputError(f"{where} declares {shown(shape)} but holds no such data")
            raw = np.zeros(size, np.uint8)
            for at in range(0, size, PIECE):
                raw[at : at + PIECE] = np.frombuffer(stream.read(min(PIECE, size - at)), np.uint8)
        out = raw != 0 if dtype.kind == "b" else raw.view(dtype)
        return out.reshape(shape[::-1]).T if by_column else out.reshape(shape)


@contextmanager
def opened(path: Path) -> Iterator[Npz]:
    budget = Budget.of(path)
    with damage(path):
        file = zipfile.ZipFile(path)
    with file:
        yield Npz(path, file, budget)
