"""Easier tasks that a run learns too: which, in what order, when not; and such a run stopped and resumed."""

from __future__ import annotations

import dataclasses
import os
import signal
from functools import partial

import numpy as np
import pytest

import tasks
from gcrl import progress, train
from gcrl.cli import guarded
from gcrl.settings import Plan, command_line
from tasks.task import within
from tests.benchmarks.kills import differences
from tests.problems import POINT, ROW, SWAP
from tests.test_border import refused_anew
from tests.test_resume import only, stop_at

EASY = dataclasses.replace(ROW, horizon=4, success=partial(within, 1.2))
HARD = dataclasses.replace(POINT, horizon=6, easier=(EASY.name,))
OTHER = dataclasses.replace(SWAP, horizon=5, easier=(EASY.name,))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for task in (EASY, HARD, OTHER):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    for picture in ("curves", "sharing"):
        monkeypatch.setattr(progress, picture, lambda *args: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)  # the default for --runs is below it


def planned(*flags):
    return Plan.of(command_line(["--task", *flags])[0])


@pytest.mark.parametrize(
    ("flags", "names", "explore"),
    [
        ([HARD.name], [EASY.name, HARD.name], "relay"),
        ([HARD.name, "--explore", "relay"], [EASY.name, HARD.name], "relay"),
        ([HARD.name, "--explore", "policy"], [HARD.name], "policy"),
        ([EASY.name], [EASY.name], "policy"),
        ([HARD.name, OTHER.name], [EASY.name, HARD.name, OTHER.name], "relay"),
        ([EASY.name, HARD.name], [EASY.name, HARD.name], "relay"),
        ([HARD.name, EASY.name], [HARD.name, EASY.name], "relay"),  # as asked
        (["fetch-push"], ["fetch-push-beside", "fetch-push"], "relay"),
        (["fetch-push", "--explore", "policy"], ["fetch-push"], "policy"),
        (["fetch-reach"], ["fetch-reach"], "policy"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else x,
)
def test_a_default_run_learns_what_makes_its_tasks_easier_first(flags, names, explore):
    made = planned(*flags)
    assert [task.name for task in made.tasks] == list(made.settings.task) == names
    assert made.settings.explore == explore and made.settings.frame == "relative"
    assert made.steps == sum(tasks.get(name).budget for name in names)
    assert made.task_id == ("goal" if len(names) == 1 else "onehot+goal")
    assert Plan.of(made.settings).settings == made.settings, "what was decided stays"


def test_a_task_given_twice_is_refused_all_the_same(capfd, tmp_path):
    for explore in ([], ["--explore", "relay"], ["--explore", "policy"]):
        refused_anew(capfd, tmp_path, ["train", "--task", HARD.name, HARD.name, *explore], "give each task once")


def test_easier_tasks_are_of_the_scene_and_need_none_themselves():
    declared = [(task, tasks.get(name)) for task in tasks.TASKS.values() for name in task.easier]
    assert declared and all(e.scene == t.scene and e.name != t.name and not e.easier for t, e in declared)


WHOLE = ["--agent", "td3", "--hidden", "8", "8", "--batch", "8", "--warmup", "10", "--task", HARD.name, "--lanes", "2"]
WHOLE += ["--eval-episodes", "2", "--steps", "120", "--log-every", "20", "--eval-every", "60", "--save-seconds", "0"]


def test_such_a_run_goes_on_to_the_bit_with_or_without_its_first_flags(tmp_path, monkeypatch, capfd):
    assert train.main([*WHOLE, "--runs", "whole"]) == 0
    for step, again in ((13, []), (31, ["--task", HARD.name]), (44, ["--task", EASY.name, HARD.name])):
        runs = tmp_path / f"runs-{step}"
        with monkeypatch.context() as patch:
            stop_at(patch, step, signal.SIGTERM)
            assert guarded(train.main, [*WHOLE, "--runs", str(runs)]) == 130
        assert guarded(train.main, ["--resume", str(only(runs)), *again]) == 0
        assert differences(only(tmp_path / "whole"), only(runs)) == []
    for other in ([EASY.name], [OTHER.name], [HARD.name, EASY.name]):
        args = ["--resume", str(only(runs)), "--steps", "130", "--task", *other]
        assert guarded(train.main, args) == 2 and "goes on with task" in capfd.readouterr().err


def test_rows_and_episodes_of_both_are_there():
    one = train.Training(planned(HARD.name, "--hidden", "8", "--batch", "8", "--warmup", "5"))
    for _ in range(120):
        one.step()
    assert all(map(len, one.replay.stores)) and one.collector.relay.counts[1, 0].sum() > 0
    assert one.replay.pool.weight[0] < one.replay.pool.weight[1] == max(one.collector.relay.effort())
    drawn = np.diag(one.replay.flow[0])
    assert drawn[0] > 0 and one.replay.flow[0].sum(1)[1] > one.replay.flow[0].sum(1)[0]


def test_scales_of_the_asked_tasks_are_kept_beside_the_added_ones():
    made = Plan.of(command_line(["--task", "fetch-push", "--reward-scale", "2"])[0])
    assert dict(zip(made.settings.task, made.settings.reward_scale, strict=True)) == {
        "fetch-push-beside": 1.0,
        "fetch-push": 2.0,
    }
