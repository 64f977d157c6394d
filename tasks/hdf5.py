"""HDF5 by our own rules: plain arrays that lie in this file, of a size that it can hold, and nothing else.

A data set is a stranger's file. Links are not followed, whatever lies in other files (external storage, virtual data
sets) is refused, types are plain numbers, and what is compressed is unpacked here, never to more than was declared.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from tasks.recorded import FLOOR, Budget, shown
from tasks.task import InputError

PACKED = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
"""How chunks may be packed: gzip, and the shuffle of bytes that goes before it."""


ODD = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, EOFError, zlib.error, zipfile.BadZipFile)
"""What the libraries below raise for a file that is not what it should be."""


@contextmanager
def damage(path: Path, what: str = "it") -> Iterator[None]:
    """Whatever the library finds wrong in a file, as one line."""
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or 'permission denied'}; give yourself access"
        ) from None
    except (*ODD, SyntaxError, TokenError) as error:  # NumPy reads a header as Python's
        said = " ".join(str(error).split())[:150]
        raise InputError(
            f"{path}: {what} cannot be read ({said}): the file is damaged or cut off, get it again"
        ) from None


@dataclass(frozen=True)
class Group:
    """Names, and what they stand for."""

    path: Path
    id: Any
    budget: Budget
    name: str = ""

    def names(self) -> list[str]:
        with damage(self.path):
            return [name.decode("utf-8", "replace") for name in self.id]

    def has(self, name: str) -> bool:
        with damage(self.path):
            return bool(self.id.links.exists(name.encode()))

    def is_group(self, name: str) -> bool:
        return isinstance(self._member(name), h5py.h5g.GroupID)

    def group(self, name: str) -> Group:
        """The group of this name. Raises InputError if it is none."""
        member = self._member(name)
        if not isinstance(member, h5py.h5g.GroupID):
            raise InputError(f"{self._where(name)} is not a group: is it another format?")
        return Group(self.path, member, self.budget, f"{self.name}{name}/")

    def array(self, name: str) -> NDArray[Any]:
        """The array of this name, (N, ...) numbers or bools. Raises InputError if it is none, or breaks our rules."""
        data, where = self._member(name), self._where(name)
        if not isinstance(data, h5py.h5d.DatasetID):
            raise InputError(f"{where} is not an array: is it another format?")
        with damage(self.path, shown(self.name + name)):
            plan = data.get_create_plist()
            layout = plan.get_layout()
            if layout == h5py.h5d.VIRTUAL or plan.get_external_count():
                raise InputError(f"{where} lies in another file: give a file that holds its own data")
            kind = data.get_type()
            if not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID | h5py.h5t.TypeEnumID):
                raise InputError(f"{where} does not hold plain numbers: is it another format?")
            dtype = kind.dtype
            if dtype.kind not in "fiub" or dtype.itemsize > 8 or dtype.itemsize != kind.get_size():
                raise InputError(f"{where} holds numbers of a kind that is not read here: convert them to float32")
            if data.get_space().get_simple_extent_type() != h5py.h5s.SIMPLE:
                raise InputError(f"{where} is not an array of rows")
            shape = tuple(map(int, data.shape))
            self.budget.take(where, shape, dtype.itemsize)
            if layout == h5py.h5d.CHUNKED:
                out = self._chunks(data, plan, shape, dtype, where)
            else:
                out = np.zeros(shape, dtype)
                if data.get_storage_size() != out.nbytes:
                    raise InputError(f"{where} declares {shown(shape)} but holds no such data")
                if out.size:
                    data.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
            return out.view(np.uint8) != 0 if dtype.kind == "b" else out

    def _chunks(self, data: Any, plan: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
        """All chunks unpacked, each to what a chunk has to hold and no further."""
        filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
        if {code for code, *_ in filters} - PACKED:
            raise InputError(f"{where} is packed in a way that is not read here: write it again with gzip or unpacked")
        chunk = tuple(map(int, plan.get_chunk()))
        size, out = math.prod(chunk) * dtype.itemsize, np.zeros(shape, dtype)
        if size > max(out.nbytes, FLOOR):
            raise InputError(f"{where} declares a chunk of {size} bytes, more than all of its data")
        if not out.size:
            return out
        found: list[Any] = []
        if data.get_num_chunks() == (wanted := math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))):
            data.chunk_iter(found.append)
        places = {place for info in found for place in [info.chunk_offset] if _in_grid(place, shape, chunk)}
        if len(places) != wanted:
            raise InputError(f"{where} declares {shown(shape)} but does not hold all of it")
        for info in found:
            if info.size > self.budget.size:
                raise InputError(f"{where} has a chunk larger than the file: it is damaged, get it again")
            mask, packed = data.read_direct_chunk(info.chunk_offset)
            for code, _, numbers, _ in [f for i, f in enumerate(filters) if not mask >> i & 1][::-1]:
                packed = _inflated(packed, size) if code == h5py.h5z.FILTER_DEFLATE else _ordered(packed, *numbers)
            block = np.frombuffer(packed, dtype).reshape(chunk)
            place = tuple(slice(at, min(at + c, n)) for at, c, n in zip(info.chunk_offset, chunk, shape, strict=True))
            out[place] = block[tuple(slice(s.stop - s.start) for s in place)]
        return out

    def _member(self, name: str) -> Any:
        """What is linked under this name, in this file."""
        where = self._where(name)
        if not self.has(name):
            raise InputError(f"{where} is missing: is it another format?")
        with damage(self.path, shown(self.name + name)):
            if self.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                raise InputError(f"{where} is a link to another place: give a file that holds its own data")
            return h5py.h5o.open(self.id, name.encode())

    def _where(self, name: str) -> str:
        return f"{self.path}: {shown(self.name + name)}"


def _in_grid(place: tuple[int, ...], shape: tuple[int, ...], chunk: tuple[int, ...]) -> bool:
    return all(at < n and at % c == 0 for at, n, c in zip(place, shape, chunk, strict=True))


def _inflated(packed: bytes, size: int) -> bytes:
    """What gzip packed, of `size` bytes: what is longer is not unpacked to its end."""
    stream = zlib.decompressobj()
    data = stream.decompress(packed, size)
    if len(data) != size or (not stream.eof and stream.decompress(stream.unconsumed_tail, 1)):
        raise ValueError(f"a chunk does not unpack to {size} bytes")
    return data


def _ordered(shuffled: bytes, width: int) -> bytes:
    """The bytes of numbers of this width, which were sorted by their place in them."""
    return np.frombuffer(shuffled, np.uint8).reshape(width, -1).T.tobytes()


@contextmanager
def opened(path: Path) -> Iterator[Group]:
    """The root of a file. No driver that would open others, and no lock: others may read it too."""
    budget = Budget.of(path)
    with damage(path):
        file = h5py.File(path, "r", driver="sec2", locking=False)
    try:
        with damage(path):
            root = h5py.h5g.open(file.id, b"/")
        yield Group(path, root, budget)
    finally:
        with damage(path):
            file.close()


class Sink:
    """A file for HDF5, which crashes where a write fails; so here none does, and `failed` says what went wrong."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at = file, 0
        self.failed: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + (os.fstat(self.file.fileno()).st_size if whence == os.SEEK_END else 0)
        return self.at

    def tell(self) -> int:  # h5py looks whether there is one
        return self.at

    def readinto(self, buffer: memoryview) -> int:
        found = os.pread(self.file.fileno(), len(buffer), self.at)
        buffer[: len(found)] = found
        return len(found)

    read = readinto
    """h5py asks whether there is one, and calls `readinto`"""

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while len(rest) and self.failed is None:
                done = os.pwrite(self.file.fileno(), rest, self.at)
                rest, self.at = rest[done:], self.at + done
        except OSError as error:
            self.failed = error
        return len(data)

    def truncate(self, size: int) -> int:
        try:
            os.ftruncate(self.file.fileno(), size)
        except OSError as error:
            self.failed = self.failed or error
        return size

    def flush(self) -> None:
        pass


@contextmanager
def created(path: Path) -> Iterator[tuple[h5py.File, Sink]]:
    """A new file, and what tells whether it still grows. Raises OSError at the end if it did not."""
    with path.open("x+b", buffering=0) as file:
        sink = Sink(file)
        with h5py.File(sink, "w", track_order=True) as store:
            yield store, sink
    if sink.failed is not None:
        raise sink.failed
