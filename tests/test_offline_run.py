"""Runs that learn from data: alone, beside new episodes, from another run's agent; and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from gcrl import __main__ as console
from gcrl import checkpoint, offline, progress, train
from gcrl.cli import guarded
from gcrl.settings import Plan, command_line
from gcrl.training import Training
from tasks import Episode, InputError
from tests.benchmarks.kills import differences
from tests.problems import POINT, ROW, SWAP

SMALL = ["--hidden", "8", "8", "--batch", "16", "--eval-episodes", "1", "--save-seconds", "0", "--log-every", "10"]
TD3 = ["--agent", "td3", *SMALL]
SCENE = (POINT, ROW)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for task in (POINT, ROW, SWAP):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(progress, "curves", lambda *args: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run folder by the tasks it is of: 200 steps each."""
    home = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        for task in SCENE:
            patch.setitem(tasks.TASKS, task.name, task)
        patch.setattr(progress, "curves", lambda *args: None)
        for names in ((POINT.name,), tuple(task.name for task in SCENE)):
            args = [*TD3, "--task", *names, "--steps", f"{200 * len(names)}", "--utd", "0.1", "--runs", str(home)]
            assert train.main(args) == 0
    one, two = sorted(home.iterdir(), key=lambda path: "2-tasks" in path.name)
    return {1: one, 2: two}


def started(*args: str) -> Path:
    """The folder of a run of these flags, which must end well."""
    before = set(Path("runs").glob("*"))
    assert train.main([*TD3, *args]) == 0
    (folder,) = set(Path("runs").glob("*")) - before
    return folder


def training(*args: str) -> Training:
    return Training(Plan.of(command_line([*TD3, *args])[0]))


def steps_of(episodes: list[Episode]) -> int:
    return sum(len(episode.action) for episode in episodes)


def test_offline_no_simulator_steps_and_every_step_is_an_update(recorded, monkeypatch):
    monkeypatch.setattr("gcrl.training.Collector", None)
    folder = started(
        "--task", POINT.name, "--data", str(recorded[1]), "--offline", "--steps", "40", "--relabel", "future"
    )
    rows = list(csv.DictReader((folder / "progress.csv").open()))
    assert [(row["step"], row["updates"], row["episodes"]) for row in rows][-1] == ("40", "40", "0")
    assert [row["step"] for row in csv.DictReader((folder / "eval.csv").open())] == ["40"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["n_step"], config["explore"], config["steps"]) == (1, "policy", 40)
    saved = checkpoint.load(folder)
    assert set(saved.tensors) == {"agent", "optimizers", "random", "old"}  # the data stay where they are
    assert guarded(console.run, ["evaluate", str(folder), "--episodes", "2"]) == 0


def test_the_data_are_what_is_learned_from(recorded):
    one = training("--task", POINT.name, "--data", str(recorded[1]), "--offline", "--relabel", "none")
    stored = checkpoint.load(recorded[1]).tensors["replay.0"]
    assert torch.equal(torch.from_numpy(one.old.stores[0].state()["action"]), stored["action"])
    known = {tuple(row) for row in stored["action"].tolist()}
    assert all(tuple(row) in known for row in one.agent.draw(one.source, one.rng).action.tolist())
    mean = np.concatenate([stored["observation"]]).mean(0)
    assert one.agent.encode.obs.mean.tolist() == pytest.approx(mean.tolist(), abs=1e-5)


def test_an_offline_run_cut_off_goes_on_to_the_bit(recorded, capfd):
    args = ["--task", *(task.name for task in SCENE), "--data", str(recorded[2]), "--offline", "--eval-every", "20"]
    whole = started(*args, "--steps", "40")
    half = started(*args, "--steps", "20")
    assert train.main(["--resume", str(half), "--steps", "40"]) == 0
    assert not differences(whole, half)


def test_other_data_on_resume_are_refused(recorded, capfd):
    half = started("--task", POINT.name, "--data", str(recorded[1]), "--offline", "--steps", "20", "--best", "0.5")
    args = ["train", "--resume", str(half), "--steps", "40"]
    assert guarded(console.run, [*args, "--data", f"{POINT.name}={recorded[2]}"]) == 2
    assert "other episodes" in capfd.readouterr().err


