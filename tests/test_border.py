"""One line says what to do, whoever failed; exit 2 before a run, 1 in it. Long: a table of bad inputs."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.error import DependencyNotInstalled

import tasks
from gcrl import __main__ as console
from gcrl import checkpoint, evaluate, run, train, video
from gcrl.cli import guarded, spelled_out
from gcrl.progress import Progress
from gcrl.settings import Settings
from gcrl.train import Training
from tasks.task import InputError
from tests.benchmarks.kills import differences
from tests.problems import PLAIN, POINT, script

TINY = ["--task", POINT.name, "--agent", "td3", "--lr", "0.001", "--hidden", "8", "8", "--batch", "8", "--warmup", "10"]
TINY += ["--eval-episodes", "1", "--steps", "60", "--log-every", "20", "--eval-every", "30", "--save-seconds", "0"]
NAN, INF = np.nan, np.inf


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for task in (POINT, PLAIN):
        monkeypatch.setitem(tasks.TASKS, task.name, task)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)  # the default for --runs is below it


def refused(capfd, args: list[str], *words: str, code: int = 2) -> str:
    """The one line that these arguments of `gcrl` lead to; it holds the words."""
    capfd.readouterr()
    assert guarded(console.run, args) == code
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and said.startswith("gcrl: ") and "Traceback" not in said
    assert 20 < len(said) < 500 and "  " not in said and "----" not in said
    for word in words:
        assert word in said, said
    return said


def refused_anew(capfd, home: Path, args: list[str], *words: str) -> None:
    """Refused, and nothing is left behind."""
    refused(capfd, args, *words)
    assert list(home.iterdir()) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.TASKS, POINT.name, POINT)
        assert train.main([*TINY, "--runs", str(home)]) == 0
    (folder,) = home.iterdir()
    return folder


@pytest.fixture
def finished(made, tmp_path):
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "finished"))


# What is typed


@pytest.mark.parametrize(
    "typed, words",
    [
        ("nonsense", ["unknown command 'nonsense'", "train, evaluate, fqe, data, plot, list, doctor"]),
        ("list all", ["takes no flags"]),
        ("train --task scene:nothing", ["unknown task 'scene:nothing'"]),
        ("train --utd 1e308", ["--utd 1e+308", "from 0 to 1000000"]),
        ("train --warmup 1" + 320 * "0", ["--warmup", "below 2^63"]),
        ("train --runs r\udcff", ["--runs", "no UTF-8"]),
        ("train --task fetch-reech", ["fetch-reech", "did you mean fetch-reach"]),
        ("train --task xyz", ["unknown task 'xyz'", "gcrl list"]),
        ("train --task two\nlines", ["unknown task 'two lines'"]),
        ("train --task Pendulum-v1", ["did you mean gym:Pendulum-v1"]),
        ("train --task gym:NoSuchEnv", ["gym:NoSuchEnv", "import the package"]),
        ("train --task gym:FrozenLake-v1", ["gym:FrozenLake-v1", "observation a Discrete"]),
        ("train --task", ["--task: give at least one", "gcrl list"]),
        ("train --relabel futur", ["did you mean future"]),
        ("train --relabel future:0.8,final:0.4", ["more than 1"]),
        ("train --agent sacc", ["unknown agent 'sacc'", "did you mean sac"]),
        ("train --agent", ["--agent", "--help"]),
        ("train --agent dqn", ["--agent dqn", "fetch-reach are continuous", "give sac, td3 or ddpg"]),
        ("train --agent fqi --task test-plain", ["--agent fqi", "test-plain are continuous"]),
        ("train --agent dqn --epsilon 2 --task gym:CartPole-v1", ["--epsilon 2.0", "from 0 to 1"]),
        ("train --agent sac --target-noise 0.1", ["Unrecognized options: --target-noise", "--help"]),
        ("train --agent ddpg --alpha 1", ["Unrecognized options: --alpha"]),
        ("train --discount 0.9", ["Unrecognized options: --discount", "--help"]),
        ("train extra", ["Unrecognized options: extra"]),
        ("train --steps -5", ["--steps -5", "1 or more"]),
        ("train --steps 0", ["--steps 0", "1 or more"]),
        ("train --steps ten", ["--steps", "'ten'", "--help"]),
        ("train --steps 1.5", ["--steps", "'1.5'"]),
        ("train --lanes 0", ["--lanes 0", "from 1 to 1024"]),
        ("train --lanes 9999999", ["--lanes 9999999", "from 1 to 1024"]),
        ("train --batch 9999999999", ["--batch", "from 1 to"]),
        ("train --n-step 9999999999", ["--n-step", "from 1 to 1000"]),
        ("train --lr nan", ["--lr nan", "finite"]),
        ("train --lr inf", ["--lr inf", "finite"]),
        ("train --lr-end 1.5", ["--lr-end 1.5", "from 0 to 1"]),
        ("train --lr -1", ["--lr -1.0", "0 or more"]),
        ("train --save-seconds nan", ["--save-seconds nan", "finite"]),
        ("train --agent sac --entropy nan", ["--entropy nan", "finite"]),
        ("train --agent sac --entropy -inf", ["--entropy -inf", "finite"]),
        ("train --agent sac --alpha 0", ["--alpha 0.0", "or more"]),
        ("train --gamma 1", ["--gamma 1.0", "[0, 1)"]),
        ("train --gamma 2", ["--gamma 2.0", "[0, 1)"]),
        ("train --gamma nan", ["--gamma nan", "finite"]),
        ("train --gamma -0.1", ["--gamma -0.1", "0 or more"]),
        ("train --tau 1.5", ["--tau 1.5", "from 0 to 1"]),
        ("train --dropout 1", ["--dropout 1.0", "from 0 to 0.99"]),
        ("train --agent ddpg --random 2", ["--random 2.0", "from 0 to 1"]),
        ("train --reflect 2", ["--reflect 2.0", "from 0 to 1"]),
        ("train --reflect -0.1", ["--reflect -0.1", "from 0 to 1"]),
        ("train --reflect nan", ["--reflect nan", "finite"]),
        ("train --agent wgcsl --compile", ["--compile", "updates of wgcsl", "leave it out"]),
        ("train --compile maybe", ["'maybe'", "--compile"]),
        ("train --end-at-goal 1", ["'1'", "--end-at-goal"]),
        ("train --frame x", ["--frame x", "choose from relative, absolute"]),
        ("train --explore x", ["--explore x", "choose from policy, relay"]),
        ("train --explore x --task fetch-push", ["--explore x", "choose from policy, relay"]),
        ("train --task fetch-push fetch-push", ["fetch-push fetch-push", "give each task once"]),
        ("train --agent td3 --subset 3", ["--subset 3", "--critics 2"]),
        ("train --hidden 0", ["--hidden 0", "from 1"]),
        ("train --hidden 16 -3", ["--hidden -3", "from 1"]),
        ("train --hidden", ["--hidden", "at least one"]),
        ("train --hidden a", ["--hidden", "'a'"]),
        ("train --hidden 999999 999999", ["memory", "--hidden"]),
        ("train --replay 49", ["--replay 49", "50 steps"]),
        ("train --replay 1000000000000", ["memory", "--replay"]),
        ("train --replay 10000000000000000000000", ["--replay", "from 1 to"]),
        ("train --seed -1", ["--seed -1", "from 0"]),
        ("train --seed 99999999999999999999999", ["--seed", "from 0 to"]),
        ("train --threads 99999999999", ["--threads", "from 1 to"]),
        ("train --device tpu", ["--device tpu", "auto, cpu, cuda"]),
        ("train --runs /proc/nowhere --steps 10", ["cannot write to /proc/nowhere", "--runs"]),
        ("train --runs /dev/null/below --steps 10", ["cannot write to /dev/null/below", "--runs"]),
        ("train --resume", ["--resume", "--help"]),
        ("train --resume nowhere", ["nowhere is not a run", "ls runs"]),
        ("train --resume .", ["is not a run", "ls runs"]),
        ("train --resume /dev/null", ["/dev/null is not a run"]),
        ("evaluate", ["PATH", "--help"]),
        ("evaluate nowhere", ["nowhere is not a run"]),
        ("evaluate nowhere --episodes 0", ["--episodes 0", "at least 1"]),
        ("evaluate nowhere --episodes x", ["--episodes", "'x'"]),
        ("evaluate nowhere --seed -1", ["--seed -1", "0 or more"]),
    ],
)
def test_what_cannot_be_meant(capfd, tmp_path, typed, words):
    refused_anew(capfd, tmp_path, typed.split(" "), *words)


def test_no_folder_can_be_made_below_a_file(capfd, tmp_path):
    Path("file").write_text("mine")
    refused(capfd, ["train", *TINY, "--runs", "file"], "cannot write to file", "--runs")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and Path("file").read_text() == "mine"


def test_a_folder_that_may_not_be_written_to(capfd, tmp_path, monkeypatch):
    """The tests may run as root, who may do everything."""

    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    refused_anew(capfd, tmp_path, ["train", *TINY], "cannot write to runs: Permission denied", "--runs")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_where_there_is_none(capfd, tmp_path, made):
    refused_anew(capfd, tmp_path, ["train", "--device", "cuda"], "no CUDA", "--device auto")
    refused_anew(capfd, tmp_path, ["evaluate", str(made), "--device", "cuda"], "no CUDA", "--device auto")


@pytest.mark.parametrize("version", ["3.12.0", "3.2.7", "4.0.0"])
def test_a_mujoco_that_does_not_fit(capfd, tmp_path, monkeypatch, version):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "mujoco" else real(name))
    refused_anew(capfd, tmp_path, ["train", "--steps", "10"], version, 'pip install "mujoco>=3.3,<3.12"')


def test_videos_need_their_extra(capfd, tmp_path, monkeypatch, made):
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    refused_anew(capfd, tmp_path, ["evaluate", str(made), "--video"], 'pip install "gcrl[video]"')


def test_where_nothing_can_be_drawn(capfd, monkeypatch, made):
    """POINT has nothing to draw; each simulator has an error of its own for that."""
    monkeypatch.setattr(video, "check", lambda folder: None)
    refused(capfd, ["evaluate", str(made), "--video"], "test-point cannot be drawn", "MUJOCO_GL")

    def lacking(*args):
        raise DependencyNotInstalled("pygame is not installed, run `pip install pygame`")

    monkeypatch.setattr(evaluate, "every", lacking)
    assert "MUJOCO_GL" not in refused(capfd, ["evaluate", str(made), "--video"], "pygame is not installed")


def test_a_video_that_cannot_be_written(capfd, monkeypatch, finished):
    """Where nothing can be made in the folder it is said before an episode is played; else when ffmpeg fails."""
    monkeypatch.setattr(video, "find_spec", lambda name: True)
    with monkeypatch.context() as patch:
        patch.setattr(video, "TemporaryFile", full)
        patch.setattr(evaluate, "every", None)
        refused(capfd, ["evaluate", str(finished), "--video"], f"cannot write to {finished}: No space left")
    written = SimpleNamespace(v3=SimpleNamespace(imwrite=full))
    monkeypatch.setitem(sys.modules, "imageio", written)
    monkeypatch.setitem(sys.modules, "imageio.v3", written.v3)
    with pytest.raises(InputError, match=r"cannot write .*video\.mp4: No space left"):
        video.write([], finished / "video.mp4")


def test_an_interrupt_before_anything_begins_is_a_line_too(capfd, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "Training", interrupt)
    refused(capfd, ["train", *TINY], "interrupted", code=130)


# Runs to go on with, and to evaluate


def spoil(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "spoilt, words",
    [
        (b"", ["cannot be read", "restore it from a copy"]),
        (b'{"task": "fetch', ["cannot be read", "restore it from a copy"]),
        (b"\xff\xfe\x00", ["cannot be read", "restore it from a copy"]),
        (b"[" * 10_000, ["cannot be read", "restore it from a copy"]),
        (b"[1, 2]", ["not a JSON object", "restore it from a copy"]),
        (b"{}", ["does not fit this version", "train anew"]),
    ],
)
def test_a_broken_config(capfd, finished, spoilt, words):
    (finished / "config.json").write_bytes(spoilt)
    for args in (["train", "--resume", str(finished)], ["evaluate", str(finished)]):
        refused(capfd, args, str(finished / "config.json"), *words)


@pytest.mark.parametrize(
    "change",
    [
        {"no_such_setting": 1},
        {"agent": "no-such-agent"},
        {"agent": "dqn"},
        {"agent": None},
        {"algorithm": None},
        {"algorithm": {"no_such_number": 1}},
        {"algorithm": {"hidden": ["a"]}},
        {"algorithm": {"hidden": 8}},
        {"algorithm": {"lr": "fast"}},
        {"algorithm": {"layer_norm": 1}},
        {"task": 5},
        {"task": [5]},
        {"task": []},
        {"steps": "many"},
        {"steps": 1.5},
        {"seed": True},
        {"runs": 3},
        {"save_seconds": [1]},
    ],
)
def test_the_config_of_another_version(capfd, finished, change):
    spoil(finished, **change)
    for args in (["train", "--resume", str(finished), "--steps", "90"], ["evaluate", str(finished)]):
        refused(capfd, args)


def test_numbers_of_a_config_are_checked_as_typed_ones(capfd, finished):
    for change, word in (({"lanes": 0}, "--lanes 0"), ({"gamma": 1.5}, "--gamma 1.5"), ({"utd": INF}, "--utd inf")):
        spoil(finished, **change)
        refused(capfd, ["train", "--resume", str(finished), "--steps", "90"], word)
        spoil(finished, lanes=1, gamma=None, utd=1)


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--task", "fetch-reach"], "task = ('test-point',), not ('fetch-reach',)"),
        (["--seed", "1"], "seed = 0, not 1"),
        (["--agent", "sac"], "agent = td3, not sac"),
        (["--batch", "9"], "batch = 8, not 9"),
        (["--hidden", "9"], "hidden = (8, 8), not (9,)"),
        (["--gamma", "0.5"], ", not 0.5"),
    ],
)
def test_a_run_goes_on_as_what_it_is(capfd, finished, flags, word):
    config = (finished / "config.json").read_bytes()
    said = refused(capfd, ["train", "--resume", str(finished), "--steps", "90", *flags], "drop the flag", "new run")
    assert word in said and (finished / "config.json").read_bytes() == config


def test_a_run_that_has_begun_begins_with_no_other_agent(capfd, finished):
    refused(capfd, ["train", "--resume", str(finished), "--steps", "90", "--init", "elsewhere"], "drop --init")
    assert "elsewhere" not in (finished / "config.json").read_text()


def test_a_finished_run_stays_as_it_is(capfd, finished):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    refused(capfd, ["train", "--resume", str(finished)], "complete at 60 steps", "--steps")
    refused(capfd, ["train", "--resume", str(finished), "--steps", "50"], "complete at 60 steps", "--steps")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change, words",
    [
        ({"task": [PLAIN.name]}, ["of task ['test-point']", "says ['test-plain']", "train anew"]),
        ({"agent": "ddpg"}, ["does not fit this version"]),
        ({"algorithm": {"hidden": [8, 9]}}, ["does not fit its config.json", "train anew"]),
    ],
)
def test_a_checkpoint_and_a_config_of_two_runs(capfd, finished, change, words):
    spoil(finished, **change)
    for args in (["train", "--resume", str(finished), "--steps", "90"], ["evaluate", str(finished)]):
        refused(capfd, args, str(finished), *words)


def test_a_run_without_a_checkpoint_has_nothing_to_evaluate(capfd, finished):
    shutil.rmtree(finished / "checkpoints")
    refused(capfd, ["evaluate", str(finished)], "no checkpoint yet", f"gcrl train --resume {finished}")


def test_a_damaged_policy_is_named_and_the_one_before_evaluated(capfd, finished):
    newest = max((finished / "checkpoints").iterdir())
    (newest / "agent.safetensors").write_bytes(b"")
    assert guarded(console.run, ["evaluate", str(finished), "--episodes", "2", "--json"]) == 0
    said = capfd.readouterr()
    assert said.err.count("\n") == 1 and f"{newest} is damaged: agent.safetensors" in said.err
    assert json.loads(said.out.splitlines()[-1])["step"] == 40
    for path in finished.glob("checkpoints/*/agent.safetensors"):
        path.unlink(missing_ok=True)
    refused(capfd, ["evaluate", str(finished)], "agent.safetensors", "train anew")


# Simulators


class Raises(type(script().make.func())):
    """Fails with an error of its own at step `at`."""

    def __init__(self, at: int, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.at = at

    def seen(self):
        if self.t == self.at:
            raise AssertionError("two\nlines")
        return super().seen()


def faulty(kind: str, at: int, goals: bool) -> tasks.Task:
    """A task whose simulator breaks at step `at` of each episode."""
    values = {
        "NaN observation": ("observation", np.array([0, 1, NAN, 0])),
        "infinite observation": ("observation", np.array([0, -INF, 1, 0])),
        "huge observation": ("observation", np.array([0, 1e300, 1, 0])),
        "shape of observation": ("observation", np.zeros(5)),
        "shape of goal": ("desired_goal", np.zeros((1, 2))),
        "NaN goal": ("desired_goal", np.array([0, NAN])),
        "words": ("observation", np.array(["a", "b", "c", "d"])),
        "NaN reward": ("reward", NAN),
        "huge reward": ("reward", -1e39),
        "no reward": ("reward", None),
    }
    if kind == "error":
        return dataclasses.replace(script(), make=partial(Raises, at))
    name, value = values[kind]
    return script(goals=goals, fault=(name, at, value))


FAULTS = [
    ("NaN observation", "number 2 is not finite"),
    ("infinite observation", "number 1 is not finite"),
    ("huge observation", "number 1 is not finite"),
    ("shape of observation", "observation of shape (5,), not (4,)"),
    ("shape of goal", "goal of shape (1, 2), not (2,)"),
    ("NaN goal", "a goal whose number 1 is not finite"),
    ("words", "cannot be read"),
    ("error", "AssertionError: two lines"),
]
LATER = [("NaN reward", "reward nan"), ("huge reward", "reward -1e+39"), ("no reward", "no number")]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("kind, words", FAULTS)
def test_a_simulator_that_is_broken_from_the_start(capfd, tmp_path, monkeypatch, kind, words):
    monkeypatch.setitem(tasks.TASKS, "test-script", faulty(kind, 0, True))
    args = ["train", *TINY, "--task", "test-script"]
    refused_anew(capfd, tmp_path, args, "simulator of test-script", words, "step 0", "seed")


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("kind, words", FAULTS + LATER)
@pytest.mark.parametrize("goals", [True, False])
def test_a_simulator_that_breaks_in_a_run(capfd, tmp_path, monkeypatch, kind, words, goals):
    """The run ends with its last checkpoint, and goes on from there once the simulator is mended."""
    if not goals and ("goal" in kind or kind == "error"):
        return
    args = ["train", *TINY, "--task", "test-script", "--log-every", "2", "--eval-episodes", "0"]
    monkeypatch.setitem(tasks.TASKS, "test-script", faulty(kind, 5, goals))
    refused(capfd, args, "simulator of test-script", words, "step 5", "mended", code=1)
    (folder,) = Path("runs").iterdir()
    assert f"gcrl train --resume {folder}" in refused(capfd, ["train", "--resume", str(folder)], code=1)
    assert checkpoint.load(folder).step == 4
    if kind == "NaN observation":
        monkeypatch.setitem(tasks.TASKS, "test-script", script(goals=goals))
        assert train.main(["--resume", str(folder)]) == 0
        assert train.main([*args[1:], "--runs", "whole"]) == 0
        assert differences(next(Path("whole").iterdir()), folder) == []


def test_a_simulator_that_breaks_in_an_evaluation(capfd, monkeypatch, made):
    broken = faulty("NaN observation", 5, True)
    monkeypatch.setitem(tasks.TASKS, POINT.name, script(POINT.name, fault=broken.make.keywords["fault"], horizon=20))
    monkeypatch.setattr(evaluate.policy, "restore", lambda *args: None)
    refused(capfd, ["evaluate", str(made)], "not finite", "step 5", code=1)


def test_a_policy_that_has_diverged(capfd):
    """Its actions are NaN: the simulator would be driven mad, and the checkpoints with it."""
    refused(capfd, ["train", *TINY, "--lr", "1e30"], "diverged", "--lr", code=1)


def test_an_agent_that_has_diverged_is_not_saved(capfd, finished):
    """From data alone nobody asks for its actions."""
    flags = ["--data", str(finished), "--offline", "--eval-episodes", "0", "--lr", "1e30", "--runs", "offline"]
    refused(capfd, ["train", *TINY, *flags], "diverged", "--lr", code=1)
    (folder,) = Path("offline").iterdir()
    assert checkpoint.load(folder) is None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_update_that_finds_no_memory(capfd, monkeypatch, tmp_path, error):
    def fail(self):
        raise error

    monkeypatch.setattr(Training, "step", fail)
    refused_anew(capfd, tmp_path, ["train", *TINY, "--runs", "."], "too large for the memory", "--batch")


def test_a_resumed_run_that_finds_no_memory_stays(capfd, monkeypatch, finished):
    monkeypatch.setattr(Training, "step", full_memory)
    refused(capfd, ["train", "--resume", str(finished), "--steps", "90"], "too large for the memory")
    assert checkpoint.load(finished).step == 60


# The disk


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_memory(*args):
    raise MemoryError


def test_a_disk_that_fills_up(capfd, monkeypatch):
    """In the middle of the third checkpoint. Once there is room, the run goes on as if nothing had been."""
    assert train.main([*TINY, "--runs", "whole"]) == 0
    real = checkpoint._write

    def write(path: Path, data: bytes) -> str:
        if "000000000060" in str(path) and "replay" in path.name:
            path.write_bytes(data[:20])
            full()
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", write)
        refused(capfd, ["train", *TINY], "No space left on device", "gcrl train --resume runs/", code=1)
        (folder,) = Path("runs").iterdir()
        assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["000000000020", "000000000040"]
        refused(capfd, ["train", "--resume", str(folder)], "No space left", f"--resume {folder}", code=1)
    assert checkpoint.load(folder).step == 40
    assert train.main(["--resume", str(folder)]) == 0
    assert differences(next(Path("whole").iterdir()), folder) == []


@pytest.mark.parametrize("owner, name", [(run.Table, "append"), (Progress, "_events"), (Progress, "__init__")])
def test_rows_and_events_that_cannot_be_written(capfd, monkeypatch, owner, name):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        refused(capfd, ["train", *TINY], "No space left on device", "gcrl train --resume runs/", code=1)
    (folder,) = Path("runs").iterdir()
    assert train.main(["--resume", str(folder)]) == 0


def test_a_file_that_may_not_grow(tmp_path):
    """The operating system itself refuses to write, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open("stderr", os.O_CREAT | os.O_WRONLY), 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the end
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            os._exit(guarded(console.run, ["train", *TINY, "--steps", "1000", "--eval-episodes", "0"]))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    said = Path("stderr").read_text()
    (folder,) = Path("runs").iterdir()
    assert said.count("\n") == 1 and "File too large" in said and f"--resume {folder}" in said
    assert checkpoint.load(folder).step >= 20 and not list((folder / "checkpoints").glob(".*"))


