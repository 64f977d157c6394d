"""The run folder: nobody shares one, everything promised is in it, and its tables survive being cut off anywhere."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tasks
from gcrl import run
from gcrl.cli import guarded
from gcrl.run import Table
from gcrl.train import main
from tasks import InputError
from tests.problems import PLAIN, POINT

TINY = ["--hidden", "8", "8", "--batch", "8", "--eval-episodes", "2", "--warmup", "20", "--steps", "60"]
EVERY = ["--eval-every", "30", "--log-every", "15", "--save-seconds", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """task -> the folder of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("runs")
        out = {}
        for task in (POINT, PLAIN):
            patch.setitem(tasks.TASKS, task.name, task)
            assert main(["--task", task.name, "--runs", str(home / task.name), *TINY, *EVERY]) == 0
            (out[task.name],) = (home / task.name).iterdir()
        return out


# The folder


def test_the_folder_holds_what_its_module_promises(trained):
    folder = trained[POINT.name]
    promised = {word.rstrip("/") for word in run.__doc__.split() if word.rstrip("/").count(".") or word.endswith("/")}
    promised = {word for word in promised if word.endswith((".json", ".csv", ".txt", ".png")) or word in ("tb",)}
    promised.add("checkpoints")
    assert len(promised) == 9 and {path.name for path in folder.iterdir()} == promised
    config = json.loads((folder / "config.json").read_text())
    assert config["task"] == [POINT.name] and config["steps"] == 60 and config["algorithm"]["hidden"] == [8, 8]
    assert set(run.PACKAGES) < set(json.loads((folder / "versions.json").read_text()))
    assert shlex.split((folder / "command.txt").read_text())[1:] == sys.orig_argv[1:]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".npy")]


@pytest.mark.parametrize("task", [POINT.name, PLAIN.name])
def test_tables_and_events_tell_the_same(trained, task):
    folder = trained[task]
    progress, evaluated, times = (Table(folder / f"{name}.csv").rows() for name in ("progress", "eval", "time"))
    assert [int(row["step"]) for row in progress] == [int(row["step"]) for row in times] == [15, 30, 45, 60]
    assert [int(row["step"]) for row in evaluated] == [30, 60]
    assert progress[0]["critic_loss"] == "" and float(progress[-1]["critic_loss"]) > 0
    assert [row["task"] for row in evaluated] == [task] * 2
    assert (evaluated[0]["success"] == "nan") == (task == PLAIN.name)
    events = EventAccumulator(str(folder / "tb"))
    events.Reload()
    for group, rows in (("train", progress), ("eval", evaluated), ("time", times)):
        for name in set(rows[0]) - {"step", "task"}:
            seen = {point.step: point.value for point in events.Scalars(f"{group}/{name}")}
            told = {int(row["step"]): float(row[name]) for row in rows if row[name]}
            assert seen == pytest.approx(told, rel=1e-6, nan_ok=True), name


def test_starts_in_one_second_never_share_a_folder(tmp_path, monkeypatch):
    """Threads and processes, all at once, under one name."""
    monkeypatch.setattr(run.time, "strftime", lambda form: "20260101-000000")
    barrier = threading.Barrier(20)

    def start(i: int) -> Path:
        barrier.wait()
        return run.create(tmp_path, "same", {"mine": i})

    children = []
    for child in range(10):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                for i in range(4):
                    run.create(tmp_path, "same", {"mine": f"{child}-{i}"})
                os._exit(0)
            finally:
                os._exit(1)
    with ThreadPoolExecutor(20) as pool:
        folders = list(pool.map(start, range(20)))
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
    assert len(set(folders)) == 20 and {path.parent for path in folders} == {tmp_path}
    for i, folder in enumerate(folders):
        assert json.loads((folder / "config.json").read_text()) == {"mine": i}
    made = list(tmp_path.iterdir())
    assert len(made) == 60 and not [path for path in made if path.name.startswith(".")]
    assert len({(path / "config.json").read_text() for path in made}) == 60
    for path in made:
        assert {p.name for p in path.iterdir()} == {"config.json", "command.txt", "versions.json"}


def test_a_draft_that_a_kill_left_is_in_nobodys_way(tmp_path, monkeypatch):
    """Process ids come back: in a container the same one with every start."""
    (tmp_path / f".same-{os.getpid()}").mkdir()
    assert run.create(tmp_path, "same", {}).is_dir()


def test_a_start_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "versions", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.create(tmp_path, "same", {})
    monkeypatch.setattr(run.time, "strftime", lambda form: "now")
    monkeypatch.setattr(run, "versions", dict)
    for count in range(1, 1000):
        (tmp_path / ("same-now" + (f"-{count}" if count > 1 else ""))).write_text("")
    with pytest.raises(InputError, match="999"):
        run.create(tmp_path, "same", {})
    assert not list(tmp_path.glob(".*"))


