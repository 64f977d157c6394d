"""gcrl plot --values: the plan of a maze, the grid and what is written on it, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from gcrl import plot, policy, progress, train, values
from gcrl.agents import AGENTS
from gcrl.cli import guarded
from gcrl.evaluate import Evaluator
from relabel.batch import Batch, State
from tasks.floor import Floor, floor_of
from tests.problems import PLAIN, POINT, fit_for, plan

MAZE = "point-maze-medium"


@pytest.fixture(scope="module")
def maze():
    env = tasks.get(MAZE).make()
    yield env
    env.close()


def test_a_cell_is_free_where_the_simulator_says_so(maze):
    """Every cell, its middle and near its corners; and nothing is free outside."""
    floor, stock = floor_of(maze), maze.unwrapped.maze
    assert floor is not None
    for cell in np.ndindex(floor.wall.shape):
        middle = stock.cell_rowcol_to_xy(np.array(cell))
        near = middle + 0.49 * stock.maze_size_scaling * np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]])
        assert (floor.free(near) == (stock.maze_map[cell[0]][cell[1]] != 1)).all(), cell
    assert not np.array_equal(floor.wall, floor.wall[::-1])  # so rows the wrong way round would have shown
    low, high = floor.box()
    assert not floor.free(np.stack([low - 0.1, high + 0.1])).any()


def test_what_has_no_maze_has_no_plan():
    assert floor_of(POINT.make()) is None


def test_the_box_holds_the_outer_cells():
    floor = Floor(np.zeros((2, 3), bool), np.array([-1.0, 1.0]), np.array([2.0, -2.0]))
    low, high = floor.box()
    np.testing.assert_allclose([low, high], [[-2, -2], [4, 2]])
    assert floor.free(np.array([[3.9, -1.9], [4.1, 0.0]])).tolist() == [True, False]


class Near(torch.nn.Module):
    """Worth what it has still to go; pushes straight on."""

    def act(self, state, carry=None, explore=False):
        return (state.goal - state.obs[:, :2]).clamp(-1, 1), carry

    def worth(self, state):
        assert (state.obs[:, 2:] == state.obs[0, 2:]).all() and (state.task == 3).all()
        return -(state.goal - state.obs[:, :2]).norm(dim=1)


def test_values_lie_where_the_states_are_that_they_are_of(maze):
    task = dataclasses.replace(tasks.get(MAZE), horizon=5)
    evaluator = Evaluator(task, values.GOALS, k=3)
    found = values.maps(Near(), task, 3, evaluator, "cpu")
    assert len(found) == values.GOALS
    for one, lane in zip(found, evaluator.lanes, strict=True):
        np.testing.assert_array_equal(one.path, np.stack(lane.observation)[:, :2])
        np.testing.assert_array_equal(one.goal, lane.desired[0])
        for j, i in np.ndindex(one.value.shape):
            place = np.array([one.x[i], one.y[j]])
            row, column = maze.unwrapped.maze.cell_xy_to_rowcol(place)
            wall = maze.unwrapped.maze.maze_map[row][column] == 1
            assert np.isnan(one.value[j, i]) == wall
            if not wall:
                np.testing.assert_allclose(one.value[j, i], -np.linalg.norm(place - one.goal), atol=1e-4)
    evaluator.close()


def batch_of(state):
    """A batch whose next states these are, and nothing else in it counts."""
    bad = torch.full((len(state.obs),), torch.nan)
    return Batch(bad[:, None], bad[:, None], bad, bad, state.obs, state.goal, state.task)


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_what_a_state_is_worth(name):
    """What the method itself takes the next state for; a method that has no values says so."""
    task = fit_for(name, POINT)
    agent = policy.make(plan(task, name))
    state = State(torch.randn(7, task.obs_dim), torch.randn(7, task.goal_dim), torch.zeros(7, dtype=torch.int64))
    if name in ("bc", "dt", "gcbc"):
        with pytest.raises(tasks.InputError, match=f"{name} learns no value of a state"):
            agent.worth(state)
        return
    torch.manual_seed(0)
    found = agent.worth(state)
    torch.manual_seed(0)
    with torch.no_grad():
        wanted = agent.next_value(batch_of(state))
    assert found.shape == (7,) and torch.isfinite(found).all() and found.std() > 0
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_values_of_the_methods_that_learn_v_alone():
    """Closed forms: the mean of two heads; less than no steps are never to go, and none to what is there."""
    state = State(torch.randn(5, 2), torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))
    one = policy.make(plan(POINT, "gcivl"))
    first, second = one.v(one.encode(state))
    torch.testing.assert_close(one.worth(state), ((first + second) / 2).detach())
    two = policy.make(plan(POINT, "hiql"))
    first, second = two.v(two.encode(state))[0]
    torch.testing.assert_close(two.worth(state), ((first + second) / 2).detach())
    three = policy.make(plan(POINT, "qrl"))
    x, g = three.encode.apart(state)
    torch.testing.assert_close(three.worth(state), -three.d(three.phi(x), three.place(g)).detach())


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """run(agent, task, ...flags) -> the folder of a short one."""
    for task in (POINT, PLAIN):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(progress, "curves", lambda *args: None)

    def run(agent: str = "ddpg", task: str = POINT.name) -> Path:
        small = [
            "--hidden",
            "8",
            "8",
            "--batch",
            "16",
            "--eval-episodes",
            "1",
            "--eval-every",
            "40",
            "--save-seconds",
            "0",
        ]
        home = tmp_path / f"{agent}-{task}"
        assert train.main(["--agent", agent, "--task", task, "--steps", "80", "--runs", str(home), *small]) == 0
        (folder,) = home.iterdir()
        return folder

    return run


def test_the_command_draws_a_row_for_each_checkpoint(trained, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(values, "picture", lambda rows, title, path: drawn.append((rows, path)))
    folder = trained()
    capsys.readouterr()
    assert guarded(plot.main, [str(folder), "--values"]) == 0
    ((rows, path),) = drawn
    kept = sorted(int(p.name) for p in (folder / "checkpoints").iterdir())
    assert [step for step, _ in rows] == kept and kept[-1] == 80 and path == folder / "values.png"
    assert capsys.readouterr().out.split() == [str(path)]


def test_the_picture_shows_the_values_the_path_and_the_goal(trained, monkeypatch):
    from matplotlib.figure import Figure

    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **told: saved.append(self))
    maps = [
        values.Map(np.arange(3.0), np.arange(2.0), np.full((2, 3), -1.0 - i), np.eye(2), np.ones(2)) for i in range(4)
    ]
    values.picture([(10, maps), (20, maps)], "t", Path("x.png"))
    panels = [axes for axes in saved[0].axes if axes.collections and axes.get_lines()]
    assert len(panels) == 8
    for i, axes in enumerate(panels):
        (mesh,), (path, start, goal) = axes.collections, axes.get_lines()
        assert mesh.get_clim() == (-4.0, -1.0) and (np.asarray(mesh.get_array()) == -1.0 - i % 4).all()
        np.testing.assert_array_equal(path.get_xydata(), np.eye(2))
        np.testing.assert_array_equal(np.concatenate([start.get_xydata(), goal.get_xydata()]), [[1, 0], [1, 1]])


@pytest.mark.parametrize(
    ("agent", "task", "flags", "word"),
    [
        ("bc", POINT.name, (), "bc learns no value of a state"),
        ("ddpg", PLAIN.name, (), "a goal of test-plain is no place on a plane"),
        ("ddpg", POINT.name, ("--out", "x.png"), "leave out --out"),
        ("", "", (), "has no checkpoint yet"),
        ("", "nobody", (), "does not exist"),
    ],
)
def test_what_has_no_picture_is_one_line(trained, tmp_path, capfd, agent, task, flags, word):
    folder = trained(agent, task) if agent else tmp_path / (task or "r")
    if not agent and not task:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    capfd.readouterr()
    assert guarded(plot.main, [str(folder), "--values", *flags]) == 2
    said = capfd.readouterr().err
    assert word in said and said.count("\n") == 1
    assert not list(tmp_path.rglob("values*.png"))
