"""Tasks laid out together against the tasks alone: the same scores, steps, one size; names. Long: one file a module."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from functools import partial
from operator import itemgetter

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import tasks
from gcrl.collect import Lane
from tasks import InputError, find
from tasks.layout import Cut, LaidOut, Spread, laid, picked, together
from tasks.task import Task, bonus_if, cost_outside, never, part, within

WIDTH = 7
"""Numbers of the body; every task observes some of them, in their order."""
LAST = itemgetter((..., slice(-2, None)))


class Body(gymnasium.Env):
    """Number c is 10 c + a draw + the steps so far. The goal speaks of what `goal_of` reads off, if there is one."""

    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, columns, goal_of, render_mode=None):
        self.columns, self.goal_of, self.render_mode = list(columns), goal_of, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 10.0 * np.arange(WIDTH) + self.np_random.random(WIDTH)
        return self.seen(), {"started": True}

    def step(self, action):
        self.state = self.state + 1 + 0.01 * float(action[0])
        return self.seen(), float(self.state[0]), self.state[0] > 4, False, {"stepped": True}

    def seen(self):
        seen = self.state[self.columns]
        goal = None if self.goal_of is None else self.goal_of(seen)
        return seen if goal is None else {"observation": seen, "achieved_goal": goal, "desired_goal": goal + 0.5}


def body(name, columns=tuple(range(WIDTH)), goal_of=None, goal_dim=0, **changes):
    told = {"goal_dim": goal_dim, "goal_of": goal_of, "success": NEAR, "reward": FAR} if goal_dim else {}
    return Task(
        name=name,
        make=partial(Body, columns, goal_of),
        description=name,
        obs_dim=len(columns),
        columns=() if len(columns) == WIDTH else columns,
        action_dim=1,
        horizon=6,
        family="body",
        scene="body",
        **{**told, **changes},
    )


def total(achieved, desired):
    """A score that zeros would not leave alone: (...)."""
    return (achieved - desired + 1).sum(-1)


SUMMED = partial(bonus_if, total)


NEAR, FAR = partial(within, 2.0), partial(cost_outside, 2.0)
FIRST = part(0, 1)
WHOLE = body("whole", goal_of=part(0, 3), goal_dim=3)
MID = body("mid", (0, 2, 3, 6), LAST, 2, terminated=NEAR)
SHORT = body("short", (0, 6), FIRST, 1)
OTHER = body("other", (1, 2, 3, 5), LAST, 2, reward=total)
PLAIN = body("plain", (0, 6))
BARE = body("bare")
SETS = [s for n in (1, 2, 3, 4) for s in itertools.permutations((WHOLE, MID, SHORT, OTHER, PLAIN, BARE), n)][::7]
every_set = pytest.mark.parametrize("chosen", SETS, ids=lambda chosen: "-".join(task.name for task in chosen))


def observed(task, full):
    """What the task alone observes of the body's numbers (..., WIDTH)."""
    return full[..., list(task.columns) or slice(None)]


@every_set
def test_all_have_one_size_and_keep_the_rest(chosen):
    laid = together(chosen)
    assert len({(t.obs_dim, t.goal_dim, t.action_dim) for t in laid}) == 1
    assert laid[0].goal_dim == max(t.goal_dim for t in chosen)
    for new, old in zip(laid, chosen, strict=True):
        kept = ("name", "description", "horizon", "family", "scene", "skill", "reward_range", "budget", "n_step")
        assert all(getattr(new, field) == getattr(old, field) for field in kept)
        assert (new.reward is None) == (old.reward is None)
        if (old.obs_dim, old.goal_dim) == (new.obs_dim, new.goal_dim):
            assert new is old
        assert together(laid) == laid, "what is laid out fits"


