"""gcrl plot: what is drawn, read off the figure itself, and what is refused."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from gcrl import plot
from gcrl.cli import guarded

COLUMNS = ("step", "task", "success", "success_low", "success_high", "mean_return")


def run(home: Path, name: str, tasks: dict[str, list[float]], **config) -> Path:
    """A run folder with an evaluation a step of 10; success, or (below -1) the return of a task without goals."""
    folder = home / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"task": list(tasks), "seed": 0, "algorithm": {}, **config}))
    with (folder / "eval.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for task, curve in tasks.items():
            for i, x in enumerate(curve):
                told = ["nan"] * 3 + [x] if x < -1 else [x, x - 0.1, x + 0.1, -5.0]
                table.writerow([10 * (i + 1), task, *told])
    return folder


def matrix(folder: Path, steps: int, tasks=("a", "b"), cut: int | None = None) -> None:
    rows = [[10 * (i + 1), k, j, 4, i] for i in range(steps) for k in tasks for j in tasks]
    with (folder / "sharing.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("step", "receiver", "source", "rows", "rewarded"))
        table.writerows(rows[:cut])


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, by path."""
    found: dict[Path, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **told: found.setdefault(Path(path), self))
    return found


def lines(axes):
    return {line.get_label(): (line.get_color(), line.get_ydata().tolist()) for line in axes.get_lines()}


def test_a_label_has_one_colour_in_every_panel_and_a_place_in_the_legend(figures, tmp_path):
    """Runs of different tasks: A has t1, B t1 and t2, C t2."""
    for name, tasks in (("A", ("t1",)), ("B", ("t1", "t2")), ("C", ("t2",))):
        run(tmp_path, name, {task: [0.1, 0.2] for task in tasks}, share=name)
    assert guarded(plot.main, [str(tmp_path / name) for name in "ABC"]) == 0
    figure = figures[tmp_path / "curves.png"]
    one, two = map(lines, figure.axes)
    assert [label[-1] for label in one] == ["A", "B"] and [label[-1] for label in two] == ["B", "C"]
    colours = {label: colour for panel in (one, two) for label, (colour, _) in panel.items()}
    assert len(set(colours.values())) == 3 and all(panel[x][0] == colours[x] for panel in (one, two) for x in panel)
    (legend,) = figure.legends
    assert [text.get_text()[-1] for text in legend.get_texts()] == ["A", "B", "C"]


def test_seeds_are_averaged_and_their_range_is_the_band(figures, tmp_path):
    """The second is of a version that knew no --lr-end: it was as usual."""
    for seed, curve in enumerate(([0.0, 0.2], [0.4, 0.8, 1.0])):
        run(tmp_path, str(seed), {"t": curve}, seed=seed, **({} if seed else {"lr_end": 1.0, "data": []}))
    assert guarded(plot.main, [str(tmp_path / "0"), str(tmp_path / "1")]) == 0
    (axes,) = figures[tmp_path / "curves.png"].axes
    ((_, curve),) = lines(axes).values()
    np.testing.assert_allclose(curve, [0.2, 0.5, 1.0])
    (band,) = axes.collections
    assert {(x, round(y, 3)) for x, y in band.get_paths()[0].vertices} == {
        *((10, 0.0), (10, 0.4), (20, 0.2), (20, 0.8), (30, 1.0))
    }


def test_one_run_has_its_interval(figures, tmp_path):
    assert guarded(plot.main, [str(run(tmp_path, "r", {"t": [0.3, 0.5]}))]) == 0
    (axes,) = figures[tmp_path / "r" / "curve.png"].axes
    (band,) = axes.collections
    assert {round(y, 3) for _, y in band.get_paths()[0].vertices} == {0.2, 0.4, 0.6}
    assert axes.get_ylim() == (-0.02, 1.02) and axes.get_ylabel() == "success"


def test_a_task_without_goals_shows_its_return_whatever_comes_after(figures, tmp_path):
    run(tmp_path, "A", {"swing": [-1200.0, -150.0]}, share="A")
    run(tmp_path, "B", {"t": [0.5]}, share="B")
    assert guarded(plot.main, [str(tmp_path / name) for name in "AB"]) == 0
    swing, t = figures[tmp_path / "curves.png"].axes
    assert swing.get_ylabel() == "mean return" and swing.get_ylim()[0] < -1200 and t.get_ylabel() == "success"


@pytest.mark.parametrize("cut", [None, 11, 9, 8])
def test_the_matrix_is_the_last_whole_one(figures, tmp_path, cut):
    """A kill may leave a part of the third."""
    folder = run(tmp_path, "r", {"a": [0.1], "b": [0.1]})
    matrix(folder, 3, cut=cut)
    assert guarded(plot.main, [str(folder)]) == 0
    left, right = figures[folder / "sharing.png"].axes
    assert left.get_images()[0].get_array().tolist() == [[0.5, 0.5]] * 2
    assert right.get_images()[0].get_array().tolist() == [[(2 if cut is None else 1) / 4] * 2] * 2


def test_no_whole_matrix_is_no_picture(figures, tmp_path):
    folder = run(tmp_path, "r", {"a": [0.1], "b": [0.1]})
    matrix(folder, 1, cut=3)
    assert guarded(plot.main, [str(folder)]) == 0
    assert list(figures) == [folder / "curve.png"]


def bad(home: Path, what: str) -> list[str]:
    folder = run(home, "r", {"t": [0.5]})
    if what == "number":
        (folder / "eval.csv").write_text(",".join(COLUMNS) + "\n10,t,high,0,1,-5\n")
    if what == "columns":
        (folder / "eval.csv").write_text("step,success\n10,0.5\n")
    if what == "sharing":
        (folder / "sharing.csv").write_text("step,receiver,source,rows,rewarded\n10,a,a,many,0\n")
    if what == "suffix":
        return [str(folder), "--out", str(home / "x.foo")]
    if what == "folder":
        (home / "d.png").mkdir()
        return [str(folder), "--out", str(home / "d.png")]
    if what == "typo":
        return [str(folder), str(home / "nobody")]
    return [str(folder)]


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("number", "eval.csv holds a row that is none of ours"),
        ("columns", "eval.csv holds a row that is none of ours"),
        ("sharing", "sharing.csv holds a row that is none of ours"),
        ("suffix", "give a file that ends in .png"),
        ("folder", "give a file that ends in .png"),
        ("typo", "nobody does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(capfd, tmp_path, what, word):
    assert guarded(plot.main, bad(tmp_path, what)) == 2
    said = capfd.readouterr().err
    assert word in said and said.count("\n") == 1


def test_a_picture_that_cannot_be_written_is_named(capfd, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(plot, "curves", full)
    assert guarded(plot.main, [*bad(tmp_path, "nothing"), "--out", "here.png"]) == 2
    assert "cannot write here.png: No space left" in capfd.readouterr().err


def test_a_config_without_numbers_of_an_agent(figures, tmp_path):
    assert guarded(plot.main, [str(run(tmp_path, "r", {"t": [0.5]}, algorithm=None))]) == 0
