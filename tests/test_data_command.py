"""gcrl data: what it says, what it converts, who plays, and what a wrong flag costs. Long: four commands."""

from __future__ import annotations

import dataclasses
import json
import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

import tasks
from gcrl import __main__ as console
from gcrl import policy, record, train
from gcrl.cli import guarded
from gcrl.collect import Lane, episode_seed
from gcrl.data import Convert, convert, head, tail
from gcrl.record import Collect, Player, collect, counts, player, shares
from tasks import InputError
from tasks.datasets import read, write
from tests.problems import PLAIN, POINT, ROW
from tests.test_datasets import a_run, episodes, same
from tests.test_scripted import rate

TINY = ["--agent", "td3", "--hidden", "8", "8", "--batch", "8", "--warmup", "10", "--eval-episodes", "0"]
TINY += ["--steps", "60", "--log-every", "20", "--save-seconds", "0"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for task in (POINT, PLAIN, ROW):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)


def said(capfd, *args: str) -> str:
    capfd.readouterr()
    assert guarded(console.run, ["data", *args]) == 0
    return capfd.readouterr().out


def refused(capfd, *args: str) -> str:
    """The one line, with exit code 2."""
    capfd.readouterr()
    assert guarded(console.run, ["data", *args]) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1 and line.startswith("gcrl: ") and 20 < len(line) < 500
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two tasks in one layout, with checkpoints at 40 and 60 steps."""
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for task in (POINT, ROW):
            patch.setitem(tasks.TASKS, task.name, task)
        assert train.main([*TINY, "--task", POINT.name, ROW.name, "--runs", str(home)]) == 0
    (folder,) = home.iterdir()
    return folder


# info and convert


def test_it_says_what_a_data_set_holds(capfd):
    write(Path("new"), POINT, episodes(ends=True))
    text = said(capfd, "info", "new")
    for words in ("Minari", "test-point:", "3 episodes of 1 to 4 steps, 8 in all", "observation 2, action 2, goal 2"):
        assert words in text
    assert "1 ended by the task" in text and "success" not in text
    assert "success at the last step" in said(capfd, "info", "new", "--task", POINT.name)
    found = json.loads(said(capfd, "info", "new", "--json", "--task", POINT.name))
    assert found["parts"][0]["steps"] == 8 and 0 <= found["success"] <= 1
    assert json.loads(said(capfd, "info", "new", "--json"))["format"] == "Minari"


def test_it_says_that_there_is_nothing(capfd, tmp_path, monkeypatch):
    with h5py.File("empty.hdf5", "w") as file:  # no episode of it is whole
        for name, shape in {"observations": (3, 2), "actions": (3, 2), "rewards": (3,)}.items():
            file[name] = np.zeros(shape, np.float32)
        file["terminals"], file["timeouts"] = np.ones(3, bool), np.zeros(3, bool)
    text = said(capfd, "info", "empty.hdf5", "--task", POINT.name)
    assert "no episode" in text and text.endswith("nothing\n") and "can be used" not in text
    capfd.readouterr()
    assert guarded(console.run, ["train", *TINY, "--task", POINT.name, "--data", "empty.hdf5"]) == 2
    line = capfd.readouterr().err
    assert "it holds no episode" in line and line.count("\n") == 1


def test_a_run_that_learned_offline_has_no_data(capfd, trained):
    assert train.main([*TINY, "--task", POINT.name, "--data", str(trained), "--offline", "--eval-episodes", "0"]) == 0
    (folder,) = Path("runs").iterdir()
    assert "learned offline and keeps no data" in refused(capfd, "info", str(folder))


def test_a_run_of_two_tasks_says_both(capfd, trained):
    text = said(capfd, "info", str(trained))
    assert "gcrl run" in text and "test-point:" in text and "test-row:" in text


@pytest.mark.parametrize("steps, lengths", [(8, [3, 1, 4]), (4, [3, 1]), (5, [3, 1, 1]), (1, [1])])
def test_the_first_steps(steps, lengths):
    some = episodes(ends=True)
    cut = list(head(some, steps))
    assert [len(e.action) for e in cut] == lengths
    for e, one in zip(cut, some, strict=False):
        assert (e.observation == one.observation[: len(e.action) + 1]).all() and (
            e.action == one.action[: len(e.action)]
        ).all()
        assert len(e.desired) == len(e.reward) == len(e.action)
        assert e.terminated == (one.terminated and len(e.action) == len(one.action))


@pytest.mark.parametrize("steps, lengths", [(8, [3, 1, 4]), (5, [1, 4]), (6, [1, 1, 4]), (1, [1])])
def test_the_last_steps(steps, lengths):
    some = episodes(ends=True)
    cut = list(tail(some, steps))
    assert [len(e.action) for e in cut] == lengths
    for e, one in zip(cut[::-1], some[::-1], strict=False):
        n = len(e.action)
        assert (e.observation == one.observation[-n - 1 :]).all() and (e.reward == one.reward[-n:]).all()
        assert len(e.desired) == n and e.terminated == one.terminated


def test_a_part_of_a_run_becomes_a_minari_folder(capfd):
    folder = a_run(Path("run"), [POINT], [episodes()])
    assert said(capfd, "convert", str(folder), "out", "--task", POINT.name, "--first", "4") == "out\n"
    same(read(Path("out"), POINT), episodes()[:2])
    assert convert(Convert(folder, Path("all"), POINT.name)) == 3
    same(read(Path("all"), POINT), episodes())
    said(capfd, "convert", "all", "last", "--task", POINT.name, "--last", "4")
    same(read(Path("last"), POINT), episodes()[2:])


# collect


def recorded(**told) -> list[tasks.Episode]:
    s = Collect(Path("x"), **{"task": POINT.name, "episodes": 12, **told})
    task, parts = tasks.get(s.task), shares(s.policy)
    return list(collect([player(name, task) for name in parts], list(parts.values()), task, s))


def test_what_is_recorded_is_a_data_set(capfd):
    assert said(capfd, "collect", "--task", POINT.name, "--episodes", "7", "--out", "a/b") == "a/b\n"
    found = read(Path("a/b"), POINT)
    assert [e.action.shape for e in found] == [(POINT.horizon, 2)] * 7
    same(found, recorded(episodes=7))
    assert json.loads(Path("a/b/data/metadata.json").read_text())["algorithm_name"] == "1 random"
    assert [p.name for p in Path("a").iterdir()] == ["b"]


def test_it_depends_on_the_seed_alone(monkeypatch):
    one = recorded()
    same(one, recorded())
    assert not any((a.observation == b.observation).any() for a, b in zip(one, recorded(seed=1), strict=True))
    monkeypatch.setattr(record, "LANES", 3)
    same(one, recorded())


def test_random_actions_are_uniform():
    actions = np.concatenate([e.action for e in recorded(episodes=60)])
    quarters = np.histogram(actions, 4, (-1, 1))[0] / actions.size
    assert abs(quarters - 0.25).max() < 0.04 and len(np.unique(actions)) == actions.size
    (first, second, *_) = recorded(noise=5.0)  # nothing is added to what is drawn anyhow
    assert (np.abs(first.action) < 1).all() and (np.abs(second.action) < 1).all()


def still(lanes, carry, rngs):
    """A policy that stands still and counts the steps."""
    carry = 0 if carry is None else carry
    return np.full((len(lanes), 2), carry / 100, np.float32), carry + 1


def test_noise_and_drawn_actions():
    play = partial(collect, [Player(still, POINT)], [1.0], POINT)
    plain = list(play(Collect(Path("x"), episodes=7)))
    assert all((e.action == np.arange(POINT.horizon, dtype=np.float32)[:, None] / 100).all() for e in plain)
    x = np.concatenate([e.action - plain[0].action for e in play(Collect(Path("x"), episodes=50, noise=0.2))])
    assert abs(x.std() - 0.2) < 0.02 and abs(x.mean()) < 0.02
    x = np.concatenate([e.action - plain[0].action for e in play(Collect(Path("x"), episodes=50, random=0.3))])
    assert abs((x == 0).all(1).mean() - 0.7) < 0.05


def test_a_choice_is_recorded_as_one():
    task = dataclasses.replace(POINT, discrete=True)
    some = list(collect([player("random", task), Player(still, task)], [0.5, 0.5], task, Collect(Path("x"), noise=1.0)))
    assert {tuple(a) for e in some for a in e.action.tolist()} == {(-1.0, 1.0), (1.0, -1.0)}


def steady(k, lanes, carry, rngs):
    """A policy that one can tell by its actions."""
    return np.full((len(lanes), 2), k / 10, np.float32), None


def test_each_policy_plays_its_share():
    fixed = [Player(partial(steady, k), POINT) for k in range(3)]
    some = list(collect(fixed, [0.5, 0.3, 0.2], POINT, Collect(Path("x"), episodes=40)))
    played = [round(float(e.action[0, 0]) * 10) for e in some]
    assert np.bincount(played).tolist() == [20, 12, 8] and played != sorted(played)
    assert len({e.observation.tobytes() for e in some}) == 40


THIRDS = [1 / 3] * 3


@pytest.mark.parametrize("parts, n, wanted", [([0.5, 0.5], 5, [3, 2]), ([0.2, 0.8], 1, [0, 1]), (THIRDS, 7, [3, 2, 2])])
def test_shares_come_out_to_the_episode(parts, n, wanted):
    assert counts(parts, n) == wanted


def test_shares():
    assert shares(["random"]) == {"random": 1}
    assert shares(["random,scripted"]) == {"random": 0.5, "scripted": 0.5}
    assert shares(["random:0.25", "run:a/b:c@40:0.75"]) == {"random": 0.25, "run:a/b:c@40": 0.75}
    for wrong in ("random:0.5", "random:0.5,scripted", "random:0,scripted:1", "random:nan", "a,a", ":1", ""):
        with pytest.raises(InputError, match="--policy"):
            shares([wrong])


def test_the_policy_of_a_run_plays_as_its_evaluation_does(trained):
    """In the layout that it knows; what is kept is in the task's own."""
    some = recorded(task=ROW.name, policy=(f"run:{trained}",), episodes=6)
    agent, plan, step = policy.load(trained, "cpu")
    assert step == 60 and all(e.observation.shape[1] == 2 and e.desired.shape[1] == 1 for e in some)
    lane = Lane(plan.tasks[1])
    lane.reset(episode_seed(0, 0, 0, 3))
    state = record.seen([lane], np.array([1]))
    np.testing.assert_allclose(some[0].action[0], agent.act(state)[0][0].detach().numpy(), atol=1e-6)
    assert (some[0].observation[0] == lane.observation[0][:2]).all()


