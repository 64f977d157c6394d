"""Batches of several tasks that share, row by row: whose, which goal, reward and end. Long: one file a class.

Episode e of store k bears the number 1000 k + e, and every observation and goal says its own, so a row can be traced.
Long: one reference for all strategies.
"""

from __future__ import annotations

import math
from math import isclose

import numpy as np
import pytest
import torch

import tasks
from relabel import replay as module
from relabel.batch import Batch
from relabel.goals import STRATEGIES as GOALS
from relabel.goals import parse as goals_of
from relabel.judge import Judge
from relabel.replay import Replay
from relabel.score import Scores
from relabel.share import NAMES, parse
from tasks.layout import together
from tasks.task import Episode, InputError
from tests.test_store import LONGEST, Kept, fits, same_place, walk, walk_task

GAMMA, CAPACITY = 0.9, 70
MAPS = {}
"""goal map -> the same on one list"""


def goal_map(sign, shift):
    def of(observation):
        return observation * np.array([sign, 1, 1], np.float32) + np.array([shift, 0, 0], np.float32)

    MAPS[of] = lambda row: [sign * row[0] + shift, *row[1:]]
    return of


def cost(achieved, desired):
    return -1.0 * ~same_place(achieved, desired)


def graded(achieved, desired):
    return -abs(achieved[..., 0] - desired[..., 0]) - 0.25 * achieved[..., 2]


PLAIN = {
    cost: lambda achieved, desired: 0.0 if achieved[0] == desired[0] else -1.0,
    graded: lambda achieved, desired: -abs(achieved[0] - desired[0]) - 0.25 * achieved[2],
}
STAYS, MIRROR, SHIFTS = goal_map(1, 0), goal_map(-1, 0), goal_map(1, 1)
PAYS, GRADES = {"reward": cost, "reward_range": (-1.0, 0.0)}, {"reward": graded, "reward_range": (-99.0, 0.0)}
TASKS = [
    walk_task("ends", goal_of=STAYS, terminated=same_place, skill="a", **PAYS),
    walk_task("mirror", goal_of=MIRROR, skill="b", **GRADES),
    walk_task("shifts", goal_of=SHIFTS, terminated=same_place, skill="a", **GRADES),
    walk_task("without data", goal_of=SHIFTS, skill="a", **PAYS),
    walk_task("elsewhere", goal_of=MIRROR, terminated=same_place, scene="other", **PAYS),
]
FILLED = (0, 1, 2, 4)
SHARES = [*NAMES, "hindsight:50", "hipi:0.2", "cds:50", "cds:0", "cds:100"]
MIXED = "future:0.3,desired:0.3,random:0.2"
every_share = pytest.mark.parametrize("share", SHARES)


def filled(share, relabel=MIXED, tasks=TASKS, ids=FILLED, count=25, capacity=CAPACITY, **told):
    """A replay whose stores have all wrapped, and what each holds."""
    replay = Replay(tasks, capacity, goals_of(relabel, GAMMA), GAMMA, sharing=parse(share), **told)
    rng, kept = np.random.default_rng(0), {k: Kept(capacity) for k in ids}
    for number in range(count):
        for k in ids:
            episode = walk(rng, 1000 * k + number, int(rng.integers(1, LONGEST + 1)))
            replay.add(k, episode)
            kept[k].add(episode)
    return replay, kept


def known(kept):
    """Number of an episode -> it."""
    return {int(e.observation[0, 1]): e for k in kept.values() for e in k.episodes}


def allowed(share, receiver, source):
    a, b = TASKS[receiver], TASKS[source]
    name = parse(share).name
    if name in ("own", "groups"):
        return a is b if name == "own" else (a.scene, a.skill) == (b.scene, b.skill)
    return name == "family" or a.scene == b.scene


def achievable(name, episode, t):
    """Moments of the row's own episode whose achievement may be its goal, under a strategy that keeps to it."""
    length = len(episode.action)
    ahead = range(t + 1, length + 1)
    some = {"current": [t + 1], "final": [length], "future": ahead, "geometric": ahead, "episode": range(1, length + 1)}
    return some.get(name, [])