def test_beside_new_episodes_half_of_each_batch_is_old(recorded):
    one = training(
        "--task", POINT.name, "--data", str(recorded[1]), "--steps", "400", "--warmup", "0", "--relabel", "none"
    )
    updates = one.updates
    for _ in range(25):
        one.step()
    assert one.updates == updates + 25  # from the first step on: there are data
    assert len(one.replay) == 20 and len(one.old) == 200
    old = {tuple(row) for row in one.old.stores[0].state()["action"].tolist()}
    b = one.agent.draw(one.source, one.rng)
    assert [tuple(row) in old for row in b.action.tolist()] == [True] * 8 + [False] * 8


def test_rows_of_old_data_go_where_effort_goes_too(recorded):
    """The tasks are of different effort from the first episode that one of them has won on."""
    names = [task.name for task in SCENE]
    flags = ["--task", *names, "--data", str(recorded[2]), "--explore", "relay", "--share", "own", "--warmup", "5"]
    one = Training(Plan.of(command_line([*TD3, *flags])[0]))
    assert one.old is not None and (one.old.pool.weight == 1).all()
    one.collector.relay.won[1].extend([1.0] * 20)
    one.weigh()
    effort = one.collector.relay.effort()
    assert effort[0] > effort[1] and np.array_equal(one.old.pool.weight, effort)
    rows = np.bincount(one.old.sample(np.random.default_rng(0), 660).task)
    assert rows[1] / rows[0] == pytest.approx(effort[1] / effort[0], rel=0.02)


def test_online_with_data_cut_off_goes_on_to_the_bit(recorded):
    args = ["--task", POINT.name, "--data", str(recorded[1]), "--eval-every", "40"]
    whole = started(*args, "--steps", "80")
    half = started(*args, "--steps", "40")
    assert train.main(["--resume", str(half), "--steps", "80"]) == 0
    assert not differences(whole, half)


def test_an_offline_agent_goes_on_online(recorded):
    """Its weights, optimizers and normaliser are the first ones of the new run, which acts by them at once."""
    data = ["--task", POINT.name, "--data", str(recorded[1])]
    before = started(*data, "--offline", "--steps", "20")
    folder = started(*data, "--init", str(before), "--steps", "40")
    saved = checkpoint.load(before)
    settings, _ = command_line([*TD3, *data, "--init", str(before), "--steps", "40"])
    fresh = train.prepared(Plan.of(settings), None)
    for name, x in saved.tensors["agent"].items():
        assert torch.equal(fresh.agent.state_dict()[name], x), name
    assert fresh.agent.updates == 20
    assert checkpoint.load(folder).state["counts"][1] == 40
    actions = []
    fresh.begun = lambda call: (actions.append(call.args[0]), lambda: [])[1]
    torch.manual_seed(0)
    fresh.step()
    torch.manual_seed(0)
    wanted = fresh.agent
    assert len(actions) == 1 and wanted.updates == 21


def test_a_run_that_was_killed_before_its_first_checkpoint_still_starts_with_that_agent(recorded):
    data = ["--task", POINT.name, "--data", str(recorded[1]), "--offline", "--eval-every", "20"]
    before = started(*data, "--steps", "20", "--seed", "1")
    whole = started(*data, "--init", str(before), "--steps", "20")
    cut = started(*data, "--init", str(before), "--steps", "20")
    shutil.rmtree(cut / "checkpoints")
    assert train.main(["--resume", str(cut)]) == 0
    assert not differences(whole, cut)


def test_tasks_find_their_own_episodes(recorded):
    names = [task.name for task in SCENE]
    both = training("--task", *names, "--data", str(recorded[2]), "--offline")
    assert [len(store) for store in both.old.stores] == [200, 200]
    named = training("--task", *names, "--data", f"{names[0]}={recorded[1]}", str(recorded[2]), "--offline")
    assert [len(store) for store in named.old.stores] == [400, 200]


