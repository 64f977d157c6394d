"""Lanes against a simulator whose numbers say where they come from. Long: one file a module."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from gcrl.collect import Collector, Lane, episode_seed
from gcrl.evaluate import SEED, evaluation_seed
from gcrl.run import RunError
from tasks.task import SimulatorError
from tests.problems import POINT, script, wheel

FIELDS = ("observation", "action", "desired", "reward")


def actions(steps, lanes, seed=0):
    """(steps, lanes, A)"""
    return np.random.default_rng(seed).uniform(-1, 1, (steps, lanes, 2)).astype(np.float32)


def played(collector, acts):
    """Every finished episode: (step, task, episode)."""
    return [(t, k, episode) for t, a in enumerate(acts) for k, episode in collector.step(a)]


def same(one, other):
    return one.terminated == other.terminated and all(
        getattr(one, f).dtype == getattr(other, f).dtype and np.array_equal(getattr(one, f), getattr(other, f))
        for f in FIELDS
    )


# What is kept ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goals", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("horizon", [1, 2, 7])
def test_an_episode_is_what_the_simulator_did(goals, shared, horizon):
    """T + 1 observations, T actions as given, the goal in force at each; also of a simulator that reuses its arrays."""
    task = script(horizon=horizon, goals=goals, shared=shared)
    acts = actions(3 * horizon, 2)
    episodes = played(Collector([task], 2, 5), acts)
    assert [(t, k) for t, k, _ in episodes] == [(i * horizon - 1, 0) for i in (1, 1, 2, 2, 3, 3)]
    for i, (t, _, e) in enumerate(episodes):
        given = acts[t - horizon + 1 : t + 1, i % 2]
        draw = np.full(horizon + 1, e.observation[0, 0])
        assert e.observation.shape == (horizon + 1, 4)
        assert e.action.shape == (horizon, 2)
        assert e.desired.shape == (horizon, 2 * goals)
        assert e.reward.shape == (horizon,)
        assert {getattr(e, f).dtype for f in FIELDS} == {np.dtype(np.float32)}
        assert not e.terminated
        np.testing.assert_array_equal(e.action, given)
        np.testing.assert_array_equal(e.observation[:, 0], draw)
        assert len(set(e.observation[:, 1].tolist())) == horizon + 1
        np.testing.assert_array_equal(e.observation[:, 2], np.arange(horizon + 1))
        np.testing.assert_allclose(e.observation[:, 3], np.cumsum([0, *given.sum(1)]), atol=1e-5)
        np.testing.assert_array_equal(e.reward, 1 + np.arange(horizon))
        if goals:  # that of the observation which the action answers: t, not t + 1
            np.testing.assert_array_equal(e.desired, np.stack([draw[1:], np.arange(horizon)], 1))


def test_the_policy_sees_the_newest_observation_and_the_goal_in_force():
    tasks = [script(), script("other")]
    collector = Collector(tasks, 3, 0)
    for t, a in enumerate(actions(10, 3)):
        state = collector.state()
        assert [x.dtype for x in state] == [torch.float32, torch.float32, torch.int64]
        assert [tuple(x.shape) for x in state] == [(3, 4), (3, 2), (3,)]
        assert state.obs[:, 2].tolist() == [t % 7] * 3
        assert state.goal[:, 1].tolist() == [t % 7] * 3
        assert torch.equal(state.goal[:, 0], state.obs[:, 0])
        assert state.task.tolist() == [(i + 3 * (t // 7)) % 2 for i in range(3)]
        collector.step(a)
    assert {x.device.type for x in collector.state("meta")} == {"meta"}


def test_a_state_and_an_episode_own_their_memory():
    """What the caller does to its arrays afterwards changes no record, and the other way round."""
    tasks, acts = [script(), script("other"), script("third")], actions(14, 2)
    kept = [e for *_, e in played(Collector(tasks, 2, 0), acts)]
    collector, buffer, found = Collector(tasks, 2, 0), np.empty((2, 2), np.float32), []
    for a in acts:
        before, state = collector.task.tolist(), collector.state()
        for x in state:
            x.fill_(99)
        assert collector.task.tolist() == before
        buffer[:] = a
        found += [e for _, e in collector.step(buffer)]
        buffer[:] = 55
    assert len(found) == 4
    assert all(itertools.starmap(same, zip(found, kept, strict=True)))


@pytest.mark.parametrize(
    ("told", "horizon", "length", "terminated"),
    [
        ({}, 5, 5, False),
        ({"ends": 3}, 5, 3, True),
        ({"stops": 3}, 5, 3, False),
        ({"ends": 3, "stops": 3}, 5, 3, True),
        ({"ends": 5}, 5, 5, True),
        ({"stops": 5}, 5, 5, False),
        ({"ends": 6, "stops": 6}, 5, 5, False),
        ({"ends": 1}, 5, 1, True),
    ],
    ids=str,
)
def test_the_end_and_the_clock_are_told_apart(told, horizon, length, terminated):
    """And the next episode begins at once, from its own reset."""
    collector = Collector([script(horizon=horizon, **told)], 1, 0)
    episodes = played(collector, actions(3 * length, 1))
    assert [t for t, *_ in episodes] == [length - 1, 2 * length - 1, 3 * length - 1]
    for _, _, e in episodes:
        assert (len(e.action), len(e.observation), e.terminated) == (length, length + 1, terminated)
        assert type(e.terminated) is bool
    assert collector.state().obs[0, 2] == 0
    assert len({float(e.observation[0, 0]) for *_, e in episodes}) == 3


def test_lanes_end_by_themselves():
    """Episodes of a random length, in lanes that begin together."""
    collector = Collector([wheel(True, True)], 4, 0)
    episodes = [e for *_, e in played(collector, actions(60, 4)[..., :1])]
    lengths = [len(e.action) for e in episodes]
    assert set(lengths) == {1, 2, 3, 4}
    assert sum(lengths) + sum(len(lane.action) for lane in collector.lanes) == 240
    assert all(e.terminated for e in episodes)


def test_an_unfinished_episode_has_its_shapes():
    for goals in (True, False):
        lane = Lane(script(goals=goals))
        lane.reset(3)
        for t in range(3):
            e = lane.episode()
            shapes = [getattr(e, f).shape for f in FIELDS]
            assert shapes == [(t + 1, 4), (t, 2), (t, 2 * goals), (t,)]
            assert {getattr(e, f).dtype for f in FIELDS} == {np.dtype(np.float32)}
            lane.step(np.zeros(2, np.float32))


def test_double_actions_become_single():
    lane = Lane(script())
    lane.reset(0)
    lane.step(np.full(2, 0.1))
    assert lane.episode().action.dtype == np.float32


def test_of_choices_what_was_chosen_is_kept():
    """1 for the greatest, of equals the first, and else -1; the simulator gets the same, and may scribble in it."""
    task = dataclasses.replace(script(shared=True), discrete=True)
    assert not script().discrete
    lane = Lane(task)
    lane.reset(0)
    for action in ([0.3, 0.2], [-0.9, -0.8], [0.5, 0.5]):
        lane.step(np.array(action, np.float32))
    e = lane.episode()
    np.testing.assert_array_equal(e.action, np.float32([[1, -1], [-1, 1], [1, -1]]))
    assert e.action.dtype == np.float32
    assert e.observation[:, 3].tolist() == [0.0, 0.0, 0.0, 0.0]  # the sum of all numbers of the actions
    with pytest.raises(RunError, match="diverged"):
        lane.step(np.float32([np.nan, 0.0]))


def test_choices_are_played_again_as_they_were():
    task = dataclasses.replace(script("test-choice", ends=None), discrete=True)
    collector = Collector([task], 2, 0)
    played(collector, actions(5, 2))
    again = Collector([task], 2, 0)
    assert again.restore(collector.snapshot())
    assert all(same(a.episode(), b.episode()) for a, b in zip(collector.lanes, again.lanes, strict=True))


def test_a_lane_passes_its_render_mode_on():
    assert Lane(POINT).env.render_mode is None
    assert Lane(POINT, "rgb_array").env.render_mode == "rgb_array"


# Seeds --------------------------------------------------------------------------------------------------------------


def test_every_episode_has_a_seed_of_its_own():
    """Over runs, lanes and episodes, evaluation's apart from them."""
    training = [episode_seed(*path) for path in itertools.product(range(8), range(8), range(30))]
    evaluation = [evaluation_seed(SEED, n) for n in range(200)]
    assert len({*training, *evaluation}) == len(training) + len(evaluation)
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in training)
    assert training == [episode_seed(*path) for path in itertools.product(range(8), range(8), range(30))]