def consequences(share, receiver, source, episode, t, goal, n):
    """(reward, discount, next_obs, does it show reward) of n steps as the receiver sees them, step by step."""
    task, last = TASKS[receiver], len(episode.action) - 1
    lowest = share == "uds" and receiver != source
    end, wanted = TASKS[source].goal_of(episode.observation[-1]), episode.desired[-1]
    died = episode.terminated and not (TASKS[source].terminated is same_place and end[0] == wanted[0])
    total, hit = 0.0, False
    for i in range(n):
        after = episode.observation[t + i + 1].tolist()
        achieved = MAPS[task.goal_of](after)
        paid = task.reward_range[0] if lowest else PLAIN[task.reward](achieved, goal)
        hit |= paid > task.reward_range[0]
        total += GAMMA**i * paid
        reached = task.terminated is same_place and achieved[0] == goal[0] and not lowest
        if reached or (t + i == last and died):
            return total, 0.0, after, hit
        if t + i == last:
            break
    return total, GAMMA ** (i + 1), after, hit


def check(batch, share, strategy, n, episodes, scale=()):
    """Every row; -> (receiver, source, shows reward) of each."""
    out = []
    for obs, action, reward, discount, next_obs, goal, k in zip(*(c.tolist() for c in batch), strict=True):
        episode, t = episodes[int(obs[1])], int(obs[2])
        source = int(obs[1]) // 1000
        assert obs == episode.observation[t].tolist() and action == episode.action[t].tolist()
        assert allowed(share, k, source)
        number, at = int(goal[1]), int(goal[2])
        if number >= 0:  # achieved, as the receiver's own map reads it
            assert goal == MAPS[TASKS[k].goal_of](episodes[number].observation[at].tolist())
            assert number // 1000 == source and at >= 1
            mine = number == int(obs[1]) and at in achievable(strategy, episode, t)
            assert mine or strategy in (None, "random")
        else:  # desired, by the receiver
            assert goal == episodes[-1 - number].desired[at].tolist()
            assert (-1 - number) // 1000 == k
            if k == source and strategy == "none":
                assert (-1 - number, at) == (int(obs[1]), t)
            assert strategy in (None, "none", "desired")
        reward_, discount_, next_, hit = consequences(share, k, source, episode, t, goal, n)
        assert next_obs == next_
        assert isclose(discount, discount_, rel_tol=1e-6)
        assert isclose(reward, reward_ * (scale[k] if scale else 1), rel_tol=1e-5, abs_tol=1e-6)
        out.append((k, source, hit))
    return out


def values(batch):
    """Of no pattern: (B,)"""
    return torch.sin(17.0 * batch.obs.sum(1) + 3.0 * batch.goal.sum(1) + batch.task)


