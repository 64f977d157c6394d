"""Windows of steps against a walk through the episodes, one step after the other."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from relabel import share
from relabel.goals import parse
from relabel.replay import Replay
from tasks.task import Episode, InputError, part
from tests.problems import POINT

GAMMA = 0.9


def apart(factor, achieved, desired):
    """(..., 2) x (..., 2) -> (...)"""
    return -factor * abs(achieved[..., 1] - desired[..., 1]) - 1.0


def at(achieved, desired):
    """(..., 2) x (..., 2) -> bool (...)"""
    return (achieved == desired).all(-1)


def task(name, first=0, factor=1.0, **changes):
    """Observes (episode, step) twice, the second time negative; its goal is the pair that begins at `first`."""
    return dataclasses.replace(
        POINT,
        name=f"test-{name}",
        obs_dim=4,
        goal_of=part(first, first + 2),
        success=at,
        reward=functools.partial(apart, factor),
        reward_range=(-30.0 - factor, -1.0),
        horizon=9,
        **changes,
    )


GOES_ON, ENDS, OTHER = task("goes-on"), task("ends", terminated=at), task("other", 2, 0.5, terminated=at)
PLAIN = dataclasses.replace(GOES_ON, name="test-recorded", goal_dim=0, goal_of=part(0, 0), success=at, reward=None)
LENGTHS = (1, 4, 9, 2, 7, 3, 9, 5)


def episode(number, length, died=False, goals=2):
    """Whose observations say which it is and which step; what was desired says so too."""
    seen = np.stack([np.full(length + 1, number), np.arange(length + 1)], 1).astype(np.float32)
    steps = np.arange(length, dtype=np.float32)[:, None]
    action = np.concatenate([number / 100 + 0 * steps, steps / 10], 1).astype(np.float32)
    desired = np.concatenate([-1000 - number + 0 * steps, steps], 1).astype(np.float32)[:, :goals]
    reward = (number + steps[:, 0] / 10).astype(np.float32)
    return Episode(np.concatenate([seen, -seen], 1), action, desired, reward, died)


def filled(tasks, relabel="future", capacity=200, lengths=LENGTHS, died=(), **told):
    """A replay and its episodes by number; task k's are those from 100 k on."""
    replay, known = Replay(tasks, capacity, parse(relabel), GAMMA, **told), {}
    for k, one in enumerate(tasks):
        for i, length in enumerate(lengths):
            number = 100 * k + i
            known[number] = episode(number, length, number in died, one.goal_dim)
            replay.add(k, known[number])
    return replay, known


def walk(replay, known, segment, b, length, ahead):
    """Reward, discount, counts (length,) and the return of row b, by walking from its first step to the end."""
    (number, start), k = segment.obs[b, 0, :2].long().tolist(), int(segment.task[b])
    of, one, scale = known[number], replay.tasks[k], float(replay.scale[k])
    foreign = number // 100 != k
    rewards, discounts, total, over = [], [], 0.0, False
    for i in range(len(of.action) - start):
        achieved, goal = one.goal_of(of.observation[start + i + 1]), segment.goal[b].numpy()
        died = of.terminated and start + i == len(of.action) - 1
        if one.reward is None:
            reward, over = of.reward[start + i], died
        elif foreign and replay.sharing.name == "uds":
            reward, over = one.reward_range[0], died
        else:
            reward, over = one.reward(achieved, goal), died or bool(one.terminated(achieved, goal))
        rewards.append(scale * float(reward))
        discounts.append(0.0 if over else GAMMA)
        total += ahead**i * rewards[-1]
        if over:
            break
    counts = [i < len(rewards) for i in range(length)]
    padded = np.array([*rewards, *[0.0] * length])[:length]
    return padded, np.array(discounts)[:length], counts, total


def check(replay, known, segment, length, ahead=None):
    """Every row is what a walk finds; how many windows run past their end, and how many end before."""
    size = len(segment.task)
    assert segment.obs.shape == (size, length + 1, replay.tasks[0].obs_dim)
    assert segment.action.shape == (size, length, replay.tasks[0].action_dim)
    assert segment.counts[:, 0].all()
    past = short = 0
    for b in range(size):
        number, start = segment.obs[b, 0, :2].long().tolist()
        reward, discount, counts, total = walk(replay, known, segment, b, length, 1.0 if ahead is None else ahead)
        n = sum(counts)
        assert segment.counts[b].tolist() == counts
        assert segment.past[b] == start
        np.testing.assert_allclose(segment.reward[b], reward, rtol=1e-6)
        np.testing.assert_allclose(segment.discount[b, :n], discount, rtol=1e-6)
        np.testing.assert_array_equal(segment.obs[b, : n + 1], known[number].observation[start : start + n + 1])
        np.testing.assert_array_equal(segment.action[b, :n], known[number].action[start : start + n])
        if ahead is not None:
            assert segment.to_go[b].item() == pytest.approx(total, rel=1e-5)
        left = len(known[number].action) - start
        past += left < length
        short += n < min(left, length)
    assert segment.to_go.isnan().all() == (ahead is None)
    return past, short


@pytest.mark.parametrize("length", [1, 2, 5, 9, 14])
@pytest.mark.parametrize("ahead", [None, 1.0, 0.8])
@pytest.mark.parametrize("one", [GOES_ON, ENDS], ids=["goes on", "ends"])
def test_a_window_is_what_a_walk_finds(one, length, ahead):
    replay, known = filled([one], "future", died=(2, 5))
    segment = replay.segments(np.random.default_rng(0), 150, length, ahead)
    past, short = check(replay, known, segment, length, ahead)
    assert (past > 0) == (length > 1)
    assert (short > 0) == (one is ENDS and length > 1)


