"""Pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def curve(rows: Sequence[Mapping[str, str]], title: str, path: Path) -> None:
    """The learning curve in the rows of an eval.csv, as PNG: success with its interval, or the return without goals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    step = [int(row["step"]) for row in rows]
    column = "mean_return" if rows[-1]["success"] == "nan" else "success"
    axes.plot(step, [float(row[column]) for row in rows], marker=".")
    if column == "success":
        low, high = ([float(row[f"success_{end}"]) for row in rows] for end in ("low", "high"))
        axes.fill_between(step, low, high, alpha=0.2, label="95 % interval")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="lower right")
    axes.set(title=title, xlabel="environment steps", ylabel=column.replace("_", " "))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
