"""Stable-Baselines3's SAC and DDPG on FetchReach with its own HerReplayBuffer and with our replay in its place.

    python -m tests.benchmarks.sb3_replay [--seeds 3] [--steps 8000] [--lines "sac" "ddpg"]

Everything else is the same: gcrl.sb3.environment, VecNormalize around the observations, rl-baselines3-zoo's numbers,
four relabelled rows of five.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from stable_baselines3 import DDPG, SAC
from stable_baselines3.common.noise import NormalActionNoise

from gcrl.sb3 import HindsightReplayBuffer, environment
from tests.benchmarks.reach import SEEN, TASK, ZOO, Line, flags, report, sb3

NOISE = {"action_noise": NormalActionNoise(np.zeros(4), np.full(4, 0.2))}
THEIRS = {key: ZOO[key] for key in ("replay_buffer_class", "replay_buffer_kwargs")}
OURS = {"replay_buffer_class": HindsightReplayBuffer, "replay_buffer_kwargs": {"task": TASK, "relabel": "future"}}
REST = {key: x for key, x in ZOO.items() if key not in THEIRS}
DETERMINISTIC = {key: x for key, x in REST.items() if key != "ent_coef"} | NOISE

LINES = [
    Line(
        name=f"{name}, {whose}",
        steps=8000,
        every=500,
        train=partial(sb3, kind, numbers | buffer, SEEN, partial(environment, TASK)),
        beside=f"{name}, HerReplayBuffer",
    )
    for name, kind, numbers in (("sac", SAC, REST), ("ddpg", DDPG, DETERMINISTIC))
    for whose, buffer in (("HerReplayBuffer", THEIRS), ("our replay", OURS))
]

if __name__ == "__main__":
    report("sb3_replay", flags(__doc__, 8000, 3, [line.name for line in LINES]), LINES)
