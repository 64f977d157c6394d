"""Runs killed by SIGKILL at random moments and resumed end as unbroken ones, to the byte.

    python -m tests.benchmarks.kills --kills 20
    python -m tests.benchmarks.kills --kills 6 --also="--task table-reach table-touch table-hover --share hipi"

Half of the runs learn by TD3, half by SAC. Each is killed once or more: while it starts, before its first checkpoint,
while it writes one, or at any moment. Compared are all tensors of the last checkpoint (networks, optimizers,
normaliser, replay, partial episodes, generators), its counters, and the rows of progress.csv and eval.csv.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = [
    *("--task", "fetch-reach", "--relabel", "future:0.6,desired:0.2", "--n-step", "2", "--replay", "400"),
    *("--steps", "720", "--lanes", "3", "--hidden", "64", "64", "--batch", "64"),
    *("--log-every", "30", "--save-seconds", "0", "--eval-every", "120", "--eval-episodes", "2"),
]
AGENTS = ("td3", "sac")
MOMENTS = ("starting", "early", "saving", "any")
AGAIN = 0.3
"""How often a resumed run is killed too."""


def differences(a: Path, b: Path) -> list[str]:
    """What two finished runs do not have in common; clock times aside."""
    ends = [max((run / "checkpoints").glob("[0-9]*")) for run in (a, b)]
    names = sorted({path.name for end in ends for path in end.glob("*.safetensors")})
    out = [name for name in names if len({(end / name).read_bytes() for end in ends}) > 1]
    states = [json.loads((end / "state.json").read_bytes()) | {"seconds": 0} for end in ends]
    out += [f"state.json: {key}" for key in states[0] if repr(states[0][key]) != repr(states[1].get(key))]
    tables = ["progress.csv", "eval.csv", *(["sharing.csv"] if (a / "sharing.csv").exists() else [])]
    out += [name for name in tables if (a / name).read_bytes() != (b / name).read_bytes()]
    steps = [[row.split(",")[0] for row in (run / "time.csv").read_text().splitlines()] for run in (a, b)]
    return out + ["time.csv"] * (steps[0] != steps[1]) + ["steps"] * (ends[0].name != ends[1].name)


def folder_in(runs: Path) -> Path | None:
    """The run in a folder for runs, if it has come so far."""
    found = [path for path in runs.glob("*") if not path.name.startswith(".")]
    assert len(found) < 2, found
    return found[0] if found else None


def launch(flags: Sequence[str], runs: Path) -> subprocess.Popen[bytes]:
    """A new run, or the one in `runs` resumed."""
    folder = folder_in(runs)
    told = ["--resume", str(folder)] if folder else [*flags, "--runs", str(runs)]
    return subprocess.Popen(
        [sys.executable, "-m", "gcrl.train", *told], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@dataclass(frozen=True)
class Unbroken:
    """A run that nothing disturbed, and its clock."""

    folder: Path
    started: float
    """seconds until it had a folder"""
    took: float
    """seconds until its end"""

    @staticmethod
    def of(flags: Sequence[str], runs: Path) -> Unbroken:
        began = time.perf_counter()
        process = launch(flags, runs)
        while folder_in(runs) is None and process.poll() is None:
            time.sleep(0.001)
        started = time.perf_counter() - began
        _, said = process.communicate()
        folder = folder_in(runs)
        assert process.returncode == 0 and folder is not None, said.decode()
        return Unbroken(folder, started, time.perf_counter() - began)


def kill(process: subprocess.Popen[bytes], runs: Path, moment: str, clock: Unbroken) -> str | None:
    """Kill a run at a random moment of this kind; in what it was cut off, None if it had ended before."""
    wait = random.uniform(0, clock.started if moment == "starting" else clock.took)
    if moment == "early":
        while folder_in(runs) is None and process.poll() is None:
            time.sleep(0.001)
        wait = random.uniform(0, 0.2) * clock.started
    end = time.perf_counter() + wait
    while time.perf_counter() < end and process.poll() is None:
        time.sleep(0.001)
    while moment == "saving" and process.poll() is None and not any(runs.glob("*/checkpoints/.*")):
        pass
    process.kill()
    if process.wait() != -9:
        return None
    folder = folder_in(runs)
    if folder is None:
        return "before it had a folder"
    if any((folder / "checkpoints").glob(".*")):
        return "writing a checkpoint"
    return "between checkpoints" if any((folder / "checkpoints").glob("[0-9]*")) else "before the first checkpoint"


def broken(flags: Sequence[str], runs: Path, moment: str, clock: Unbroken) -> tuple[Path, list[str]]:
    """A run killed at least once and resumed to its end; its folder and what the kills cut off."""
    cut: list[str] = []
    while not cut:
        process = launch(flags, runs)
        while (where := kill(process, runs, moment, clock)) is not None:
            cut.append(where)
            process, moment = launch(flags, runs), random.choice(MOMENTS)
            if random.random() > AGAIN:
                break
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
        folder = folder_in(runs)
        assert folder is not None
        if not cut:  # it was quicker than the kill
            runs = runs.with_name(f"{runs.name}-again")
    return folder, cut


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--kills", type=int, default=20, help="how many runs to kill, each at least once")
    ask.add_argument("--seed", type=int, default=None, help="of the moments")
    ask.add_argument("--also", default="", help="flags of gcrl train that come after ours")
    asked = ask.parse_args()
    random.seed(asked.seed)
    good, cuts, began = 0, Counter[str](), time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        flags = {agent: [*FLAGS, "--agent", agent, *asked.also.split()] for agent in AGENTS}
        whole = {agent: Unbroken.of(flags[agent], Path(home, agent)) for agent in AGENTS}
        for i in range(asked.kills):
            agent, moment = AGENTS[i % 2], MOMENTS[i // 2 % len(MOMENTS)]
            folder, cut = broken(flags[agent], Path(home, f"{agent}-{i}"), moment, whole[agent])
            other = differences(whole[agent].folder, folder)
            good += not other
            cuts.update(cut)
            print(
                f"{agent}, killed {'; '.join(cut)}:", f"differs in {', '.join(other)}" if other else "same", flush=True
            )
    print(f"{sum(cuts.values())} kills: {', '.join(f'{n} {where}' for where, n in cuts.most_common())}")
    print(f"{good} of {asked.kills} runs ended as the unbroken one ({time.perf_counter() - began:.0f} s)")
    return 0 if good == asked.kills else 1


if __name__ == "__main__":
    sys.exit(main())
