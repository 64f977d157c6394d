"""Data sets: what is read is what was written, and no file of a stranger does harm. Long: a table of hostile files."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import json
import os
import shutil
import struct
import sys
import time
import zipfile
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import tasks
from gcrl import checkpoint
from gcrl.checkpoint import Checkpoint
from relabel.store import EpisodeStore
from tasks import InputError, layout
from tasks.datasets import describe, read, tasks_in, write
from tasks.gymnasium import GoalLast
from tasks.task import Episode, part
from tests.problems import PLAIN, POINT, ROW, wheel

STEPS = (3, 1, 4)
LAST = dataclasses.replace(POINT, name="test-last", obs_dim=4, goal_of=part(-2, None))
"""as POINT, with the achieved goal behind the observation"""
CHOICE = dataclasses.replace(PLAIN, name="test-choice", action_dim=3, discrete=True)
ENDING = wheel(goals=True, ends=True)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for task in (POINT, PLAIN, LAST, CHOICE, ENDING):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def episodes(task=POINT, steps=STEPS, seed=0, ends=False) -> list[Episode]:
    """Random ones that a task could have led to; the second is ended by the task."""
    rng, out = np.random.default_rng(seed), []
    for number, n in enumerate(steps):
        observation = rng.normal(size=(n + 1, task.obs_dim)).astype(np.float32)
        action = rng.uniform(-1, 1, (n, task.action_dim)).astype(np.float32)
        if task.discrete:
            action = np.where(action == action.max(1, keepdims=True), 1, -1).astype(np.float32)
        desired = rng.normal(size=(n, task.goal_dim)).astype(np.float32)
        reward = rng.normal(size=n).astype(np.float32)
        if task.reward is not None:
            reward = np.asarray(task.reward(task.goal_of(observation[1:]), desired), np.float32)
        out.append(Episode(observation, action, desired, reward, ends and number == 1))
    return out


def same(left: list[Episode], right: list[Episode]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.terminated is b.terminated
        for x, y in zip(a[:4], b[:4], strict=True):
            assert x.dtype == y.dtype == np.float32 and x.shape == y.shape and (x == y).all()


def refused(call, *words) -> str:
    """One line that says what, where, and what to do."""
    with pytest.raises(InputError) as error:
        call()
    said = str(error.value)
    assert 20 < len(said) < 500 and "\n" not in said and said.isprintable()
    for word in words:
        assert word in said, said
    return said


# Minari ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [POINT, PLAIN, LAST, CHOICE], ids=lambda task: task.name)
def test_what_is_written_is_what_is_read(tmp_path, task):
    some = episodes(task, ends=True)
    assert write(tmp_path / "a" / "new", task, iter(some)) == 3
    for path in (tmp_path / "a" / "new", tmp_path / "a" / "new" / "data", tmp_path / "a/new/data/main_data.hdf5"):
        same(read(path, task), some)
        assert tasks_in(path) == (task.name,)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["new"]


@pytest.mark.parametrize("task", [POINT, PLAIN, CHOICE], ids=lambda task: task.name)
def test_minari_reads_what_is_written(tmp_path, task, monkeypatch):
    minari = pytest.importorskip("minari")
    some = episodes(task, ends=True)
    write(tmp_path / "new-v0", task, some, algorithm_name="by hand")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for found in (minari.MinariDataset(tmp_path / "new-v0" / "data"), minari.load_dataset("new-v0")):
        assert (found.id, found.total_episodes, found.total_steps, found.env_spec) == ("new-v0", 3, sum(STEPS), None)
        assert found.storage.metadata["gcrl_task"] == task.name
        assert found.storage.metadata["algorithm_name"] == "by hand"
        assert found.action_space == (gymnasium.spaces.Discrete(3) if task.discrete else Box(-1, 1, (task.action_dim,)))
        for got, one in zip(found, some, strict=True):
            seen = got.observations if not task.goal_dim else got.observations["observation"]
            assert found.observation_space.contains(
                {k: x[0] for k, x in got.observations.items()} if task.goal_dim else seen[0]
            )
            assert (seen == one.observation).all() and seen.dtype == np.float32
            assert (got.actions == (one.action.argmax(1) if task.discrete else one.action)).all()
            assert (got.rewards == one.reward).all() and len(got) == len(one.action)
            assert got.terminations.tolist() == [False] * (len(got) - 1) + [one.terminated]
            assert got.truncations.tolist() == [False] * (len(got) - 1) + [not one.terminated]
            if task.goal_dim:
                assert (got.observations["desired_goal"][:-1] == one.desired).all()
                assert (got.observations["achieved_goal"] == task.goal_of(one.observation)).all()
            assert repr(got)
        assert "new-v0" in minari.list_local_datasets()
    assert found.sample_episodes(2) and found.spec and len(found.filter_episodes(lambda e: e.terminations.any())) == 1


def test_minari_goes_on_with_what_is_written(tmp_path):
    """Its storage adds episodes to ours, and we read both."""
    minari = pytest.importorskip("minari")
    some = episodes()
    write(tmp_path / "new", POINT, some)
    goals = {"achieved_goal": some[0].observation, "desired_goal": np.zeros((4, 2), np.float32)}
    buffer = minari.data_collector.EpisodeBuffer(
        observations={"observation": some[0].observation, **goals},
        actions=some[0].action,
        rewards=some[0].reward,
        terminations=[False] * 3,
        truncations=[False] * 2 + [True],
    )
    minari.MinariDataset(tmp_path / "new" / "data").update_dataset_from_buffer([buffer])
    same(read(tmp_path / "new", POINT), [*some, some[0]._replace(desired=np.zeros((3, 2), np.float32))])


class Told(gymnasium.Env):
    """A goal environment with actions in [-2, 6] and goals that are not in its observation."""

    def __init__(self, low=-2.0, high=6.0):
        self.action_space = Box(low, high, (2,), np.float32)
        goal = Box(-9, 9, (2,), np.float64)
        spaces = {"observation": Box(-9, 9, (3,), np.float64), "achieved_goal": goal, "desired_goal": goal}
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sum, self.goal = np.zeros(2), self.np_random.normal(size=2)
        return self.seen(), {}

    def step(self, action):
        self.sum = np.clip(self.sum + action / 10, -9, 9)
        seen = self.seen()
        return seen, self.compute_reward(seen["achieved_goal"], self.goal, {}), False, False, {}

    def compute_reward(self, achieved, desired, info):
        return -float(np.linalg.norm(achieved - desired) > 1)

    def compute_terminated(self, achieved, desired, info):
        return False

    def seen(self):
        return {
            "observation": np.append(self.sum[::-1], 1),
            "achieved_goal": self.sum.copy(),
            "desired_goal": self.goal.copy(),
        }


@pytest.fixture
def told(monkeypatch):
    """The task of that environment."""
    monkeypatch.setitem(
        gymnasium.registry,
        "test/Told-v0",
        gymnasium.envs.registration.EnvSpec("test/Told-v0", entry_point=f"{__name__}:Told"),
    )
    return tasks.get("gym:test/Told-v0")


def test_a_data_set_that_minari_wrote(tmp_path, monkeypatch, told):
    """In the units of the environment and with its observations; we see what our lane would have recorded."""
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
    theirs, ours = Told(), told.make()
    assert isinstance(ours.env, GoalLast)
    seen, obs = [theirs.reset(seed=3)[0]], [ours.reset(seed=3)[0]]
    outcomes = []
    for action in actions:
        seen.append(theirs.step((action + 1) * 4 - 2)[0])
        raw, *outcome = ours.step(action)
        obs.append(raw)
        outcomes.append(outcome)
    buffer = minari.data_collector.EpisodeBuffer(
        observations={name: [x[name] for x in seen] for name in seen[0]},
        actions=list((actions + 1) * 4 - 2),
        rewards=[outcome[0] for outcome in outcomes],
        terminations=[False] * 5,
        truncations=[False] * 4 + [True],
        infos={},
    )
    minari.create_dataset_from_buffers("told-v0", [buffer], env="test/Told-v0")
    (one,) = read(tmp_path / "told-v0", told)
    assert tasks_in(tmp_path / "told-v0") == () and describe(tmp_path / "told-v0").environment == "test/Told-v0"
    wanted = [x["observation"] for x in obs], actions, [x["desired_goal"] for x in obs[:-1]], [o[0] for o in outcomes]
    for got, x in zip(one[:4], wanted, strict=True):
        np.testing.assert_allclose(got, np.asarray(x, np.float32), atol=1e-6)
    assert one.observation.shape == (6, 5) and not one.terminated


def test_actions_are_taken_in_the_units_of_our_registry(tmp_path, told):
    """What a file declares must be what the environment of that name has here."""
    write(tmp_path / "new", told, episodes(told, (2,)))
    box = {"type": "Box", "dtype": "float32", "shape": [2]}

    def declare(low, high):
        change(tmp_path / "new", action_space=json.dumps(box | {"low": [low] * 2, "high": [high] * 2}))
        return read(tmp_path / "new", told)[0].action

    one = episodes(told, (2,))[0].action
    np.testing.assert_array_equal(declare(-1, 1), one)
    np.testing.assert_allclose(declare(-2, 6), (one - 2) / 4, atol=1e-6)
    refused(lambda: declare(-2, 5), "[-2.0, -2.0] to [5.0, 5.0]", told.name)
    change(tmp_path / "new", action_space=None)
    np.testing.assert_allclose(read(tmp_path / "new", told)[0].action, (one - 2) / 4, atol=1e-6)


def change(folder: Path, **metadata) -> None:
    """Other metadata; what is None goes."""
    path = folder / "data" / "metadata.json"
    old = json.loads(path.read_text()) | metadata
    path.write_text(json.dumps({k: v for k, v in old.items() if v is not None}))


def test_the_environment_is_named_where_it_is_the_plain_one(tmp_path):
    minari = pytest.importorskip("minari")
    task = tasks.get("fetch-reach")
    write(tmp_path / "reach", task, episodes(task, (2,)))
    spec = minari.MinariDataset(tmp_path / "reach" / "data").env_spec
    assert spec.id == "FetchReach-v4" and describe(tmp_path / "reach").environment == "FetchReach-v4"
    assert spec == gymnasium.spec("FetchReach-v4")
    for other in ("gym:Pendulum-v1", "ant-maze-umaze", "fetch-push-beside", "kitchen-kettle"):
        assert tasks.minari.env_spec(tasks.get(other)) is None  # changed by us


def test_nothing_is_replaced_and_nothing_half_made(tmp_path):
    (tmp_path / "there").mkdir()
    refused(lambda: write(tmp_path / "there", POINT, episodes()), "is there already")
    (tmp_path / "link").symlink_to("nowhere")
    refused(lambda: write(tmp_path / "link", POINT, episodes()), "is there already")
    refused(lambda: write(tmp_path / "none", POINT, []), "no episode")
    (tmp_path / "file").write_text("")
    refused(lambda: write(tmp_path / "file" / "below", POINT, episodes()), "cannot write")

    def broken():
        yield from episodes()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", POINT, broken())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link", "there"] and not list(
        (tmp_path / "there").iterdir()
    )


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    """The operating system itself refuses to write, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            import resource
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            write(tmp_path / "new", POINT, episodes(steps=(1000,) * 20))
        except InputError as error:
            os._exit(0 if "cannot write" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(tmp_path.iterdir()) == []


# OGBench and D4RL -----------------------------------------------------------------------------------------------------


def ogbench(path: Path, some: list[Episode], packed=True, **other) -> Path:
    """As OGBench writes it: a row for each observation, the action of the last one means nothing."""
    stray = np.full((1, some[0].action.shape[1]), 7, np.float32)
    arrays = {
        "observations": np.concatenate([e.observation for e in some]),
        "actions": np.concatenate([np.concatenate((e.action, stray)) for e in some]),
        "terminals": np.concatenate([np.arange(len(e.action) + 1) == len(e.action) for e in some]),
        "qpos": np.zeros(3),
        **other,
    }
    with path.open("wb") as file:
        (np.savez_compressed if packed else np.savez)(file, **{k: x for k, x in arrays.items() if x is not None})
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_ogbench_counts_observations(tmp_path, packed):
    """T actions lead from T + 1 observations; the goal is where each episode ended, and the reward is of s'."""
    some = episodes()
    found = read(ogbench(tmp_path / "a.npz", some, packed), POINT)
    for got, one in zip(found, some, strict=True):
        assert (got.observation == one.observation).all() and (got.action == one.action).all()
        assert (got.desired == POINT.goal_of(one.observation[-1])).all() and len(got.desired) == len(one.action)
        assert (got.reward == POINT.reward(one.observation[1:], got.desired)).all() and got.reward[-1] == 0
        assert got.reward.dtype == np.float32 and not got.terminated
    assert describe(tmp_path / "a.npz").parts == (("", 3, 8, (1, 4), 0, (2, 2, 0), None),)


def test_an_end_that_the_goal_explains_is_one(tmp_path):
    """Where reaching the goal ends an episode, one that is given its last achieved goal has ended."""
    assert [e.terminated for e in read(ogbench(tmp_path / "a.npz", episodes(ENDING)), ENDING)] == [True] * 3


def d4rl(path: Path, some: list[Episode], **other) -> Path:
    """As D4RL writes it: a row for each transition, the clock ends all but the second, nothing marks the last end."""
    late = [np.arange(len(e.action)) == len(e.action) - 1 for e in some]
    arrays = {
        "observations": np.concatenate([e.observation[:-1] for e in some]),
        "next_observations": np.concatenate([e.observation[1:] for e in some]),
        "actions": np.concatenate([e.action for e in some]),
        "rewards": np.concatenate([e.reward for e in some]),
        "terminals": np.concatenate([x & e.terminated for x, e in zip(late, some, strict=True)]),
        "timeouts": np.concatenate(
            [x & (not e.terminated) for x, e in zip(late[:-1], some, strict=False)] + [0 * late[-1]]
        ),
        "infos/goal": np.concatenate([e.desired for e in some]),
        "infos/qpos": np.zeros(3),
        "metadata/algorithm": np.bytes_("sac"),
        **other,
    }
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            if x is not None:
                packed = {} if np.ndim(x) == 0 or x.dtype == object else {"compression": "gzip", "shuffle": True}
                file.create_dataset(name, data=x, **packed)
    return path


@pytest.mark.parametrize("task", [POINT, PLAIN, LAST], ids=lambda task: task.name)
def test_d4rl_counts_transitions(tmp_path, task):
    some = episodes(task, ends=True)
    same(read(d4rl(tmp_path / "a.hdf5", some), task), some)
    assert describe(tmp_path / "a.hdf5").format == "D4RL"


def test_d4rl_without_what_follows_lacks_the_last_transition(tmp_path):
    """Of an episode of one step nothing is left, and nobody knows of an end that the task made."""
    some = episodes(ends=True)
    found = read(d4rl(tmp_path / "a.hdf5", some, next_observations=None), POINT)
    same(found, [Episode(*(x[:-1] for x in e[:4]), False) for e in some if len(e.action) > 1])


def test_d4rl_without_goals_has_those_where_it_ended(tmp_path):
    some = episodes()
    for got, one in zip(read(d4rl(tmp_path / "a.hdf5", some, **{"infos/goal": None}), POINT), some, strict=True):
        assert (got.desired == one.observation[-1]).all() and (got.reward == one.reward).all()


def test_a_row_that_does_not_follow_is_named(tmp_path):
    """What is shifted by one is not taken for data."""
    path = d4rl(tmp_path / "a.hdf5", some := episodes())
    with h5py.File(path, "a") as file:
        file["observations"][...] = np.roll(file["observations"][...], 1, 0)
    refused(lambda: read(path, POINT), "episode 0", "row 0 is not the observation of row 1")
    d4rl(path, some, timeouts=np.zeros(sum(STEPS)))
    refused(lambda: read(path, POINT), "row 2", "neither terminals nor timeouts")


def test_numbers_of_any_width_and_order(tmp_path):
    some = [e._replace(action=np.round(e.action), reward=np.round(e.reward)) for e in episodes(PLAIN)]
    wide = {
        "observations": np.concatenate([e.observation[:-1] for e in some]).astype(">f8"),
        "next_observations": np.concatenate([e.observation[1:] for e in some]).astype(">f8"),
        "actions": np.concatenate([e.action for e in some]).astype(np.int8),
        "rewards": np.concatenate([e.reward for e in some]).astype("<f2"),
        "terminals": np.zeros(8, np.uint8),
    }
    same(read(d4rl(tmp_path / "a.hdf5", some, **wide), PLAIN), some)
    path = ogbench(
        tmp_path / "a.npz", some, observations=np.asfortranarray(np.concatenate([e.observation for e in some]))
    )
    assert (read(path, POINT_OF_FOUR)[2].observation == some[2].observation).all()


POINT_OF_FOUR = dataclasses.replace(POINT, obs_dim=4)


@pytest.mark.parametrize("chunks, rows", [((3, 2), 8), ((8, 1), 8), ((5, 5), 8), ((100, 2), 8)])
def test_chunks_of_any_shape(tmp_path, chunks, rows):
    some = episodes()
    path = d4rl(tmp_path / "a.hdf5", some)
    with h5py.File(path, "a") as file:
        x = file["actions"][...]
        del file["actions"]
        file.create_dataset("actions", data=x, chunks=chunks, maxshape=(None, None), compression="gzip", shuffle=True)
    same(read(path, POINT), some)


# Runs -----------------------------------------------------------------------------------------------------------------


def a_run(home: Path, chosen, some, step=7) -> Path:
    """A run folder with a checkpoint, as gcrl.train writes it, of tasks in one layout."""
    stores = [EpisodeStore(task, 100) for task in chosen]
    for store, own in zip(stores, some, strict=True):
        for e in own:
            store.add(e)
    tensors = {f"replay.{k}": {n: torch.from_numpy(x) for n, x in s.state().items()} for k, s in enumerate(stores)}
    home.mkdir(exist_ok=True)
    (home / "config.json").write_text("{}")
    checkpoint.save(home, Checkpoint(step, tensors | {"agent": {}}, {"task": [t.name for t in chosen]}))
    return home


def test_a_run_gives_what_it_has_kept(tmp_path):
    some, more = episodes(ends=True), episodes(seed=1)
    folder = a_run(tmp_path / "run", [POINT], [some], 7)
    a_run(folder, [POINT], [more], 12)
    same(read(folder, POINT), more)
    same(read(folder / "checkpoints" / "000000000007", POINT), some)
    assert tasks_in(folder) == ("test-point",) and describe(folder).format == "gcrl run"
    write(tmp_path / "new", POINT, read(folder, POINT))
    same(read(tmp_path / "new", POINT), more)


def test_a_run_of_several_tasks(tmp_path):
    """In the layout that they share, and in each one's own."""
    chosen = layout.together([POINT, ROW])
    some = [episodes(task, seed=k) for k, task in enumerate(chosen)]
    for own in some[1]:
        own.desired[:, 1:] = 0  # behind a goal of one number
    folder = a_run(tmp_path / "run", chosen, some)
    assert tasks_in(folder) == ("test-point", "test-row") and [p.task for p in describe(folder).parts] == [
        "test-point",
        "test-row",
    ]
    for k in range(2):
        same(read(folder, chosen[k]), some[k])
    same(read(folder, ROW), [e._replace(desired=e.desired[:, :1]) for e in some[1]])
    write(tmp_path / "row", ROW, read(folder, ROW))
    same(read(tmp_path / "row", chosen[1]), some[1])
    refused(lambda: read(folder, LAST), "test-point, test-row, not of test-last")


def test_a_short_observation_lies_where_the_layout_has_it(tmp_path):
    reach, push = (tasks.get(name) for name in ("fetch-reach", "fetch-push"))
    laid = layout.together([reach, push])[0]
    some = episodes(reach)
    write(tmp_path / "new", reach, some)
    for got, one in zip(read(tmp_path / "new", laid), some, strict=True):
        assert got.observation.shape[1] == 25
        assert (got.observation[:, list(reach.columns)] == one.observation).all()
        assert (np.delete(got.observation, reach.columns, 1) == 0).all()
    folder = a_run(tmp_path / "run", [laid], [read(tmp_path / "new", laid)])
    same(read(folder, reach), some)


@pytest.mark.parametrize("name", ["replay.0.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("spoilt", [b"", b"[1", b"[]", None])
def test_a_damaged_run(tmp_path, name, spoilt):
    folder = a_run(tmp_path / "run", [POINT], [episodes()])
    path = folder / "checkpoints" / "000000000007" / name
    path.unlink()
    if spoilt is not None:
        path.write_bytes(spoilt)
    refused(lambda: read(folder, POINT), name)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("reward"),
        lambda s: s.update(length=s["length"] * 2),
        lambda s: s.update(length=torch.tensor([-5, 13, 0])),
        lambda s: s.update(length=torch.tensor([2**62, 2**62, 8 - 2**63 + 1])),
        lambda s: s.update(terminated=s["terminated"][:2]),
        lambda s: s.update(action=s["action"][:, 0]),
        lambda s: s.update(observation=s["observation"][:-1]),
        lambda s: s.update(desired=s["desired"] * np.nan),
        lambda s: s.update(extra=s["reward"].clone()),
    ],
)
def test_a_run_that_somebody_made_up(tmp_path, change):
    """All hashes are right."""
    store = EpisodeStore(POINT, 100)
    for e in episodes():
        store.add(e)
    state = {name: torch.from_numpy(x) for name, x in store.state().items()}
    change(state)
    (tmp_path / "config.json").write_text("{}")
    checkpoint.save(tmp_path, Checkpoint(7, {"replay.0": state}, {"task": [POINT.name]}))
    refused(lambda: read(tmp_path, POINT), "replay.0")


def test_a_run_without_a_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refused(lambda: read(tmp_path, POINT), "no checkpoint yet")


# What cannot be used --------------------------------------------------------------------------------------------------


def group(path: Path, name: str, x, **how) -> None:
    """Put something else into an hdf5 under a name."""
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if isinstance(x, h5py.SoftLink | h5py.ExternalLink):
            file[name] = x
        elif x is not None:
            file.create_dataset(name, data=x, **how)


TELLING = "attack_on_gcrl"
"""A module that tells, by being imported, that something was executed."""


class Armed:
    """Unpickled, it tells."""

    def __reduce__(self):
        return __import__, (TELLING,)


def watched(home: Path) -> int:
    """A handle from which one can read once a secret file has been opened."""
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    for name in ("secret.h5", "secret.raw"):
        assert libc.inotify_add_watch(watch, str(home / name).encode(), 0x20) >= 0
    return watch


@pytest.fixture
def harmless(tmp_path_factory, monkeypatch):
    """Whatever a test reads: nothing is executed, and no file outside is opened, this one least of all."""
    home = tmp_path_factory.mktemp("outside")
    (home / f"{TELLING}.py").write_text("def make(**kwargs):\n    raise SystemExit\n")
    monkeypatch.syspath_prepend(str(home))
    with h5py.File(home / "secret.h5", "w") as file:
        file["x"] = np.zeros((3, 2), np.float32)
    (home / "secret.raw").write_bytes(bytes(24))
    watch = watched(home)
    yield home
    with pytest.raises(BlockingIOError):
        os.read(watch, 1000)
    os.close(watch)
    assert TELLING not in sys.modules


def external(path: Path, home: Path) -> None:
    kind, space = h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((3, 2))
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_external(str(home / "secret.raw").encode(), 0, 24)
    with h5py.File(path, "a") as file:
        del file["episode_0/actions"]
        h5py.h5d.create(file["episode_0"].id, b"actions", kind, space, plan)


def virtual(path: Path, home: Path, rows=3, limit=None) -> None:
    layout = h5py.VirtualLayout((rows, 2), np.float32, maxshape=(limit, 2))
    layout[...] = h5py.VirtualSource(str(home / "secret.h5"), "x", (rows, 2), maxshape=(limit, 2))
    with h5py.File(path, "a") as file:
        del file["episode_0/actions"]
        file.create_virtual_dataset("episode_0/actions", layout)


def declared(path: Path, shape, chunks=None, fill=False, **how) -> None:
    """An array that is not there."""
    with h5py.File(path, "a") as file:
        del file["episode_0/actions"]
        file.create_dataset("episode_0/actions", shape, np.float32, chunks=chunks, **how)


def bomb(path: Path, rows=3, more=100_000_000) -> None:
    """A chunk that unpacks to much more than the chunk that it says it is."""
    import zlib

    with h5py.File(path, "a") as file:
        del file["episode_0/actions"]
        made = file.create_dataset("episode_0/actions", (rows, 2), np.float32, chunks=(rows, 2), compression="gzip")
        packer = zlib.compressobj(9)
        packed = b"".join(packer.compress(bytes(10**6)) for _ in range(more // 10**6)) + packer.flush()
        made.id.write_direct_chunk((0, 0), packed)


def cycle(path: Path) -> None:
    """A group that contains itself."""
    with h5py.File(path, "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = file["episode_0"]


def put(name, x, **how):
    return lambda path, home: group(path, name, x, **how)


F = np.float32
MINARI = {
    "NaN": (
        put("episode_1/observations/observation", np.full((2, 2), np.nan)),
        "episode 1",
        "not finite, first in row 0",
    ),
    "infinite": (put("episode_0/rewards", np.array([0, np.inf, 0])), "episode 0", "rewards", "row 1"),
    "too large for float32": (put("episode_0/observations/observation", np.full((4, 2), 1e300)), "not finite"),
    "a NaN action": (put("episode_0/actions", np.array([[0, 0], [0, np.nan], [0, 0]])), "actions", "row 1"),
    "a NaN goal": (put("episode_0/observations/desired_goal", np.full((4, 2), np.nan)), "desired goals"),
    "short actions": (put("episode_0/actions", np.zeros((2, 2))), "shape (3,), not (2,)"),
    "as many observations as actions": (put("episode_0/observations/observation", np.zeros((3, 2))), "T + 1"),
    "short goals": (put("episode_0/observations/desired_goal", np.zeros((3, 2))), "3 desired goals for 3 steps"),
    "no step": (put("episode_0/actions", np.zeros((0, 2))), "(3,), not (0,)"),
    "one number an action": (put("episode_0/actions", np.zeros((3, 1))), "1 numbers, test-point of 2"),
    "no axis": (put("episode_0/actions", np.float32(3)), "not an array of rows"),
    "nothing": (put("episode_0/actions", h5py.Empty("f4")), "not an array of rows"),
    "actions in a line": (put("episode_0/actions", np.zeros(3)), "actions of shape (3,)"),
    "choices": (put("episode_0/actions", np.zeros(3, int)), "choices"),
    "out of bounds": (put("episode_0/actions", np.array([[0, 0], [0, 1], [0, 1.5]])), "step 2", "(by 0.5 of 1)"),
    "three numbers seen": (put("episode_0/observations/observation", np.zeros((4, 3))), "3 numbers, test-point of 2"),
    "goals of three": (put("episode_0/observations/desired_goal", np.ones((4, 3))), "goals of 3 numbers"),
    "another goal": (
        put("episode_0/observations/achieved_goal", np.ones((4, 2))),
        "row 0 is not what test-point reads",
    ),
    "flags of another shape": (put("episode_0/terminations", np.zeros((3, 1), bool)), "terminations", "shape (3, 1)"),
    "flags that are no flags": (put("episode_0/truncations", np.array([0, 2, 0])), "truncations", "0 and 1 only"),
    "NaN flags": (put("episode_0/truncations", np.full(3, np.nan)), "0 and 1 only"),
    "an end in the middle": (put("episode_0/terminations", np.array([1, 0, 0])), "goes on after its end at step 0"),
    "no rewards": (put("episode_0/rewards", None), "'episode_0/rewards' is missing"),
    "no goals": (put("episode_0/observations/desired_goal", None), "['achieved_goal', 'observation']"),
    "an array for a dict": (put("episode_0/observations", np.zeros((4, 2))), "has no goals, test-point has"),
    "an array for an episode": (put("episode_0", np.zeros(3)), "'episode_0' is not a group"),
    "an episode is missing": (put("episode_1", None), "has 2 episodes, not 3"),
    "words": (put("episode_0/actions", np.array([[b"a", b"b"]] * 3)), "plain numbers"),
    "texts of any length": (put("episode_0/rewards", ["a", "b", "c"], dtype=h5py.string_dtype()), "plain numbers"),
    "rows of any length": (
        put("episode_0/rewards", np.array([*[np.zeros(1)] * 2, np.zeros(2)], object), dtype=h5py.vlen_dtype(float)),
        "plain numbers",
    ),
    "tables": (put("episode_0/actions", np.zeros(3, "f4,f4")), "plain numbers"),
    "complex": (put("episode_0/rewards", np.zeros(3, complex)), "plain numbers"),
    "long doubles": (put("episode_0/rewards", np.zeros(3, np.longdouble)), "not read here"),
    "another compression": (put("episode_0/actions", np.zeros((3, 2)), compression="lzf"), "packed in a way"),
    "a checksum filter": (put("episode_0/actions", np.zeros((3, 2)), fletcher32=True), "packed in a way"),
    "a soft link": (put("episode_0/actions", h5py.SoftLink("/episode_0/observations/observation")), "is a link"),
    "a soft link to an episode": (put("episode_0", h5py.SoftLink("/episode_1")), "'episode_0' is a link"),
    "a link to nowhere": (put("episode_0/actions", h5py.SoftLink("/nowhere")), "is a link"),
    "an external link": (
        lambda path, home: group(path, "episode_0/actions", h5py.ExternalLink(home / "secret.h5", "/x")),
        "is a link to another place",
    ),
    "an external group": (
        lambda path, home: group(path, "episode_0", h5py.ExternalLink(home / "secret.h5", "/")),
        "is a link to another place",
    ),
    "external storage": (external, "lies in another file"),
    "a virtual data set": (virtual, "lies in another file"),
    "a growing virtual data set": (lambda path, home: virtual(path, home, limit=h5py.h5s.UNLIMITED), "in another file"),
    "10^12 rows": (lambda path, home: declared(path, (10**12, 2)), "(1000000000000, 2), more than a file of"),
    "10^12 rows in chunks": (
        lambda path, home: declared(path, (10**12, 2), (1000, 2), compression="gzip"),
        "more than a file of",
    ),
    "as many numbers as overflow": (lambda path, home: declared(path, (2**40, 2**40), (1, 1)), "more than a file of"),
    "rows that are not there": (lambda path, home: declared(path, (1000, 2)), "holds no such data"),
    "chunks that are not there": (lambda path, home: declared(path, (1000, 2), (10, 2)), "does not hold all of it"),
    "a huge chunk": (
        lambda path, home: declared(path, (3, 2), (2**28, 2), maxshape=(None, 2)),
        "a chunk of 2147483648 bytes",
    ),
    "a chunk that unpacks to more": (lambda path, home: bomb(path), "does not unpack to 24 bytes"),
    "a group in itself": (lambda path, home: cycle(path), "observes a dict of"),
}


@pytest.mark.parametrize("case", MINARI)
def test_minari_files_that_cannot_be_used(tmp_path, harmless, case):
    spoil, *words = MINARI[case]
    write(tmp_path / "new", POINT, episodes())
    spoil(tmp_path / "new" / "data" / "main_data.hdf5", harmless)
    start = time.process_time()
    refused(lambda: read(tmp_path / "new", POINT), str(tmp_path / "new"), *words)
    assert time.process_time() - start < 5
    if case not in ("out of bounds", "another goal"):  # all that needs no task is seen without one
        try:
            describe(tmp_path / "new")
        except InputError as error:
            assert str(error).isprintable()


SPEC = {
    "id": "Evil-v0",
    "entry_point": f"{TELLING}:make",
    "kwargs": {},
    "additional_wrappers": [],
    "vector_entry_point": f"{TELLING}:make",
}
WRAPPER = {"name": "x", "entry_point": f"{TELLING}:make", "kwargs": {}}


@pytest.mark.parametrize(
    "spec",
    [
        json.dumps(SPEC),
        json.dumps(SPEC | {"id": f"{TELLING}:FetchReach-v4"}),
        json.dumps(SPEC | {"id": "FetchReach-v4", "additional_wrappers": [WRAPPER]}),
        json.dumps({"id": ["\x1b[31m" * 1000]}),
        "not JSON",
        "[" * 100_000,
        7,
    ],
)
def test_no_environment_is_built_from_what_a_file_says(tmp_path, harmless, spec):
    """With and without an action space: it is the environment of our registry that is asked for one."""
    some = episodes()
    write(tmp_path / "new", POINT, some)
    change(tmp_path / "new", env_spec=spec, eval_env_spec=spec, requirements=["evil"], expert_policy=TELLING)
    same(read(tmp_path / "new", POINT), some)
    assert describe(tmp_path / "new").environment.isprintable() and len(describe(tmp_path / "new").environment) < 90
    change(tmp_path / "new", action_space=None, observation_space=None)
    same(read(tmp_path / "new", POINT), some)


@pytest.mark.parametrize(
    "metadata, words",
    [
        (b"", ["is not JSON"]),
        (b"\xff\xfe", ["is not JSON"]),
        (b"[" * 100_000, ["is not JSON"]),
        (b"[]", ["not a JSON object"]),
        ({"data_format": "arrow"}, ["'arrow'", "hdf5"]),
        ({"gcrl_task": 5}, ["gcrl_task"]),
        ({"gcrl_task": "test-plain"}, ["is of test-plain, not of test-point"]),
        ({"gcrl_task": "\x1b[31m\n" * 50}, ["not of test-point"]),
        ({"total_episodes": 4}, ["has 3 episodes, not 4"]),
        ({"action_space": "x"}, ["action_space"]),
        ({"action_space": json.dumps({"type": "Dict"})}, ["action_space"]),
        ({"action_space": json.dumps({"type": "Box", "low": [[1], [1, 2]], "high": 1})}, ["action_space"]),
        ({"action_space": json.dumps({"type": "Box", "low": [-1e999] * 2, "high": [1e999] * 2})}, ["action_space"]),
        ({"action_space": json.dumps({"type": "Box", "low": [1, 1], "high": [1, 1]})}, ["action_space"]),
        ({"action_space": json.dumps({"type": "Box", "low": [-1], "high": [3]})}, ["[-1.0] to [3.0]"]),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path, metadata, words):
    write(tmp_path / "new", POINT, episodes())
    if isinstance(metadata, bytes):
        (tmp_path / "new" / "data" / "metadata.json").write_bytes(metadata)
    else:
        change(tmp_path / "new", **metadata)
    refused(lambda: read(tmp_path / "new", POINT), *words)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 1000, 5000, 10_000])
def test_an_hdf5_that_is_cut_off(tmp_path, keep):
    write(tmp_path / "new", POINT, episodes())
    main = tmp_path / "new" / "data" / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:keep])
    refused(lambda: read(tmp_path / "new", POINT), str(main))


def test_bytes_that_are_wrong_do_no_harm(tmp_path):
    """Anywhere in the file: it reads, or a line says why not."""
    write(tmp_path / "new", POINT, episodes())
    main = tmp_path / "new" / "data" / "main_data.hdf5"
    whole, rng = main.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        spoilt = bytearray(whole)
        for at in rng.integers(0, len(whole), 8):
            spoilt[at] = rng.integers(256)
        main.write_bytes(spoilt)
        try:
            read(tmp_path / "new", POINT)
        except InputError as error:
            assert str(error).isprintable() and "\n" not in str(error)


OGBENCH = {
    "NaN": ({"observations": np.full((11, 2), np.nan)}, "episode 0", "row 0"),
    "objects": ({"actions": np.array([[Armed(), 1]] * 11, object)}, "objects are not read"),
    "words": ({"actions": np.array([["a", "b"]] * 11)}, "plain numbers"),
    "dates": ({"actions": np.zeros((11, 2), "M8[s]")}, "plain numbers"),
    "tables": ({"actions": np.zeros(11, "f4,f4")}, "plain numbers"),
    "no terminals": ({"terminals": None}, "'terminals' is missing"),
    "no actions": ({"actions": None}, "'actions' is missing"),
    "few actions": ({"actions": np.zeros((10, 2))}, "'actions' has shape (10, 2)"),
    "no end": ({"terminals": np.zeros(11)}, "its last row ends no episode"),
    "marks of another shape": ({"terminals": np.ones((11, 1))}, "shape (11, 1)"),
    "marks that are none": ({"terminals": np.full(11, 3)}, "0 and 1 only"),
    "episodes without a step": ({"terminals": np.ones(11)}, "no step"),
    "actions in a line": ({"actions": np.zeros(11)}, "actions of shape"),
    "out of bounds": ({"actions": np.full((11, 2), 3.0)}, "step 0"),
    "another size": ({"observations": np.zeros((11, 3))}, "3 numbers, test-point of 2"),
    "no axis": ({"observations": np.float32(1)}, "shape ()"),
    "no row": ({"observations": np.zeros((0, 2))}, "shape (0, 2)"),
}


@pytest.mark.parametrize("case", OGBENCH)
@pytest.mark.parametrize("packed", [True, False])
def test_npz_files_that_cannot_be_used(tmp_path, harmless, case, packed):
    other, *words = OGBENCH[case]
    path = ogbench(tmp_path / "a.npz", episodes(), packed, **other)
    refused(lambda: read(path, POINT), str(path), *words)


def header(shape, dtype="<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    "member, words",
    [
        (header((10**12, 2)), ["(1000000000000, 2), more than"]),
        (header((2**40, 2**40)), ["more than"]),
        (header((0, 10**12)) + bytes(10), ["holds no such data"]),
        (header((11, 2)) + bytes(80), ["holds no such data"]),
        (header((11, 2)) + bytes(100), ["holds no such data"]),
        (header((-11, 2)) + bytes(88), []),
        (header((11, 2), "|O") + bytes(88), ["objects are not read"]),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000, ["damaged"]),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b"__import__('attack_on_gcrl')".ljust(60), ["damaged"]),
        (b"\x93NUMPY\x09\x00" + bytes(60), ["damaged"]),
        (b"cnothing\n.", ["damaged"]),
        (b"", ["damaged"]),
    ],
)
def test_members_of_an_npz_that_cannot_be_used(tmp_path, harmless, member, words):
    path = ogbench(tmp_path / "a.npz", episodes(), actions=None)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("actions.npy", member)
    refused(lambda: read(path, POINT), str(path), *words)


