"""What a training run is told: the settings, their check, and the command line that fills them."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

import torch

import tasks
from gcrl import run
from gcrl.agents import AGENTS
from gcrl.cli import parse
from relabel import goals
from tasks import InputError, Task

A = TypeVar("A")
DEFAULT_AGENT = "ddpg"


@dataclass(frozen=True)
class Settings(Generic[A]):
    """Train one goal-conditioned policy. Flags of the agent depend on --agent."""

    task: str = "fetch-reach"
    """what to learn; `gcrl list` shows all"""
    relabel: str = "future:0.4,random:0.4"
    """goal strategy, or shares of several: future:0.4,desired:0.4"""
    agent: str = DEFAULT_AGENT
    """ddpg, td3 or sac"""
    algorithm: A = dataclasses.field(default=cast(A, None))
    """numbers of the agent"""
    steps: int | None = None
    """environment steps; none: the task's own budget"""
    seed: int = 0
    """of everything that is drawn"""
    lanes: int = 1
    """environments stepped side by side"""
    utd: float = 1.0
    """updates per environment step"""
    warmup: int = 200
    """environment steps with uniform actions at the start"""
    gamma: float | None = None
    """discount; none: 1 - 1 / horizon, at most 0.99"""
    n_step: int | None = None
    """steps of reward before the bootstrap; none: the task's own"""
    replay: int = 1_000_000
    """transitions kept"""
    eval_every: int | None = None
    """environment steps between evaluations; none: a tenth of the steps, at least 250"""
    eval_episodes: int = 25
    """episodes of one evaluation"""
    log_every: int = 500
    """environment steps between rows of progress.csv"""
    save_seconds: float = 60.0
    """least time between checkpoints; one is always written at the end and on Ctrl-C"""
    device: str = "auto"
    """auto, cpu or cuda"""
    threads: int = 1
    """threads of a matrix product"""
    runs: Path = Path("runs")
    """where the run's folder is made"""


def command_line(args: Sequence[str]) -> tuple[Settings[Any], Path | None]:
    """The settings that a command line asks for, and the run to resume, if any. Raises InputError."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--resume", type=Path)
    first.add_argument("--agent")
    try:
        known, rest = first.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; `--help` shows the flags") from None
    if known.resume is None:
        return _parse(args, default(known.agent or DEFAULT_AGENT)), None
    saved = from_json(run.config_of(known.resume), known.resume)
    agent = [] if known.agent is None else ["--agent", known.agent]
    asked = _parse([*agent, *rest], saved)
    before, after = ({**vars(s), **vars(s.algorithm)} for s in (saved, asked))
    for name, old in before.items():
        if old != after[name] and name not in ("algorithm", "steps", "save_seconds", "threads", "device", "runs"):
            raise InputError(
                f"--resume {known.resume} goes on with {name} = {old}, not {after[name]}: "
                f"drop the flag, or start a new run without --resume"
            )
    return asked, known.resume


def default(agent: str) -> Settings[Any]:
    """The default settings with this agent's own."""
    return Settings(agent=agent, algorithm=AGENTS[known_agent(agent)].Settings())


def _parse(args: Sequence[str], start: Settings[Any]) -> Settings[Any]:
    """Flags over `start`."""
    kind = AGENTS[known_agent(start.agent)].Settings
    settings: Settings[Any] = parse(Settings[kind], args, "python -m gcrl.train", start)  # type: ignore[valid-type]
    return settings


def known_agent(name: str) -> str:
    """The name, if an agent has it."""
    if name not in AGENTS:
        near = difflib.get_close_matches(name, AGENTS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(AGENTS)}"
        raise InputError(f"unknown agent {name!r}: {hint}")
    return name


