"""What a training run is told: the settings, their check, and the command line that fills them."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_type_hints

import torch

import tasks
from gcrl import checkpoint, compiled, machine, run
from gcrl.agents import AGENTS
from gcrl.cli import parse
from gcrl.limits import check_data, check_numbers, check_weights, fits, typed
from relabel import goals, share
from tasks import InputError, Task
from tasks.layout import places_of, together

A = TypeVar("A")
DEFAULT_AGENT = "sac"
OFFLINE_AGENT = "iql"
OFFLINE_STEPS = 20_000
"""Updates of a default run from data alone."""
FREE = (
    "algorithm",
    "data",
    "init",
    "steps",
    "save_seconds",
    "threads",
    "device",
    "compile",
    "runs",
    "lr",
    "lr_end",
    "tau",
)
"""What may change on resume: what a longer run is, where it runs, and how fast it learns from here on."""


@dataclass(frozen=True)
class Settings(Generic[A]):
    """Train one goal-conditioned policy. Flags of the agent depend on --agent."""

    task: tuple[str, ...] = ("fetch-reach",)
    """what to learn, one policy for all: tasks, or a scene or family for all of its tasks; `gcrl list` shows them"""
    relabel: str = "future:0.4,random:0.4"
    """goal strategy, or shares of several: future:0.4,desired:0.4"""
    share: str = "uniform"
    """whose data a task learns from: own, uniform, random, groups, family, uds, hindsight, hipi, cds, cds-soft"""
    balance: float = 0.0
    """share of each task's rows that shall show reward; 0: as it comes"""
    task_id: str | None = None
    """what tells tasks apart: onehot, embedding, language, goal, or onehot+goal; none: onehot+goal, of one task goal"""
    language_model: str = "all-MiniLM-L6-v2"
    """sentence encoder of --task-id language: a name or a folder"""
    reward_scale: tuple[float, ...] = ()
    """a factor on the reward of each task; none: 1"""
    explore: str | None = None
    """policy, or relay: first pursue an easier task of the scene; none: relay where there are some, learned as well"""
    frame: str = "relative"
    """relative: where a scene is the same everywhere, the policy sees how far the goal is and no places; or absolute"""
    reflect: float = 0.5
    """share of the rows that are seen in the mirror, where the scene is its own mirror image"""
    moved: float = 0.0
    """share of the rows that come from episodes which moved what their goals are about, as far as there are any"""
    data: tuple[str, ...] = ()
    """data sets to learn from: Minari folders, OGBench npz, D4RL hdf5, run folders; TASK=PATH says of which task"""
    offline: bool = False
    """learn from --data alone: steps are updates"""
    data_share: float = 0.5
    """share of the rows of a batch that come from --data, where new episodes are collected too"""
    best: float = 1.0
    """share of each task's episodes in --data that are learned from, those with the highest returns"""
    init: str | None = None
    """start with the agent of this run, runs/<id>"""
    end_at_goal: bool | None = None
    """True: what is learned from ends where a step arrives at the goal, the episode goes on; none: the task's own"""
    agent: str = DEFAULT_AGENT
    """the algorithm, sac unless said, iql if --offline; `gcrl list` shows them"""
    algorithm: A = dataclasses.field(default=cast(A, None))
    """numbers of the agent"""
    steps: int | None = None
    """environment steps over all tasks, or updates if --offline; none: the sum of their budgets, or 20,000"""
    seed: int = 0
    """of everything that is drawn"""
    lanes: int = 1
    """environments stepped side by side"""
    lr_end: float = 1.0
    """share of the learning rates that is left after --steps, to which they fall in a straight line; 1: they stay"""
    utd: float = 1.0
    """updates per environment step"""
    warmup: int = 200
    """environment steps of each task with uniform actions at the start"""
    gamma: float | None = None
    """discount; none: 1 - 1 / horizon, at most 0.99"""
    n_step: int | None = None
    """steps of reward before the bootstrap; none: the task's own, 1 if --offline"""
    replay: int = 1_000_000
    """transitions kept, over all tasks"""
    eval_every: int | None = None
    """environment steps between evaluations; none: a tenth of the steps, at least 250"""
    eval_episodes: int = 25
    """episodes of one evaluation, for each task"""
    log_every: int = 500
    """environment steps between rows of progress.csv"""
    save_seconds: float = 60.0
    """least time between checkpoints; one is always written at the end and on Ctrl-C"""
    device: str = "auto"
    """auto, cpu or cuda"""
    threads: int = 1
    """threads of a matrix product"""
    precision: str = "float32"
    """of matrix products; bfloat16: wide ones are rounded, where `gcrl doctor` says that this is faster"""
    compile: bool | None = None
    """make an update one program by torch's compiler, on a GPU as a CUDA graph: slow to begin; none: in long runs"""
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
        return _parse(args, default(known.agent or (OFFLINE_AGENT if "--offline" in args else DEFAULT_AGENT))), None
    saved = from_json(run.config_of(known.resume), known.resume)
    agent = [] if known.agent is None else ["--agent", known.agent]
    asked = _parse([*agent, *rest], saved)
    named = tasks.find(asked.task)
    named = tasks.with_easier(named) if asked.explore == "relay" else named
    asked = dataclasses.replace(asked, task=tuple(task.name for task in named))
    before, after = ({**vars(s), **vars(s.algorithm)} for s in (saved, asked))
    for name, old in before.items():
        if old != after[name] and name not in FREE:
            raise InputError(
                f"--resume {known.resume} goes on with {name} = {old}, not {after[name]}: "
                f"drop the flag, or start a new run without --resume"
            )
    if asked.init != saved.init and checkpoint.folders(known.resume):
        raise InputError(f"--resume {known.resume} has begun, from {saved.init or 'nothing'}: drop --init")
    return asked, known.resume