def test_an_older_policy_of_a_run(trained):
    new, old, same_as_new = (recorded(policy=(f"run:{trained}{at}",), episodes=2) for at in ("", "@40", "@60"))
    same(new, same_as_new)
    assert (new[0].action != old[0].action).any()
    with pytest.raises(InputError, match=r"no checkpoint at step 20, only at 40, 60: a run keeps its 2 newest"):
        player(f"run:{trained}@20", POINT)


def test_controllers_fill_a_mixture():
    task = tasks.get("fetch-reach")
    some = recorded(task="fetch-reach", policy=("random:0.5", "scripted:0.5"), episodes=10)
    assert sum(bool(task.success(task.goal_of(e.observation[-1]), e.desired[-1])) for e in some) in (5, 6)
    assert rate("fetch-reach", 1) == 1


@pytest.mark.parametrize(
    "typed, words",
    [
        ("nonsense", ["info, convert, collect"]),
        ("info", ["PATH", "--help"]),
        ("info nowhere", ["nowhere", "No such file"]),
        ("info good --task fetch-reech", ["did you mean fetch-reach"]),
        ("info good --task fetch-reach", ["is of test-point, not of fetch-reach"]),
        ("convert good", ["--help"]),
        ("convert good out", ["--task"]),
        ("convert good good --task test-point", ["is there already"]),
        ("convert good out --task test-point --first 0", ["--first 0"]),
        ("convert good out --task test-point --first 9", ["--first 9", "holds 8 steps"]),
        ("convert good out --task test-point --last 9", ["--last 9", "holds 8 steps"]),
        ("convert good out --task test-point --last 2 --first 2", ["one of them"]),
        ("collect", ["--out", "--help"]),
        ("collect --out good --task test-point", ["is there already"]),
        ("collect --out out --task xyz", ["unknown task 'xyz'"]),
        ("collect --out out --task test-point --policy expert", ["expert", "random, scripted, run:PATH"]),
        ("collect --out out --task test-point --policy scripted", ["nobody wrote one for test-point"]),
        ("collect --out out --task test-point --policy run:", ["choose from"]),
        ("collect --out out --task test-point --policy run:nowhere", ["nowhere is not a run"]),
        ("collect --out out --task test-point --policy", ["--policy"]),
        ("collect --out out --task test-point --policy random:0.5", ["sum to 1"]),
        ("collect --out out --task test-point --episodes 0", ["--episodes 0"]),
        ("collect --out out --task test-point --noise nan", ["--noise nan"]),
        ("collect --out out --task test-point --noise -1", ["--noise -1"]),
        ("collect --out out --task test-point --random 2", ["--random 2"]),
        ("collect --out out --task test-point --seed -1", ["--seed -1"]),
        ("collect --out out --task test-point --device tpu --policy run:x", ["x is not a run"]),
        ("collect --out good/data/metadata.json/below --task test-point", ["cannot write"]),
    ],
)
def test_what_cannot_be_meant(capfd, tmp_path, typed, words):
    write(Path("good"), POINT, episodes())
    before = sorted(tmp_path.rglob("*"))
    line = refused(capfd, *typed.split(" "))
    for word in words:
        assert word in line, line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_simulator_that_breaks_leaves_nothing(capfd, tmp_path, monkeypatch):
    from tests.problems import script

    monkeypatch.setitem(tasks.TASKS, "test-script", script(fault=("observation", 5, np.full(4, np.nan))))
    assert guarded(console.run, ["data", "collect", "--task", "test-script", "--out", "new"]) == 1
    assert "not finite" in capfd.readouterr().err and list(tmp_path.iterdir()) == []


def test_without_a_command_it_says_which_there_are(capfd):
    for args in ([], ["--help"]):
        assert "info" in said(capfd, *args) and "convert" in said(capfd, *args)
    with pytest.raises(SystemExit):
        guarded(console.run, ["data", "collect", "--help"])
    assert "--policy" in capfd.readouterr().out