@pytest.mark.parametrize("ahead", [None, 1.0])
def test_recorded_rewards_of_a_task_without_goals(ahead):
    replay, known = filled([PLAIN], "none", died=(1, 4))
    segment = replay.segments(np.random.default_rng(1), 150, 4, ahead)
    assert segment.goal.shape == (150, 0)
    check(replay, known, segment, 4, ahead)


@pytest.mark.parametrize("length", [1, 6])
def test_the_strategy_chooses_the_goal_of_the_whole_window(length):
    """`final` is what the episode achieved last, `none` what was desired at the window's first step."""
    for relabel in ("final:1", "none", "future:1"):
        replay, known = filled([GOES_ON], relabel)
        segment = replay.segments(np.random.default_rng(2), 200, length)
        for b in range(200):
            number, start = segment.obs[b, 0, :2].long().tolist()
            goal, of = segment.goal[b].tolist(), known[number]
            if relabel == "none":
                assert goal == [-1000 - number, start]
            elif relabel == "final:1":
                assert goal == [number, len(of.action)]
            else:
                assert goal[0] == number and start < goal[1] <= len(of.action)


def test_every_step_begins_as_many_windows():
    replay, known = filled([GOES_ON])
    segment = replay.segments(np.random.default_rng(3), 8000, 3)
    starts = [tuple(x) for x in segment.obs[:, 0, :2].long().tolist()]
    everything = {(number, t) for number, of in known.items() for t in range(len(of.action))}
    assert set(starts) == everything
    count = np.bincount([sorted(everything).index(x) for x in starts])
    expected = 8000 / len(everything)
    assert ((count - expected) ** 2 / expected).sum() < len(everything) + 5 * math.sqrt(2 * len(everything))


@pytest.mark.parametrize("name", ["own", "uniform", "uds"])
@pytest.mark.parametrize("relabel", ["future", "none"])
def test_several_tasks_share(name, relabel):
    """The receiver's own map, reward, end and scale; its own desired goals; the least reward where it is uds."""
    tasks = [ENDS, OTHER]
    replay, known = filled(tasks, relabel, died=(3, 102), sharing=share.parse(name), scale=(1.0, 3.0))
    for seed in range(3):
        segment = replay.segments(np.random.default_rng(seed), 120, 5, 0.95)
        check(replay, known, segment, 5, 0.95)
        assert torch.bincount(segment.task).tolist() == [60, 60]
        source = segment.obs[:, 0, 0].long() // 100
        assert ((source != segment.task).sum() > 30) == (name != "own")
        for b in np.flatnonzero(relabel == "none" and source != segment.task):
            assert (-1000 - segment.goal[b, 0].item()) // 100 == segment.task[b]


@pytest.mark.parametrize("tasks", [[ENDS], [ENDS, OTHER]], ids=["one task", "two tasks"])
def test_a_ring_that_has_wrapped_around(tasks):
    """What is left are the newest episodes, in slots that were others' before."""
    told = {"sharing": share.parse("uniform")} if len(tasks) > 1 else {}
    replay, known = filled(tasks, capacity=23, lengths=(*LENGTHS, 6, 8, 3, 9, 1, 7), died=(11,), **told)
    held = {n: of for n, of in known.items() if n % 100 >= 11}
    for seed in range(4):
        segment = replay.segments(np.random.default_rng(seed), 80, 6, 1.0)
        assert set(segment.obs[:, 0, 0].long().tolist()) <= set(held)
        check(replay, held, segment, 6, 1.0)


def test_who_learned_from_whose_data_is_counted_however_rows_are_drawn():
    """And which of them show reward: of a window any step, of what lies ahead the first."""
    tasks = [dataclasses.replace(kind, reward_range=(-1.5, -1.0)) for kind in (GOES_ON, OTHER)]
    replay, rng = (
        Replay(tasks, 200, parse("current:1"), GAMMA, sharing=share.Sharing("uniform")),
        np.random.default_rng(0),
    )
    for k in (0, 1):
        for number, length in enumerate(LENGTHS):
            replay.add(k, episode(10 * k + number, length))
    drawn = (lambda: replay.sample(rng, 40, 1), lambda: replay.segments(rng, 40, 3), lambda: replay.onward(rng, 40, 2))
    for draw in drawn:
        replay.flow[:] = 0
        b = draw()
        rows, shown = replay.flow.sum(2)
        assert rows.tolist() == np.bincount(b.task, minlength=2).tolist() == [20, 20]
        assert (replay.flow[0] > 0).all() and (shown == rows).all()  # every row is at its goal


def test_the_return_of_an_episode_that_is_longer_than_the_clock_allows():
    """Data may come from elsewhere."""
    replay, known = filled([GOES_ON], lengths=(3, 25, 9))
    check(replay, known, replay.segments(np.random.default_rng(0), 200, 4, 1.0), 4, 1.0)


def test_the_first_steps_are_transitions():
    replay, _ = filled([ENDS])
    segment = replay.segments(np.random.default_rng(0), 50, 4)
    b = segment.first()
    wanted = segment.obs[:, 0], *(x[:, 0] for x in segment[1:4]), segment.obs[:, 1]
    assert all(torch.equal(x, y) for x, y in zip(b[:5], wanted, strict=True))
    assert torch.equal(b.goal, segment.goal) and torch.equal(b.task, segment.task)
    assert b.state.obs.shape == (50, 4)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="empty"):
        Replay([ENDS], 50, parse("future"), GAMMA).segments(np.random.default_rng(0), 4, 2)
    for name in ("hipi", "cds", "cds-soft", "hindsight"):
        replay, _ = filled([ENDS, OTHER], sharing=share.parse(name))
        with pytest.raises(InputError, match="single transitions"):
            replay.segments(np.random.default_rng(0), 4, 2)