def test_the_configuration_is_on_the_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda old, new: (events.append("rename"), rename(old, new))[1])
    folder = run.create(tmp_path, "same", {})
    assert events == ["config.json", "versions.json", "rename", tmp_path.name]
    events.clear()
    run.write_config(folder, {"a": 1})
    assert events == [".config.json", "rename"] and run.config_of(folder) == {"a": 1}


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    with run.claimed(tmp_path):
        with pytest.raises(InputError, match="another process"), run.claimed(tmp_path):
            pass
        child = os.fork()
        if child == 0:  # it dies with the claim it could not have had
            code = guarded(lambda args: run.claimed(tmp_path).__enter__() or 0, [])
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    read, written = os.pipe()
    child = os.fork()
    if child == 0:
        with run.claimed(tmp_path):
            os.write(written, b"x")
            threading.Event().wait()
    os.read(read, 1)
    with pytest.raises(InputError), run.claimed(tmp_path):
        pass
    os.kill(child, 9)
    os.waitpid(child, 0)
    with run.claimed(tmp_path):
        pass


def test_without_locks_nothing_is_claimed(tmp_path, monkeypatch):
    def none(handle, how):
        raise OSError("no locks here")

    monkeypatch.setattr(run.fcntl, "flock", none)
    with run.claimed(tmp_path), run.claimed(tmp_path):
        pass


# Tables


def text(table: Table) -> str:
    return table.path.read_text()


def test_a_table_is_appended_to_and_late_columns_are_empty_before(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.append({"step": 1, "a": 0.5})
    assert text(table) == "step,a\n1,0.5\n"
    table.append({"step": 2})
    table.append({"step": 3, "a": float("nan"), "b": "x,y"})
    assert text(table) == 'step,a,b\n1,0.5,\n2,,\n3,nan,"x,y"\n'
    assert table.rows()[0] == {"step": "1", "a": "0.5", "b": ""}
    again = Table(table.path)
    again.cut(2)
    again.append({"step": 4, "c": 1})
    assert text(again) == "step,a,b,c\n1,0.5,,\n2,,,\n4,,,1\n"
    again.cut(0)
    assert text(again) == "" and again.rows() == []
    again.append({"step": 1})
    assert text(again) == "step\n1\n"


def test_numbers_come_back_to_the_bit(tmp_path):
    table = Table(tmp_path / "t.csv")
    values = [0.1 + 0.2, 1 / 3, 1e-300, -0.0, 123456789.123456789]
    for i, x in enumerate(values):
        table.append({"step": i, "x": x})
    table.cut(len(values))
    assert [float(row["x"]).hex() for row in table.rows()] == [x.hex() for x in values]


def test_a_table_cut_off_at_any_byte_is_healed(tmp_path):
    """A kill while row 40 is written: the rows up to the last checkpoint, step 30, are all there, and nothing else."""
    head = "step,a,b\n" + "".join(f"{step},{step / 7},{step * 3}\n" for step in (10, 20, 30))
    last = "40,5.714285714285714,120\n50,7.1,150\n"
    for end in range(len(last) + 1):
        table = Table(tmp_path / "t.csv")
        table.path.write_text(head + last[:end])
        table.cut(30)
        assert text(table) == head, last[:end]
        table.append({"step": 40, "a": 1, "b": 2})
        assert text(table) == head + "40,1,2\n"


@pytest.mark.parametrize("spoilt", [b"", b"\0\0\0", b"\xff\xfe", b"ste", b"step\nx,y,z\n1\n", b"a,b\n1,2\n", b'"'])
def test_a_spoilt_table_is_no_reason_to_stop(tmp_path, spoilt):
    table = Table(tmp_path / "t.csv")
    table.path.write_bytes(spoilt)
    table.cut(5)
    table.append({"step": 6, "a": 1})
    assert table.rows()[-1] == {name: {"step": "6", "a": "1"}.get(name, "") for name in table.columns}


def test_a_rewritten_table_is_never_half_there(tmp_path, monkeypatch):
    """A kill while columns are added or rows are cut: the file is the old one or the new one."""
    table = Table(tmp_path / "t.csv")
    for step in range(5):
        table.append({"step": step})
    before = text(table)

    def killed(old: Path, new: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    for change in (lambda: table.cut(2), lambda: table.append({"step": 9, "late": 1})):
        with pytest.raises(KeyboardInterrupt):
            change()
        assert text(table) == before
