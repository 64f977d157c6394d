"""Batches against the same arithmetic in plain Python, a step at a time. Long: reward, end, bootstrap, goal, next."""

from __future__ import annotations

import dataclasses
from collections import Counter
from math import isclose

import numpy as np
import pytest
import torch

from relabel.batch import Batch
from relabel.goals import current, final, future, none, parse
from relabel.replay import Replay
from tasks.task import Episode, InputError, part
from tests.benchmarks import replay as benchmark
from tests.test_store import fill, fits, same_place, walk_task

GAMMA = 0.9
MIXED = parse("future:0.3,desired:0.25,random:0.25")


def cost(achieved, desired):
    """-1 away from the goal: (...)."""
    return -1.0 * ~same_place(achieved, desired)


def graded(achieved, desired):
    """A reward that differs at almost every step and goal: (...)."""
    return -abs(achieved[..., 0] - desired[..., 0]) - 0.25 * achieved[..., 2]


PLAIN_REWARD = {
    cost: lambda achieved, desired: 0.0 if achieved[0] == desired[0] else -1.0,
    graded: lambda achieved, desired: -abs(achieved[0] - desired[0]) - 0.25 * achieved[2],
}
TASKS = {
    "ends": walk_task(reward=cost, terminated=same_place),
    "ends graded": walk_task(reward=graded, terminated=same_place),
    "never ends": walk_task(reward=graded),
    "recorded": walk_task(goal_dim=0, goal_of=part(0, 0)),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def step_by_step(task, episode, t, goal, n):
    """(reward, discount, next_obs, how it ended) of n steps from step t of `episode` towards `goal`."""
    reward, last = 0.0, len(episode.action) - 1
    place, wanted = (float(x[-1, 0]) for x in (episode.observation, episode.desired)) if task.goal_dim else (0, 1)
    died = episode.terminated and not (task.terminated is same_place and place == wanted)
    for i in range(n):
        after = episode.observation[t + i + 1].tolist()
        paid = PLAIN_REWARD[task.reward](after, goal) if task.reward else float(episode.reward[t + i])
        reward += GAMMA**i * paid
        if task.terminated is same_place and after[0] == goal[0]:
            return reward, 0.0, after, "reached at the end" if t + i == last else "reached on the way"
        if t + i == last:
            return (reward, 0.0, after, "died") if died else (reward, GAMMA ** (i + 1), after, "truncated")
    return reward, GAMMA**n, after, "went on"


def filled(task, relabel=MIXED, capacity=150, seed=0):
    """A replay whose ring has wrapped, and what it holds."""
    replay = Replay([task], capacity, relabel, GAMMA)
    return replay, fill(replay.stores[0], seed, 60)


def walked(places, desired, task, terminated=False, relabel=none):
    """A replay of one episode through `places` (T + 1,), wanting `desired` (T,)."""
    replay, steps = Replay([task], 50, relabel, GAMMA), len(desired)
    observation, wanted = np.zeros((steps + 1, 3), np.float32), np.zeros((steps, 3), np.float32)
    observation[:, 0], observation[:, 2], wanted[:, 0] = places, np.arange(steps + 1), desired
    episode = Episode(observation, np.zeros((steps, 2), np.float32), wanted, np.zeros(steps, np.float32), terminated)
    replay.stores[0].add(episode)
    return replay


def by_step(batch):
    """One row of the batch per step t, in order: {t: (reward, discount, x of next_obs)}."""
    columns = (batch.obs[:, 2], batch.reward, batch.discount, batch.next_obs[:, 0])
    rows = {int(t): (r, d, x) for t, r, d, x in zip(*(c.tolist() for c in columns), strict=True)}
    return [rows[t] for t in sorted(rows)]


@every_task
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_step_by_step(task, n, seed):
    replay, kept = filled(task, seed=seed)
    batch = replay.sample(np.random.default_rng(seed), 2000, n)
    known = {tuple(e.observation[t].tolist()): (e, t) for e, t in kept.steps}
    seen, steps = Counter(), Counter()
    for obs, action, reward, discount, next_obs, goal, _ in zip(*(c.tolist() for c in batch), strict=True):
        episode, t = known[tuple(obs)]
        steps[tuple(obs)] += 1
        reward_, discount_, next_, ending = step_by_step(task, episode, t, goal, n)
        assert action == episode.action[t].tolist()
        assert next_obs == next_, ending
        assert isclose(discount, discount_, rel_tol=1e-6), ending
        assert isclose(reward, reward_, rel_tol=1e-6), ending
        seen[ending] += 1
    endings = {"died", "truncated", "went on"}
    if task.terminated is same_place:
        endings |= {"reached on the way", "reached at the end"}
    assert {ending for ending, count in seen.items() if count > 20} == endings, "a case that the test does not see"
    assert len(steps) == len(kept.steps), "every transition was drawn"


@every_task
def test_goals_are_the_ones_of_the_strategy(task):
    """And the very ones that the reward was computed with: the row carries the marker of its own moment."""
    for strategy in (none, current, final, future):
        replay, kept = filled(task, strategy)
        known = {tuple(e.observation[t].tolist()): (e, t) for e, t in kept.steps}
        batch = replay.sample(np.random.default_rng(0), 500, 3)
        assert batch.goal.shape == (500, task.goal_dim)
        for obs, goal in zip(batch.obs.tolist(), batch.goal.tolist(), strict=True):
            episode, t = known[tuple(obs)]
            length = len(episode.action)
            moments = {none: [], current: [t + 1], final: [length], future: range(t + 1, length + 1)}[strategy]
            allowed = [episode.observation[k].tolist() for k in moments] or [episode.desired[t].tolist()]
            assert goal in [g[: task.goal_dim] for g in allowed]


def test_a_changing_goal_is_the_one_in_force_at_action_time():
    """Step 1 reaches 2, which is wanted at step 2 only: no reward at step 1, and all n steps of a row keep its goal."""
    replay = walked([0, 1, 2, 2, 1], [9, 9, 2, 1], TASKS["ends"])
    assert by_step(replay.sample(np.random.default_rng(0), 200)) == [
        (-1, pytest.approx(GAMMA), 1),
        (-1, pytest.approx(GAMMA), 2),
        (0, 0, 2),
        (0, 0, 1),
    ]
    two = by_step(replay.sample(np.random.default_rng(0), 200, 2))
    assert two[1] == (pytest.approx(-1 - GAMMA), pytest.approx(GAMMA**2), 2)


def test_the_recorded_end_does_not_outlive_its_goal():
    """The episode ended because it reached its goal: another goal bootstraps from its last step, its own ends there."""
    places, rng = [0, 1, 2, 3], np.random.default_rng(0)
    for relabel, discounts in ((none, [GAMMA, GAMMA, 0]), (current, [0, 0, 0])):
        replay = walked(places, [3, 3, 3], TASKS["ends"], True, relabel)
        assert [d for _, d, _ in by_step(replay.sample(rng, 200))] == pytest.approx(discounts)
    elsewhere = walked(places, [9, 9, 3], TASKS["ends"], True, _step_0_wanted)
    assert [d for _, d, _ in by_step(elsewhere.sample(rng, 200))] == pytest.approx([GAMMA] * 3)


def _step_0_wanted(rng, rows):
    return np.full_like(rows.index, ~0)


@pytest.mark.parametrize("name", ["ends", "never ends"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_death_persists_under_every_goal(name, n):
    for relabel in (none, current, future, final, _step_0_wanted):
        replay = walked([0, 1, 2, 3], [9, 9, 9], TASKS[name], True, relabel)
        assert by_step(replay.sample(np.random.default_rng(0), 200, n))[-1][1] == 0


@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_truncation_bootstraps_from_the_last_observation(n):
    rows = by_step(walked([0, 1, 2, 3], [9, 9, 9], TASKS["ends"]).sample(np.random.default_rng(0), 200, n))
    lengths = [min(n, 3 - t) for t in range(3)]
    assert [d for _, d, _ in rows] == pytest.approx([GAMMA**m for m in lengths])
    assert [x for *_, x in rows] == [t + m for t, m in enumerate(lengths)]


def test_n_steps_stop_at_the_relabelled_end():
    """Goal 2 is passed at step 1: what the walk does afterwards, a death included, is another episode's matter."""
    replay = walked([0, 1, 2, 3, 4], [2, 2, 2, 2], TASKS["ends"], True)
    rows = by_step(replay.sample(np.random.default_rng(0), 200, 4))
    assert rows[0] == (-1, 0, 2)
    assert rows[1] == (0, 0, 2)
    assert rows[2] == (pytest.approx(-1 - GAMMA), 0, 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_discount_is_gamma_to_the_steps(gamma):
    replay = Replay([TASKS["never ends"]], 150, none, gamma)
    fill(replay.stores[0], 0, 60)
    found = set(replay.sample(np.random.default_rng(0), 1000, 3).discount.tolist())
    assert found == {0.0, gamma, gamma**2, gamma**3}


@pytest.mark.parametrize("size", [1, 2, 7, 30, 301])
def test_tasks_share_a_batch_equally_and_score_their_own_rows(size):
    """Four tasks of one layout, the third without data; rows of task k come from store k, under k's reward and end."""
    tasks = [
        walk_task("a", reward=cost, terminated=same_place),
        walk_task("b", reward=graded),
        walk_task("c", reward=graded),
        walk_task("d", reward=cost),
    ]
    replay = Replay(tasks, 100, MIXED, GAMMA)
    kept = {k: fill(replay.stores[k], k, 30, first=1000 * k) for k in (0, 1, 3)}
    assert len(replay) == sum(len(k.steps) for k in kept.values())
    batch = replay.sample(np.random.default_rng(size), size, 2)
    counts = np.bincount(batch.task, minlength=4)
    assert counts[2] == 0
    assert counts.sum() == size
    assert max(counts[[0, 1, 3]]) - min(counts[[0, 1, 3]]) <= 1
    known = {tuple(e.observation[t].tolist()): (k, e, t) for k in kept for e, t in kept[k].steps}
    for obs, action, reward, discount, next_obs, goal, k in zip(*(c.tolist() for c in batch), strict=True):
        number, episode, t = known[tuple(obs)]
        assert number == k
        assert action == episode.action[t].tolist()
        reward_, discount_, next_, _ = step_by_step(tasks[k], episode, t, goal, 2)
        assert (reward, discount, next_obs) == (pytest.approx(reward_), pytest.approx(discount_), next_)


def test_sampling_is_uniform_over_the_transitions():
    replay, kept = filled(TASKS["ends"], future)
    batch = replay.sample(np.random.default_rng(0), 1000 * len(kept.steps))
    number = {tuple(e.observation[t].tolist()): i for i, (e, t) in enumerate(kept.steps)}
    counts = np.bincount([number[tuple(obs)] for obs in batch.obs.tolist()], minlength=len(number))
    assert fits(counts, np.full(len(number), 1 / len(number)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_rows_of_episodes_that_moved_what_their_goals_are_about(share):
    """One in four did. A row that shall be of these is drawn up to five times; the goals have no say in it."""
    task = TASKS["never ends"]
    task = dataclasses.replace(task, success=same_place)
    replay = Replay([task], 2000, future, GAMMA, moved=share)
    for number in range(40):
        observation = np.zeros((6, 3), np.float32)
        observation[:, 1], observation[:, 2] = number, np.arange(6)
        observation[:, 0] = np.arange(6) if number % 4 == 0 else [0, 1, 2, 2, 1, 0]  # there and back is no move
        replay.add(
            0,
            Episode(
                observation, np.zeros((5, 2), np.float32), np.zeros((5, 3), np.float32), np.zeros(5, np.float32), False
            ),
        )
    batch = replay.sample(np.random.default_rng(0), 4000)
    moved = (batch.obs[:, 1] % 4 == 0).double().mean().item()
    assert moved == pytest.approx((1 - share) * 0.25 + share * (1 - 0.75**5), abs=0.03)
    again = Replay([task], 2000, future, GAMMA, moved=share)
    again.load(replay.state())
    for one, other in zip(batch, again.sample(np.random.default_rng(0), 4000), strict=True):
        assert torch.equal(one, other)


@every_task
@pytest.mark.parametrize("size", [0, 1, 64])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("count", [1, 2], ids=["one task", "two tasks"])
def test_shapes_and_dtypes(task, size, n, count):
    replay = Replay([task] * count, 150, MIXED, GAMMA)
    for store in replay.stores:
        fill(store, 0, 30)
    batch = replay.sample(np.random.default_rng(0), size, n)
    goal = (size, task.goal_dim)
    shapes = {"obs": (size, 3), "action": (size, 2), "reward": (size,), "discount": (size,), "next_obs": (size, 3)}
    assert {name: tuple(column.shape) for name, column in batch._asdict().items()} == shapes | {
        "goal": goal,
        "task": (size,),
    }
    assert [column.dtype for column in batch] == [torch.float32] * 6 + [torch.int64]
    assert all(x is y for x, y in zip(batch.state, (batch.obs, batch.goal, batch.task), strict=True))
    assert all(x is y for x, y in zip(batch.next_state, (batch.next_obs, batch.goal, batch.task), strict=True))


def test_a_batch_depends_on_the_generator_alone_and_owns_its_memory():
    replay, _ = filled(TASKS["ends"])
    first = replay.sample(np.random.default_rng(4), 300, 2)
    copies = Batch(*(column.clone() for column in first))
    for column in first:
        column.fill_(77)
    again, other = (replay.sample(np.random.default_rng(seed), 300, 2) for seed in (4, 5))
    assert all(torch.equal(x, y) for x, y in zip(again, copies, strict=True))
    assert not torch.equal(again.obs, other.obs)


def test_batches_go_to_the_device():
    replay = Replay([TASKS["ends"]], 50, none, GAMMA, device="meta")
    fill(replay.stores[0], 0, 5)
    assert {column.device.type for column in replay.sample(np.random.default_rng(0), 8)} == {"meta"}


def test_an_empty_replay_is_refused():
    replay = Replay([TASKS["ends"]] * 2, 50, none, GAMMA)
    assert len(replay) == 0
    with pytest.raises(InputError, match=r"^the replay is empty: no episode has finished yet$"):
        replay.sample(np.random.default_rng(0), 8)


@pytest.mark.parametrize("change", [{"obs_dim": 4}, {"action_dim": 1}, {"goal_dim": 2}], ids=str)
def test_tasks_of_different_layouts_are_refused(change):
    with pytest.raises(InputError, match=r"^tasks of one replay must share the sizes of observation, action and goal$"):
        Replay([walk_task(), walk_task(**change)], 50, none, GAMMA)


def test_faster_than_stable_baselines3_and_the_same_rewards():
    """The same transitions in both: the mean reward of future goals agrees, and ours takes a fraction of the time."""
    data = benchmark.episodes(2000)
    mine, other = benchmark.ours(data), benchmark.theirs(data, workers=20)
    rng = np.random.default_rng(0)
    np.random.seed(0)  # noqa: NPY002 - stable-baselines3 draws from the global generator
    rewards = [mine.sample(rng, 20_000).reward, other.sample(20_000).rewards]
    means = [float(r.mean()) for r in rewards]
    assert -0.9 < means[0] < -0.1
    assert means[0] == pytest.approx(means[1], abs=0.02)
    spent = benchmark.race(benchmark.drawing(mine, {"sb3": other}), rounds=8, calls=25).min(0)
    assert spent[2] > 1.8 * spent[1] > 1.8 * 1.2 * spent[0], spent


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stay", [0, 1])
def test_end_at_goal_ends_where_a_step_arrives(n, count, stay):
    """What comes there from elsewhere ends; what begins there does too, or goes on, so that staying is learned."""
    tasks = [walk_task(f"walk-{k}", reward=(cost, graded)[k]) for k in range(count)]
    replay = Replay(tasks, 150, MIXED, GAMMA, n, end_at_goal=True)
    replay.stay[:] = stay
    steps = {}
    for k, store in enumerate(replay.stores):
        steps |= {tuple(e.observation[t].tolist()): (k, e, t) for e, t in fill(store, k, 60, 1000 * k).steps}
    seen = Counter()
    for obs, _, reward, discount, next_obs, goal, task in zip(
        *(c.tolist() for c in replay.sample(np.random.default_rng(1), 3000)), strict=True
    ):
        k, episode, t = steps[tuple(obs)]
        assert k == task
        died = episode.terminated
        total, left = 0.0, GAMMA**n
        for i in range(n):
            before, after = (episode.observation[t + i + j].tolist() for j in (0, 1))
            total += GAMMA**i * PLAIN_REWARD[tasks[k].reward](after, goal)
            arrives = after[0] == goal[0] and not (stay and before[0] == goal[0])
            last = t + i + 1 == len(episode.action)
            seen[arrives, before[0] == goal[0] == after[0]] += 1
            if arrives or last:
                left = 0.0 if arrives or died else GAMMA ** (i + 1)
                break
        assert next_obs == after
        assert isclose(reward, total, rel_tol=1e-6, abs_tol=1e-6) and isclose(discount, left, rel_tol=1e-6)
    assert all(seen[case] > 50 for case in ((True, False), (not stay, True), (False, False)))
