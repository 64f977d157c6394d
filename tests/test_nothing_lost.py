"""What a person, a notebook, a spreadsheet, a closed terminal or a power cut does to a run costs nothing of it."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tasks
from gcrl import __main__ as console
from gcrl import checkpoint, doctor, progress, train
from gcrl.cli import guarded
from gcrl.collect import Lane
from gcrl.compiled import deaf_children
from gcrl.training import Training
from tasks import InputError, datasets, hdf5
from tests import test_border
from tests.problems import POINT, ROW

TINY, made, finished = test_border.TINY, test_border.made, test_border.finished


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for task in (POINT, ROW):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)


def resumed(folder, steps, *flags):
    return guarded(train.main, ["--resume", str(folder), "--steps", str(steps), *flags])


# Tables


@pytest.mark.parametrize("spoil", [lambda x: b"\xef\xbb\xbf" + x, lambda x: x + b"\0" * 200_000], ids=["mark", "zeros"])
def test_a_table_keeps_its_rows(finished, spoil):
    path = finished / "eval.csv"
    rows = path.read_text().splitlines()
    path.write_bytes(spoil(path.read_bytes()))
    assert resumed(finished, 70) == 0
    assert path.read_text().splitlines()[: len(rows)] == rows and len(path.read_text().splitlines()) == len(rows) + 1


def test_a_table_that_is_none_of_ours_is_put_aside(finished, capfd):
    """As a spreadsheet may have saved it, too; and what is aside already stays."""
    path = finished / "progress.csv"
    for n, text in enumerate(("a,b\n1,2\n", "step;success\n50;0,5\n"), 1):
        path.write_text(text)
        assert resumed(finished, 60 + 10 * n) == 0
        assert (finished / f"progress.csv.{n}").read_text() == text and "no column step" in capfd.readouterr().err
        assert path.read_text().startswith("step,")
    assert (finished / "progress.csv.1").read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("error", [ValueError("no\nsuch backend"), OSError(errno.ENOSPC, "no room")])
def test_a_picture_that_cannot_be_drawn_costs_a_line(finished, capfd, monkeypatch, error):
    """The run is saved, so it is no reason to say that it must go on."""

    def fail(*args):
        raise error

    monkeypatch.setattr(progress, "curves", fail)
    assert resumed(finished, 70) == 0 and checkpoint.load(finished).step == 70
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and " ".join(str(error).split()) in said and f"gcrl plot {finished}" in said


# Settings that lead nowhere


def test_what_made_a_resumed_run_fail_is_not_kept(finished, monkeypatch):
    before = (finished / "config.json").read_bytes()
    assert resumed(finished, 400, "--lr", "1e30") == 1, "it diverges"
    assert (finished / "config.json").read_bytes() == before

    def refuse(self):
        raise InputError("no compiler")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", refuse)
        assert resumed(finished, 80, "--threads", "2") == 2
    assert (finished / "config.json").read_bytes() == before and checkpoint.load(finished).step == 60
    assert resumed(finished, 80) == 0


def test_what_came_after_a_checkpoint_stays_as_it_was_told(finished, monkeypatch):
    real = Training.step

    def step(self):
        real(self)
        if self.steps == 90:
            raise InputError("no memory")

    monkeypatch.setattr(Training, "step", step)
    assert resumed(finished, 100, "--lr", "0.002") == 2
    assert checkpoint.load(finished).step == 80
    assert json.loads((finished / "config.json").read_text())["algorithm"]["lr"] == 0.002


def test_what_only_the_first_update_finds_out_leaves_no_folder(capfd):
    """Though a checkpoint was due before it."""
    flags = ["--task", POINT.name, ROW.name, "--agent", "bc", "--share", "cds", "--hidden", "8", "--batch", "8"]
    flags += ["--warmup", "30", "--log-every", "5", "--save-seconds", "0", "--steps", "100", "--eval-episodes", "0"]
    assert guarded(train.main, [*flags, "--runs", "r"]) == 2 and "--share cds" in capfd.readouterr().err
    assert list(Path("r").iterdir()) == []


# Streams


def python(first, **streams):
    """A short run in an interpreter that begins with `first`."""
    flags = ["--task", "gym:Pendulum-v1", "--hidden", "8", "--batch", "8", "--steps", "220", "--warmup", "10"]
    flags += ["--eval-every", "110", "--eval-episodes", "1", "--runs", "r"]
    code = f"import sys; {first}\nfrom gcrl import cli, train; sys.exit(cli.guarded(train.main, {flags}))"
    return subprocess.run([sys.executable, "-c", code], **streams)


def test_a_run_goes_on_when_nobody_reads_what_it_says():
    end, start = os.pipe()
    os.close(end)
    done = python("pass", stdout=start, stderr=subprocess.PIPE, text=True)
    os.close(start)
    (folder,) = Path("r").iterdir()
    assert done.returncode == 0 and done.stderr == "" and checkpoint.load(folder).step == 220


def test_a_run_without_streams():
    done = python("sys.stderr = None", stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "step 220" in done.stdout


def test_a_name_that_the_terminal_cannot_show(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    assert guarded(train.main, [*TINY, "--runs", "\u65e5"]) == 0
    out.flush()
    assert b"\\u65e5/" in out.buffer.getvalue()


def test_an_error_of_the_system_at_the_border_is_one_line(capfd):
    assert guarded(lambda args: Path("x" * 300).stat().st_size, []) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("gcrl: xxx") and "File name too long" in said


def test_the_compilers_processes_do_not_hear_ctrl_c():
    """A terminal sends it to them too. Before and after, children do."""
    child = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"]
    assert subprocess.run(child, stderr=subprocess.DEVNULL).returncode == -signal.SIGINT
    with deaf_children():
        assert subprocess.run(child).returncode == 0
    assert subprocess.run(child, stderr=subprocess.DEVNULL).returncode == -signal.SIGINT


def test_a_simulator_that_cannot_even_be_made_is_one_line(capfd, monkeypatch, made):
    """As where MUJOCO_GL names what this machine has not."""

    def make(render_mode=None):
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    minari = Path("minari")
    datasets.write(minari, POINT, datasets.read(made, POINT))
    text = (minari / "data" / "metadata.json").read_text()
    (minari / "data" / "metadata.json").write_text(text.replace("1.0", "0.5"))  # so that the task's own are asked for
    monkeypatch.setitem(tasks.TASKS, POINT.name, dataclasses.replace(POINT, make=make))
    monkeypatch.setitem(tasks.TASKS, "fetch-reach", dataclasses.replace(tasks.TASKS["fetch-reach"], make=make))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert guarded(train.main, [*TINY, "--runs", "r"]) == 2 and not Path("r").exists()
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "glGetError" in said and "MUJOCO_GL is osmesa" in said
    for use in (Lane, lambda task: datasets.read(minari, task)):
        with pytest.raises(InputError, match=r"MUJOCO_GL is osmesa.*set it to one of egl, glfw, or unset it"):
            use(tasks.TASKS[POINT.name])
    monkeypatch.setattr(doctor, "_gflops", lambda *args: 1.0)
    assert guarded(console.run, ["doctor"]) == 2
    assert "BAD the simulator of fetch-reach cannot be made" in capfd.readouterr().out


@pytest.mark.parametrize("command", ["list", "doctor"])
def test_a_command_without_flags_has_help(capfd, command):
    assert guarded(console.run, [command, "--help"]) == 0
    assert capfd.readouterr().out.startswith(f"usage: gcrl {command}\n")


def test_the_list_says_how_a_scene_is_asked_for(capfd):
    """All of it, where a task has its name; and that finds them."""
    assert guarded(console.run, ["list"]) == 0
    said = capfd.readouterr().out
    assert "scene table: 7 tasks that can share their data\n" in said
    assert "scene hand-block: 4 tasks that can share their data (--task scene:hand-block)\n" in said
    assert [len(tasks.find([name])) for name in ("table", "scene:hand-block", "hand-block")] == [7, 4, 1]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nobody says what a process has loaded")
def test_ctrl_c_while_everything_is_imported_needs_no_word():
    args = [sys.executable, "-m", "gcrl.train", "--runs", "r"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate()
    assert process.returncode == -signal.SIGINT and said == ("", "") and not Path("r").exists()


def test_ctrl_c_is_left_alone_in_the_programs_of_others(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import gcrl")
    (tmp_path / "mine" / "__main__.py").write_text("import signal; print(signal.getsignal(2).__name__)")
    done = subprocess.run([sys.executable, "-m", "mine"], capture_output=True, text=True)
    assert done.stdout == "default_int_handler\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_recording_that_is_stopped_leaves_nothing(capfd, monkeypatch, number):
    """Whatever the library is doing when the signal comes: here it is writing to the file."""
    real, calls = hdf5.Sink.write, []

    def write(self, data):
        calls.append(len(data))
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return real(self, data)

    monkeypatch.setattr(hdf5.Sink, "write", write)
    args = ["data", "collect", "--task", POINT.name, "--episodes", "100000", "--out", "d"]
    assert guarded(console.run, args) == 130
    said = capfd.readouterr().err
    assert "gcrl: interrupted" in said and "Traceback" not in said and len(calls) >= 3
    assert list(Path().iterdir()) == []
