"""Fitted Q evaluation against values by formula, and as a command."""

from __future__ import annotations

import functools
import itertools
import json
from unittest import mock

import numpy as np
import pytest
import torch

import tasks
from gcrl import fqe
from gcrl.__main__ import run as gcrl
from gcrl.agents.agent import Agent
from gcrl.collect import Collector
from gcrl.encoder import Spec
from gcrl.evaluate import interval
from gcrl.fqe import FQE, FQESettings, evaluate, starts
from gcrl.run import RunError
from gcrl.train import train
from relabel.goals import parse
from relabel.replay import Replay
from relabel.store import episodes
from tasks.task import InputError
from tests.problems import CORRIDOR, POINT, ROW, SPEC, Corridor, Wheel, batch, plan, plan_of, wheel
from tests.test_losses import array, bounded, encoded, values

GAMMA = 0.7
FAST = FQESettings(batch=128, lr=5e-3, hidden=(64,), tau=0.1)


class Fixed(Agent):
    """Does the same everywhere."""

    def __init__(self, spec, action):
        super().__init__(spec, None)
        self.action = torch.nn.Parameter(torch.tensor(action))

    def act(self, state, carry=None, explore=False):
        assert not explore
        return self.action.detach().expand(len(state.obs), -1), carry


@functools.cache
def explored(task, steps=1000):
    replay, collector = (
        Replay([task], 10_000, parse("future" if task.goal_dim else "none"), GAMMA),
        Collector([task], 4, 0),
    )
    rng = np.random.default_rng(0)
    for _ in range(steps // 4):
        uniform = rng.uniform(-1, 1, (4, 1)).astype(np.float32)
        for k, episode in collector.step(Corridor.behaviour(rng, 4) if task is CORRIDOR else uniform):
            replay.add(k, episode)
    return replay


def fixed(task, action):
    agent = Fixed(Spec.of([task], GAMMA), [action])
    kept = explored(task).stores[0].state()
    agent.encode.observe(torch.from_numpy(kept["observation"]), torch.from_numpy(task.goal_of(kept["observation"])))
    return agent


def begun(task):
    """Place (N,) and goal (N,), none: 0, of each recorded episode's first step."""
    kept = explored(task).stores[0].state()
    step = np.append(0, np.cumsum(kept["length"])[:-1])
    slot = np.append(0, np.cumsum(kept["length"] + 1)[:-1])
    return kept["observation"][slot].argmax(1), kept["desired"][step].argmax(1) if task.goal_dim else 0 * slot


@pytest.mark.parametrize("action", [Wheel.BEST, -0.5])
@pytest.mark.parametrize("ends", [True, False], ids=["ends", "goes on"])
def test_the_value_of_a_fixed_action_is_the_formulas(ends, action):
    """Though hardly one of the recorded actions is the policy's, and episodes are cut at 7 steps."""
    task = wheel(False, ends)
    (found,) = evaluate(fixed(task, action), explored(task), 250, FAST).values()
    place, _ = begun(task)
    steps = (1 - GAMMA ** (Wheel.N - place)) / (1 - GAMMA) if ends else 1 / (1 - GAMMA)
    cost = Wheel.COST * (action - Wheel.BEST) ** 2
    truth = Wheel.q(task, GAMMA, Wheel.BEST)[place] - cost * steps
    assert found.value == pytest.approx(truth.mean(), abs=0.15)
    assert found.starts == len(place)
    assert found.low < truth.mean() + 0.15 and found.high > truth.mean() - 0.15
    low, high = interval(truth)
    assert found.high - found.low == pytest.approx(high - low, abs=0.06)


def test_of_goals_it_is_the_desired_ones_that_count():
    task = wheel(True, True)
    (found,) = evaluate(fixed(task, 0.0), explored(task), 250, FAST).values()
    assert found.value == pytest.approx(Wheel.q(task, GAMMA, 0.0)[begun(task)].mean(), abs=0.15)


def test_it_tells_a_good_policy_from_a_bad_one_by_data_of_neither():
    """In 40 % of the steps the data go right. Who always does arrives; who never does pays for ever."""
    place, _ = begun(CORRIDOR)
    truth = {0.5: -(1 - GAMMA ** (Corridor.N - 1 - place)) / (1 - GAMMA), -0.5: np.full(len(place), -1 / (1 - GAMMA))}
    for action, wanted in truth.items():
        (found,) = evaluate(fixed(CORRIDOR, action), explored(CORRIDOR), 250, FAST).values()
        assert found.value == pytest.approx(wanted.mean(), abs=0.15)
        assert found.low <= found.value <= found.high


def test_what_the_data_had_is_told_beside_it():
    state, behaviour = starts(explored(CORRIDOR), 0)
    kept, first, scores = explored(CORRIDOR).stores[0].state(), 0, []
    for n in kept["length"].tolist():
        scores.append(sum(GAMMA**i * r for i, r in enumerate(kept["reward"][first : first + n].tolist())))
        first += n
    assert behaviour == pytest.approx(np.mean(scores), rel=1e-5)
    assert torch.equal(state.obs.argmax(1), torch.from_numpy(begun(CORRIDOR)[0]))


def test_initial_states_are_taken_evenly_where_there_are_many():
    place = begun(CORRIDOR)[0]
    with mock.patch.object(fqe, "STARTS", 10):
        state, _ = starts(explored(CORRIDOR), 0)
    assert state.obs.argmax(1).tolist() == place[np.linspace(0, len(place) - 1, 10).astype(int)].tolist()


@pytest.mark.parametrize("clip", [True, False])
def test_the_loss_is_the_equation(clip):
    """Each critic follows its own target."""
    torch.manual_seed(0)
    agent = Fixed(SPEC, [0.3, -0.9])
    agent.encode.observe(torch.randn(100, 4) * 3 + 1, torch.randn(100, 2) - 2)
    fit, b = (
        FQE(agent, FQESettings(hidden=(32, 32), critics=3, clip_target=clip)).double(),
        batch(50, dtype=torch.float64),
    )
    with torch.no_grad():
        for p in fit.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x, x_ = encoded(agent, b.obs, b.goal), encoded(agent, b.next_obs, b.goal)
    pi = np.tile(array(agent.action), (50, 1))
    y = array(b.reward) + array(b.discount) * values(fit.target, x_, pi)
    y = np.stack([bounded(one, b) for one in y]) if clip else y
    wanted = ((values(fit.critic, x, array(b.action)) - y) ** 2).mean(1).sum()
    assert fit.loss(b).item() == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(array(fit.value(b.state)), values(fit.critic, x, pi).mean(0), rtol=1e-6)


def test_nothing_but_the_seed_decides_and_nothing_is_left_behind():
    agent, replay = fixed(CORRIDOR, 0.5), explored(CORRIDOR)
    before, drawn = {k: x.clone() for k, x in agent.state_dict().items()}, torch.get_rng_state()
    one = evaluate(agent, replay, 5, FAST, seed=1)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(x, before[k]) for k, x in agent.state_dict().items())
    assert all(p.grad is None for p in agent.parameters())
    torch.manual_seed(9)
    assert evaluate(agent, replay, 5, FAST, seed=1) == one != evaluate(agent, replay, 5, FAST, seed=2)


