"""What Python code gives is taken in the types of config.json, or refused before a run begins."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gcrl import evaluate, policy, train
from gcrl.settings import Plan, default, to_json
from tasks import InputError
from tests import test_nothing_lost
from tests.problems import POINT

made, surroundings = test_nothing_lost.made, test_nothing_lost.surroundings


def test_python_may_give_its_own_types(made, tmp_path):
    s = default("td3")
    given = dataclasses.replace(s, task=POINT.name, steps=np.int64(60), runs="r", data=[Path("a"), "b"], init=Path("c"))
    found = Plan.of(given).settings
    assert (found.data, found.runs, found.init) == (("a", "b"), Path("r"), "c") and type(found.steps) is int
    assert Plan.of(dataclasses.replace(given, data="d1")).settings.data == ("d1",)
    several = {"hidden": np.array([8, 8]), "lr": np.float32(0.5)}
    algorithm = dataclasses.replace(s.algorithm, **several)
    found = Plan.of(dataclasses.replace(given, reward_scale=[np.float64(2)], algorithm=algorithm)).settings
    assert found.algorithm.hidden == (8, 8) and found.reward_scale == (2.0,) and found.algorithm.lr == 0.5
    json.dumps(to_json(found))
    agent, *_ = policy.load(str(made))
    assert agent.updates > 0
    assert evaluate.report(evaluate.Settings(run=str(made), episodes=1))["task"] == POINT.name
    copy = shutil.copytree(made, tmp_path / "copy")
    again = dataclasses.replace(policy.load(copy)[1].settings, steps=70)
    assert train.train(again, str(copy)) == copy


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 60.0}, "--steps 60.0: must be int"),
        ({"offline": 0}, "--offline 0: must be bool"),
        ({"end_at_goal": 1}, "--end-at-goal 1"),
        ({"task": (POINT,)}, "--task"),
        ({"agent": "sac"}, r"default\('sac'\)"),
        ({"data": None}, r"--data \(None,\): must be tuple\[str, \.\.\.\]"),
        ({"runs": None}, "--runs None"),
        ({"steps": 2**63}, r"--steps: must be a whole number below 2\^63"),
        ({"utd": 10**400}, "--utd"),
        ({"algorithm": dataclasses.replace(default("td3").algorithm, hidden=(8.5,))}, "--hidden"),
    ],
)
def test_what_a_resume_would_refuse_is_refused_at_once(wrong, words):
    with pytest.raises(InputError, match=words):
        Plan.of(dataclasses.replace(default("td3"), **{"task": (POINT.name,), **wrong}))
