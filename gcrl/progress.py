"""What a run shows while it goes: tables, TensorBoard events, a bar or a line per evaluation, and the curve."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gcrl.cli import tell
from gcrl.evaluate import Result
from gcrl.plot import curves, sharing
from gcrl.run import Table, sync
from gcrl.settings import Plan

TABLES = ("progress", "eval", "time", "sharing")


class Progress:
    """Writes into the run folder; rows beyond `step`, left by a killed run, are cut away first."""

    def __init__(self, folder: Path, plan: Plan, step: int, seconds: float) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.plan = folder, plan
        self.tables = {name: Table(folder / f"{name}.csv") for name in TABLES[: 3 + (len(plan.tasks) > 1)]}
        for table in self.tables.values():
            table.cut(step)
        self.events = SummaryWriter(str(folder / "tb"), purge_step=step + 1)
        total = plan.steps if sys.stderr is not None and sys.stderr.isatty() else None
        self.bar = tqdm(total=plan.steps, initial=step, unit="step", desc=plan.name, disable=total is None)
        self.step, self.first = step, step
        self.seconds = seconds
        self._since = self._saved = time.perf_counter()
        self._began = seconds

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.bar.close()
        self.events.close()
        if kind is not None:
            return  # what broke the run is said, not what its half-written tables do to a picture
        try:
            rows = self.tables["eval"].rows()
            if rows:
                curves({self.plan.name: [rows]}, self.folder / "curve.png")
                if "sharing" in self.tables:
                    sharing(self.tables["sharing"].rows(), self.plan.name, self.folder / "sharing.png")
        except Exception as error:  # the run itself is whole and saved
            said = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"gcrl: no picture of {self.folder}: {said}; try gcrl plot {self.folder}", file=sys.stderr)

    def advance(self, step: int) -> None:
        """The run has come to this many steps."""
        self.bar.update(step - self.step)
        self.step = step

    def log(self, row: Mapping[str, object]) -> None:
        """A row of progress.csv, and one of time.csv beside it."""
        self.tables["progress"].append(row)
        self._events("train", row)
        seconds = self.clock()
        speed = (self.step - self.first) / max(seconds - self._began, 1e-9)
        times = {"step": self.step, "seconds": round(seconds, 3), "steps_per_second": round(speed, 1)}
        self.tables["time"].append(times)
        self._events("time", times)

    def evaluated(self, step: int, results: Mapping[str, Result], flow: NDArray[np.int64]) -> None:
        """Rows of eval.csv, one for each task and one for all, and word of the last.

        flow (2, K, K): rows that each task has learned from each task's data, and those of them that show reward.
        """
        for name, result in results.items():
            row: dict[str, Any] = {"step": step, "task": name, **result._asdict()}
            self.tables["eval"].append(row)
            self._events("eval" if len(results) == 1 else f"eval/{name}", row)
        if "sharing" in self.tables:
            names = [task.name for task in self.plan.tasks]
            for i, j in np.ndindex(flow.shape[1:]):
                counts = {"rows": int(flow[0, i, j]), "rewarded": int(flow[1, i, j])}
                self.tables["sharing"].append({"step": step, "receiver": names[i], "source": names[j], **counts})
        said = f"return {result.mean_return:.1f}"
        if not math.isnan(result.success):
            said = f"success {result.success:.2f} [{result.success_low:.2f}, {result.success_high:.2f}], {said}"
        if self.bar.disable:
            tell(f"step {step}: {said}, {self.seconds:.1f} s of training")
        else:
            self.bar.set_postfix_str(said)

    def clock(self) -> float:
        """Seconds of training so far, evaluation excluded."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        return self.seconds

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """What happens inside is not training."""
        self.clock()
        yield
        self._since = time.perf_counter()

    def save_due(self) -> bool:
        """Is the last checkpoint old enough."""
        return time.perf_counter() - self._saved >= self.plan.settings.save_seconds

    def saved(self) -> float:
        """A checkpoint is being written now; the seconds of training that go into it."""
        for table in self.tables.values():
            sync(table.path)  # no checkpoint is ever ahead of the rows
        self._saved = time.perf_counter()
        return self.clock()

    def _events(self, group: str, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name not in ("step", "task"):
                self.events.add_scalar(f"{group}/{name}", value, self.step)
