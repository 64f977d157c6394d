"""Data sets: what is read is what was written, in every format and layout. Long: one file for all formats."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
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


@pytest.mark.parametrize("room", [1, 3_000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, room):
    """The operating system refuses to let the file grow, in a process of its own, as HDF5 might crash."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            refused(lambda: write(tmp_path / "new", POINT, episodes(steps=(50,) * 40)), "cannot write", "make room")
            os._exit(0 if list(tmp_path.iterdir()) == [] else 1)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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


def group(path: Path, name: str, x, **how) -> None:
    """Put something else into an hdf5 under a name."""
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if isinstance(x, h5py.SoftLink | h5py.ExternalLink):
            file[name] = x
        elif x is not None:
            file.create_dataset(name, data=x, **how)


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


def test_a_run_with_a_wrong_byte(tmp_path):
    """Its hash tells, and an older checkpoint can be given."""
    folder = a_run(tmp_path / "run", [POINT], [episodes()])
    path = folder / "checkpoints" / "000000000007" / "replay.0.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(lambda: read(folder, POINT), str(path), "sha256", "checkpoints/<step>")


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


def test_an_action_that_is_a_little_outside_is_brought_back(tmp_path):
    """Rounding is forgiven, and does not reach who learns from it."""
    some = episodes()
    some[0].action[0, 0] = 1.0005
    (first, *_) = read(ogbench(tmp_path / "a.npz", some), POINT)
    assert first.action[0, 0] == 1


def test_success_that_stops_an_episode_of_others_is_no_end_of_ours(tmp_path):
    """POINT goes on where it arrives; a fall, elsewhere, is an end for every goal."""
    some = [e._replace(terminated=True) for e in episodes()]
    some[0].desired[-1] = some[0].observation[-1]
    assert [e.terminated for e in read(d4rl(tmp_path / "a.hdf5", some), POINT)] == [False, True, True]
    write(tmp_path / "new", POINT, some)
    assert [e.terminated for e in read(tmp_path / "new", POINT)] == [True] * 3  # ours say what they mean


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
