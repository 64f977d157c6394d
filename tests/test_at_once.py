"""Lanes side by side in threads: the same bits as one after the other, errors that surface, nothing left hanging."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch

from gcrl import collect
from gcrl.at_once import LANES, aside, at_once, cores
from gcrl.collect import Collector, Lane
from gcrl.evaluate import Evaluator
from gcrl.run import RunError
from gcrl.train import Training
from gcrl.training import _later
from tasks import TASKS
from tasks.layout import together
from tasks.task import SimulatorError
from tests.problems import Script, Scripted, plan_of, script

FIELDS = ("observation", "action", "desired", "reward")
ROBOTS = [TASKS[name] for name in ("fetch-reach", "fetch-push", "table-touch")]


class Open(Script):
    """A script whose step has the three parts that may run beside others; what `advance` meets is up to the test."""

    def step(self, action):
        self.begin(action)
        self.advance()
        return self.observe()

    def begin(self, action):
        self.action = action

    def advance(self):
        pass

    def observe(self):
        return super().step(self.action)


OPEN = dataclasses.replace(script(), make=Open)


def the_bytes(episode):
    return [getattr(episode, field).tobytes() for field in FIELDS]


def actions(steps, lanes, size=2):
    return np.random.default_rng(0).uniform(-1, 1, (steps, lanes, size)).astype(np.float32)


def played(lanes, threads, steps):
    collector = Collector(together(ROBOTS), lanes, 3, threads=threads)
    assert all(lane.unlocked for lane in collector.lanes)
    found = [(t, k, e) for t, a in enumerate(actions(steps, lanes, 4)) for k, e in collector.step(a)]
    snapshot = {name: x.tobytes() for name, x in collector.snapshot().items()}
    for lane in collector._stages.values():
        lane.env.close()
    return [(t, k, the_bytes(e)) for t, k, e in found], snapshot, found


def test_robots_play_the_same_episodes_with_any_number_of_threads_and_alone():
    one, snapshot, episodes = played(3, 1, 120)
    assert [t for t, *_ in one] == [49] * 3 + [99] * 3
    for threads in (2, 3, 7, None):
        assert played(3, threads, 120)[:2] == (one, snapshot)
    lane = Lane(together(ROBOTS)[1])
    lane.reset(collect.episode_seed(3, 1, 0))
    for action in actions(50, 3, 4)[:, 1]:
        over = lane.step(action)
    assert over and the_bytes(lane.episode()) == one[1][2] and episodes[1][1] == 1
    lane.env.close()


def test_an_evaluation_is_the_same_with_any_number_of_threads():
    """Of episodes that end apart as well."""
    agent = Scripted(lambda obs, goal, steps: torch.cat([10 * (goal - obs[:, :3]), obs[:, :1]], 1).clamp(-1, 1))
    rolls = Scripted(lambda obs, goal, steps: obs[:, :2])
    found = []
    for threads in (1, 2):
        with mock.patch.object(collect, "cores", return_value=threads):
            robots, scripts = Evaluator(TASKS["fetch-reach"], 3), Evaluator(OPEN, 3)
            for lane, end in zip(scripts.lanes, (2, 7, 4), strict=True):
                lane.env.ends = end
            found.append((robots.play(agent, 5), scripts.play(rolls, 3)))
            robots.close()
    assert found[0] == found[1]
    assert [outcome.length for outcome in found[0][1]] == [2, 7, 4]


def test_lanes_that_can_run_side_by_side_do_and_others_do_not():
    """Two that each wait for the other come through; a simulator that is not known to be safe stays in this thread."""
    meet, threads = threading.Barrier(2), set()
    lanes = [Lane(OPEN) for _ in range(2)]
    for lane in lanes:
        lane.reset(0)
        lane.env.advance = partial(meet.wait, 60)
    assert collect.step(lanes, actions(1, 2)[0], 2) == [False, False]

    class Closed(Script):
        def step(self, action):
            threads.add(threading.current_thread())
            return super().step(action)

    closed = dataclasses.replace(script(), make=Closed)
    for task, n in ((closed, 4), (OPEN, 1)):
        collector = Collector([task, closed], 2, 0, threads=n)
        for a in actions(10, 2):
            collector.step(a)
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_error_of_the_first_lane_that_fails_surfaces(threads):
    """And the next call finds the threads at work again."""
    lanes = [Lane(OPEN) for _ in range(4)]
    for i, lane in enumerate(lanes):
        lane.reset(i)

    def crash(i):
        time.sleep(0.02 * (4 - i))  # the later lane fails first
        raise ValueError(f"lane {i}")

    for i in (1, 2):
        lanes[i].env.advance = partial(crash, i)
    with pytest.raises(SimulatorError, match=r"ValueError: lane 1.*seed 1"):
        collect.step(lanes, actions(1, 4)[0], threads)
    for i in (1, 2):
        del lanes[i].env.advance
    assert collect.step(lanes, actions(1, 4)[0], threads) == [False] * 4
    with pytest.raises(RunError, match="diverged"):
        collect.step(lanes, np.full((4, 2), np.nan, np.float32), threads)
    with pytest.raises(ValueError, match="zip"):
        collect.step(lanes, actions(1, 3)[0], threads)


def test_every_call_is_made_once_and_answered_in_its_place():
    made = []

    def call(i):
        made.append(i)
        return i * i

    for n, threads in itertools.product((0, 1, 2, 9, 300), (1, 2, 5)):
        made.clear()
        assert at_once([partial(call, i) for i in range(n)], threads) == [i * i for i in range(n)]
        assert sorted(made) == list(range(n))
    assert 1 <= cores() <= 4096


def test_calls_from_several_threads_do_not_mix():
    """A collector in one thread, an evaluation in another."""
    found = {}

    def use(name):
        found[name] = [at_once([partial(lambda *x: x, name, i) for i in range(5)], 3) for _ in range(200)]

    users = [threading.Thread(target=use, args=(name,)) for name in "ab"]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    assert found == {name: [[(name, i) for i in range(5)]] * 200 for name in "ab"}


def test_aside_goes_on_beside_its_caller_and_answers_once_asked():
    begun, go = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go.wait(10)
        return threading.current_thread()

    answer = aside(work)
    assert begun.wait(10)  # while the caller does something else
    go.set()
    assert answer() is not threading.current_thread()


def ends(call, seconds=60):
    """What a call returns, or fail: in a thread, as a call that hangs would hang the tests."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs, or has failed"
    return found[0]


