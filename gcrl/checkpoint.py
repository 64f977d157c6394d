"""Checkpoints that a crash cannot spoil: safetensors and JSON, hashed, synced, and put in place by one rename.

Each is a new folder `checkpoints/<step>` whose manifest holds the sha256 of every other file. Nothing is unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gcrl.run import sync
from tasks.runs import numbered
from tasks.task import InputError

KEEP = 2  # the newest, and one to fall back on


class Unreadable(InputError):
    """A checkpoint that may well be whole, and must not be taken for a damaged one."""


@dataclass(frozen=True)
class Checkpoint:
    """What one folder holds."""

    step: int
    """environment steps taken when it was written"""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """file -> name -> tensor"""
    state: Mapping[str, Any]
    """counters and generator states: JSON"""


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint below `run` and drop the oldest beyond KEEP. All or nothing, whatever happens meanwhile."""
    home = run / "checkpoints"
    if not home.exists():
        home.mkdir()
        sync(run)
    final, draft = home / f"{checkpoint.step:012d}", home / f".{checkpoint.step:012d}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _fill(draft, checkpoint)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # above all where the disk is full
        raise
    sync(home)
    for old in (*folders(run)[KEEP:], *home.glob(".*")):
        shutil.rmtree(old, ignore_errors=True)  # what cannot go now goes next time
    return final


def cut(run: Path, step: int) -> None:
    """Forget the checkpoints after `step`. They are damaged: a run goes on from the newest that is not."""
    for folder in folders(run):
        if int(folder.name) > step:
            shutil.rmtree(folder)


def _fill(draft: Path, checkpoint: Checkpoint) -> None:
    """All files of a checkpoint, on the disk."""
    draft.mkdir()
    manifest = {
        f"{name}.safetensors": _write(draft / f"{name}.safetensors", _packed(tensors))
        for name, tensors in checkpoint.tensors.items()
    }
    manifest["state.json"] = _write(draft / "state.json", _json(dict(checkpoint.state, step=checkpoint.step)))
    _write(draft / "manifest.json", _json(manifest))
    sync(draft)


def load(run: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, None if there is none. Damaged ones before it are named on standard error.

    Raises InputError if there are checkpoints but none of them is whole, or one of them may not be read.
    """
    damages: list[InputError] = []
    for folder in folders(run):
        try:
            found = read(folder)
        except Unreadable:
            raise
        except InputError as damage:
            damages.append(damage)
            continue
        for passed in damages:
            print(f"gcrl: {passed}; going on from the one before", file=sys.stderr)
        return found
    if damages:
        raise InputError(f"{'; '.join(map(str, damages))}; none before is whole: restore one from a copy or train anew")
    return None


def read(folder: Path) -> Checkpoint:
    """One checkpoint, every file of the manifest checked. Raises InputError that names what is damaged."""
    manifest = _parse(folder, "manifest.json", _bytes(folder, "manifest.json"))
    there = set(_listed(folder))  # so that a name leads to nothing outside
    for name in sorted(set(manifest) - there):
        said = name if name.isprintable() else ascii(name)
        raise InputError(f"checkpoint {folder} is damaged: {said} is missing, though manifest.json lists it")
    content = {name: _bytes(folder, name) for name in manifest}
    for name, digest in manifest.items():
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise InputError(f"checkpoint {folder} is damaged: {name} does not match its sha256 in manifest.json")
    state = _parse(folder, "state.json", content.pop("state.json", b""))
    try:
        tensors = {name.removesuffix(".safetensors"): safetensors.torch.load(data) for name, data in content.items()}
        return Checkpoint(int(state["step"]), tensors, state)
    except (SafetensorError, LookupError, TypeError, ValueError):  # all hashes are right: somebody made it so
        raise InputError(f"checkpoint {folder} was not written by this version of gcrl: train anew") from None


def folders(run: Path) -> list[Path]:
    """Checkpoints of a run, newest first, whole or not. Raises InputError if nobody may list them."""
    return sorted((run / "checkpoints" / name for name in numbered(run / "checkpoints")), reverse=True)


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: x.detach().cpu().contiguous() for name, x in tensors.items()})


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=True).encode()


def _write(path: Path, data: bytes) -> str:
    """Write and sync; the sha256 of what was written."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise _unread(folder, name, error) from None


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise _unread(folder, "", error) from None


def _unread(folder: Path, name: str, error: OSError) -> InputError:
    """What may be whole, and will be once somebody makes it readable, or what is damaged."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
        cure = f"make it readable, or remove {folder} to go on without"
        return Unreadable(f"{folder / name} cannot be read ({error.strerror}): {cure}")
    missing = "is missing" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
    return InputError(f"checkpoint {folder} is damaged: {name} {missing}")


def _parse(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"checkpoint {folder} is damaged: {name} is not a JSON object")
    return content


def random_state() -> dict[str, Tensor]:
    """Torch's generators, CUDA's included."""
    out = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        out["cuda"] = torch.cuda.get_rng_state()
    return out


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
