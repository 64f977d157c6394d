"""gcrl plot: learning curves of runs, task by task, and which task's data each task has learned from, as PNG."""

from __future__ import annotations

import dataclasses
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
    out: Path | None = None
    """PNG of the curves; none: curve.png in the run's folder, or curves.png beside the folders of several"""


def curves(runs: Mapping[str, Sequence[Rows]], path: Path) -> None:
    """label -> eval.csv of each of its seeds. Of one, success with its interval; of several, the mean and the range."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for seeds in runs.values() for rows in seeds for row in rows))
    across = min(len(tasks), 4)
    down = -(-len(tasks) // across)
    figure = Figure(figsize=(6, 4) if len(tasks) == 1 else (3.4 * across, 2.8 * down), layout="constrained")
    for panel, task in enumerate(tasks):
        axes = figure.add_subplot(down, across, panel + 1)
        for label, seeds in runs.items():
            column = _line(axes, label, [[row for row in rows if row["task"] == task] for rows in seeds])
        if column == "success":
            axes.set_ylim(-0.02, 1.02)
        axes.set(title=task, xlabel="environment steps", ylabel=column.replace("_", " "))
        axes.grid(alpha=0.3)
        if panel == 0 and len(runs) > 1:
            axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


def _line(axes: Any, label: str, seeds: Sequence[Rows]) -> str:
    """One line with its band; the column that is drawn."""
    seeds = [rows for rows in seeds if rows]
    column = "mean_return" if any(rows[-1]["success"] == "nan" for rows in seeds) else "success"
    if not seeds:
        return column
    ends = ("low", "high") if column == "success" else ()
    values = {int(row["step"]): [float(row[f"success_{end}"]) for end in ends] for row in seeds[0]}
    if len(seeds) > 1:
        values = {step: [] for step in sorted({int(row["step"]) for rows in seeds for row in rows})}
        for rows in seeds:
            for row in rows:
                values[int(row["step"])].append(float(row[column]))
        center = [float(np.mean(found)) for found in values.values()]
    else:
        center = [float(row[column]) for row in seeds[0]]
    axes.plot(list(values), center, marker=".", label=label)
    if any(values.values()):
        axes.fill_between(list(values), [min(x) for x in values.values()], [max(x) for x in values.values()], alpha=0.2)
    return column


def sharing(rows: Rows, title: str, path: Path) -> None:
    """The last rows of sharing.csv: whose data each task learned from, and what share of it became reward."""
    from matplotlib.figure import Figure

    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    tasks = list(dict.fromkeys(row["receiver"] for row in last))
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
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each run apart from the others, its seed and its folder aside."""
    flat = [{**c, **c.get("algorithm", {})} for c in configs]
    flat = [{k: v for k, v in c.items() if k not in ("algorithm", "seed", "runs", "threads", "device")} for c in flat]
    names = dict.fromkeys(name for c in flat for name in c)
    differ = [name for name in names if len({str(c.get(name)) for c in flat}) > 1]
    said = [", ".join(f"{name} {_brief(c[name])}" for name in differ if name in c) for c in flat]
    return [text or "all runs" for text in said]


def _brief(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def main(args: Sequence[str]) -> int:
    s = parse(Settings, args, prog="gcrl plot")
    if not s.runs:
        raise InputError("gcrl plot: give the folders of runs, runs/*")
    folders = [path for path in s.runs if len(s.runs) == 1 or (path / "config.json").exists()]
    if not folders:
        raise InputError(f"none of {', '.join(map(str, s.runs))} is a run: they have no config.json")
    configs = [run.config_of(path) for path in folders]
    tables = [Table(path / "eval.csv").rows() for path in folders]
    seeds: dict[str, list[Rows]] = {}
    for label, rows, path in zip(labels(configs), tables, folders, strict=True):
        if not rows or "task" not in rows[0]:
            print(f"gcrl: {path} has no evaluation yet: passed over", file=sys.stderr)
            continue
        seeds.setdefault(label, []).append(rows)
    if not seeds:
        raise InputError("nothing to draw: no evaluation in any of the runs yet")
    alone = folders[0] / "curve.png" if len(folders) == 1 else folders[0].parent / "curves.png"
    try:
        curves(seeds, s.out or alone)
        print(s.out or alone)
        for path in folders:
            if rows := Table(path / "sharing.csv").rows():
                sharing(rows, path.name, path / "sharing.png")
                print(path / "sharing.png")
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}; give another place with --out") from None
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
