"""Scripted data for OGBench's tasks: the same seed gives the same data, and the scripts do what their kind says."""

import re
from pathlib import Path

import numpy as np
import pytest

import tasks
from gcrl import __main__ as console
from gcrl.cli import guarded
from tasks import datasets
from tasks.oracle import ARM, MAZE, PUZZLE, kinds, makes, write
from tasks.oracle import episodes as episodes_of
from tasks.task import InputError

pytest.importorskip("ogbench")
MEDIUM, CUBE, SCENE = (f"ogbench:{name}-v0" for name in ("pointmaze-medium", "cube-single", "scene"))
CELL = 4.0
"""metres"""


def cells(xy):
    """Row and column (..., 2) of places (..., 2)."""
    return np.floor((xy[..., ::-1] + 1.5 * CELL) / CELL).astype(int)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


SAMPLES = [(MEDIUM, "navigate", 1500), (MEDIUM, "stitch", 500), (MEDIUM, "explore", 600)]
SAMPLES += [("ogbench:pointmaze-teleport-v0", "navigate", 1200), (CUBE, "play", 60), (SCENE, "noisy", 40)]
ALSO = [
    (CUBE, "noisy", 60),
    (SCENE, "play", 40),
    ("ogbench:puzzle-3x3-v0", "play", 40),
    ("ogbench:puzzle-3x3-v0", "noisy", 40),
]
SAMPLES += [pytest.param(*one, marks=pytest.mark.slow) for one in ALSO]


@pytest.mark.parametrize(("name", "kind", "steps"), SAMPLES)
def test_the_same_seed_gives_the_same_data_and_nothing_else_is_touched(name, kind, steps):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, task = list(episodes_of(name, kind, steps, 3)), tasks.get(name)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.rand()  # noqa: NPY002
    again = list(episodes_of(name, kind, steps, 3))
    assert sum(len(e.action) for e in one) == steps
    assert [len(e.action) for e in one[:-1]] == [kinds(name)[kind].steps] * (len(one) - 1)
    assert len(one) == len(again) and all(map(same, one, again))
    assert not same(one[0], next(episodes_of(name, kind, steps, 4)))
    for e in one:
        assert e.observation.shape == (len(e.action) + 1, task.obs_dim) and e.desired.shape[1] == task.goal_dim
        assert e.observation.dtype == e.action.dtype == e.desired.dtype == e.reward.dtype == np.float32
        assert abs(e.action).max() <= 1 and not e.terminated
        np.testing.assert_array_equal(e.reward, task.reward(task.goal_of(e.observation[1:]), e.desired))


def test_episodes_differ_and_do_not_depend_on_how_many_there_are():
    long, short = (list(episodes_of(MEDIUM, "stitch", n, 0)) for n in (800, 400))
    assert all(map(same, long[:2], short))
    assert len({tuple(e.observation[0]) for e in long}) == 4


def test_navigation_reaches_its_goals_one_after_the_other():
    for e in episodes_of(MEDIUM, "navigate", 3000, 0):
        new = np.flatnonzero((np.diff(e.desired, axis=0) != 0).any(1))
        assert 4 < len(new) < 30
        np.testing.assert_array_equal(new, np.flatnonzero(e.reward[:-1] == 0))
        assert len(set(map(tuple, cells(e.observation)))) > 10


def test_a_stitch_has_its_goal_four_cells_away_and_stays_there():
    from tasks.oracle_maze import AWAY, Walk

    walk, there = Walk(tasks.get(MEDIUM), "stitch", MAZE["stitch"]), []
    for e in episodes_of(MEDIUM, "stitch", 4000, 0):
        assert (e.desired == e.desired[0]).all()
        start, goal = (tuple(map(int, cells(x))) for x in (e.observation[0], e.desired[0]))
        assert walk.far(start)[goal] == AWAY
        there.append(tuple(cells(e.observation[-1])) == goal)
    assert np.mean(there) > 0.9


def test_noise_is_that_of_the_kind_or_as_asked():
    loud, still = (next(episodes_of(MEDIUM, "navigate", 1000, 0, noise)) for noise in (None, 0.0))
    np.testing.assert_allclose(np.linalg.norm(still.action, axis=1), 1, atol=1e-4)
    away = abs(loud.action) < 1
    assert 0.2 < loud.action[away].std() < 0.6


def test_through_a_teleport_there_is_a_leap_and_nowhere_else():
    leaps = []
    for e in episodes_of("ogbench:pointmaze-teleport-v0", "explore", 8000, 0):
        moves = np.linalg.norm(np.diff(e.observation, axis=0), axis=1)
        leaps += [tuple(cells(e.observation[t])) for t in np.flatnonzero(moves > 1)]
    assert leaps and set(leaps) <= {(4, 6), (5, 1), (3, 6), (5, 6), (4, 1), (6, 1)}


