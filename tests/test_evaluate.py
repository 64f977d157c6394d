"""Evaluation as an independent loop counts it, played without a trace. Long: one file a module."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import random
import warnings

import numpy as np
import pytest
import torch

import tasks
from gcrl import run
from gcrl.evaluate import SEED, Evaluator, Result, evaluation_seed, interval, main
from gcrl.settings import to_json
from gcrl.train import Training
from tasks.task import InputError
from tests.problems import PLAIN, POINT, Point, Scripted, fit_for, plan, script, wheel

every_way = pytest.mark.parametrize("name", ["ddpg", "td3", "sac", "dqn", "bcq", "dt", "hiql"])
"""of acting that agents have"""


def towards(obs, goal, steps):
    return ((goal - obs) / Point.SPEED).clamp(-1, 1)


def past(obs, goal, steps):
    """To the goal, and away from it at the end."""
    return towards(obs, goal, steps) if steps < 18 else -obs.sign()


def late(obs, goal, steps):
    """To the goal in the last steps only: the nearest ones are reached in time."""
    return towards(obs, goal, steps) * (steps >= 17)


def idle(obs, goal, steps):
    return torch.zeros(len(obs), 2)


def by_hand(do, episodes, seed=SEED, task=POINT):
    """Rows (last, any, return, length) of the same episodes, one environment, one step at a time."""
    rows = []
    for n in range(episodes):
        env, reached, paid = task.make(), [], 0.0
        raw, _ = env.reset(seed=evaluation_seed(seed, n))
        for t in range(task.horizon):
            seen, goal = (torch.tensor(raw[k], dtype=torch.float32)[None] for k in ("observation", "desired_goal"))
            raw, reward, ended, _, _ = env.step(do(seen, goal, t)[0].numpy())
            place = np.float32(raw["achieved_goal"])
            reached.append(bool(task.success(place, goal[0].numpy())))
            paid += reward
            if ended:
                break
        rows.append((reached[-1], any(reached), paid, len(reached)))
    return np.array(rows, float)


def same(one, other):
    """Equal results, nan where the other is nan."""
    return np.array_equal(np.array(one, float), np.array(other, float), equal_nan=True)


# What is counted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", [towards, past, late, idle])
def test_a_result_is_what_an_independent_loop_counts(do):
    rows = by_hand(do, 40)
    result = Evaluator(POINT)(Scripted(do), 40)
    assert result == Result(40, rows[:, 0].mean(), *interval(rows[:, 0]), *map(pytest.approx, rows[:, 1:].mean(0)))


def test_last_and_any_are_told_apart():
    results = {do.__name__: Evaluator(POINT)(Scripted(do), 40) for do in (towards, past, late, idle)}
    assert (results["towards"].success, results["towards"].success_any) == (1, 1)
    assert results["past"].success < 0.2
    assert results["past"].success_any == 1
    assert 0.1 < results["late"].success < 0.9
    assert results["idle"].success == results["idle"].success_any < 0.2
    assert results["idle"].mean_return < results["late"].mean_return < results["towards"].mean_return < 0


def test_success_is_that_of_the_goal_in_force():
    """The goal (draw, t) of a step is another after it: (draw, t + 1). The place reached is (draw, t + 1)."""
    told = {"goal_of": operator.itemgetter((..., [0, 2]))}
    for late, share in ((0, 0.0), (1, 1.0)):
        success = functools.partial(lambda late, achieved, desired: achieved[..., 1] == desired[..., 1] + late, late)
        result = Evaluator(dataclasses.replace(script(), **told, success=success))(Scripted(idle), 7)
        assert (result.success, result.success_any) == (share, share)


def test_success_at_the_start_does_not_count():
    """It is r(achieved after the step): whoever starts on the goal and leaves it at once has never reached it."""
    task = dataclasses.replace(script(), success=lambda achieved, desired: achieved[..., 1] == 0)
    task = dataclasses.replace(task, goal_of=operator.itemgetter((..., [0, 2])))
    assert Evaluator(task)(Scripted(idle), 3).success_any == 0


def test_episodes_end_one_by_one():
    """Of 1 to 4 steps, in lanes that begin together; the policy's carry keeps its shape all the while."""
    sizes = []

    def noting(obs, goal, steps):
        sizes.append(len(obs))
        return torch.zeros(len(obs), 1)

    task = wheel(True, True)
    rows = by_hand(lambda *_: torch.zeros(1, 1), 33, task=task)
    assert set(rows[:, 3]) == {1, 2, 3, 4}
    result = Evaluator(task, lanes=11)(Scripted(noting), 33)
    assert (result.success, result.success_any) == (1, 1)
    assert result.length == pytest.approx(rows[:, 3].mean())
    assert result.mean_return == pytest.approx(rows[:, 2].mean())
    assert sizes == [11] * len(sizes)


