"""No file of a stranger does harm: nothing runs, nothing else is opened, a line says why. Long: tables of files."""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tasks import InputError
from tasks.datasets import describe, read, write
from tests.problems import PLAIN, POINT
from tests.test_datasets import CHOICE, LAST, change, d4rl, episodes, group, ogbench, refused, same, surroundings  # noqa: F401

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
        ({"action_space": json.dumps({"type": "Discrete", "start": 10**20})}, ["action_space"]),
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


def test_metadata_that_are_no_file_or_a_huge_one(tmp_path):
    write(tmp_path / "new", POINT, episodes())
    path = tmp_path / "new" / "data" / "metadata.json"
    with path.open("r+b") as file:
        file.truncate(10**12)
    refused(lambda: read(tmp_path / "new", POINT), "no file of metadata")
    path.unlink()
    os.mkfifo(path)
    refused(lambda: read(tmp_path / "new", POINT), "no file of metadata")


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


def test_what_unpacks_to_more_than_it_says_takes_no_memory(tmp_path):
    write(tmp_path / "new", POINT, episodes())
    bomb(tmp_path / "new" / "data" / "main_data.hdf5")
    path = ogbench(tmp_path / "a.npz", episodes(), actions=None)
    zipped(path, zipfile.ZIP_DEFLATED, 100 * 10**6)
    for bad in (tmp_path / "new", path):
        tracemalloc.start()
        refused(lambda: read(bad, POINT), str(bad))  # noqa: B023 - called at once
        assert tracemalloc.get_traced_memory()[1] < 3e6
        tracemalloc.stop()


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


def test_a_header_that_is_no_python_either(tmp_path):
    """NumPy reads it with Python's own tokens. A member beyond 4 kB is not checked before it is asked for."""
    path = ogbench(tmp_path / "a.npz", episodes(), actions=None)
    for head in (b"(3000, 2(", b"(3000, 2,'", b"(3000 2 )"):
        with zipfile.ZipFile(path, "w") as file:
            for name in ("observations", "actions", "terminals"):
                file.writestr(f"{name}.npy", header((3000, 2)).replace(b"(3000, 2)", head) + bytes(48_000))
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


@pytest.mark.parametrize("actions", [[3, 0, 0], [-1, 0, 0]])
def test_a_choice_that_is_none(tmp_path, actions):
    write(tmp_path / "new", CHOICE, episodes(CHOICE))
    group(tmp_path / "new/data/main_data.hdf5", "episode_0/actions", np.array(actions))
    refused(lambda: read(tmp_path / "new", CHOICE), "episode 0", "test-choice")


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


def test_the_tests_own_traps_work(tmp_path, monkeypatch):
    """What is executed tells, and so does what is opened, by HDF5 itself."""
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
