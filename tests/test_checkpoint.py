"""Checkpoints: read is what was written, damage is named, no death loses one. Long: one file a module."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gcrl import checkpoint
from gcrl.checkpoint import Checkpoint
from tasks import InputError

TENSORS = {
    "agent": {"weight": torch.randn(3, 4), "updates": torch.tensor(7), "mean": torch.randn(2).double()},
    "replay.0": {"none": torch.zeros(0, 3), "died": torch.tensor([True, False]), "left": torch.arange(5)},
    "empty": {},
}
STATE = {
    "rng": np.random.default_rng(0).bit_generator.state,
    "recent": [[float("nan"), -1.5]],
    "seconds": 1.25,
    "task": "fetch-reach",
}


def write(run: Path, step: int = 7) -> Path:
    return checkpoint.save(run, Checkpoint(step, TENSORS, STATE))


def content(found: Checkpoint) -> list:
    """All of a checkpoint, to be compared."""
    tensors = {k: {n: (x.dtype, x.shape, x.numpy().tobytes()) for n, x in v.items()} for k, v in found.tensors.items()}
    return [found.step, tensors, repr(found.state)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without the wait for the disk; the test that is about it puts its own in place."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def test_what_is_read_is_what_was_written(tmp_path):
    folder = write(tmp_path)
    assert folder == tmp_path / "checkpoints" / "000000000007"
    expected = content(Checkpoint(7, TENSORS, {**STATE, "step": 7}))
    assert content(checkpoint.read(folder)) == content(checkpoint.load(tmp_path)) == expected


def test_safetensors_json_and_the_hash_of_every_file(tmp_path):
    folder = write(tmp_path)
    names = {"agent.safetensors", "replay.0.safetensors", "empty.safetensors", "state.json"}
    assert {path.name for path in folder.iterdir()} == {*names, "manifest.json"}
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    assert json.loads((folder / "manifest.json").read_text()) == hashes


def test_everything_is_on_the_disk_before_the_one_rename(tmp_path, monkeypatch):
    """Files and their folder are synced before the rename, the folder above after it, that of the first above too."""
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(Path(os.readlink(f"/proc/self/fd/{handle}"))))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda old, new: (events.append("rename"), rename(old, new))[1])
    folder = write(tmp_path)
    at = events.index("rename")
    before, after = events[:at], events[at + 1 :]
    assert before[0] == tmp_path and events.count("rename") == 1
    assert [path.name for path in before[1:-1]] == [f"{name}.safetensors" for name in TENSORS] + [
        "state.json",
        "manifest.json",
    ]
    assert {path.parent for path in before[1:-1]} == {before[-1]} and before[-1].name.startswith(".")
    assert after == [folder.parent]


# Damage


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        checkpoint.read(folder)
    said = str(caught.value)
    assert "\n" not in said and str(folder) in said
    return said


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_any_flipped_bit_is_refused_by_name(tmp_path):
    folder, rng = write(tmp_path), random.Random(0)
    assert len(files(folder)) == 5
    for path in files(folder):
        sound = path.read_bytes()
        bits = range(8 * len(sound))
        for bit in sorted({*rng.sample(bits, min(120, len(bits))), *bits[:16], *bits[-16:]}):
            spoilt = bytearray(sound)
            spoilt[bit // 8] ^= 1 << bit % 8
            path.write_bytes(spoilt)
            assert path.name in refusal(folder), (path, bit)
        path.write_bytes(sound)
    checkpoint.read(folder)


def test_any_truncation_and_any_added_byte_is_refused_by_name(tmp_path):
    folder, rng = write(tmp_path), random.Random(1)
    for path in files(folder):
        sound = path.read_bytes()
        ends = {0, 1, len(sound) - 1, *rng.sample(range(len(sound)), min(30, len(sound)))}
        for spoilt in [*(sound[:end] for end in ends), sound + b"\0", sound + b"x", sound * 2, sound[::-1]]:
            path.write_bytes(spoilt)
            assert path.name in refusal(folder)
        path.write_bytes(sound)


def test_a_missing_and_an_exchanged_file_are_refused_by_name(tmp_path):
    folder = write(tmp_path)
    for path in files(folder):
        sound = path.read_bytes()
        path.unlink()
        assert path.name in refusal(folder)
        path.mkdir()
        assert path.name in refusal(folder)
        path.rmdir()
        path.write_bytes(sound)
    one, other = folder / "agent.safetensors", folder / "empty.safetensors"
    sound = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert one.name in refusal(folder)
    one.write_bytes(sound)
    checkpoint.read(folder)


def test_what_others_put_into_a_checkpoint_does_not_spoil_it(tmp_path):
    """A file manager or a notebook does."""
    write(tmp_path, 1)
    folder = write(tmp_path, 2)
    for name in ("extra.safetensors", ".DS_Store", "manifest.json.bak"):
        (folder / name).write_bytes(b"")
    (folder / ".ipynb_checkpoints").mkdir()
    found = checkpoint.load(tmp_path)
    assert found.step == 2 and "extra" not in found.tensors


@pytest.mark.parametrize("what", ["agent.safetensors", "manifest.json", ".", ".."])
def test_what_cannot_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch, what):
    """Nobody goes back to the checkpoint before, or to none, because of a permission."""
    write(tmp_path, 1)
    shut = (write(tmp_path, 2) / what).resolve()
    for module, name in ((Path, "read_bytes"), (os, "listdir")):
        monkeypatch.setattr(module, name, denied(shut, getattr(module, name)))
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\): make it readable") as caught:
        checkpoint.load(tmp_path)
    monkeypatch.undo()
    assert str(shut) in str(caught.value) and "\n" not in str(caught.value)
    assert kept(tmp_path) == [1, 2]


def denied(shut: Path, ask):
    """`ask(path)`, but that nothing at or below `shut` may be looked at."""

    def answer(path, *args):
        if shut in (Path(path), *Path(path).parents):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return ask(path, *args)

    return answer


def test_a_file_that_somebody_made_with_its_hash_is_refused_too(tmp_path):
    """Its bytes are right, its content is not: one line all the same."""
    folder = write(tmp_path)
    sound = {path.name: path.read_bytes() for path in files(folder)}
    for name, spoilt in (
        ("state.json", b"{}"),
        ("state.json", b'{"step":"x"}'),
        ("state.json", b'{"step":null}'),
        ("state.json", b"[1]"),
        ("agent.safetensors", b"no tensors"),
        ("agent.safetensors", b""),
        ("agent.safetensors", b"\xff" * 64),
    ):
        manifest = json.loads(sound["manifest.json"]) | {name: hashlib.sha256(spoilt).hexdigest()}
        (folder / name).write_bytes(spoilt)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        refusal(folder)
        (folder / name).write_bytes(sound[name])
    (tmp_path / "x").write_bytes(b"")
    outside = [f'{{"{name}":""}}'.encode() for name in ("../../x", "/dev/zero", "a\\u0000b", "\\ud800", "x" * 300)]
    for manifest in (b"{}", b"[]", b"null", b'{"state.json":1}', *outside, b"[" * 10_000):
        (folder / "manifest.json").write_bytes(manifest)
        refusal(folder)


def test_the_one_before_is_used_and_the_damaged_one_named(tmp_path, capsys):
    write(tmp_path, 1)
    assert checkpoint.load(tmp_path).step == 1
    path = write(tmp_path, 2) / "agent.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert capsys.readouterr().err == ""
    assert checkpoint.load(tmp_path).step == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "000000000002 is damaged: agent.safetensors" in said


def test_where_none_is_whole_one_line_says_so(tmp_path, capsys):
    assert checkpoint.load(tmp_path) is None
    for step in (1, 2):
        (write(tmp_path, step) / "state.json").unlink()
    with pytest.raises(InputError) as caught:
        checkpoint.load(tmp_path)
    said = str(caught.value)
    assert capsys.readouterr().err == "" and "\n" not in said
    assert said.count("state.json is missing") == 2 and "train anew" in said


# Which are kept


def kept(run: Path) -> list[int]:
    names = [path.name for path in (run / "checkpoints").iterdir()]
    assert not [name for name in names if name.startswith(".")]
    return sorted(int(name) for name in names if name.isdecimal())


def test_the_newest_two_are_kept(tmp_path):
    for step in (3, 20, 100, 1000):
        write(tmp_path, step)
    assert kept(tmp_path) == [100, 1000]


def test_what_others_put_beside_is_no_checkpoint_and_stays(tmp_path):
    copy = tmp_path / "checkpoints" / "000000000009.bak"
    shutil.copytree(write(tmp_path, 5), copy)
    (copy / "state.json").unlink()
    assert checkpoint.load(tmp_path).step == 5
    for step in (6, 7, 8):
        write(tmp_path, step)
    assert kept(tmp_path) == [7, 8] and copy.exists()


@pytest.mark.parametrize("step", [150, 200, 250, 400])
def test_a_run_gone_back_keeps_what_is_whole(tmp_path, monkeypatch, step):
    """Two damaged ones lie ahead of a whole one: they must not be counted among those that are kept."""
    monkeypatch.setattr(checkpoint, "KEEP", 3)  # as after a kill between the rename and the clearing
    for old in (100, 200, 300):
        write(tmp_path, old)
    monkeypatch.setattr(checkpoint, "KEEP", 2)
    for folder in files(tmp_path / "checkpoints")[1:]:
        (folder / "state.json").write_bytes(b"")
    assert checkpoint.load(tmp_path).step == 100
    checkpoint.cut(tmp_path, 100)
    for last in ([100, step], [step, step + 1]):
        write(tmp_path, last[1])
        assert kept(tmp_path) == last
        for folder in files(tmp_path / "checkpoints"):
            checkpoint.read(folder)


# No moment to die, to run full or to be interrupted


def save_and_die(run: Path, step: int, moment: int) -> bool:
    """Save in another process that dies, cleaning up nothing, at its `moment`-th touch of the disk. Did it die?"""
    child = os.fork()
    if child == 0:
        touched = 0

        def touch(event: str, args: tuple[object, ...]) -> None:
            nonlocal touched
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"):
                touched += 1
                if touched == moment:
                    os._exit(9)

        sys.addaudithook(touch)
        try:
            write(run, step)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("again", [False, True])
def test_dying_at_any_moment_of_a_save_loses_nothing(tmp_path, again):
    """At each touch of the disk in turn; `again`: over a damaged one of the same step."""
    moment, died, steps = 0, True, set()
    while died:
        moment += 1
        run = tmp_path / str(moment)
        run.mkdir()
        write(run, 1), write(run, 2)
        if again:
            (write(run, 3) / "state.json").unlink()
        died = save_and_die(run, 3, moment)
        found = checkpoint.load(run)
        steps.add(found.step)
        assert content(found) == content(Checkpoint(found.step, TENSORS, {**STATE, "step": found.step}))
        checkpoint.cut(run, found.step)
        write(run, 4)
        assert kept(run) == [found.step, 4]
        shutil.rmtree(run)
    assert moment > 15 and steps == {2, 3}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("owner, name", [(os, "fsync"), (Path, "open"), (Path, "mkdir"), (Path, "rename")])
def test_a_save_that_fails_leaves_the_earlier_ones_and_no_draft(tmp_path, monkeypatch, owner, name, error):
    """At its first call of this function, at its second, and so on."""
    write(tmp_path, 1), write(tmp_path, 2)
    real, failures = getattr(owner, name), 0
    while True:
        left = [*[None] * failures, error]

        def fails(*args, left=left, **kwargs):
            if left and (fault := left.pop(0)) is not None:
                raise fault
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            try:
                write(tmp_path, 3)
                break
            except type(error):
                failures += 1
        if 3 in kept(tmp_path):  # behind the rename
            assert checkpoint.load(tmp_path).step == 3 and name == "fsync"
            break
        assert kept(tmp_path) == [1, 2] and checkpoint.load(tmp_path).step == 2
    assert failures > 0


def test_random_states_come_back():
    torch.manual_seed(3)
    state = checkpoint.random_state()
    drawn = torch.rand(5)
    torch.rand(100)
    checkpoint.set_random_state(state)
    assert torch.equal(torch.rand(5), drawn)
