"""A run that was cut off goes on as one that was not, to the bit. Long: one file a promise."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from gcrl import checkpoint, progress, run, train
from gcrl.cli import guarded
from gcrl.settings import Plan, command_line
from gcrl.train import Training, main
from tests.benchmarks.kills import differences
from tests.problems import PLAIN, POINT, script, wheel

AGENTS = ("ddpg", "td3", "sac")
MIX = "future:0.4,desired:0.2,geometric:0.1,random:0.1"
ENDING = wheel(goals=True, ends=True)
LOOSE = script("test-loose", loose=True)
SMALL = ["--agent", "td3", "--hidden", "8", "8", "--batch", "8", "--warmup", "10"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """The tests' own tasks, and no wait for the disk or for pictures."""
    for task in (POINT, PLAIN, ENDING, LOOSE):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(progress, "curves", lambda *args: None)


@functools.cache
def plan(*flags: str) -> Plan:
    return Plan.of(command_line([*SMALL, *flags])[0])


def training(*flags: str) -> Training:
    return Training(plan(*flags))


def saved(one: Training, run: Path) -> tuple[checkpoint.Checkpoint, dict[str, bytes]]:
    """A checkpoint, read again, and its files."""
    run.mkdir(exist_ok=True)
    one.save(run, 0.0)
    folder = max((run / "checkpoints").iterdir())
    return checkpoint.read(folder), {path.name: path.read_bytes() for path in folder.iterdir()}