@every_set
def test_a_number_of_the_body_lies_in_one_place(chosen):
    """Played: number c is at least 10 c and less than 10 c + 7, so a column of a batch is of one number, or nothing."""
    laid, place = together(chosen), {}
    for new, old in zip(laid, chosen, strict=True):
        lane, alone = Lane(new), Lane(old)
        for one in (lane, alone):
            one.reset(3)
        over = False
        while not over:
            over = lane.step(np.ones(1, np.float32))
            assert alone.step(np.ones(1, np.float32)) == over
        mine, known = lane.episode(), alone.episode()
        assert mine.observation.shape[1] == new.obs_dim and mine.desired.shape[1] == new.goal_dim
        assert np.array_equal(mine.desired[:, : old.goal_dim], known.desired)
        assert not mine.desired[:, old.goal_dim :].any()
        assert np.array_equal(mine.reward, known.reward) and mine.terminated == known.terminated
        filled = np.flatnonzero(mine.observation.any(0))
        assert np.array_equal(mine.observation[:, filled], known.observation)
        for at, number in zip(filled, old.columns or range(WIDTH), strict=True):
            assert place.setdefault(int(at), number) == number
        goal = new.goal_of(mine.observation)
        assert np.array_equal(goal[:, : old.goal_dim], old.goal_of(known.observation)) and goal.shape[1] == new.goal_dim
        assert not goal[:, old.goal_dim :].any()
    assert len(set(place.values())) == len(place)


@pytest.mark.parametrize("library", [np, torch], ids=lambda module: module.__name__)
@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 4)], ids=str)
def test_scores_are_those_of_the_task_alone(library, shape):
    """In the arrays' own library and dtype. Behind a task's own numbers a goal has zeros, as `together` lays it out."""
    rng = np.random.default_rng(0)
    chosen = (WHOLE, MID, SHORT, OTHER, PLAIN)
    for new, old in zip(together(chosen), chosen, strict=True):
        full = rng.normal(size=(*shape, WIDTH)).astype(np.float32)
        desired = rng.normal(size=(*shape, 3)).astype(np.float32)
        if library is torch:
            full, desired = torch.from_numpy(full), torch.from_numpy(desired)
        goal = new.goal_of(full)
        assert type(goal) is type(full) and goal.dtype == full.dtype and goal.shape == (*shape, 3)
        alone = old.goal_of(observed(old, full))
        assert (goal[..., : old.goal_dim] == alone).all() and not goal[..., old.goal_dim :].any()
        for score in ("success", "terminated", "reward"):
            mine, known = getattr(new, score), getattr(old, score)
            if known is None or known is never:
                assert mine is known
                continue
            cut = desired[..., : old.goal_dim]
            zeros = library.zeros_like(desired)
            zeros[..., : old.goal_dim] = cut
            assert (mine(goal, zeros) == known(alone, cut)).all() and mine(goal, zeros).shape == shape
            if isinstance(mine, Cut):
                assert (mine(goal, desired) == known(alone, cut)).all(), "it looks at its own numbers only"


@pytest.mark.parametrize(
    "score", [NEAR, FAR, partial(bonus_if, NEAR), total, SUMMED], ids=("near", "far", "bonus", "total", "summed")
)
def test_zeros_behind_two_goals_change_no_score(score):
    """Whether it is cut or not: on the edge too."""
    laid = together((WHOLE, body("edge", (0, 6), FIRST, 1, reward=score, success=score)))[1]
    achieved, desired = np.zeros((9, 3), np.float32), np.zeros((9, 3), np.float32)
    achieved[:, 0] = [
        -3,
        np.nextafter(-2, -3),
        -2,
        np.nextafter(-2, 0),
        0,
        np.nextafter(2, 0),
        2,
        np.nextafter(2, 3),
        3,
    ]
    for mine in (laid.reward, laid.success):
        assert (mine(achieved, desired) == score(achieved[:, :1], desired[:, :1])).all()


def test_gradients_flow_through_a_goal_map():
    new = together((WHOLE, SHORT))[1]
    x = torch.ones(4, WIDTH, requires_grad=True)
    new.goal_of(x).sum().backward()
    assert x.grad.tolist() == [[1.0] + [0.0] * (WIDTH - 1)] * 4