def test_seeds_are_counted():
    collector = Collector([script()], 3, 11)
    played(collector, actions(20, 3))
    for i, lane in enumerate(collector.lanes):
        assert lane.env.resets == [episode_seed(11, i, n) for n in range(3)]
    assert collector.episodes == [3, 3, 3]


def test_a_lane_does_not_know_its_neighbours():
    """The episodes of lane 0 are the same in a run of one lane and of five, and another run seed makes others."""
    acts = actions(28, 5)
    alone = [e for *_, e in played(Collector([script()], 1, 3), acts[:, :1])]
    among = [e for *_, e in played(Collector([script()], 5, 3), acts)][::5]
    other = [e for *_, e in played(Collector([script()], 1, 4), acts[:, :1])]
    assert len(alone) == len(among) == len(other) == 4
    assert all(itertools.starmap(same, zip(alone, among, strict=True)))
    assert not any(itertools.starmap(same, zip(alone, other, strict=True)))


def test_the_global_generators_are_left_alone():
    np.random.seed(0)  # noqa: NPY002 - it is this one that must not move
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    collector = Collector([script()], 2, 0)
    played(collector, actions(20, 2))
    collector.restore(collector.snapshot())
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


# Several tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 7])
def test_tasks_take_the_lanes_in_turn(lanes):
    """Episode e of lane i plays task i + e * lanes, modulo their number: of its own length, with its own clock."""
    tasks = [script("a", ends=3), script("b", ends=4), script("c", stops=5)]
    collector = Collector(tasks, lanes, 0)
    wanted = []
    for i in range(lanes):
        end, e = 0, 0
        while (end := end + 3 + (k := (i + e * lanes) % 3)) <= 60:
            wanted.append((end - 1, i, k, episode_seed(0, i, e)))
            e += 1
    found, seeds = [], [lane.seed for lane in collector.lanes]
    for t, a in enumerate(actions(60, lanes)):
        now = [lane.seed for lane in collector.lanes]
        assert [lane.task.name for lane in collector.lanes] == ["abc"[k] for k in collector.task]
        ended = [i for i, lane in enumerate(collector.lanes) if len(lane.action) == 2 + collector.task[i]]
        finished = collector.step(a)
        found += [(t, i, k, now[i]) for i, (k, _) in zip(ended, finished, strict=True)]
        assert all((len(e.action), e.terminated) == (3 + k, k < 2) for k, e in finished)
    assert seeds == [episode_seed(0, i, 0) for i in range(lanes)]
    assert sorted(found) == sorted(wanted)