def zipped(path: Path, how: int, size: int) -> None:
    """Zeros in place of the actions."""
    with zipfile.ZipFile(path, "a", how) as file, file.open("actions.npy", "w", force_zip64=True) as member:
        member.write(header((size // 8, 2)))
        for _ in range(size // 10**6):
            member.write(bytes(10**6))


def test_zip_bombs(tmp_path):
    """100 MB in 100 kB are not unpacked, nor what says that it is small and is not."""
    path = ogbench(tmp_path / "a.npz", episodes(), actions=None)
    zipped(path, zipfile.ZIP_DEFLATED, 100 * 10**6)
    assert path.stat().st_size < 10**6
    refused(lambda: read(path, POINT), "(12500000, 2), more than a file of")
    small = bytearray(path.read_bytes())
    at = small.rindex(b"PK\x01\x02")  # the entry of the actions in the directory: its unpacked size
    small[at + 24 : at + 28] = struct.pack("<I", len(header((11, 2))) + 88)
    path.write_bytes(small)
    refused(lambda: read(path, POINT), str(path))
    path = ogbench(tmp_path / "b.npz", episodes(), actions=None)
    zipped(path, zipfile.ZIP_BZIP2, 10**6)
    refused(lambda: read(path, POINT), "packed in a way")


@pytest.mark.parametrize("keep", [4, 30, 200, -30])
def test_an_npz_that_is_cut_off(tmp_path, keep):
    path = ogbench(tmp_path / "a.npz", episodes())
    path.write_bytes(path.read_bytes()[:keep])
    refused(lambda: read(path, POINT), "damaged or cut off")


def test_an_npz_with_wrong_bytes(tmp_path):
    """Its checksum tells."""
    path = ogbench(tmp_path / "a.npz", episodes(), packed=False)
    spoilt = path.read_bytes().replace(episodes()[0].action.tobytes(), bytes(24))
    path.write_bytes(spoilt)
    refused(lambda: read(path, POINT), "damaged or cut off")


D4RL = {
    "no timeouts": ({"timeouts": None}, "'timeouts' is missing"),
    "no rewards": ({"rewards": None}, "'rewards' is missing"),
    "few rewards": ({"rewards": np.zeros(7)}, "'rewards' has shape (7,)"),
    "few goals": ({"infos/goal": np.zeros((7, 2))}, "infos/goal has 7 rows, observations 8"),
    "few that follow": ({"next_observations": np.zeros((7, 2))}, "has 7 rows"),
    "another shape follows": ({"next_observations": np.zeros((8, 3))}, "(8, 3)"),
    "marks of another shape": ({"terminals": np.zeros((8, 1))}, "(8, 1)"),
    "NaN": ({"rewards": np.full(8, np.nan)}, "rewards that are not finite"),
    "rewards in columns": ({"rewards": np.zeros((8, 1))}, "rewards of shape"),
    "observations in a line": ({"observations": np.zeros(8)}, "observations have shape (8,)"),
    "out of bounds": ({"actions": np.full((8, 2), -1.1)}, "step 0", "by 0.1 of 1"),
    "no row": ({"observations": np.zeros((0, 2))}, "(0, 2)"),
}


@pytest.mark.parametrize("case", D4RL)
def test_d4rl_files_that_cannot_be_used(tmp_path, harmless, case):
    other, *words = D4RL[case]
    path = d4rl(tmp_path / "a.hdf5", episodes(), **other)
    refused(lambda: read(path, POINT), str(path), *words)


def test_an_action_that_is_a_little_outside_is_brought_back(tmp_path):
    """Rounding is forgiven, and does not reach who learns from it."""
    some = episodes()
    some[0].action[0, 0] = 1.0005
    (first, *_) = read(ogbench(tmp_path / "a.npz", some), POINT)
    assert first.action[0, 0] == 1


@pytest.mark.parametrize("actions", [[3, 0, 0], [-1, 0, 0]])
def test_a_choice_that_is_none(tmp_path, actions):
    write(tmp_path / "new", CHOICE, episodes(CHOICE))
    group(tmp_path / "new/data/main_data.hdf5", "episode_0/actions", np.array(actions))
    refused(lambda: read(tmp_path / "new", CHOICE), "episode 0", "test-choice")


def test_success_that_stops_an_episode_of_others_is_no_end_of_ours(tmp_path):
    """POINT goes on where it arrives; a fall, elsewhere, is an end for every goal."""
    some = [e._replace(terminated=True) for e in episodes()]
    some[0].desired[-1] = some[0].observation[-1]
    assert [e.terminated for e in read(d4rl(tmp_path / "a.hdf5", some), POINT)] == [False, True, True]
    write(tmp_path / "new", POINT, some)
    assert [e.terminated for e in read(tmp_path / "new", POINT)] == [True] * 3  # ours say what they mean


def test_what_is_no_data_set(tmp_path, monkeypatch):
    refused(lambda: read(tmp_path / "nowhere", POINT), "No such file")
    refused(lambda: read(tmp_path, POINT), "no data set")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text("{}")
    refused(lambda: read(tmp_path, POINT), "has no main_data.hdf5")
    (tmp_path / "data" / "main_data.hdf5").mkdir()
    refused(lambda: read(tmp_path, POINT), "is not a file")
    for name, content in (("a.npz", b"nothing"), ("a.hdf5", b""), ("a.pkl", b"cos\nsystem\n")):
        (tmp_path / name).write_bytes(content)
        refused(lambda: read(tmp_path / name, POINT), "neither HDF5 nor npz")  # noqa: B023 - called at once
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read(tmp_path / "pipe", POINT), "is not a file")
    refused(lambda: read(Path("/dev/zero"), POINT), "is not a file")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    refused(lambda: read(tmp_path / "other.h5", POINT), "'observations' is missing")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # the tests may run as root, who may do everything
    refused(lambda: read(tmp_path / "other.h5", POINT), "Permission denied")


def test_tasks_without_goals_take_no_data_with_goals(tmp_path):
    write(tmp_path / "new", LAST, episodes(LAST))
    change(tmp_path / "new", gcrl_task=None)
    refused(lambda: read(tmp_path / "new", PLAIN), "has goals, test-plain has none")
    write(tmp_path / "plain", PLAIN, episodes(PLAIN))
    change(tmp_path / "plain", gcrl_task=None)
    refused(lambda: read(ogbench(tmp_path / "a.npz", episodes(PLAIN)), PLAIN), "no rewards")


def test_a_data_set_that_is_large_takes_no_more_memory_than_its_numbers(tmp_path):
    """Written from a generator, one episode at a time."""
    import tracemalloc

    def many():
        for k in range(40):
            yield from episodes(PLAIN, (2000,), k)

    tracemalloc.start()
    write(tmp_path / "new", PLAIN, many())
    assert tracemalloc.get_traced_memory()[1] < 2e6 < (tmp_path / "new/data/main_data.hdf5").stat().st_size
    tracemalloc.stop()
    shutil.rmtree(tmp_path / "new")


def test_the_tests_own_traps_work(tmp_path, monkeypatch):
    """What is executed tells, and so does what is opened, by HDF5 itself."""
    import pickle

    (tmp_path / f"{TELLING}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    pickle.loads(pickle.dumps(Armed()))  # noqa: S301 - it is ours
    assert sys.modules.pop(TELLING)
    (tmp_path / "secret.raw").write_bytes(bytes(24))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.zeros((3, 2), np.float32)
    for spoil in (external, virtual):
        write(tmp_path / spoil.__name__, POINT, episodes())
        path = tmp_path / spoil.__name__ / "data" / "main_data.hdf5"
        spoil(path, tmp_path)
        watch = watched(tmp_path)
        with h5py.File(path) as file:
            assert file["episode_0/actions"][...].shape == (3, 2)
        assert os.read(watch, 1000)
        os.close(watch)