def test_equal_arithmetic_stays_equal():
    """Tasks that share a goal map and a reward are scored in one call and share a normaliser: their hashes agree."""
    one, two = (body(name, (0, 6), FIRST, 1) for name in ("one", "two"))
    other = body("other", (0, 6), part(0, 1), 1)
    a, b, c = together((one, two, other, WHOLE))[:3]
    assert (a.goal_of, a.reward, a.success) == (b.goal_of, b.reward, b.success)
    assert hash((a.goal_of, a.reward, a.terminated)) == hash((b.goal_of, b.reward, b.terminated))
    assert a.goal_of != c.goal_of and a.goal_of != together((SHORT, OTHER, WHOLE))[1].goal_of
    assert Cut(NEAR, 1) != Cut(NEAR, 2) and Spread(FIRST, (0,), 2) != Spread(FIRST, (1,), 2)


def test_a_laid_out_task_pickles():
    for task in together((WHOLE, MID, SHORT, PLAIN)):
        again = pickle.loads(pickle.dumps(task))  # noqa: S301 - our own
        x = np.random.default_rng(0).normal(size=(6, task.obs_dim)).astype(np.float32)
        assert np.array_equal(again.goal_of(x), task.goal_of(x))
        assert again.make().reset(seed=1)[0]["observation"].shape == (WIDTH,)


def test_the_environment_passes_everything_else_on():
    task = together((WHOLE, SHORT))[1]
    env = task.make(render_mode="rgb_array")
    assert isinstance(env, LaidOut) and env.unwrapped.render_mode == "rgb_array"
    assert task.make().unwrapped.render_mode is None
    raw, info = env.reset(seed=5)
    again, _ = task.make().reset(seed=5)
    assert info == {"started": True} and all(np.array_equal(raw[name], again[name]) for name in raw)
    *_, ended, stopped, info = env.step(np.zeros(1))
    assert (ended, stopped, info) == (False, False, {"stepped": True}) and env.action_space is Body.action_space
    assert np.array_equal(raw["observation"], again["observation"]), "what was seen is not written over"


def test_what_has_no_layout_in_common_is_refused():
    for change, what in (({"family": "legs"}, "family body, leg legs"), ({"action_dim": 2}, "action_dim 1, leg 2")):
        with pytest.raises(InputError, match=f"^one policy needs one body: whole has {what}; ") as caught:
            together((WHOLE, dataclasses.replace(SHORT, name="leg", **change)))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^--task short whole short: give each task once$"):
        together((SHORT, WHOLE, SHORT))
    for columns in ((), (0,), (0, 1, 2)):
        with pytest.raises(InputError, match=r"^short does not say where its 2 numbers lie in the family's 7$"):
            together((WHOLE, dataclasses.replace(SHORT, columns=columns)))