# Snapshots ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5, 8, 12, 15])
def test_a_restored_collector_goes_on_to_the_bit(cut):
    """Cut in the middle of some episodes, at the very end of others; into a new collector and into a used one."""
    tasks = [script("a", ends=3), script("b", horizon=5), script("c", stops=4, shared=True)]
    acts = actions(40, 4)
    collector = Collector(tasks, 4, 9)
    played(collector, acts[:cut])
    snapshot = collector.snapshot()
    copies = {name: x.copy() for name, x in snapshot.items()}
    state = collector.state()
    rest = played(collector, acts[cut:])
    assert all(np.array_equal(snapshot[name], copies[name]) for name in copies)
    used = Collector(tasks, 4, 9)
    played(used, actions(17, 4, seed=3))
    for other in (Collector(tasks, 4, 9), used):
        assert other.restore(copies) is True
        assert all(torch.equal(a, b) for a, b in zip(other.state(), state, strict=True))
        again = played(other, acts[cut:])
        assert [(t, k) for t, k, _ in again] == [(t, k) for t, k, _ in rest]
        assert all(same(a, b) for (*_, a), (*_, b) in zip(again, rest, strict=True))
        assert other.episodes == collector.episodes


def test_a_simulator_that_does_not_come_back_is_noticed():
    """Its draws go on over resets. The run can go on, but not to the bit."""
    collector = Collector([script(loose=True)], 2, 0)
    played(collector, actions(10, 2))
    assert collector.restore(collector.snapshot()) is False