def test_a_resumed_run_that_cannot_be_written_to_is_not_spoilt(capfd, monkeypatch, finished):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    monkeypatch.setattr(run, "write_config", full)
    refused(capfd, ["train", "--resume", str(finished), "--steps", "90"], "No space left", code=1)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    """One line is for what a person can mend; the rest keeps its traceback."""
    monkeypatch.setattr(Training, "step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        guarded(console.run, ["train", *TINY])


# In an interpreter of its own


def python(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=home, env=environment)


@pytest.mark.parametrize("name", ["tasks.py", "relabel.py", "tasks/__init__.py"])
def test_a_file_of_the_users_that_shadows_a_package(tmp_path, name):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("raise SystemExit('mine')")
    done = python(tmp_path, "-m", "gcrl.train", "--steps", "10")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert str(tmp_path / name) in done.stderr and "rename it" in done.stderr
    assert not Path("runs").exists()


def test_the_process_ends_with_the_line_and_the_code(tmp_path):
    done = python(tmp_path, "-m", "gcrl.train", "--task", "fetch-reech")
    assert done.returncode == 2 and done.stdout == "" and list(tmp_path.iterdir()) == []
    assert done.stderr.startswith("gcrl: unknown task") and done.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error():
    """As in `gcrl list | head -1`: not a word, and the code of a broken pipe."""
    with subprocess.Popen(
        [sys.executable, "-c", "from gcrl.__main__ import main; main()", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", ""),
        ("--compile", "--compile True"),
        ("--compile --seed 1", "--compile True --seed 1"),
        ("--compile False --seed 1", "--compile False --seed 1"),
        ("--no-compile --seed 1", "--compile False --seed 1"),
        ("--end_at_goal --no_compile", "--end_at_goal True --compile False"),
        ("--no-end-at-goal", "--end-at-goal False"),
        ("--compile None --offline --no-offline", "--compile None --offline --no-offline"),
    ],
)
def test_a_flag_that_may_be_left_open_needs_no_value(given, wanted):
    assert spelled_out(Settings, given.split()) == wanted.split()
