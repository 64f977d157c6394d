"""gcrl plot: learning curves of runs, task by task, whose data each has learned from, and V(s, g), as PNG."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from gcrl import run
from gcrl.cli import guarded, parse
from gcrl.run import Table
from tasks import InputError

Row = Mapping[str, str]
Rows = Sequence[Row]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw runs: a panel for each task, a line for each setting, its seeds averaged; and each run's sharing matrix."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """their folders, runs/*"""
    values: bool = False
    """draw V(s, g) and the paths taken instead, checkpoint by checkpoint, where goals are places on a plane"""
    out: Path | None = None
    """PNG of the curves; none: curve.png in the run's folder, or curves.png beside the folders of several"""


def curves(runs: Mapping[str, Sequence[Rows]], path: Path) -> None:
    """label -> eval.csv of each of its seeds. Of one, success with its interval; of several, the mean and the range."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for seeds in runs.values() for rows in seeds for row in rows))
    across = min(len(tasks), 4)
    down = -(-len(tasks) // across)
    legend = 0.2 * -(-len(runs) // across) if len(runs) > 1 else 0.0
    size = (6, 4 + legend) if len(tasks) == 1 else (3.4 * across, 2.8 * down + legend)
    figure = Figure(figsize=size, layout="constrained")
    for panel, task in enumerate(tasks):
        axes = figure.add_subplot(down, across, panel + 1)
        mine = [[[row for row in rows if row["task"] == task] for rows in seeds] for seeds in runs.values()]
        goals = all(rows[-1]["success"] != "nan" for seeds in mine for rows in seeds if rows)
        column = "success" if goals else "mean_return"
        for i, (label, seeds) in enumerate(zip(runs, mine, strict=True)):
            _line(axes, [rows for rows in seeds if rows], column, {"label": label, "color": f"C{i}"})
        if goals:
            axes.set_ylim(-0.02, 1.02)
        axes.set_title(task, parse_math=False)
        axes.set(xlabel="environment steps", ylabel=column.replace("_", " "))
        axes.grid(alpha=0.3)
    if len(runs) > 1:
        known = {str(line.get_label()): line for axes in figure.axes for line in axes.get_lines()}
        place: Any = {"loc": "outside lower center", "ncols": across, "fontsize": "x-small"}
        for text in figure.legend(list(known.values()), list(known), **place).get_texts():
            text.set_parse_math(False)
    figure.savefig(path, dpi=120)


def _line(axes: Any, seeds: Sequence[Rows], column: str, style: Mapping[str, str]) -> None:
    """One line with its band: the interval of one seed's success, or the range of several seeds."""
    values: dict[int, list[float]] = {}
    for rows in seeds:
        for row in rows:
            values.setdefault(int(row["step"]), []).append(float(row[column]))
    steps = sorted(values)
    if not steps:
        return
    axes.plot(steps, [np.mean(values[step]) for step in steps], marker=".", **style)
    band = [[f(values[step]) for step in steps] for f in (min, max)]
    if len(seeds) == 1 and column == "success":
        low, high = ({int(row["step"]): float(row[f"success_{end}"]) for row in seeds[0]} for end in ("low", "high"))
        band = [[end[step] for step in steps] for end in (low, high)]
    axes.fill_between(steps, *band, color=style["color"], alpha=0.2)


def sharing(rows: Rows, title: str, path: Path) -> None:
    """The last whole matrix of sharing.csv: whose data each task learned from, and how much of it became reward."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["source"] for row in rows))
    by_step: dict[str, list[Row]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row)
    whole = [found for found in by_step.values() if len(found) == len(tasks) ** 2]  # a kill may have cut the last
    if not whole:
        return
    last = whole[-1]
    drawn, won = (np.array([int(row[name]) for row in last]).reshape(len(tasks), -1) for name in ("rows", "rewarded"))
    parts = drawn / np.maximum(drawn.sum(1, keepdims=True), 1)
    pictures = ((parts, "share of what a task learned from"), (won / np.maximum(drawn, 1), "share of it with reward"))
    figure = Figure(figsize=(4 + 1.1 * len(tasks), 2.2 + 0.5 * len(tasks)), layout="constrained")
    for panel, (values, what) in enumerate(pictures):
        axes = figure.add_subplot(1, 2, panel + 1)
        axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", fontsize="x-small")
        axes.set_yticks(range(len(tasks)), tasks if panel == 0 else [], fontsize="x-small")
        axes.set(title=what, xlabel="data of", ylabel="learned for" if panel == 0 else "")
        for i, j in np.ndindex(values.shape) if len(tasks) <= 12 else ():
            color = "white" if values[i, j] > 0.5 else "black"
            axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=color, fontsize="x-small")
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=120)


def labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each run apart from the others, its seed and its folder aside; what one does not say was as usual."""
    flat = [{**c, **(c.get("algorithm") or {})} for c in configs]
    flat = [{k: v for k, v in c.items() if k not in ("algorithm", "seed", "runs", "threads", "device")} for c in flat]
    names, usual = dict.fromkeys(name for c in flat for name in c), dict[str, Any]()
    if any(len(c) < len(names) for c in flat):  # of another version, or another agent
        from gcrl.settings import default, to_json  # here, as it takes seconds to import torch

        usual = json.loads(json.dumps(to_json(default())))
    differ = [name for name in names if len({str(c.get(name, usual.get(name))) for c in flat}) > 1]
    said = [", ".join(f"{name} {_brief(c[name])}" for name in differ if name in c) for c in flat]
    return [text or "all runs" for text in said]


def _brief(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


TABLES = (
    ("eval", ["task"], ["success", "success_low", "success_high", "mean_return"]),
    ("sharing", ["receiver", "source"], ["rows", "rewarded"]),
)
"""What is drawn: the tables, their columns of names and of numbers."""


def read(folder: Path) -> tuple[Mapping[str, Any], Rows, Rows]:
    """A run's settings, its evaluations and its sharing. Raises InputError in one line."""
    config = run.config_of(folder)
    tables = []
    for name, names, columns in TABLES:
        rows = Table(folder / f"{name}.csv").rows()
        try:
            for row in rows:
                _ = int(row["step"]), [float(row[column]) for column in columns], [row[name] for name in names]
        except (KeyError, TypeError, ValueError):
            where = f"{folder / name}.csv"
            raise InputError(f"{where} holds a row that is none of ours: mend or remove it") from None
        tables.append(rows)
    return config, tables[0], tables[1]


def values_of(folders: Sequence[Path]) -> int:
    """Draw and name the value pictures of these runs."""
    from gcrl import values

    for folder in folders:
        try:
            print(*values.draw(folder), sep="\n")
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}; make it writable, or make room") from None
    return 0


def main(args: Sequence[str]) -> int:
    s = parse(Settings, args, prog="gcrl plot")
    if not s.runs:
        raise InputError("gcrl plot: give the folders of runs, runs/*")
    if s.values and s.out is not None:
        raise InputError("--values writes into each run's folder: leave out --out")
    if s.out is not None and (s.out.suffix != ".png" or s.out.is_dir()):
        raise InputError(f"--out {s.out}: give a file that ends in .png")
    folders = [path for path in s.runs if len(s.runs) == 1 or not path.exists() or (path / "config.json").exists()]
    if not folders:
        raise InputError(f"none of {', '.join(map(str, s.runs))} is a run: they have no config.json")
    for path in folders:
        if not path.exists():
            raise InputError(f"{path} does not exist: give the folders of runs, runs/*")
    if s.values:
        return values_of(folders)
    found = [read(path) for path in folders]
    seeds: dict[str, list[Rows]] = {}
    for label, (_, rows, _), path in zip(labels([config for config, *_ in found]), found, folders, strict=True):
        if not rows:
            print(f"gcrl: {path} has no evaluation yet: passed over", file=sys.stderr)
            continue
        seeds.setdefault(label, []).append(rows)
    if not seeds:
        raise InputError("nothing to draw: no evaluation in any of the runs yet")
    alone = folders[0] / "curve.png" if len(folders) == 1 else folders[0].parent / "curves.png"
    try:
        curves(seeds, s.out or alone)
        print(s.out or alone)
        for path, (_, _, shared) in zip(folders, found, strict=True):
            if shared:
                sharing(shared, path.name, path / "sharing.png")
                print(path / "sharing.png")
    except BrokenPipeError:  # of what is printed
        raise
    except OSError as error:
        where = error.filename or s.out or alone.parent
        said = f"cannot write {where}: {error.strerror}"
        raise InputError(f"{said}; give another place with --out, or make room") from None
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