def test_a_task_without_data_learns_from_the_others(recorded):
    names = [task.name for task in SCENE]
    args = ["--task", *names, "--data", f"{names[0]}={recorded[1]}", "--offline", "--relabel", "future"]
    one = training(*args, "--share", "uniform")
    b = one.agent.draw(one.source, one.rng)
    assert sorted(b.task.unique().tolist()) == [0, 1]


@pytest.mark.parametrize("share", ["uniform", "random", "uds", "family"])
def test_a_task_that_others_have_nothing_for_needs_data_of_its_own(recorded, monkeypatch, share):
    """The data of another scene are no use to it, unless all of the family share."""
    away = dataclasses.replace(SWAP, name="test-away", scene="test-away")
    monkeypatch.setitem(tasks.TASKS, away.name, away)
    args = ["--task", POINT.name, away.name, "--data", f"{POINT.name}={recorded[1]}", "--offline", "--share", share]
    if share == "family":
        one = training(*args)
        assert sorted(one.agent.draw(one.source, one.rng).task.unique().tolist()) == [0, 1]
    else:
        with pytest.raises(InputError, match="nothing of test-away: "):
            training(*args)


def test_the_best_episodes(recorded):
    returns = np.array([-3.0, -1.0, -2.0, -1.0, -9.0])
    episodes = [Episode(np.zeros((2, 2)), np.zeros((1, 2)), np.zeros((1, 2)), np.array([r]), False) for r in returns]
    assert [float(e.reward[0]) for e in offline.best(episodes, 0.4)] == [-1.0, -1.0]
    assert offline.best(episodes, 1.0) == episodes
    assert [float(e.reward[0]) for e in offline.best(episodes, 0.01)] == [-1.0]
    assert offline.best([], 0.5) == []
    one = training("--task", POINT.name, "--data", str(recorded[1]), "--offline", "--best", "0.1")
    assert len(one.old) == 20


BAD = {
    "no data": (["--offline"], "--data"),
    "missing": (["--offline", "--data", "nowhere"], "nowhere"),
    "not data": (["--offline", "--data", "tests.txt"], "tests.txt"),
    "best of nothing": (["--best", "0.5"], "--data"),
    "best of none": (["--offline", "--data", "RUN", "--best", "0"], "--best 0"),
    "share": (["--data", "RUN", "--data-share", "1.5"], "--data-share 1.5"),
    "relay": (["--offline", "--data", "RUN", "--explore", "relay"], "--explore relay"),
    "another task": (["--offline", "--data", f"{SWAP.name}=RUN"], SWAP.name),
    "whose": (["--offline", "--data", "RUN", "--task", SWAP.name], SWAP.name),
    "other tasks than it says": (["--offline", "--data", "RUN", "--task", ROW.name, SWAP.name], f"is of {POINT.name}"),
    "one without data": (["--offline", "--data", "RUN", "--task", POINT.name, ROW.name, "--share", "own"], ROW.name),
    "no run to start from": (["--data", "RUN", "--init", "nowhere"], "nowhere"),
    "another agent": (["--data", "RUN", "--init", "RUN", "--agent", "sac"], "it has --agent td3, not sac"),
    "another's tasks": (["--init", "RUN", "--task", POINT.name, ROW.name], "it has --task ['test-point']"),
    "a rule that the agent cannot follow": (
        ["--data", "BOTH", "--offline", "--task", POINT.name, ROW.name, "--agent", "calql", "--share", "cds"],
        "--share cds",
    ),
    "another's shape": (["--data", "RUN", "--init", "RUN", "--hidden", "9"], "networks are others"),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_line_says_what_cannot_be(bad, recorded, capfd):
    Path("tests.txt").write_text("no data set")
    flags, word = BAD[bad]
    flags = [flag.replace("RUN", str(recorded[1])).replace("BOTH", str(recorded[2])) for flag in flags]
    capfd.readouterr()
    assert guarded(console.run, ["train", *TD3, "--task", POINT.name, *flags]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("gcrl: ") and word in said, said
    assert not Path("runs").exists() or not list(Path("runs").iterdir())
