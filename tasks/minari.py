"""Minari's data sets on disk, version 0.5: a folder `data` of main_data.hdf5 and metadata.json (minari.farama.org).

Reading takes numbers only. What the metadata say of an environment is shown to people and never built.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from tasks.hdf5 import Group, created, opened
from tasks.recorded import Actions, Recorded, flags, recorded, shown
from tasks.simulator import register_robotics
from tasks.source import Source
from tasks.task import Episode, InputError, Task

MAIN, META = "main_data.hdf5", "metadata.json"
VERSION = "0.5.0"
"""of the format that is written: the oldest release that knows it, so that all later ones read it too"""
LARGEST = 2**24
"""Bytes of metadata."""
EPISODE = re.compile(r"episode_(0|[1-9]\d{0,8})")


def source(main: Path) -> Source:
    """The data set of this main_data.hdf5. Raises InputError if its metadata are not what they should be."""
    metadata = _metadata(main.parent / META)
    where = main.parent / META
    task, env = metadata.get("gcrl_task"), _json(metadata.get("env_spec"))
    if task is not None and not isinstance(task, str):
        raise InputError(f"{where}: gcrl_task must be the name of a task: take it out, or write a name")
    total = metadata.get("total_episodes")
    return Source(
        "Minari",
        main,
        () if task is None else (task,),
        shown(env["id"])[1:-1] if isinstance(env, dict) and "id" in env else "",
        partial(_episodes, main, total if isinstance(total, int) else None),
        _actions(where, metadata["action_space"]) if "action_space" in metadata else None,
    )


def _episodes(main: Path, total: int | None, name: str) -> Iterator[Recorded]:
    with opened(main) as file:
        numbers = sorted(int(found[1]) for found in map(EPISODE.fullmatch, file.names()) if found)
        if not numbers or (total is not None and len(numbers) != total):
            raise InputError(f"{main} has {len(numbers)} episodes, not {total or 'any'}: it is cut off, get it again")
        for number in numbers:
            yield _episode(file.group(f"episode_{number}"), f"{main}, episode {number}")


def _episode(group: Group, where: str) -> Recorded:
    action = group.array("actions")
    steps = len(action)
    ends, stops = (flags(f"{where}: {name}", group.array(name), steps) for name in ("terminations", "truncations"))
    if (ends | stops)[:-1].any():
        step = int(np.argmax(ends | stops))
        raise InputError(f"{where} goes on after its end at step {step}: cut it into two")
    rest: dict[str, Any] = {"reward": group.array("rewards"), "terminated": bool(ends[-1:].any())}
    if not group.is_group("observations"):
        return recorded(where, group.array("observations"), action, **rest)
    seen = group.group("observations")
    if set(seen.names()) != {"observation", "achieved_goal", "desired_goal"}:
        raise InputError(
            f"{where} observes a dict of {shown(sorted(seen.names()))}, "
            f"not of observation, achieved_goal and desired_goal: it is of no task with goals"
        )
    observation, achieved, desired = map(seen.array, ("observation", "achieved_goal", "desired_goal"))
    if len(desired) != steps + 1:
        raise InputError(
            f"{where} has {len(desired)} desired goals for {steps} steps: there must be one more than steps"
        )
    return recorded(where, observation, action, **rest, desired=desired[:-1], achieved=achieved)


def _metadata(path: Path) -> dict[str, Any]:
    """Of a data set; nothing where there are none."""
    if not path.exists():
        return {}
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise InputError(f"{path} is no file of metadata: it is not a file, or a huge one")
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not JSON: it is damaged, get it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object: it is damaged, get it again")
    if found.get("data_format", "hdf5") != "hdf5":
        raise InputError(f"{path}: data of format {shown(found['data_format'])} are not read: have Minari write hdf5")
    return found


def _json(text: Any) -> Any:
    """What a string of JSON says; None if it says nothing."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _actions(where: Path, text: Any) -> Actions:
    """The declared space of actions: a box with limits, or choices."""
    space = _json(text)
    try:
        if space["type"] == "Discrete":
            return Actions(np.zeros(0), np.zeros(0), int(np.int64(space["start"])))
        low, high = (np.array(space[side], np.float64) for side in ("low", "high"))
        vector = space["type"] == "Box" and low.ndim == 1 and low.shape == high.shape
        if vector and np.isfinite(high - low).all() and (low < high).all():
            return Actions(low, high)
    except (LookupError, TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{where}: its action_space is neither a vector with limits nor a choice: it is of no task here")


def write(path: Path, task: Task, episodes: Iterable[Episode], **words: str) -> int:
    """A new folder that minari.MinariDataset(path / "data") and we read; the number of episodes in it. All or nothing.

    `words` are added to the metadata (algorithm_name, description, ...). Raises InputError if the folder is there
    already or cannot be written, or where there is no episode.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already: give another place, or remove it first")
    draft = path.parent / f".{path.name}-{uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (draft / "data").mkdir(parents=True)
        counts = _write_main(draft / "data" / MAIN, task, episodes)
        if not counts[0]:
            raise InputError(f"{path}: there is no episode to write")
        size = round((draft / "data" / MAIN).stat().st_size / 1e6, 1)
        metadata = _describe(path, task, *counts) | {"dataset_size": size} | words
        (draft / "data" / META).write_text(json.dumps(metadata))
        for written in (draft / "data" / MAIN, draft / "data" / META, draft / "data", draft):
            _sync(written)
        if path.exists():  # an empty folder would be replaced
            raise InputError(f"{path} is there already: give another place, or remove it first")
        draft.rename(path)
        _sync(path.parent)
        return counts[0]
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; give another place, or make room") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # nothing is there once it has its name


def _write_main(path: Path, task: Task, episodes: Iterable[Episode]) -> tuple[int, int]:
    """Episodes and steps that were written."""
    number = steps = 0
    with created(path) as (file, sink):
        for number, episode in enumerate(episodes, 1):
            if sink.failed is not None:
                break
            group, count = file.create_group(f"episode_{number - 1}"), len(episode.action)
            group.attrs["id"], group.attrs["total_steps"] = number - 1, count
            group["actions"] = episode.action.argmax(1) if task.discrete else episode.action
            group["rewards"] = episode.reward
            last = np.arange(count) == count - 1
            group["terminations"], group["truncations"] = last & episode.terminated, last & (not episode.terminated)
            group.create_group("infos")
            if task.goal_dim:
                seen = group.create_group("observations")
                seen["observation"] = episode.observation
                seen["achieved_goal"] = np.asarray(task.goal_of(episode.observation), np.float32)
                seen["desired_goal"] = np.concatenate((episode.desired, episode.desired[-1:]))
            else:
                group["observations"] = episode.observation
            steps += count
    return number, steps


def _describe(path: Path, task: Task, episodes: int, steps: int) -> dict[str, Any]:
    name = re.sub(r"[^\w-]+", "-", path.name, flags=re.ASCII).strip("-") or "data"
    spec = env_spec(task)
    return {
        "dataset_id": name if re.search(r"\w-v\d+$", name) else f"{name}-v0",
        "minari_version": VERSION,
        "data_format": "hdf5",
        "total_episodes": episodes,
        "total_steps": steps,
        "observation_space": json.dumps(_observed(task)),
        "action_space": json.dumps(_acted(task)),
        "description": task.description,
        "gcrl_task": task.name,
        **({} if spec is None else {"env_spec": spec}),
    }


def _vector(n: int, limit: float) -> dict[str, Any]:
    return {"type": "Box", "dtype": "float32", "shape": [n], "low": [-limit] * n, "high": [limit] * n}


def _observed(task: Task) -> dict[str, Any]:
    seen = _vector(task.obs_dim, np.inf)
    if not task.goal_dim:
        return seen
    goal = _vector(task.goal_dim, np.inf)
    return {"type": "Dict", "subspaces": {"observation": seen, "achieved_goal": goal, "desired_goal": goal}}


def _acted(task: Task) -> dict[str, Any]:
    if task.discrete:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": task.action_dim}
    return _vector(task.action_dim, 1.0)


def env_spec(task: Task) -> str | None:
    """The registered environment that the task is without any change of ours, as JSON; None where there is none."""
    made = task.make
    env_id = made.args[0] if isinstance(made, partial) and len(made.args) == 1 and not made.keywords else None
    if not isinstance(env_id, str):
        return None
    try:
        if env_id not in gymnasium.registry:
            register_robotics()
        env = gymnasium.make(env_id, disable_env_checker=True)
        actions, seen = env.action_space, env.observation_space
        env.close()
        alike = actions == (Discrete(task.action_dim) if task.discrete else Box(-1.0, 1.0, (task.action_dim,)))
        if task.goal_dim:
            alike &= {name: space.shape for name, space in seen.spaces.items()} == {  # type: ignore[attr-defined]
                "observation": (task.obs_dim,),
                "achieved_goal": (task.goal_dim,),
                "desired_goal": (task.goal_dim,),
            }
        else:
            alike &= seen.shape == (task.obs_dim,)
        return gymnasium.spec(env_id).to_json() if alike else None
    except Exception:  # it is no environment's name, or one that cannot be made here: then the data set names none
        return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
