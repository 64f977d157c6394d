"""What a training run of ours has kept: the replay of its newest checkpoint, or of a given one, each file hashed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from tasks.recorded import LIMIT, Recorded, flags, recorded
from tasks.source import Source
from tasks.task import InputError

FIELDS = ("observation", "action", "desired", "reward", "length", "terminated")


def numbered(home: Path) -> list[str]:
    """The names of a folder that are numbers, none if it is not there. Raises InputError if nobody may list it."""
    try:
        return [name for name in os.listdir(home) if name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{home} cannot be read ({error.strerror}): make it readable") from None


def source(folder: Path) -> Source:
    """A run, or one of its checkpoints. Raises InputError if there is none that is whole."""
    found = [folder / "checkpoints" / name for name in numbered(folder / "checkpoints")]
    if not found and not (folder / "manifest.json").exists():
        raise InputError(f"{folder} has no checkpoint yet: its data are saved with the first one")
    home = max(found, key=lambda p: int(p.name)) if found else folder
    manifest = _object(home, "manifest.json", _bytes(home, "manifest.json"))
    if not any(name.startswith("replay.") for name in manifest):
        raise InputError(f"{folder} learned offline and keeps no data: give those that it was given with --data")
    tasks = _object(home, "state.json", _whole(home, "state.json", manifest)).get("task")
    if not isinstance(tasks, list) or not all(isinstance(name, str) for name in tasks):
        raise InputError(f"{home}: state.json does not say of which tasks it is: restore it from a copy")
    return Source("gcrl run", home, tuple(tasks), "", partial(_episodes, home, manifest, tuple(tasks)))


def _episodes(home: Path, manifest: Mapping[str, Any], tasks: tuple[str, ...], name: str) -> Iterator[Recorded]:
    """Oldest first."""
    kept = f"replay.{tasks.index(name)}.safetensors"
    data = _whole(home, kept, manifest)
    try:
        state = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise InputError(f"{home / kept} is not what gcrl writes: restore it from a copy") from None
    if set(state) != set(FIELDS) or state["length"].dtype.kind != "i" or state["length"].ndim != 1:
        raise InputError(f"{home / kept} was not written by this version of gcrl: train anew")
    lengths = state["length"].tolist()
    ends = flags(f"{home / kept}: terminated", state["terminated"], len(lengths))
    steps = sum(lengths)
    if min(lengths, default=1) < 1 or {len(state[x]) for x in FIELDS[1:4]} != {steps}:
        raise InputError(f"{home / kept} does not hold the {steps} steps that it speaks of: restore it from a copy")
    yield from _split(f"{home / kept}", state, lengths, ends.tolist())


def _split(where: str, state: Mapping[str, NDArray[Any]], lengths: list[int], ends: list[bool]) -> Iterator[Recorded]:
    slot = step = 0
    for number, (length, ended) in enumerate(zip(lengths, ends, strict=True)):
        part = slice(step, step + length)
        yield recorded(
            f"{where}, episode {number}",
            state["observation"][slot : slot + length + 1],
            state["action"][part],
            state["reward"][part],
            ended,
            state["desired"][part],
        )
        slot, step = slot + length + 1, step + length


def _whole(home: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    """A file that is what the manifest says."""
    data = _bytes(home, name)
    if hashlib.sha256(data).hexdigest() != manifest.get(name):
        older = f"{home.parent}/<step>"
        raise InputError(f"{home / name} does not match its sha256 in manifest.json: give an older one, {older}")
    return data


def _bytes(home: Path, name: str) -> bytes:
    path = home / name
    try:
        if not path.is_file() or path.stat().st_size > LIMIT:
            raise InputError(f"{path} is missing, or too large: restore it from a copy")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _object(home: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{home / name} is not a JSON object: restore it from a copy")
    return found