def test_without_goals_there_is_no_success_and_no_complaint():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = Evaluator(PLAIN)(Scripted(idle), 12)
    assert all(map(math.isnan, (result.success, result.success_low, result.success_high, result.success_any)))
    assert (result.episodes, result.length) == (12, 20)
    starts = [PLAIN.make().reset(seed=evaluation_seed(SEED, n))[0] for n in range(12)]
    assert result.mean_return == pytest.approx(np.mean([-20 * np.linalg.norm(x[:2] - x[2:]) for x in starts]))


# Which episodes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 3, 7, 20])
@pytest.mark.parametrize("episodes", [1, 7, 13])
def test_every_episode_is_played_once_however_many_lanes(lanes, episodes):
    evaluator = Evaluator(script(horizon=2), lanes)
    result = evaluator(Scripted(idle), episodes)
    seeds = [seed for lane in evaluator.lanes for seed in lane.env.resets]
    assert sorted(seeds) == sorted(evaluation_seed(SEED, n) for n in range(episodes))
    assert result.episodes == episodes
    assert same(Evaluator(POINT, lanes)(Scripted(late), episodes), Evaluator(POINT, 4)(Scripted(late), episodes))


def test_the_first_episodes_are_the_same_however_many_follow():
    few, many = by_hand(late, 10), by_hand(late, 30)
    assert np.array_equal(few, many[:10])
    evaluator = Evaluator(POINT)
    assert evaluator(Scripted(late), 10).success == many[:10, 0].mean()
    assert evaluator(Scripted(late), 30).success == many[:, 0].mean()


def test_the_seed_chooses_the_episodes():
    evaluator = Evaluator(POINT)
    results = [evaluator(Scripted(late), 30, seed=seed) for seed in (1, 2, 1)]
    assert same(results[0], results[2])
    assert results[0].mean_return != results[1].mean_return
    assert same(results[1], Evaluator(POINT)(Scripted(late), 30, seed=2))


def trained(name, **told):
    wanted = {"batch": 8, "hidden": (8,), "period": 5} | ({"lr": 1e-2} if name == "dt" else {})
    return Training(plan(fit_for(name, POINT), name, wanted, relabel="future", warmup=25, lanes=2, **told))


@every_way
def test_a_policy_gets_the_same_result_whatever_happened_before(name):
    """Other policies, other episodes, training, and draws from every generator in between."""
    training, task = trained(name), fit_for(name, POINT)
    evaluator = Evaluator(task)
    first = evaluator(training.agent, 12)
    weights = {key: x.clone() for key, x in training.agent.state_dict().items()}
    for _ in range(150):
        training.step()
    assert training.updates > 0
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - whatever a user's code does
    evaluator(Scripted(past), 7, seed=3)
    changed = evaluator(training.agent, 12)
    training.agent.load_state_dict(weights)
    assert same(evaluator(training.agent, 12), first)
    assert same(Evaluator(task)(training.agent, 12), first)
    assert not same(changed, first) or task.discrete  # of a few choices most may stay as they were


@every_way
def test_evaluating_leaves_no_trace(name):
    """No generator moves, no weight; and a run goes on to the bit as if it had not been evaluated."""
    plain, watched = trained(name), trained(name)
    evaluator = Evaluator(fit_for(name, POINT), 3)
    states = []
    for training in (plain, watched):
        torch.manual_seed(0)
        for i in range(30):
            training.step()
            if training is watched and i % 7 == 0:
                before = generators(training)
                evaluator(training.agent, 4)
                assert generators(training) == before
        lanes = training.collector.snapshot() | training.replay.stores[0].state()
        states.append((training.agent.state_dict(), {k: x.tolist() for k, x in lanes.items()}, generators(training)))
    assert plain.updates == watched.updates > 0
    assert all(torch.equal(x, states[1][0][key]) for key, x in states[0][0].items())
    assert states[0][1:] == states[1][1:]


