"""gcrl data info | convert | collect: what a data set holds, any format into Minari's, and new ones from policies."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import tasks
from gcrl.cli import guarded, parse, stop_signals, until
from gcrl.limits import check_numbers
from tasks import Episode, InputError, datasets
from tasks.recorded import shown

USAGE = """usage: gcrl data COMMAND ...   (COMMAND --help shows its flags)
  info       what a data set holds, and with --task whether it can be used for it
  convert    a run, an OGBench or D4RL file, or a part of one, as a Minari folder
  collect    play policies and record what happens, as a Minari folder"""


@dataclasses.dataclass(frozen=True)
class Info:
    """Say what a data set holds."""

    path: Annotated[Path, tyro.conf.Positional]
    """a Minari folder, an OGBench npz, a D4RL hdf5, or a run"""
    task: str | None = None
    """read it as data of this task, and say how well its episodes ended"""
    json: bool = False
    """one JSON object instead of lines"""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write a data set as a Minari folder."""

    source: Annotated[Path, tyro.conf.Positional]
    """a Minari folder, an OGBench npz, a D4RL hdf5, or a run"""
    out: Annotated[Path, tyro.conf.Positional]
    """the folder to make"""
    task: str
    """whose data it is"""
    first: int | None = None
    """only so many steps from the start: of a run, what it had seen early"""
    last: int | None = None
    """only so many steps up to the end"""


def info(s: Info) -> dict[str, Any]:
    """What `gcrl data info` says. Raises InputError for what cannot be used."""
    found = datasets.describe(s.path)
    said: dict[str, Any] = {
        "format": found.format,
        "environment": found.environment,
        "parts": [part._asdict() for part in found.parts],
    }
    if s.task is not None:
        task = tasks.get(s.task)
        episodes = datasets.read(s.path, task)
        said["task"] = task.name
        if task.reward is not None and episodes:
            ends = [(task.goal_of(e.observation[-1]), e.desired[-1]) for e in episodes]
            said["success"] = float(np.mean([bool(task.success(*end)) for end in ends]))
    return said


def lines(said: dict[str, Any]) -> list[str]:
    """The same for people."""
    out = [said["format"] + f", made in {said['environment']}" * bool(said["environment"])]
    for part in said["parts"]:
        (short, long), (obs, action, goal) = part["length"], part["sizes"]
        out.append(f"{shown(part['task'])[1:-1] or 'of no task that it names'}:")
        if not part["episodes"]:
            out.append("  no episode")
            continue
        out.append(f"  {part['episodes']:,} episodes of {short:,} to {long:,} steps, {part['steps']:,} in all")
        acted, wanted = f"action {action}" if action else "a choice", f"goal {goal}" if goal else "no goal"
        out.append(f"  observation {obs}, {acted}, {wanted}")
        out.append(f"  {part['terminated']:,} ended by the task, the others by the clock")
        low, mean, high = part["returns"] or (0, 0, 0)
        out.append(f"  returns {low:.2f} to {high:.2f}, mean {mean:.2f}" if part["returns"] else "  no rewards")
    if "success" in said:
        out.append(f"as data of {said['task']}: success at the last step {said['success']:.3f}")
    elif "task" in said:
        some = any(part["episodes"] for part in said["parts"])
        out.append(f"as data of {said['task']}: {'can be used' if some else 'nothing'}")
    return out


def convert(s: Convert) -> int:
    """Write the folder; the number of its episodes. Raises InputError."""
    if s.first is not None and s.last is not None:
        raise InputError("--first and --last: give one of them")
    check_numbers(s)
    task = tasks.get(s.task)
    episodes: Sequence[Episode] = datasets.read(s.source, task)
    there, wanted = sum(len(e.action) for e in episodes), s.first or s.last
    if wanted is not None and wanted > there:
        raise InputError(f"--{'first' if s.first else 'last'} {wanted}: {s.source} holds {there} steps of {task.name}")
    if s.first is not None:
        episodes = list(head(episodes, s.first))
    elif s.last is not None:
        episodes = list(tail(episodes, s.last))
    with stop_signals() as stop:
        return datasets.write(s.out, task, until(stop, episodes))


def head(episodes: Sequence[Episode], steps: int) -> Iterator[Episode]:
    """The first steps; the last episode is cut where they end."""
    for e in episodes:
        n = min(steps, len(e.action))
        if not n:
            return
        ended = e.terminated and n == len(e.action)
        yield Episode(e.observation[: n + 1], e.action[:n], e.desired[:n], e.reward[:n], ended)
        steps -= n


def tail(episodes: Sequence[Episode], steps: int) -> Iterator[Episode]:
    """The last steps; the first episode begins where they do."""
    skip = sum(len(e.action) for e in episodes) - steps
    for e in episodes:
        n = min(skip, len(e.action))
        if n < len(e.action):
            yield Episode(e.observation[n:], e.action[n:], e.desired[n:], e.reward[n:], e.terminated)
        skip -= n


def main(args: Sequence[str]) -> int:
    command, rest = (args[0], args[1:]) if args else ("--help", [])
    if command == "info":
        asked = parse(Info, rest, "gcrl data info")
        said = info(asked)
        print(json.dumps(said) if asked.json else "\n".join(lines(said)))
    elif command == "convert":
        asked = parse(Convert, rest, "gcrl data convert")
        convert(asked)
        print(asked.out)
    elif command == "collect":
        from gcrl.record import main as collect

        return collect(rest)
    elif command in ("-h", "--help"):
        print(USAGE)
    else:
        raise InputError(f"unknown command {shown(command)}: gcrl data has info, convert, collect")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