@dataclass(frozen=True)
class Plan:
    """Settings, checked, with nothing left open: what they say stands beside them in one type each."""

    settings: Settings[Any]
    task: Task
    device: torch.device
    gamma: float
    n_step: int
    steps: int
    eval_every: int

    @staticmethod
    def of(s: Settings[Any]) -> Plan:
        """Check everything that can be checked before a run begins. Raises InputError."""
        known_agent(s.agent)
        task = tasks.get(s.task)
        if task.goal_dim == 0 and s.relabel != "none":
            s = dataclasses.replace(s, relabel="none")  # no goals, nothing to relabel
        _check_numbers(s)
        _check_numbers(s.algorithm)
        gamma = min(0.99, 1 - 1 / task.horizon) if s.gamma is None else s.gamma
        if not 0 <= gamma < 1:
            raise InputError(f"--gamma {gamma}: must lie in [0, 1)")
        goals.parse(s.relabel, gamma)
        if s.replay < task.horizon:
            raise InputError(
                f"--replay {s.replay}: must hold at least one episode of {task.name}, {task.horizon} steps"
            )
        steps = task.budget if s.steps is None else s.steps
        eval_every = max(250, steps // 10) if s.eval_every is None else s.eval_every
        n_step = task.n_step if s.n_step is None else s.n_step
        s = dataclasses.replace(s, gamma=gamma, n_step=n_step, steps=steps, eval_every=eval_every)
        return Plan(s, task, _device(s.device), gamma, n_step, steps, eval_every)


LIMITS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),  # torch takes no more
    "warmup": (0, math.inf),
    "eval_episodes": (0, math.inf),
    "replay": (1, 10**12),
    "lanes": (1, 1024),
    "threads": (1, 1024),
    "n_step": (1, 1000),
    "batch": (1, 2**20),
    "hidden": (1, 2**20),
    "tau": (0, 1),
    "dropout": (0, 0.99),
    "random": (0, 1),
    "alpha": (1e-6, math.inf),  # its logarithm is learned
    "entropy": (-math.inf, math.inf),
}
"""Where a count may be other than 1 or more, and another number other than 0 or more."""


def _check_numbers(settings: object) -> None:
    """All numbers finite and within their limits, at least one hidden layer, subset <= critics."""
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value, flag = getattr(settings, field.name), f"--{field.name.replace('_', '-')}"
        if value == ():
            raise InputError(f"{flag}: give at least one number")
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, bool) or not isinstance(x, int | float):
                continue
            whole = hints[field.name] in (int, int | None, tuple[int, ...])
            low, high = LIMITS.get(field.name, (1 if whole else 0, math.inf))
            if not (low <= x <= high and math.isfinite(x)):
                limits = f", {low} or more" if math.isinf(high) else f" from {low} to {high}"
                kind = "a whole" if whole else "a finite"
                raise InputError(f"{flag} {x}: must be {kind} number{limits if math.isfinite(low) else ''}")
    critics, subset = getattr(settings, "critics", 1), getattr(settings, "subset", 1)
    if subset > critics:
        raise InputError(f"--subset {subset}: must not be more than --critics {critics}")


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: choose from auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine or this build of torch has no CUDA; use --device auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def to_json(settings: Settings[Any]) -> dict[str, Any]:
    """For config.json."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(settings).items()}


def from_json(content: dict[str, Any], where: Path) -> Settings[Any]:
    """The inverse of `to_json`. Raises InputError if the file was not written by this version."""
    try:
        kind = AGENTS[known_agent(content["agent"])].Settings
        algorithm = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in content["algorithm"].items()})
        settings = Settings(**dict(content, algorithm=algorithm, runs=Path(content["runs"])))
        for part in (settings, algorithm):
            for name, hint in get_type_hints(type(part)).items():
                if not _fits(getattr(part, name), hint):
                    raise TypeError(f"{name} is {getattr(part, name)!r}")
        return settings
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where / 'config.json'} does not fit this version of gcrl ({error}): train anew") from None


def _fits(value: object, hint: Any) -> bool:
    """Is a value of config.json what its field is declared to be. A whole number passes for any number."""
    if isinstance(hint, UnionType):
        return any(_fits(value, kind) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(x, get_args(hint)[0]) for x in value)
    if hint in (int, float):
        return type(value) in (int, hint)
    return not isinstance(hint, type) or isinstance(value, hint)