def generators(training):
    """The states of all that random numbers come from."""
    numpy = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().tolist(),
        (numpy[1].tolist(), *numpy[2:]),
        random.getstate(),
        training.rng.bit_generator.state,
    )


# The interval -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_equal_values_leave_no_doubt(value):
    assert interval(np.full(25, value)) == (value, value)
    assert interval(np.array([value])) == (value, value)


def test_two_values_have_a_known_distribution_of_means():
    """0, 1/2 and 1 with 1/4, 1/2 and 1/4."""
    assert interval(np.array([0.0, 1.0])) == (0, 1)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [100, 400])
def test_shares_are_near_the_normal_approximation(p, n):
    values = (np.arange(n) < round(p * n)).astype(float)
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    assert interval(values) == (pytest.approx(p - half, abs=0.012), pytest.approx(p + half, abs=0.012))
    assert interval(np.random.default_rng(1).permutation(values)) == pytest.approx(interval(values), abs=0.012)


def test_the_interval_moves_and_grows_with_its_values():
    values = np.random.default_rng(0).normal(size=40)
    low, high = interval(values)
    assert low < values.mean() < high
    assert interval(values) == (low, high)
    assert interval(3 * values - 7) == (pytest.approx(3 * low - 7), pytest.approx(3 * high - 7))
    assert interval(-values) == (pytest.approx(-high, abs=0.03), pytest.approx(-low, abs=0.03))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        low, high = interval((rng.random(60) < 0.7).astype(float), 400)
        hits += low <= 0.7 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_no_success_rate_has_no_interval():
    assert all(map(math.isnan, interval(np.full(4, np.nan))))


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Make the run folder of a few steps of training on a task."""

    def save(task):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
        made = plan(task, "td3", {"batch": 8, "hidden": (8,)}, warmup=25)
        training = Training(made)
        for _ in range(45):
            training.step()
        folder = run.create(tmp_path, "test", to_json(made.settings))
        training.save(folder, 0.0)
        return folder, training

    return save


def refuse(constant):
    raise ValueError(f"{constant} is no JSON")


@pytest.mark.parametrize("task", [POINT, PLAIN], ids=["goals", "no goals"])
def test_the_last_line_is_json_of_the_saved_policys_result(saved, capsys, task):
    folder, training = saved(task)
    assert main([str(folder), "--episodes", "7", "--json", "--device", "cpu"]) == 0
    *said, last = capsys.readouterr().out.strip().splitlines()
    found = json.loads(last, parse_constant=refuse)
    result = Evaluator(task)(training.agent, 7)
    shown = {name: None if math.isnan(x) else x for name, x in result._asdict().items()}
    assert (found["task"], found["step"], found["episodes"]) == (task.name, 45, 7)
    for name in ("success", "success_low", "success_high", "success_any", "length"):
        assert found[name] == shown[name], name
    assert found["return"] == result.mean_return
    assert any("return" in line and f"{result.mean_return:.2f}" in line for line in said)
    assert any("success" in line for line in said) == (task is POINT)
    if task is POINT:
        assert any(f"{result.success:.3f}" in line and f"{result.success_high:.3f}" in line for line in said)


def test_flags_choose_the_episodes(saved, capsys):
    folder, training = saved(PLAIN)  # its return is a sum of distances: never by chance that of other episodes
    said = []
    for flags in (["--seed", "1"], ["--seed", "2"], ["--seed", "1"], []):
        main([str(folder), "--episodes", "6", "--json", *flags])
        said.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert said[0] == said[2]
    assert len({one["return"] for one in said}) == 3
    assert said[1]["return"] == Evaluator(PLAIN)(training.agent, 6, seed=2).mean_return
    main([str(folder), "--episodes", "6"])
    assert not capsys.readouterr().out.splitlines()[-1].startswith("{")


def test_what_cannot_be_evaluated_is_refused(saved, tmp_path):
    folder, _ = saved(POINT)
    for args in ([str(folder), "--episodes", "0"], [str(tmp_path / "nowhere")], [str(folder), "--episodes", "-3"]):
        with pytest.raises(InputError) as caught:
            main(args)
        assert "\n" not in str(caught.value)