# Names --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    known = [
        dataclasses.replace(SHORT, name=name, scene=scene, family=family)
        for name, scene, family in (
            ("arm-reach", "arm", "robot"),
            ("arm-push", "arm", "robot"),
            ("leg-run", "track", "robot"),
            ("track", "field", "other"),
            ("field-lift", "field", "other"),
            ("hall-walk", "hall", "field"),
        )
    ]
    monkeypatch.setattr(tasks, "TASKS", {task.name: task for task in known})
    monkeypatch.setattr(tasks, "SETS", {"duo": ("leg-run", "arm-push")})


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["arm-push"], ["arm-push"]),
        (["arm"], ["arm-reach", "arm-push"]),
        (["duo", "track"], ["leg-run", "arm-push", "track"]),
        (["robot"], ["arm-reach", "arm-push", "leg-run"]),
        (["arm-*"], ["arm-reach", "arm-push"]),
        (["*-r*"], ["arm-reach", "leg-run"]),
        (["*"], ["arm-reach", "arm-push", "leg-run", "track", "field-lift", "hall-walk"]),
        (["track"], ["track"]),  # a name before a scene
        (["scene:track"], ["leg-run"]),
        (["scene:arm", "hall-walk"], ["arm-reach", "arm-push", "hall-walk"]),
        (["field", "arm-push"], ["track", "field-lift", "arm-push"]),  # a scene before a family
        (["arm-push", "arm-push"], ["arm-push", "arm-push"]),  # `together` refuses it
        (["gym:Pendulum-v1"], ["gym:Pendulum-v1"]),
    ],
    ids=str,
)
def test_names_find_tasks(registry, asked, names):
    assert [task.name for task in find(asked)] == names


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ([], "--task: give at least one"),
        (["arm-reech"], "did you mean arm-reach"),
        (["nobody-*"], "unknown task 'nobody-*'"),
        (["arm", "nothing"], "unknown task 'nothing'"),
        (["ARM-*"], "unknown task"),
        ([""], "unknown task ''"),
        (["gym:nothing"], "gym:nothing"),
        (["dou"], "did you mean duo"),
        (["scene:robot"], "unknown task 'scene:robot'"),  # a family
    ],
    ids=str,
)
def test_unknown_names_are_one_line(registry, asked, word):
    with pytest.raises(InputError) as caught:
        find(asked)
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_every_family_of_ours_has_a_layout():
    """All of its tasks together, as `--task FAMILY` asks for: each keeps the goal that it has alone."""
    rng = np.random.default_rng(0)
    for family in dict.fromkeys(task.family for task in tasks.TASKS.values()):
        alone = [task for task in tasks.TASKS.values() if task.family == family]
        widest = max(task.obs_dim for task in alone)
        for old, new in zip(alone, together(alone), strict=True):
            whole = rng.normal(size=(5, new.obs_dim))
            own = whole[:, list(old.columns)] if old.obs_dim < widest else whole
            np.testing.assert_array_equal(new.goal_of(whole)[:, : old.goal_dim], old.goal_of(own))


@pytest.mark.parametrize("names", [["table"], ["kitchen"], ["fetch-*"], ["metaworld-mt10"], ["point-maze-umaze-*"]])
def test_a_goal_that_picks_numbers_says_which(names):
    for task in together(tasks.find(names)):
        rows = np.random.default_rng(0).normal(size=(7, task.obs_dim)).astype(np.float32)
        columns = picked(task)
        if task.name == "fetch-pick-and-place-grip":  # the gap between the fingers is a sum
            assert columns is None
            continue
        assert columns is not None and columns.shape == (task.goal_dim,)
        with_zero = np.concatenate((rows, np.zeros((7, 1), np.float32)), 1)  # -1 is the last one
        np.testing.assert_array_equal(task.goal_of(rows), with_zero[:, columns])


def test_a_goal_that_computes_does_not():
    assert picked(dataclasses.replace(tasks.get("fetch-push"), goal_of=np.negative)) is None


def test_an_environment_says_what_it_observes():
    for task in together(find(["fetch-push", "fetch-reach"])):
        env = task.make()
        seen, _ = env.reset(seed=0)
        assert {name: x.shape for name, x in seen.items()} == {n: b.shape for n, b in env.observation_space.items()}


def test_episodes_are_laid_out_as_their_environment_is():
    """What the wrapped environment would have observed, number by number."""
    narrow = body("narrow", (1, 2, 5), LAST, 2)
    tasks_ = [narrow, body("wide", goal_of=itemgetter((..., slice(0, 3))), goal_dim=3)]
    common = together(tasks_)[0]
    episodes = []
    for task in (narrow, common):
        lane = Lane(task)
        lane.reset(3)
        while not lane.step(np.zeros(1, np.float32)):
            pass
        episodes.append(lane.episode())
    after = laid(episodes[0], narrow, common)
    for x, y in zip(after, episodes[1], strict=True):
        np.testing.assert_array_equal(x, y)
    assert after.observation.shape[1] == WIDTH and after.desired.shape[1] == 3
    assert laid(episodes[1], common, common) is episodes[1]