def test_plans_bring_cubes_to_their_places():
    """In 1,000 steps a plan picks and places several times: the cube is lifted, let go, and elsewhere each time."""
    (e,) = episodes_of(CUBE, "play", 500, 0)
    x, y, z = e.observation[:, 19:22].T
    lifted = z > 0.5
    assert 1 < (np.diff(lifted.astype(int)) == 1).sum() < 10
    lying = np.stack([x, y], 1)[z < 0.25]
    assert np.ptp(lying, axis=0).max() > 1


def test_a_lost_cube_is_an_episode_played_anew():
    from tasks.oracle_arm import in_sight

    qpos = np.zeros((3, 21))
    qpos[:, 16] = 0.02
    assert in_sight(qpos)
    qpos[1, 15] = 0.3
    assert not in_sight(qpos)
    qpos[1, 15:17] = -0.35, 0.07
    assert in_sight(qpos)
    qpos[1, 16] = 0.02
    assert not in_sight(qpos)


def test_the_file_has_ogbench_s_layout(tmp_path):
    from ogbench.utils import load_dataset

    for name, kind, steps in ((MEDIUM, "stitch", 500), ("ogbench:puzzle-3x3-v0", "play", 30)):
        made, path = list(makes(name, kind, steps, 0)), tmp_path / f"{kind}.npz"
        assert write(path, iter(made)) == steps
        file, theirs = np.load(path), load_dataset(path, add_info=True)
        ends = np.flatnonzero(file["terminals"])
        np.testing.assert_array_equal(np.diff([-1, *ends]), [len(e.observation) for e, _ in made])
        np.testing.assert_array_equal(theirs["observations"], np.concatenate([e.observation[:-1] for e, _ in made]))
        np.testing.assert_array_equal(theirs["next_observations"], np.concatenate([e.observation[1:] for e, _ in made]))
        np.testing.assert_array_equal(theirs["actions"], np.concatenate([e.action for e, _ in made]))
        rows = len(file["observations"])
        assert len(file["qpos"]) == len(file["qvel"]) == len(file["actions"]) == rows
        if "puzzle" in name:
            np.testing.assert_array_equal(file["button_states"], file["observations"][:, 20::4])


@pytest.mark.parametrize(
    ("name", "kind", "steps", "seed", "said"),
    [
        (MEDIUM, "play", 10, 0, "navigate, stitch, explore"),
        (CUBE, "navigate", 10, 0, "play, noisy"),
        ("ogbench:antmaze-medium-v0", "navigate", 10, 0, "policy"),
        ("ogbench:nothing-v0", "navigate", 10, 0, "unknown task"),
        (MEDIUM, "navigate", 0, 0, "at least 1"),
        (MEDIUM, "navigate", 1, -1, "0 or more"),
    ],
)
def test_what_cannot_be_made_is_said_at_once_in_one_line(name, kind, steps, seed, said):
    with pytest.raises(InputError, match=said) as caught:
        episodes_of(name, kind, steps, seed)
    assert "\n" not in str(caught.value)


def test_kinds_are_those_of_the_paper():
    assert kinds("ogbench:pointmaze-giant-v0")["navigate"].steps == 2000
    assert (kinds(MEDIUM), kinds(CUBE), kinds("ogbench:puzzle-4x4-v0")) == (MAZE, ARM, PUZZLE)
    assert not kinds("ogbench:humanoidmaze-large-oraclerep-v0")


def test_the_page_s_example_works_as_it_stands(capsys):
    page = (Path(__file__).parents[1] / "docs" / "ogbench.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.count("(1001, 2)") == 2


def test_gcrl_data_collect_records_what_a_script_plays(tmp_path, capfd, monkeypatch):
    """The episodes of `episodes`, in a Minari folder; and it plays alone."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    name = "ogbench:pointmaze-medium-v0"
    flags = ["data", "collect", "--task", name, "--policy", "stitch", "--steps", "450", "--seed", "3"]
    assert guarded(console.run, [*flags, "--out", str(tmp_path / "maze")]) == 0
    task = tasks.get(name)
    for one, two in zip(datasets.read(tmp_path / "maze", task), episodes_of(name, "stitch", 450, seed=3), strict=True):
        for x, y in zip(one, two, strict=True):
            np.testing.assert_array_equal(x, y)
    capfd.readouterr()
    assert guarded(console.run, [*flags, "--out", str(tmp_path / "other"), "--random", "0.5"]) == 2
    assert "plays alone" in capfd.readouterr().err
    assert guarded(console.run, ["data", "collect", "--task", "fetch-reach", "--steps", "9", "--out", "x"]) == 2
    assert "--episodes" in capfd.readouterr().err
