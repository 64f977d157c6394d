"""Stable-Baselines3's SAC and DDPG on FetchReach with its own HerReplayBuffer and with our replay in its place.

    python -m tests.benchmarks.sb3_replay [--seeds 3] [--steps 8000] [--lines "sac" "ddpg"]

Everything else is the same: gcrl.sb3.environment, VecNormalize around the observations, rl-baselines3-zoo's numbers,
four relabelled rows of five.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import tyro
from stable_baselines3 import DDPG, SAC
from stable_baselines3.common.noise import NormalActionNoise

from gcrl.sb3 import HindsightReplayBuffer, environment
from tests.benchmarks.peers import SAC_REACH, SEEN, sb3
from tests.benchmarks.solve import Settings, report

START = Settings(seeds=3, steps=8000, every=500)
NOISE = {"action_noise": NormalActionNoise(np.zeros(4), np.full(4, 0.2))}
THEIRS = {key: SAC_REACH[key] for key in ("replay_buffer_class", "replay_buffer_kwargs")}
OURS = {"replay_buffer_class": HindsightReplayBuffer, "replay_buffer_kwargs": {"task": START.task, "relabel": "future"}}
REST = {key: x for key, x in SAC_REACH.items() if key not in THEIRS}
DETERMINISTIC = {key: x for key, x in REST.items() if key != "ent_coef"} | NOISE

LINES = {
    f"{name}, {whose}": partial(sb3, kind, numbers | buffer, SEEN, environment)
    for name, kind, numbers in (("sac", SAC, REST), ("ddpg", DDPG, DETERMINISTIC))
    for whose, buffer in (("HerReplayBuffer", THEIRS), ("our replay", OURS))
}

BESIDE = {name: f"{name.split(',')[0]}, HerReplayBuffer" for name in LINES}

if __name__ == "__main__":
    report("sb3_replay", LINES, tyro.cli(Settings, description=__doc__, default=START), BESIDE)
