"""The folder of one run: made exclusively, whole from its first moment, and appended to row by row.

    config.json   every setting, resolved      command.txt   how it was started       versions.json   with what
    progress.csv  a row per interval           eval.csv      a row per evaluation     time.csv        when, and how fast
    tb/           TensorBoard events           checkpoints/  see gcrl/checkpoint.py   curve.png       the learning curve

progress.csv and eval.csv hold no clock time, so that a resumed run writes the rows of an unbroken one.
"""

from __future__ import annotations

import csv
import fcntl
import io
import itertools
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from tasks.task import InputError

PACKAGES = ("gcrl", "torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "safetensors")


class RunError(RuntimeError):
    """A run that had begun cannot go on. Its text is one line: what, where, what to do."""


def create(home: Path, name: str, config: Mapping[str, Any]) -> Path:
    """A new folder below `home` that no other start can share, with everything in it that a resume needs."""
    try:
        str(home).encode()
    except UnicodeEncodeError:  # TensorBoard knows no other
        raise InputError(f"--runs {str(home)!r} is no UTF-8: give another folder") from None
    draft = home / f".{name}-{uuid4().hex}"  # a process id comes back, and threads share one
    try:
        home.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        _write_json(draft / "config.json", config)
        command = shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
        (draft / "command.txt").write_bytes(os.fsencode(command) + b"\n")
        _write_json(draft / "versions.json", versions())
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for count in range(1, 1000):
            folder = home / (f"{name}-{stamp}" + (f"-{count}" if count > 1 else ""))
            try:
                draft.rename(folder)  # fails if the folder is there: none of ours is ever empty
                sync(home)
                return folder
            except OSError:
                if not folder.exists():
                    raise
        raise InputError(f"{home} already holds 999 runs of this second; wait one")
    except OSError as error:
        raise InputError(f"cannot write to {home}: {error.strerror}; give another folder with --runs") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # nothing is there once it has its name


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """One process at a time trains in a folder. The kernel ends the claim however the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(f"another process is training in {folder}: wait for its end, or stop it") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration that a run was started with. Raises InputError if the folder is not a run."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a run: it has no config.json; `ls runs` shows the runs") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / 'config.json'} cannot be read: {error}; restore it from a copy") from None
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'} is not a JSON object; restore it from a copy")
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Replace config.json in one rename."""
    _write_json(folder / ".config.json", config)
    (folder / ".config.json").rename(folder / "config.json")


def restore_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Have config.json say this again, if it can be had: whatever has gone wrong before is what a person must hear."""
    with suppress(OSError, InputError):
        if config_of(folder) != config:
            write_config(folder, config)


class Table:
    """A CSV file that is appended to; a column that appears late is empty in the rows before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []

    def rows(self) -> list[dict[str, str]]:
        """All whole rows. Raises InputError if it cannot be a table."""
        return self._read()[1]

    def _read(self) -> tuple[Sequence[str], list[dict[str, str]]]:
        """The columns, and all whole rows."""
        if not self.path.exists():
            return (), []
        text = self.path.read_text("utf-8-sig", errors="replace")  # a spreadsheet leaves its mark in front
        lines = io.StringIO(text.replace("\0", ""), newline="")  # and a power cut, zeros behind
        try:
            reader = csv.DictReader(lines)
            rows = [row for row in reader if None not in row and None not in row.values()]
            return reader.fieldnames or (), rows
        except csv.Error as error:
            raise InputError(f"{self.path} is no table of ours ({error}): mend or remove it") from None

    def cut(self, step: int) -> None:
        """Forget the rows after `step`: what a killed run wrote beyond its last checkpoint. Others' are put aside."""
        columns, rows = self._read()
        if columns and "step" not in columns:
            free = (self.path.with_name(f"{self.path.name}.{n}") for n in itertools.count(1))
            aside = next(path for path in free if not path.exists())
            self.path.rename(aside)
            print(f"gcrl: {self.path} has no column step: it is {aside} now, and begun anew", file=sys.stderr)
            rows = []
        rows = [row for row in rows if row["step"].isdecimal() and int(row["step"]) <= step]
        self._rewrite(rows, list(rows[0]) if rows else [])

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row and hand it to the operating system at once."""
        if not set(row) <= set(self.columns):
            self._rewrite(self.rows(), [*self.columns, *(c for c in row if c not in self.columns)])
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(row)

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        self.columns = columns
        draft = self.path.with_name(f".{self.path.name}")
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            if columns:
                writer.writeheader()
            writer.writerows(rows)
        draft.rename(self.path)


def versions() -> dict[str, str]:
    """Python, the platform, and the packages that a run depends on."""
    out = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "not installed"
    return out


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
    sync(path)


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names, before anything else happens."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
