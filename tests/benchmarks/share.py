"""What sharing costs: sampling 256 relabelled rows over many tasks, as a multiple of the same from one of them.

    python -m tests.benchmarks.share

All cases take turns in one process. `fixed goals` are K tasks of one scene with the arithmetic of fetch-push; the tasks
of the scenes have goal maps and rewards of their own. `own` beside `uniform` says what is due to sharing itself.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import tyro

import tasks
from relabel.goals import parse
from relabel.replay import Replay
from relabel.share import Sharing
from relabel.store import slots_for
from tasks import Episode, Task
from tasks.layout import together

FILLED = 500_000
"""transitions over all tasks"""


def fixed(k: int) -> list[Task]:
    push = tasks.get("fetch-push")
    return [dataclasses.replace(push, name=f"push-{i}", scene="s") for i in range(k)]


def filled(chosen: list[Task], sharing: str, transitions: int = FILLED) -> Replay:
    """A replay of noise, full."""
    chosen = list(together(chosen))
    task, rng = chosen[0], np.random.default_rng(0)
    each = transitions // len(chosen)
    replay = Replay(chosen, slots_for(each, task), parse("future"), 0.98, sharing=Sharing(sharing))
    t = task.horizon
    episode = Episode(
        rng.normal(size=(t + 1, task.obs_dim)).astype(np.float32),
        rng.uniform(-1, 1, (t, task.action_dim)).astype(np.float32),
        rng.normal(size=(t, task.goal_dim)).astype(np.float32),
        np.zeros(t, np.float32),
        False,
    )
    for k in range(len(chosen)):
        for _ in range(each // t):
            replay.add(k, episode)
    return replay


@dataclass(frozen=True)
class Settings:
    """How to run it."""

    rounds: int = 15
    batch: int = 256
    calls: int = 200
    """of each case, a round"""


def seconds(replay: Replay, s: Settings) -> float:
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(s.calls):
        replay.sample(rng, s.batch)
    return (time.perf_counter() - began) / s.calls


def main(s: Settings) -> None:
    groups = {f"{k} fixed goals": fixed(k) for k in (10, 50)}
    for name in ("table", "kitchen", "point-maze-umaze-*", "metaworld-mt10", "metaworld-mt50"):
        groups[name] = tasks.find([name])
    for name, chosen in groups.items():
        cases = {"one": filled([together(chosen)[0]], "own"), "own": filled(chosen, "own")}
        cases["uniform"] = filled(chosen, "uniform")
        times = [{how: seconds(replay, s) for how, replay in cases.items()} for _ in range(s.rounds)]
        said = []
        for how in ("own", "uniform"):
            ratio = np.array([t[how] / t["one"] for t in times])
            low, high = np.quantile(ratio, (0.1, 0.9))
            said.append(f"{how} {np.median(ratio):5.2f} [{low:.2f}, {high:.2f}]")
        best = min(t["one"] for t in times) * 1e3
        print(
            f"{name:20} {len(chosen):2} tasks: {', '.join(said)} times one task, which takes {best:.3f} ms", flush=True
        )


if __name__ == "__main__":
    main(tyro.cli(Settings))