def check_chain(tmp_path: Path, flags: list[str], steps: int, every: int) -> Training:
    """Every `every` steps: what another process would read goes on for as long to the very files of the unbroken run.

    The links are as long as the gaps, so that all of the run after any of its checkpoints is the unbroken one's.
    """
    whole = training(*flags)
    start, before = saved(whole, tmp_path / "whole")
    for _ in range(steps // every):
        resumed = training(*flags)
        torch.manual_seed(12345)  # whatever another process may have drawn
        assert resumed.restore(start, tmp_path) == 0.0
        assert saved(resumed, tmp_path / "resumed")[1] == before
        state = torch.get_rng_state()
        for _ in range(every):
            resumed.step()
        files = saved(resumed, tmp_path / "resumed")[1]
        torch.set_rng_state(state)
        for _ in range(every):
            whole.step()
        start, expected = saved(whole, tmp_path / "whole")
        assert [name for name in expected if files[name] != expected[name]] == []
        before = expected
    assert repr(whole.row()) == repr(resumed.row())
    draws = [list(map(torch.clone, one.agent.draw(one.replay, one.rng))) for one in (whole, resumed)]
    assert all(torch.equal(x, y) for x, y in zip(*draws, strict=True))
    return whole


# In one process, after every step


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("task, lanes, steps", [(POINT.name, "1", 27), (ENDING.name, "3", 22)])
def test_every_step_is_a_place_to_stop(tmp_path, agent, task, lanes, steps):
    """The replay overflows, episodes end early, updates come in bursts and the actor waits for some of them."""
    flags = ["--task", task, "--agent", agent, "--lanes", lanes, "--n-step", "3", "--relabel", MIX]
    flags += ["--replay", "25", "--utd", "1.5", "--critics", "3", "--subset", "2", "--dropout", "0.1", "--delay", "2"]
    flags += ["--lr-end", "0.1", "--steps", "30"]
    whole = check_chain(tmp_path, flags, steps, 1)
    assert whole.updates >= 10 and whole.episodes and 0 < len(whole.replay) <= 25


@pytest.mark.parametrize("agent", AGENTS)
def test_a_task_without_goals(tmp_path, agent):
    flags = ["--task", PLAIN.name, "--agent", agent, "--lanes", "2", "--n-step", "3"]
    assert check_chain(tmp_path, flags, 45, 9).updates > 20


@pytest.mark.parametrize(
    "task, agent, lanes, steps, every",
    [
        ("fetch-reach", "td3", "3", 60, 20),
        ("fetch-push", "sac", "1", 68, 34),
        ("gym:Pendulum-v1", "sac", "3", 206, 103),
        ("point-maze-umaze", "ddpg", "3", 304, 152),
    ],
)
def test_simulators_play_their_partial_episodes_again(tmp_path, capsys, task, agent, lanes, steps, every):
    """Past the end of their first episodes, with updates."""
    flags = ["--task", task, "--agent", agent, "--lanes", lanes, "--n-step", "3", "--utd", "0.5"]
    assert check_chain(tmp_path, flags, steps, every).updates > 5
    assert capsys.readouterr().err == ""


def test_nothing_on_disk_is_pickled(tmp_path, monkeypatch):
    import pickle

    def refuse(*args, **kwargs):
        raise AssertionError("pickle")

    one = training("--task", POINT.name)
    for owner, names in ((pickle, ("dump", "dumps", "load", "loads", "Unpickler")), (torch, ("save", "load"))):
        for name in names:
            monkeypatch.setattr(owner, name, refuse)
    for _ in range(30):
        one.step()
    training("--task", POINT.name).restore(saved(one, tmp_path)[0], tmp_path)


def test_saving_changes_nothing(tmp_path):
    """A run that saves after each step is one that never saves."""
    ends = []
    for often in (True, False):
        one = training("--task", POINT.name)
        for _ in range(40):
            one.step()
            if often:
                saved(one, tmp_path)
        ends.append(saved(one, tmp_path / "end")[1])
    assert ends[0] == ends[1]


def test_a_simulator_that_does_not_replay_is_told_of(tmp_path, capsys):
    one, two = training("--task", LOOSE.name), training("--task", LOOSE.name)
    for _ in range(10):
        one.step()
    two.restore(saved(one, tmp_path)[0], tmp_path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "does not replay exactly" in said


@pytest.mark.parametrize(
    "flags",
    [
        ["--task", PLAIN.name],
        ["--agent", "sac"],
        ["--hidden", "8", "9"],
        ["--critics", "3"],
        ["--lanes", "1"],
        ["--lanes", "3"],
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, flags):
    own = ["--task", POINT.name, "--lanes", "2"]
    one = training(*own)
    for _ in range(40):
        one.step()
    with pytest.raises(tasks.InputError, match=r"does not fit|is of") as caught:
        training(*own, *flags).restore(saved(one, tmp_path)[0], tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("lost", ["optimizers", "random", "lanes", "replay.0", "counts", "rng", "seconds"])
def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path, lost):
    """Another version's, say: every hash is right."""
    one = training("--task", POINT.name)
    found = saved(one, tmp_path)[0]
    parts = [{k: v for k, v in part.items() if k != lost} for part in (found.tensors, found.state)]
    with pytest.raises(tasks.InputError, match="does not fit"):
        one.restore(checkpoint.Checkpoint(0, *parts), tmp_path)


# Whole runs, stopped by signals and kills

WHOLE = [*SMALL, "--task", POINT.name, "--relabel", MIX, "--n-step", "2", "--replay", "120", "--eval-episodes", "2"]
WHOLE += ["--steps", "200", "--lanes", "2", "--log-every", "20", "--eval-every", "50", "--save-seconds", "0"]


def only(runs: Path) -> Path:
    (folder,) = (path for path in runs.iterdir() if not path.name.startswith("."))
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run of WHOLE that nothing disturbed, for an agent."""

    @functools.cache
    def of(agent: str = "td3") -> Path:
        runs = tmp_path_factory.mktemp("unbroken")
        assert main([*WHOLE, "--agent", agent, "--runs", str(runs)]) == 0
        return only(runs)

    return of


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Have the signal come in the middle of this step of the process."""
    real, count = Training.step, 0

    def with_signal(self):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        real(self)

    monkeypatch.setattr(Training, "step", with_signal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys, unbroken, number):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        stop_at(patch, 57, number)
        assert guarded(main, [*WHOLE, "--save-seconds", "1000", "--runs", str(tmp_path)]) == 130
    folder = only(tmp_path)
    said = capsys.readouterr()
    assert said.err == f"gcrl: saved at 114 steps; go on with: gcrl train --resume {folder}\n"
    assert checkpoint.load(folder).step == 114
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    with monkeypatch.context() as patch:
        stop_at(patch, 1, number)
        assert guarded(main, ["--resume", str(folder)]) == 130
    assert checkpoint.load(folder).step == 116
    assert main(["--resume", str(folder), "--save-seconds", "0"]) == 0
    assert differences(unbroken(), folder) == []
    capsys.readouterr()
    assert guarded(main, ["--resume", str(folder)]) == 2
    assert "is complete at 200 steps: give --steps" in capsys.readouterr().err


def test_a_signal_at_the_end_is_no_stop(tmp_path, monkeypatch, capsys, unbroken):
    stop_at(monkeypatch, 100, signal.SIGTERM)
    assert guarded(main, [*WHOLE, "--runs", str(tmp_path)]) == 0
    assert differences(unbroken(), only(tmp_path)) == []


def test_a_signal_between_two_questions_is_not_lost(tmp_path, monkeypatch):
    """It comes while it is decided whether to save: the run must not end without a checkpoint."""

    def due(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    monkeypatch.setattr(progress.Progress, "save_due", due)
    assert guarded(main, [*WHOLE, "--runs", str(tmp_path)]) == 130
    assert checkpoint.load(only(tmp_path)).step in (2, 4)


def test_a_signal_while_the_tables_are_opened_is_not_lost(tmp_path, monkeypatch, capsys):
    class Slow(progress.Progress):
        def __init__(self, *args):
            os.kill(os.getpid(), signal.SIGINT)
            super().__init__(*args)

    monkeypatch.setattr(train, "Progress", Slow)
    assert guarded(main, [*WHOLE, "--runs", str(tmp_path)]) == 130
    assert "saved at 2 steps" in capsys.readouterr().err and checkpoint.load(only(tmp_path)).step == 2


def test_more_steps_later_are_those_of_a_longer_run(tmp_path, unbroken):
    assert main([*WHOLE, "--runs", str(tmp_path), "--steps", "100"]) == 0
    assert main(["--resume", str(only(tmp_path)), "--steps", "200"]) == 0
    last = [Path(folder, "checkpoints/000000000200/agent.safetensors") for folder in (unbroken(), only(tmp_path))]
    assert last[0].read_bytes() == last[1].read_bytes()


def test_a_run_may_go_on_at_another_rate(tmp_path):
    """As if it had always learned so: what was learned, and what the optimizers know, is as it was."""
    assert main([*WHOLE, "--runs", str(tmp_path), "--steps", "100"]) == 0
    folder = only(tmp_path)
    before = checkpoint.load(folder)
    settings, _ = command_line(["--resume", str(folder), "--steps", "102", "--lr", "1e-9", "--tau", "0"])
    one = Training(Plan.of(settings))
    one.restore(before, folder)
    assert {group["lr"] for x in one.agent.optimizers.values() for group in x.param_groups} == {1e-9}
    for file, tensors in saved(one, tmp_path / "resumed")[0].tensors.items():
        assert all(torch.equal(x, before.tensors[file][name]) for name, x in tensors.items())
    assert main(["--resume", str(folder), "--steps", "102", "--lr", "1e-9", "--tau", "0"]) == 0
    after = checkpoint.load(folder).tensors["agent"]
    for name, x in before.tensors["agent"].items():
        if name.startswith(("actor", "critic", "target")):
            torch.testing.assert_close(after[name], x, rtol=0, atol=1e-7)


def test_learning_rates_fall_in_a_straight_line():
    one = training("--task", POINT.name, "--agent", "sac", "--lr", "0.01", "--lr-end", "0.2", "--steps", "80")
    for steps, rate in ((40, 0.006), (60, 0.004), (80, 0.002), (90, 0.002)):
        while one.steps < steps:
            one.step()
        found = [group["lr"] for x in one.agent.optimizers.values() for group in x.param_groups]
        assert found == pytest.approx([rate] * 3) and float(one.agent.pace) == pytest.approx(100 * rate)


def test_from_a_damaged_checkpoint_the_run_goes_back_to_the_one_before(tmp_path, monkeypatch, capsys, unbroken):
    with monkeypatch.context() as patch:
        stop_at(patch, 70, signal.SIGINT)
        assert guarded(main, [*WHOLE, "--runs", str(tmp_path)]) == 130
    folder = only(tmp_path)
    older, newest = sorted((folder / "checkpoints").iterdir())
    spoilt = newest / "replay.0.safetensors"
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        assert guarded(main, ["--resume", str(folder)]) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and f"{newest} is damaged: replay.0.safetensors" in said
    assert [checkpoint.read(path).step for path in sorted((folder / "checkpoints").iterdir())] == [120, 122]
    assert older.name == "000000000120" and newest.name == "000000000140"
    assert main(["--resume", str(folder)]) == 0
    assert differences(unbroken(), folder) == []


def test_where_no_checkpoint_is_whole_one_line_and_2(tmp_path, monkeypatch, capsys, unbroken):
    with monkeypatch.context() as patch:
        stop_at(patch, 70, signal.SIGINT)
        guarded(main, [*WHOLE, "--runs", str(tmp_path)])
    folder = only(tmp_path)
    for path in (folder / "checkpoints").glob("*/manifest.json"):
        path.unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert guarded(main, ["--resume", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "manifest.json is missing" in said and "train anew" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_a_checkpoint_it_starts_over(tmp_path, monkeypatch, unbroken):
    """Killed before the first: nothing but the configuration, and rows that go beyond it."""

    def killed(*args):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(SystemExit):
            main([*WHOLE, "--runs", str(tmp_path)])
    folder = only(tmp_path)
    assert (folder / "progress.csv").read_text().count("\n") == 2
    assert main(["--resume", str(folder)]) == 0
    assert differences(unbroken(), folder) == []


def start(args: list[str]) -> int:
    """A training process, without the seconds that a new interpreter takes."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(guarded(main, args))
        finally:
            os._exit(99)
    return child


@pytest.mark.parametrize("agent", ["td3", "sac"])
def test_kill_minus_9_at_random_moments(tmp_path, unbroken, agent):
    """See tests/benchmarks/kills.py for more of them, in interpreters of their own."""
    rng, code, kills = random.Random(), None, 0
    flags = [*WHOLE, "--agent", agent, "--runs", str(tmp_path)]
    while code != 0:
        found = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
        child = start(["--resume", str(found[0])] if found else flags)
        if kills < 3:
            time.sleep(rng.uniform(0, 0.6))
            os.kill(child, signal.SIGKILL)
            kills += 1
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -9)
    assert differences(unbroken(agent), only(tmp_path)) == []


def test_a_run_in_progress_is_not_resumed_beside_itself(tmp_path, capsys, unbroken):
    assert main([*WHOLE, "--runs", str(tmp_path), "--steps", "100"]) == 0
    folder = only(tmp_path)
    with run.claimed(folder):
        assert guarded(main, ["--resume", str(folder), "--steps", "200"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "another process is training in" in said


def test_what_differs_is_seen(tmp_path, unbroken):
    """The comparison that all this rests on can fail."""
    whole = unbroken()
    for name, change in (
        ("checkpoints/000000000200/agent.safetensors", lambda x: x[:-1] + bytes([x[-1] ^ 1])),
        ("checkpoints/000000000200/random.safetensors", lambda x: x[:-1] + bytes([x[-1] ^ 1])),
        ("checkpoints/000000000200/state.json", lambda x: json.dumps(json.loads(x) | {"counts": [1, 2, 3]}).encode()),
        ("progress.csv", lambda x: x.replace(b"100,", b"101,")),
        ("eval.csv", lambda x: x[:-1]),
        ("time.csv", lambda x: x + b"301,1,1\n"),
    ):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(whole, copy)
        assert differences(whole, copy) == []
        (copy / name).write_bytes(change((copy / name).read_bytes()))
        assert len(differences(whole, copy)) == 1
    assert np.isfinite(float((whole / "eval.csv").read_text().split()[-1].split(",")[-1]))
