"""Several tasks, one policy: whole runs on three tiny tasks, cut off, resumed, shown, refused. Long: shared runs."""

from __future__ import annotations

import csv
import functools
import json
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from gcrl import evaluate, progress, train
from gcrl.cli import guarded
from gcrl.encoder import value_bounds
from gcrl.evaluate import ALL, Evaluator
from relabel.share import NAMES
from tasks.task import within
from tests.benchmarks.kills import differences
from tests.problems import PLAIN, POINT, ROW, SWAP, plan_of
from tests.test_border import refused, refused_anew
from tests.test_resume import check_chain, only, saved, start, stop_at, training

THREE = (
    replace(POINT, horizon=6),
    replace(ROW, horizon=4, success=partial(within, 1.2)),  # easy: it may go first in a relay
    replace(SWAP, horizon=5),
)
NAMED = [task.name for task in THREE]
RECORDED = [replace(PLAIN, name=f"test-recorded-{k}") for k in range(2)]
FAR = replace(POINT, name="test-far", scene="test-far")
IDS = ("onehot+goal", "goal", "embedding+goal")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for task in (*THREE, *RECORDED, FAR):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)  # the default for --runs is below it


# Every way of sharing learns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", NAMES)
@pytest.mark.parametrize("task_id", IDS)
def test_every_sharing_learns_with_every_identity(share, task_id):
    """Finite, from the data that it may see, as many rows as were drawn; each agent in its turn."""
    agent = ("ddpg", "td3", "sac")[(NAMES.index(share) + IDS.index(task_id)) % 3]
    told = {"share": share, "task_id": task_id, "utd": 0.5, "warmup": 5, "n_step": 2}
    one = train.Training(plan_of(THREE, agent, {"batch": 12, "hidden": (8,)}, **told))
    before = [p.clone() for p in one.agent.parameters()]
    for _ in range(40):
        one.step()
    waiting = sum(map(len, one.source.waiting.values()))
    assert one.updates > 15 and one.replay.flow[0].sum() == 12 * (one.updates + waiting)
    assert all(torch.isfinite(p).all() for p in one.agent.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(one.agent.parameters(), before, strict=True))
    assert all(np.isfinite(float(x)) for x in one.metrics.values())
    shared = one.replay.flow[0].sum() - np.trace(one.replay.flow[0])
    assert (shared > 0) == (share != "own" and (share != "groups" or len({t.skill for t in THREE}) < 3))
    assert len(set(map(len, one.replay.stores))) > 1 and all(map(len, one.replay.stores))
    kinds = len({task.goal_of for task in one.plan.tasks})
    assert kinds == 3 and len(one.agent.encode.goals) == (1 if task_id == "goal" else 3)


@pytest.mark.parametrize("agent", ["ddpg", "td3", "sac"])
def test_a_reward_scale_is_the_tasks_own(agent):
    """Of its rewards and of what its values can be; what is collected does not change."""
    scale = (2.0, 0.5, 1.0)
    pair = [train.Training(plan_of(THREE, agent, utd=0.0, share="uniform", reward_scale=s)) for s in ((), scale)]
    for one in pair:
        for _ in range(60):
            one.step()
    plain, scaled = (one.replay.sample(np.random.default_rng(0), 300, 2) for one in pair)
    assert torch.equal(plain.task, scaled.task) and torch.equal(plain.discount, scaled.discount)
    torch.testing.assert_close(scaled.reward, plain.reward * torch.tensor(scale)[plain.task])
    assert (plain.reward < 0).any()
    gamma = pair[0].plan.gamma
    assert pair[1].agent.spec.bounds == tuple(value_bounds((-c, 0.0), gamma) for c in scale)
    assert pair[0].agent.spec.bounds == (value_bounds((-1.0, 0.0), gamma),) * 3