def test_each_task_that_has_data_is_told():
    one, other = wheel(True, True), wheel(True, False)
    agent = Fixed(Spec.of([one, other, one], GAMMA, "onehot+goal"), [0.1])
    replay = Replay([one, other, one], 500, parse("future"), GAMMA)
    for k, task in enumerate((one, other)):
        for episode in itertools.islice(episodes(explored(task).stores[0].state()), 3):
            replay.add(k, episode)
    assert set(evaluate(agent, replay, 3, FAST)) == {one.name, other.name}


def test_the_command(tmp_path, capsys):
    """On a run's own data."""
    with mock.patch.dict(tasks.TASKS, {POINT.name: POINT}):
        told = plan(POINT, "td3", steps=120, warmup=80, runs=tmp_path, eval_episodes=0).settings
        folder = train(told)
        capsys.readouterr()
        assert gcrl(["fqe", str(folder), "--data", str(folder), "--updates", "3", "--hidden", "16", "--json"]) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        assert len(lines) == 2 and POINT.name in lines[1]
        said = json.loads(last)[POINT.name]
        assert said["low"] <= said["value"] <= said["high"] and said["starts"] == 6
        for args, wrong in (
            (["--data", str(tmp_path / "no")], "no"),
            (["--data", str(folder), "--updates", "0"], "--updates 0"),
            (["--data", str(folder), "--tau", "2"], "--tau 2"),
            ([], "data"),
        ):
            with pytest.raises(InputError, match=wrong):
                gcrl(["fqe", str(folder), *args])
        with mock.patch.object(FQE, "update", side_effect=MemoryError), pytest.raises(InputError, match="memory"):
            gcrl(["fqe", str(folder), "--data", str(folder)])
        with pytest.raises(RunError, match=r"diverged.*--lr"):
            gcrl(["fqe", str(folder), "--data", str(folder), "--updates", "9", "--hidden", "16", "--lr", "1e30"])


def test_data_of_one_task_are_enough_and_success_ends_only_what_the_task_ends(tmp_path, monkeypatch):
    """Whatever the run learned from: the value stands beside the return that the episodes were paid."""
    asked = []
    monkeypatch.setattr(fqe, "evaluate", lambda agent, replay, *rest: asked.append(replay) or {})
    with mock.patch.dict(tasks.TASKS, {task.name: task for task in (POINT, ROW)}):
        told = plan_of((POINT, ROW), "td3", steps=120, warmup=60, runs=tmp_path, eval_episodes=0, end_at_goal=True)
        folder = train(told.settings)
        fqe.report(fqe.Settings(folder, (f"{ROW.name}={folder}",)))
    (replay,) = asked
    assert [len(store) for store in replay.stores] == [0, 60]
    b = replay.sample(np.random.default_rng(0), 500)
    assert (b.reward == 0).any() and (b.discount > 0).all()