def default(agent: str = DEFAULT_AGENT) -> Settings[Any]:
    """The default settings with this agent's own; offline too, where the command line takes another agent."""
    return Settings(agent=agent, algorithm=AGENTS[known_agent(agent)].Settings())


def _parse(args: Sequence[str], start: Settings[Any]) -> Settings[Any]:
    """Flags over `start`."""
    kind = AGENTS[known_agent(start.agent)].Settings
    return cast(Settings[Any], parse(Settings[kind], args, "python -m gcrl.train", start))  # type: ignore[valid-type]


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
    tasks: tuple[Task, ...]
    """in one layout"""
    task_id: str
    device: torch.device
    gamma: float
    n_step: int
    steps: int
    eval_every: int
    end_at_goal: bool
    compile: bool
    places: tuple[int, ...]
    """numbers of the observation that the policy does not see, as it sees how far the goal is; empty: it sees all"""

    @staticmethod
    def of(s: Settings[Any]) -> Plan:
        """Check everything that can be checked before a run begins. Raises InputError."""
        known_agent(s.agent)
        s = typed(s, AGENTS[s.agent].Settings)
        asked = tasks.find(s.task)
        if s.explore is None:
            relay = not s.offline and any(task.easier for task in asked)
            s = dataclasses.replace(s, explore="relay" if relay else "policy")
        every = tasks.with_easier(asked) if s.explore == "relay" else asked
        if len(s.reward_scale) == len(asked) < len(every):  # what was added has a scale of 1
            scale = dict(zip(asked, s.reward_scale, strict=True))
            s = dataclasses.replace(s, reward_scale=tuple(scale.get(task, 1.0) for task in every))
        chosen = together(every)
        if AGENTS[s.agent].discrete and (others := [task.name for task in chosen if not task.discrete]):
            raise InputError(
                f"--agent {s.agent} chooses among a few actions, and those of {others[0]} are continuous: "
                f"give sac, td3 or ddpg"
            )
        if chosen[0].goal_dim == 0 and s.relabel != "none":
            s = dataclasses.replace(s, relabel="none")  # no goals, nothing to relabel
        s = dataclasses.replace(s, task=tuple(task.name for task in chosen))
        check_numbers(s)
        check_numbers(s.algorithm)
        horizon = max(task.horizon for task in chosen)
        gamma = min(0.99, 1 - 1 / horizon) if s.gamma is None else s.gamma
        if not 0 <= gamma < 1:
            raise InputError(f"--gamma {gamma}: must lie in [0, 1)")
        goals.parse(s.relabel, gamma)
        if s.replay < horizon * len(chosen):
            what = chosen[0].name if len(chosen) == 1 else f"each of the {len(chosen)} tasks"
            raise InputError(f"--replay {s.replay}: must hold at least one episode of {what}, {horizon} steps")
        share.parse(s.share)
        task_id = _task_id(s, chosen)
        if (given := len(s.reward_scale)) not in (0, len(chosen)):
            raise InputError(f"--reward-scale: {given} factors for {len(chosen)} tasks: give one for each task")
        check_weights(s.algorithm, task_id, chosen)
        check_data(s)
        if s.precision not in ("float32", "bfloat16"):
            raise InputError(f"--precision {s.precision}: choose from float32, bfloat16")
        if s.explore not in ("policy", "relay"):
            raise InputError(f"--explore {s.explore}: choose from policy, relay")
        if s.explore == "relay" and (not chosen[0].goal_dim or len({task.scene for task in chosen}) == len(chosen)):
            raise InputError("--explore relay: give two tasks of one scene, with goals, so that one can go first")
        if s.frame not in ("relative", "absolute"):
            raise InputError(f"--frame {s.frame}: choose from relative, absolute")
        places = places_of(chosen) if s.frame == "relative" and "goal" in task_id else ()
        steps = s.steps
        if steps is None:
            steps = OFFLINE_STEPS if s.offline else sum(task.budget for task in chosen)
        eval_every = max(250, steps // 10) if s.eval_every is None else s.eval_every
        n_step = s.n_step
        if n_step is None:  # data of others may be far from what the policy would do
            n_step = 1 if s.offline else max(task.n_step for task in chosen)
        ends = any(task.end_at_goal for task in chosen) if s.end_at_goal is None else s.end_at_goal
        s = dataclasses.replace(s, gamma=gamma, n_step=n_step, steps=steps, eval_every=eval_every, task_id=task_id)
        s = dataclasses.replace(s, end_at_goal=ends)
        device = machine.device(s.device)
        compile = compiled.pays(steps * (1 if s.offline else s.utd), device) if s.compile is None else s.compile
        return Plan(s, chosen, task_id, device, gamma, n_step, steps, eval_every, ends, compile, places)

    @property
    def name(self) -> str:
        """The task, or what the tasks have in common."""
        first = self.tasks[0]
        if len(self.tasks) == 1:
            return first.name
        one_scene = len({task.scene for task in self.tasks}) == 1
        return f"{first.scene if one_scene else first.family}-{len(self.tasks)}-tasks"


IDENTITIES = ("goal", *(f"{how}{goal}" for how in ("onehot", "embedding", "language") for goal in ("", "+goal")))


def _task_id(s: Settings[Any], chosen: Sequence[Task]) -> str:
    """What tells the tasks apart, checked against what else is asked for."""
    goals = any(task.goal_dim for task in chosen)
    if s.task_id is None:
        return "goal" if len(chosen) == 1 else "onehot" + "+goal" * goals
    if s.task_id not in IDENTITIES:
        raise InputError(f"--task-id {s.task_id}: choose from {', '.join(IDENTITIES)}")
    if goals and "goal" not in s.task_id and s.relabel != "none":
        raise InputError(
            f"--task-id {s.task_id} hides the goal from the policy, so it cannot learn from relabelled ones: "
            f"add +goal, or give --relabel none"
        )
    return s.task_id


def to_json(settings: Settings[Any]) -> dict[str, Any]:
    """For config.json."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(settings).items()}


def from_json(content: dict[str, Any], where: Path) -> Settings[Any]:
    """The inverse of `to_json`. Raises InputError if the file was not written by this version."""
    try:
        kind = AGENTS[known_agent(content["agent"])].Settings
        algorithm = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in content["algorithm"].items()})
        mine = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        settings = Settings(**dict(mine, algorithm=algorithm, runs=Path(content["runs"])))
        for part in (settings, algorithm):
            for name, hint in get_type_hints(type(part)).items():
                if not fits(getattr(part, name), hint):
                    raise TypeError(f"{name} is {getattr(part, name)!r}")
        return settings
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where / 'config.json'} does not fit this version of gcrl ({error}): train anew") from None