# Exact resume -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "explore", "agent", "lanes", "every"),
    [
        ("hipi", "relay", "sac", "2", 2),
        ("cds", "relay", "td3", "3", 1),
        ("cds-soft:20", "policy", "ddpg", "1", 7),
        ("hindsight", "relay", "td3", "2", 3),
    ],
)
def test_every_step_is_a_place_to_stop(tmp_path, share, explore, agent, lanes, every):
    """Before any task has data, before all have; while stores overflow, and in the middle of relays."""
    flags = ["--task", *NAMED, "--share", share, "--explore", explore, "--agent", agent, "--lanes", lanes]
    flags += ["--warmup", "3", "--replay", "36", "--n-step", "2", "--utd", "0.7", "--balance", "0.3"]
    flags += ["--task-id", "embedding+goal"]
    whole = check_chain(tmp_path, flags, 66 // int(lanes), every)
    assert whole.updates > 15 and all(0 < len(store) <= 12 for store in whole.replay.stores)
    assert whole.replay.flow[0].sum() == 8 * (whole.updates + 1) and whole.episodes > 9
    weight = whole.replay.pool.weight
    if explore == "relay":
        assert whole.collector.relay.counts[:, :-1].sum() > 0, "somebody went first"
        assert len(set(weight)) > 1 and np.array_equal(weight, whole.collector.relay.effort())
    else:
        assert (weight == 1).all()


def test_rows_go_where_effort_goes_also_after_a_stop(tmp_path):
    """In the first episodes and after them; and the lanes play the same tasks."""
    flags = ["--task", *NAMED, "--explore", "relay", "--lanes", "2", "--utd", "0.5"]
    one, seen = training(*flags), set()
    for _ in range(30):
        for _ in range(5):
            one.step()
        weight, other = one.replay.pool.weight, training(*flags)
        other.restore(saved(one, tmp_path)[0], tmp_path)
        assert np.array_equal(weight, one.collector.relay.effort()) and np.array_equal(weight, other.replay.pool.weight)
        assert np.array_equal(one.collector.task, other.collector.task)
        seen.add(tuple(weight))
    assert len(seen) > 3


def test_the_checkpoint_of_other_tasks_is_refused(tmp_path):
    one = training("--task", *NAMED)
    found = saved(one, tmp_path)[0]
    assert found.state["task"] == NAMED
    for other in (NAMED[:2], NAMED[:1], NAMED[::-1]):
        with pytest.raises(tasks.InputError, match=r"is of task \['test-point', 'test-row', 'test-swap'\]"):
            training("--task", *other).restore(found, tmp_path)


WHOLE = ["--agent", "td3", "--hidden", "8", "8", "--batch", "8", "--warmup", "10", "--task", *NAMED]
WHOLE += ["--explore", "relay", "--n-step", "2", "--replay", "120", "--eval-episodes", "3", "--lanes", "2"]
WHOLE += ["--steps", "120", "--log-every", "20", "--eval-every", "60", "--save-seconds", "0"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run of WHOLE that nothing disturbed, for a way of sharing."""

    @functools.cache
    def of(share: str) -> Path:
        runs = tmp_path_factory.mktemp("unbroken")
        assert train.main([*WHOLE, "--share", share, "--runs", str(runs)]) == 0
        return only(runs)

    return of


@pytest.mark.parametrize("share", ["hipi", "hindsight"])
def test_a_stopped_run_ends_as_an_unbroken_one(tmp_path, monkeypatch, unbroken, share):
    """Weights, replay, scores, relays and every row of every table; whatever step the signal came in."""
    whole, step = unbroken(share), random.Random().randrange(6, 59)
    for picture in ("curves", "sharing"):
        monkeypatch.setattr(progress, picture, lambda *args: None)
    with monkeypatch.context() as patch:
        stop_at(patch, step, signal.SIGTERM)
        assert guarded(train.main, [*WHOLE, "--share", share, "--runs", "runs", "--save-seconds", "1000"]) == 130
    folder = only(tmp_path / "runs")
    assert train.main(["--resume", str(folder)]) == 0
    assert differences(whole, folder) == [], step


def test_kill_minus_9_at_random_moments(tmp_path, unbroken):
    rng, code, kills, runs = random.Random(), None, 0, tmp_path / "runs"
    while code != 0 and not list(runs.glob("*/checkpoints/000000000120")):  # the kill may come behind the last one
        found = [path for path in runs.glob("*") if not path.name.startswith(".")]
        child = start(["--resume", str(found[0])] if found else [*WHOLE, "--share", "hipi", "--runs", str(runs)])
        if kills < 2:
            time.sleep(rng.uniform(0, 0.6))
            os.kill(child, signal.SIGKILL)
            kills += 1
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -9)
    assert differences(unbroken("hipi"), only(runs)) == []


def test_a_difference_in_sharing_is_seen(tmp_path, unbroken):
    import shutil

    copy = Path(shutil.copytree(unbroken("hipi"), tmp_path / "copy"))
    (copy / "sharing.csv").write_bytes((copy / "sharing.csv").read_bytes()[:-1])
    assert differences(unbroken("hipi"), copy) == ["sharing.csv"]


# What a run shows ---------------------------------------------------------------------------------------------------


def rows(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_and_pictures_of_a_run(unbroken):
    folder = unbroken("hipi")
    for picture in ("curve.png", "sharing.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    updates = {row["step"]: int(row["updates"]) for row in rows(folder, "progress")}
    flows = rows(folder, "sharing")
    assert [(r["step"], r["receiver"], r["source"]) for r in flows] == list(product(("60", "120"), NAMED, NAMED))
    for step in ("60", "120"):
        now = [r for r in flows if r["step"] == step]
        assert sum(int(r["rows"]) for r in now) == 8 * updates[step]
        assert all(0 <= int(r["rewarded"]) <= int(r["rows"]) for r in now)
    assert any(int(r["rows"]) for r in flows if r["receiver"] != r["source"])
    results = rows(folder, "eval")
    assert [(r["step"], r["task"]) for r in results] == list(product(("60", "120"), [*NAMED, ALL]))
    for at in range(0, 8, 4):
        *each, together = results[at : at + 4]
        assert [int(r["episodes"]) for r in each] == [3] * 3 and together["episodes"] == "9"
        for name in ("success", "success_any", "mean_return", "length"):
            assert float(together[name]) == pytest.approx(np.mean([float(r[name]) for r in each])), name
    assert [float(r["length"]) for r in results[:3]] == [task.horizon for task in THREE]
    config = json.loads((folder / "config.json").read_text())
    assert config["task"] == NAMED and config["task_id"] == "onehot+goal" and config["share"] == "hipi"
    assert folder.name.startswith("test-point-3-tasks-td3-")


def said(capsys, *args):
    """What `gcrl evaluate` prints, line by line."""
    capsys.readouterr()
    assert evaluate.main([*map(str, args), "--device", "cpu"]) == 0
    return capsys.readouterr().out.splitlines()


def test_evaluate_prints_a_table_of_what_each_task_does(capsys, unbroken):
    folder = unbroken("hipi")
    *table, last = said(capsys, folder, "--episodes", 4, "--json")
    found = json.loads(last)
    assert len(table) == 5 and table[0].split()[:2] == ["task", "success"]
    assert [line.split()[0] for line in table[1:]] == [*NAMED, ALL] == [r["task"] for r in [*found["tasks"], found]]
    agent, made, _ = evaluate.policy.load(folder, "cpu")
    for k, (task, told) in enumerate(zip(made.tasks, found["tasks"], strict=True)):
        result = Evaluator(task, k=k)(agent, 4)
        assert told == {"task": task.name, "step": 120, **evaluate.figures(result)}
        assert f"{result.success:.3f}" in table[1 + k] and f"{result.mean_return:.2f}" in table[1 + k]
    assert found["episodes"] == 12
    assert found["return"] == pytest.approx(np.mean([told["return"] for told in found["tasks"]]))
    assert said(capsys, folder, "--episodes", 4) == table


def test_evaluate_plays_only_the_tasks_that_are_asked_for(capsys, unbroken):
    folder = unbroken("hipi")
    every = json.loads(said(capsys, folder, "--episodes", 4, "--json")[-1])
    one = said(capsys, folder, "--episodes", 4, "--json", "--task", "test-row")
    assert json.loads(one[-1]) == every["tasks"][1] and one[0].startswith("success at the last step")
    two = json.loads(said(capsys, folder, "--episodes", 4, "--json", "--task", "test-swap", "test-point")[-1])
    assert two["tasks"] == [every["tasks"][0], every["tasks"][2]] and two["episodes"] == 8


def test_evaluate_refuses_what_the_run_cannot_do(capfd, unbroken):
    folder = str(unbroken("hipi"))
    refused(capfd, ["evaluate", folder, "--task", "test-far"], "--task test-far", "test-point, test-row, test-swap")
    refused(capfd, ["evaluate", folder, "--instruction", "go"], "--instruction", "by onehot+goal", "--task-id language")


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--share", "unifrom"], ["--share unifrom", "did you mean uniform"]),
        (["--share", "cds:200"], ["--share cds:200", "from 0 to 100"]),
        (["--explore", "random"], ["--explore random", "policy, relay"]),
        (["--explore", "relay", "--task", NAMED[0]], ["--explore relay: give two tasks of one scene, with goals"]),
        (["--explore", "relay", "--task", NAMED[0], FAR.name], ["--explore relay: give two tasks of one scene"]),
        (["--explore", "relay", "--task", RECORDED[0].name], ["--explore relay: give two tasks of one scene"]),
        (["--task-id", "onehot"], ["--task-id onehot hides the goal", "+goal", "--relabel none"]),
        (["--task-id", "embedding"], ["--task-id embedding hides the goal"]),
        (["--task-id", "name"], ["--task-id name", "onehot+goal"]),
        (["--reward-scale", "1", "2"], ["--reward-scale: 2 factors for 3 tasks"]),
        (["--reward-scale", "1", "0", "2"], ["--reward-scale 0.0", "from 1e-06"]),
        (["--reward-scale", "1", "nan", "2"], ["--reward-scale nan"]),
        (["--balance", "1.5"], ["--balance 1.5", "from 0 to 1"]),
        (["--replay", "17"], ["--replay 17", "each of the 3 tasks"]),
        (["--task", NAMED[0], NAMED[0]], ["give each task once"]),
        (["--task", NAMED[0], "fetch-reach"], ["one policy needs one body", "train them apart"]),
        (["--task", NAMED[0], "test-nothing"], ["unknown task 'test-nothing'"]),
        (["--task", *(t.name for t in RECORDED), "--share", "uniform"], ["only recorded rewards", "--share own"]),
        (["--task", NAMED[0], RECORDED[0].name], ["does not say where its 2 numbers lie"]),
    ],
    ids=lambda x: " ".join(x)[:40],
)
def test_what_cannot_be_meant(capfd, tmp_path, flags, words):
    refused_anew(capfd, tmp_path, ["train", "--task", *NAMED, "--agent", "td3", "--steps", "30", *flags], *words)


def test_what_tells_tasks_apart_by_default():
    """One task needs its goal alone; a name may stand for a tuple of one; tasks without goals have their number."""
    one, alike = plan_of(THREE[:1], "td3"), plan_of(THREE[:1], "td3", task=NAMED[0])
    assert one.tasks == alike.tasks == THREE[:1] and one.settings.task == alike.settings.task == (NAMED[0],)
    assert one.task_id == "goal" and one.name == NAMED[0]
    assert plan_of(THREE, "td3").task_id == "onehot+goal" and plan_of(RECORDED, "td3").task_id == "onehot"
    assert plan_of([THREE[0], FAR], "td3").name == "test-point-2-tasks"


def test_identity_alone_is_fine_without_relabelling():
    one = train.Training(plan_of(THREE, "td3", task_id="onehot", relabel="none", utd=0.2, warmup=5))
    for _ in range(40):
        one.step()
    assert one.updates > 3 and not one.agent.encode.sees_goal and one.agent.encode.dim == 2 + 3


def test_sharing_between_dynamics_is_told_of(capfd):
    """A family's scenes differ; within one there is nothing to tell."""
    flags = ["--agent", "td3", "--hidden", "4", "--batch", "4", "--eval-episodes", "0", "--steps", "24"]
    for names, told in (([NAMED[0], FAR.name], 1), (NAMED[:2], 0)):
        capfd.readouterr()
        assert train.main([*flags, "--task", *names, "--share", "family"]) == 0
        assert capfd.readouterr().err.count("--share family: the dynamics of test-point, test-far differ") == told