def checked(share, strategy, n, episodes):
    """`values` that look at every row which they are asked for, but for those that no task could be given."""

    def value(batch):
        pairs = zip(batch.task.tolist(), (batch.obs[:, 1] // 1000).int().tolist(), strict=True)
        able = [k in FILLED and allowed(share, k, source) for k, source in pairs]
        assert all(able) or "hipi" in share
        check(Batch(*(column[able] for column in batch)), share, strategy, n, episodes)
        return values(batch)

    return value


@pytest.mark.parametrize("share", [*NAMES, "cds:100"])
@pytest.mark.parametrize("n", [1, 3])
def test_every_row_is_as_its_receiver_sees_it(share, n):
    """Under every goal strategy: stores that have wrapped lie side by side and never mix."""
    for strategy in [*GOALS, None]:
        replay, kept = filled(share, strategy + ":1" if strategy else MIXED)
        episodes, before = known(kept), replay.flow.copy()
        value = checked(share, strategy, n, episodes)
        batch = replay.sample(np.random.default_rng(1), 100, n, Scores(value, value))
        rows = check(batch, share, strategy, n, episodes)
        flow = np.zeros_like(replay.flow)
        for receiver, source, hit in rows:
            flow[0, receiver, source] += 1
            flow[1, receiver, source] += hit
        assert (replay.flow - before == flow).all() and before.sum() == 0
        counts, name = flow[0].sum(1), parse(share).name
        assert counts.sum() == 100 and counts[3] == 0
        if name not in ("random", "hindsight", "hipi"):
            assert counts[list(FILLED)].tolist() == [25] * 4
        shared = flow[0].sum() - np.trace(flow[0])
        assert (shared > 0) == (name != "own" and share != "cds:100")


@pytest.mark.parametrize("share", ["own", "uniform", "random", "hindsight", "uds"])
def test_a_reward_scale_is_the_receivers(share):
    scale = [2.0, 0.5, 3.0, 7.0, 0.25]
    replay, kept = filled(share, scale=scale)
    check(replay.sample(np.random.default_rng(0), 300, 3), share, None, 3, known(kept), scale)


def test_all_transitions_and_all_desired_goals_are_drawn_alike():
    """Receiver 0 among the rows of its scene; what it desires in place of another task's goal, among its own."""
    replay, kept = filled("uniform", "none", count=8)
    batch = replay.sample(np.random.default_rng(0), 60_000)
    union = [tuple(e.observation[t].tolist()) for k in (0, 1, 2) for e, t in kept[k].steps]
    number = {row: i for i, row in enumerate(union)}
    mine = batch.task == 0
    rows = [number[tuple(row)] for row in batch.obs[mine].tolist()]
    assert fits(np.bincount(rows, minlength=len(union)), np.full(len(union), 1 / len(union)))
    wishes = {tuple(e.desired[t].tolist()): i for i, (e, t) in enumerate(kept[0].steps)}
    foreign = mine & (batch.obs[:, 1] >= 1000)
    rows = [wishes[tuple(goal)] for goal in batch.goal[foreign].tolist()]
    assert fits(np.bincount(rows, minlength=len(wishes)), np.full(len(wishes), 1 / len(wishes)))


# Rules that choose rows ---------------------------------------------------------------------------------------------


def rows_of(batch):
    """Each row as one tuple of numbers, its task last: list of B."""
    columns = [column.reshape(len(batch.task), -1).double() for column in batch]
    return [tuple(row) for row in torch.cat(columns, 1).tolist()]


@pytest.mark.parametrize("percent", [20, 50, 90])
def test_cds_keeps_what_its_rule_keeps(percent):
    """Replayed from what it asked: first each task's own rows, then blocks of candidates, taken in their order.

    The i-th of n own values has i / (n + 1) of all below it, on average.
    """
    asked = []

    def q(batch):
        asked.append(batch)
        return values(batch)

    replay, _ = filled(f"cds:{percent}")
    batch = replay.sample(np.random.default_rng(0), 120, scores=Scores(q, None))
    own, *blocks = asked
    assert (own.obs[:, 1] // 1000 == own.task).all() and np.bincount(own.task).tolist() == [32, 32, 32, 0, 32]
    ranked = {k: values(own)[own.task == k].double().sort().values for k in FILLED}
    least = {k: np.interp(percent / 100 * 33, range(1, 33), ranked[k]) for k in FILLED}
    kept = {k: [] for k in FILLED}
    for block in blocks:
        for row, value in zip(rows_of(block), values(block), strict=True):
            k, source = int(row[-1]), row[1] // 1000
            if (k == source or value >= least[k]) and len(kept[k]) < 30:
                kept[k].append(row)
    found = {k: [row for row in rows_of(batch) if row[-1] == k] for k in FILLED}
    for k in FILLED:
        assert len(found[k]) == 30
        assert found[k][: len(kept[k])] == kept[k]
        assert all(row[1] // 1000 == k for row in found[k][len(kept[k]) :]), "a task's own data fill what is left"
    assert len(blocks) <= module.BLOCKS and any(row[1] // 1000 != 0 for row in found[0])


@pytest.mark.parametrize("share", ["cds:90", "cds-soft:90"])
def test_cds_refuses_what_is_worse_and_accepts_what_is_better(share):
    def q(batch):
        shared = batch.obs[:, 1] // 1000 != batch.task
        return shared * (1.0 - 2.0 * (batch.obs[:, 0] % 2))  # own 0; shared 1 where x is even, -1 where it is odd

    replay, _ = filled(share)
    batch = replay.sample(np.random.default_rng(0), 400, scores=Scores(q, None))
    shared, odd = batch.obs[:, 1] // 1000 != batch.task, batch.obs[:, 0] % 2 == 1
    assert (shared & ~odd).sum() > 50 and not (shared & odd).any() and (~shared & odd).any()
    assert np.bincount(batch.task).tolist() == [100, 100, 100, 0, 100]


def test_soft_cds_now_and_then_accepts_what_is_worse():
    """Beside own rows of values between 0 and 1: shared ones a spread below are taken less often than those above."""

    def q(batch):
        shared = batch.obs[:, 1] // 1000 != batch.task
        own = torch.sin(9.0 * batch.obs[:, 0]) / 2 + 0.5
        return torch.where(shared, torch.where(batch.obs[:, 0] % 2 == 1, 0.2, 0.8), own)

    replay, _ = filled("cds-soft:50")
    rng, worse, better = np.random.default_rng(0), 0, 0
    for _ in range(20):
        batch = replay.sample(rng, 400, scores=Scores(q, None))
        shared, odd = batch.obs[:, 1] // 1000 != batch.task, batch.obs[:, 0] % 2 == 1
        worse, better = worse + int((shared & odd).sum()), better + int((shared & ~odd).sum())
    assert 0 < worse < 0.6 * better


def test_the_temperature_of_hipi_is_the_one_that_is_typed():
    """At hardly any each row goes where its value is greatest, if no task is worth more than another on the whole."""

    def ahead(batch):
        return torch.where(batch.task == batch.obs[:, 0].long() % 3, 1.0, 0.0)

    chosen = {}
    for share in ("hipi:0.001", "hipi:1000"):
        batch = drawn(share, scores=Scores(None, ahead))
        mine = batch.obs[:, 1] < 4000
        chosen[share] = float((batch.task == batch.obs[:, 0].long() % 3)[mine].float().mean())
    assert chosen["hipi:0.001"] > 0.99 and 0.25 < chosen["hipi:1000"] < 0.42


def equal(one, other):
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def drawn(share, tasks=TASKS, seed=3, n=3, scores=None, **told):
    replay, _ = filled(share, tasks=tasks, **told)
    return replay.sample(np.random.default_rng(seed), 500, n, scores)


def test_the_ends_of_cds_and_what_uds_has_in_common_with_uniform():
    scores = Scores(values, values)
    assert equal(drawn("cds:0", scores=scores), drawn("uniform"))
    own = drawn("cds:100", scores=scores)
    assert (own.obs[:, 1] // 1000 == own.task).all() and np.bincount(own.task).tolist() == [125, 125, 125, 0, 125]
    assert not equal(drawn("uds"), drawn("uniform"))

    def least(achieved, desired):
        return -1.0 + 0.0 * achieved[..., 0]

    poor = [walk_task(t.name, goal_of=t.goal_of, reward=least, reward_range=(-1.0, 0.0)) for t in TASKS]
    assert equal(drawn("uds", poor), drawn("uniform", poor))


def test_hipi_chooses_one_label_of_each_row():
    """Of equal scores, any task of the scene that has data; else the rows are those that were scored, one of each."""
    asked = []

    def ahead(batch):
        asked.append(batch)
        return torch.zeros(len(batch.task))

    batch = drawn("hipi", scores=Scores(None, ahead))
    (every,) = asked
    assert set(rows_of(batch)) <= set(rows_of(every))
    scored = {(row[:3], row[-1]) for row in rows_of(every)}
    assert {(row[:3], k) for row in rows_of(batch) for k in ((0, 1, 2) if row[1] < 4000 else (4,))} <= scored
    counts = np.bincount(batch.task[batch.obs[:, 1] < 4000], minlength=5)
    assert fits(counts[:3], np.full(3, 1 / 3)) and not counts[3:].any()
    assert (batch.task[batch.obs[:, 1] >= 4000] == 4).all()


def test_hindsight_learns_an_episode_for_its_own_task_and_those_it_was_good_for():
    replay, kept = filled("hindsight:60")
    batch, chosen = replay.sample(np.random.default_rng(0), 2000), {}
    for obs, k in zip(batch.obs.tolist(), batch.task.tolist(), strict=True):
        chosen.setdefault(int(obs[1]), set()).add(k)
    for store in FILLED:
        steps = [(int(e.observation[0, 1]), t) for e, t in kept[store].steps]
        for index, (number, t) in enumerate(steps):
            if t == 0 and number in chosen:
                line = replay.merits.table(replay.memory.slot(np.array([store]), np.array([index])))[0]
                able = [k for k in FILLED if TASKS[k].scene == TASKS[store].scene and not np.isnan(line[k])]
                least = np.percentile(line[able], 60, method="higher")
                assert chosen[number] <= {k for k in able if line[k] >= least} | {store}
    assert any(chosen[number] != {number // 1000} for number in chosen)


@every_share
@pytest.mark.parametrize("balance", [0.1, 0.3])
def test_balance_keeps_the_quotas_and_makes_the_share_rewarded(share, balance):
    tasks = [walk_task(str(k), goal_of=STAYS, terminated=same_place, skill="a", **PAYS) for k in range(3)]
    scores = Scores(lambda b: torch.zeros(len(b.task)), lambda b: torch.zeros(len(b.task)))
    batch = drawn(share, tasks, ids=(0, 1, 2), n=1, scores=scores, balance=balance)
    counts = np.bincount(batch.task)
    hits = batch.reward > -1
    if share == "uds":
        assert (batch.obs[hits, 1] // 1000 == batch.task[hits]).all()
        return
    if share.partition(":")[0] not in ("random", "hindsight", "hipi"):
        assert np.ptp(counts) <= 1
    assert counts.sum() == 500
    for k, n in enumerate(counts.tolist()):
        assert int(hits[batch.task == k].sum()) in (math.floor(balance * n), math.ceil(balance * n))


# One task, checkpoints, errors --------------------------------------------------------------------------------------


@every_share
def test_one_task_has_nobody_to_share_with(share):
    one, other = (drawn(name, TASKS[:1], ids=(0,)) for name in (share, "own"))
    assert equal(one, other)


def test_one_task_keeps_its_store_only():
    one, _ = filled("hindsight", tasks=TASKS[:1], ids=(0,))
    other, _ = filled("hindsight", tasks=TASKS[:1], ids=(0,), count=3)
    assert set(one.state()) == {"replay.0"}
    other.load(one.state())
    assert equal(*(replay.sample(np.random.default_rng(0), 100) for replay in (one, other)))


@every_share
@pytest.mark.parametrize("count", [0, 1, 25])
def test_a_loaded_replay_goes_on_to_the_bit(share, count):
    """Before all tasks have data, too; into a used replay; and with more episodes after it."""
    scores = Scores(values, values)
    one, _ = filled(share, ids=FILLED[:2], count=count)
    for seed in range(3 if count else 0):
        one.sample(np.random.default_rng(seed), 50, scores=scores)
    state = {group: {name: x.copy() for name, x in arrays.items()} for group, arrays in one.state().items()}
    other, _ = filled(share, ids=FILLED, count=3)
    other.load(state)
    for more in range(6):
        if len(one):
            batches = [r.sample(np.random.default_rng(more), 100, 3, scores) for r in (one, other)]
            assert equal(*batches)
        assert (one.flow == other.flow).all()
        for k in range(3):
            episode = walk(np.random.default_rng(more), 1000 * k + 500 + more, 6)
            for replay in (one, other):
                replay.add(k, episode)
    for group, arrays in one.state().items():
        for name, x in arrays.items():
            assert np.array_equal(x, other.state()[group][name], equal_nan=x.dtype.kind == "f"), (group, name)


UNSCORED = walk_task("unscored", reward=None)


@every_share
def test_what_cannot_be_shared_is_refused(share):
    name, relabel, sharing = parse(share).name, goals_of("none"), parse(share)
    if name in ("own", "groups"):  # it shares with nobody, or is alone in its skill
        Replay([UNSCORED, TASKS[0]], 50, relabel, GAMMA, sharing=sharing)
        if name == "own":
            return
        sharing, alike = parse(share), walk_task("unscored", reward=None, skill="a")
        with pytest.raises(InputError, match=r"^--share groups: unscored has only recorded rewards"):
            Replay([TASKS[0], alike], 50, relabel, GAMMA, sharing=sharing)
        return
    with pytest.raises(InputError, match=f"^--share {name}: unscored has only recorded rewards.*--share own") as caught:
        Replay([TASKS[0], UNSCORED], 50, relabel, GAMMA, sharing=sharing)
    assert "\n" not in str(caught.value)
    alone = [UNSCORED, TASKS[4]]  # in a scene of its own nobody shares with it, but for the family
    if name == "family":
        with pytest.raises(InputError, match="only recorded rewards"):
            Replay(alone, 50, relabel, GAMMA, sharing=sharing)
        return
    replay, kept = filled(share, "none", alone, (0, 1))
    batch = replay.sample(np.random.default_rng(0), 200, 1, Scores(values, values))
    mine = batch.task == 0
    paid = {tuple(e.observation[t].tolist()): e.reward[t] for e, t in kept[0].steps}
    assert mine.any() and (~mine).any()
    assert batch.reward[mine].tolist() == [paid[tuple(obs)] for obs in batch.obs[mine].tolist()]
    replay.load({group: dict(arrays) for group, arrays in replay.state().items()})


def test_uds_needs_a_least_reward_and_scores_need_an_agent():
    endless = walk_task("endless", reward=graded)
    with pytest.raises(InputError, match=r"^--share uds: endless declares no least reward"):
        filled("uds", tasks=[TASKS[0], endless], ids=(0, 1))
    for share in ("hipi", "cds", "cds-soft"):
        replay, _ = filled(share)
        with pytest.raises(InputError, match=f"^--share {share} needs an agent that values transitions$"):
            replay.sample(np.random.default_rng(0), 8)


@pytest.mark.parametrize("name", ["table", "kitchen", "metaworld-mt10"])
def test_goals_that_are_picked_are_those_of_the_maps(name):
    """One gather for all tasks, and the maps one by one: the same goals, rewards and ends."""
    chosen = together(tasks.find([name]))
    quick, plain = Judge(chosen), Judge(chosen)
    assert quick.columns is not None
    plain.columns = None
    rng = np.random.default_rng(0)
    receiver, obs = rng.integers(0, len(chosen), 300), rng.normal(0, 0.1, (300, 4, chosen[0].obs_dim))
    desired, recorded = rng.normal(0, 0.1, (300, chosen[0].goal_dim)), rng.normal(size=(300, 2))
    rest = (
        obs.astype(np.float32),
        rng.random(300) < 0.5,
        desired.astype(np.float32),
        recorded,
        rng.random((300, 2)) < 0.1,
    )
    for a, b in zip(quick(receiver, *rest), plain(receiver, *rest), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_a_balance_needs_a_least_reward():
    endless = walk_task("endless", reward=graded)
    for several in ([endless], [TASKS[0], endless]):
        with pytest.raises(InputError, match=r"^--balance: endless declares no least reward"):
            Replay(several, 50, goals_of("none"), GAMMA, balance=0.5)


def test_a_small_balance_is_right_on_average():
    """Of quotas of five rows a tenth is half a row."""
    tasks = [walk_task(str(k), goal_of=STAYS, terminated=same_place, **PAYS) for k in range(3)]
    replay, _ = filled("uniform", tasks=tasks, ids=(0, 1, 2), balance=0.1)
    rng = np.random.default_rng(0)
    batches = [replay.sample(rng, 15) for _ in range(2000)]
    hits = np.mean([(batch.reward > -1).float().mean() for batch in batches])
    assert hits == pytest.approx(0.1, abs=0.005)


@every_share
def test_no_rows_are_a_batch_too(share):
    batch = drawn(share, scores=Scores(values, values))
    replay, _ = filled(share)
    empty = replay.sample(np.random.default_rng(0), 0, scores=Scores(values, values))
    assert all(x.shape == (0, *y.shape[1:]) and x.dtype == y.dtype for x, y in zip(empty, batch, strict=True))


def test_what_a_source_does_not_observe_becomes_no_goal():
    """Reach sees no block: its zeros would be the block's place, reached wherever they are the goal."""
    chosen = together(tasks.find(["fetch-reach", "fetch-push"]))
    replay = Replay(chosen, 300, goals_of("future"), GAMMA, sharing=parse("family"))
    rng = np.random.default_rng(0)
    for k, task in enumerate(chosen):
        observation = rng.normal(size=(51, 25)).astype(np.float32)
        observation[:, [i for i in range(25) if task.columns and i not in task.columns]] = 0
        desired = np.ones((50, 3), np.float32)
        replay.add(k, Episode(observation, np.zeros((50, 4), np.float32), desired, np.zeros(50, np.float32), False))
    replay.sample(rng, 400)
    assert (replay.flow[0] > 0).tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize("share", ["uniform", "random", "family", "uds", "own"])
def test_everyone_learns_from_what_others_share(share):
    """A task without data gets its share of the rows, by its own goal map, reward and end; goals that it never desired
    are goals achieved. By default it gets none."""
    mates = TASKS[:4]  # one scene, the last without data
    replay, kept = filled(share, tasks=mates, ids=FILLED[:3], everyone=True)
    episodes = known(kept)
    b = replay.sample(np.random.default_rng(0), 4000)
    mine = (b.task == 3).numpy()
    if share == "own":
        assert not mine.any()
        return
    assert mine.mean() == pytest.approx(0.25, abs=0.03)
    task = mates[3]
    possible = {tuple(task.goal_of(moment).tolist()) for episode in episodes.values() for moment in episode.observation}
    for obs, next_obs, goal, reward, discount in zip(
        *(x.numpy()[mine][:300] for x in (b.obs, b.next_obs, b.goal, b.reward, b.discount)), strict=True
    ):
        assert tuple(goal.tolist()) in possible and goal[2] >= 1, "what was achieved was so by a step"
        assert reward == (-1.0 if share == "uds" else cost(task.goal_of(next_obs), goal))
        assert obs[1] == next_obs[1]
        assert discount == pytest.approx(GAMMA) or episodes[int(obs[1])].terminated
    usual, _ = filled(share, tasks=mates, ids=FILLED[:3])
    assert not (usual.sample(np.random.default_rng(0), 1000).task == 3).any()