def test_a_snapshot_of_other_lanes_is_refused():
    snapshot = Collector([script()], 2, 0).snapshot()
    for lanes in (1, 3):
        with pytest.raises(ValueError, match=f"^2 lanes, not {lanes}$"):
            Collector([script()], lanes, 0).restore(snapshot)


# Faults -------------------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
FAULTS = {
    "observation nan": ("observation", np.array([0.0, 1, NAN, 3])),
    "observation inf": ("observation", np.array([0.0, 1, 2, -INF])),
    "observation too large": ("observation", np.array([0.0, 1, 2, 1e300])),
    "observation of another size": ("observation", np.zeros(5)),
    "observation of another shape": ("observation", np.zeros((1, 4))),
    "goal nan": ("desired_goal", np.array([NAN, 0])),
    "goal inf": ("desired_goal", np.array([0, INF])),
    "goal of another size": ("desired_goal", np.zeros(3)),
    "reward nan": ("reward", NAN),
    "reward inf": ("reward", np.float64(-INF)),
    "reward too large": ("reward", 1e300),
    "reward of another shape": ("reward", np.zeros((3, 2))),
    "reward that is a word": ("reward", "much\nmore"),
}


@pytest.mark.parametrize(
    ("fault", "step"), [(f, t) for f in FAULTS for t in (0, 1, 4) if t or not f.startswith("reward")]
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_broken_contract_is_one_line_that_says_what_and_where(fault, step):
    """In the first observation as well."""
    name, value = FAULTS[fault]
    lane = Lane(script("test-faulty", fault=(name, step, value)))
    with pytest.raises(SimulatorError) as caught:
        lane.reset(123)
        for t in range(7):
            lane.step(np.zeros(2, np.float32))
            assert t + 1 < step
    message = str(caught.value)
    assert "\n" not in message
    for part in ("test-faulty", fault.split()[0], f"step {step} ", "seed 123"):
        assert part in message, message


class Crash(Exception):
    """An error of several lines, as native simulators have them."""


@pytest.mark.parametrize("where", ["reset", "step"])
def test_an_error_inside_the_simulator_is_one_line(where):
    lane = Lane(script("test-faulty"))

    def crash(*args, **kwargs):
        raise Crash("the solver failed\nat line 3\n\nof its file")

    lane.reset(7)
    setattr(lane.env, where, crash)
    with pytest.raises(SimulatorError) as caught:
        lane.step(np.zeros(2, np.float32)) if where == "step" else lane.reset(7)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("test-faulty", "Crash", "the solver failed", "seed 7"):
        assert part in message, message


def test_the_collector_raises_what_its_lanes_raise():
    faulty = script("test-faulty", fault=("reward", 3, NAN))
    collector = Collector([script(), faulty], 2, 0)
    kept = []
    with pytest.raises(SimulatorError, match="test-faulty"):
        for a in actions(7, 2):
            kept += collector.step(a)
    assert kept == []