def test_what_runs_aside_can_have_calls_made_at_once():
    """Two that wait for each other, so both are under way at once; then with all of the crew at other work."""
    meet = threading.Barrier(2)
    for _ in range(3):
        assert sorted(ends(aside(lambda: at_once([partial(meet.wait, 30)] * 2, 2)))) == [0, 1]
    go = threading.Event()
    for _ in range(LANES.size):
        LANES.work.put(partial(go.wait, 120))
    assert ends(aside(lambda: at_once([lambda: 1, lambda: 2], 2))) == [1, 2]
    go.set()


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("found", [1, 2, 3, 16])
def test_a_run_goes_on_with_any_number_of_cores(lanes, found):
    with mock.patch("gcrl.training.cores", return_value=found):
        plan = plan_of([TASKS["fetch-reach"]], "ddpg", {"batch": 8, "hidden": (8,)}, warmup=20, lanes=lanes)
        run = Training(plan)
    assert run.collector.threads == max(1, found - 1)

    def go_on():
        while run.steps < 80 * lanes:  # an episode is 50 in each lane
            run.step()
        return run.updates

    assert ends(go_on) > 10


def test_aside_raises_where_it_is_asked():
    def work():
        raise SimulatorError("broken")

    answer = aside(work)
    with pytest.raises(SimulatorError, match="broken"):
        answer()


@pytest.mark.parametrize("told", [{}, {"lanes": 3, "utd": 0.5}, {"explore": "relay", "share": "uniform"}], ids=str)
def test_a_run_is_the_same_whether_lanes_step_beside_the_updates_or_after_them(told):
    """To the bit: weights, replay and what the lanes have under way."""
    chosen = [TASKS[name] for name in ("table-touch", "table-reach")]
    states = []
    for begun in (aside, _later):
        training = Training(plan_of(chosen, "sac", {"batch": 8, "hidden": (8,)}, warmup=20, **told))
        training.begun = begun
        while training.steps < 180:
            training.step()
        arrays = {f"lane.{name}": x for name, x in training.collector.snapshot().items()}
        arrays |= {f"{group}.{name}": x for group, xs in training.replay.state().items() for name, x in xs.items()}
        arrays |= {f"agent.{name}": x.numpy() for name, x in training.agent.state_dict().items()}
        states.append(arrays)
    one, other = states
    assert one.keys() == other.keys() and training.updates > 10
    for name, x in one.items():
        assert x.tobytes() == other[name].tobytes(), name


def run(code, stop=None):
    """(exit code, last words, seconds) of a process; it is sent the signal when it first says something."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    start = time.monotonic()
    if stop is not None:
        process.send_signal(stop)
    rest, error = process.communicate(timeout=60)
    return process.returncode, said + rest + error, time.monotonic() - start


USE = """if True:
    import os, time
    from gcrl.at_once import at_once
    calls = [lambda: time.sleep(0.01)] * 4
    at_once(calls, 3)
    print("begun", flush=True)
"""


def test_nothing_is_left_hanging():
    assert run(USE)[0] == 0
    code, words, seconds = run(f"{USE}    while True: at_once(calls, 3)", signal.SIGINT)
    assert code != 0 and "KeyboardInterrupt" in words and seconds < 20


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own():
    child = """    pid = os.fork()
    if pid == 0:
        at_once(calls, 3)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    at_once(calls, 3)
"""
    code, words, _ = run(USE + child)
    assert code == 0 and words.split()[:2] == ["begun", "7"], words
