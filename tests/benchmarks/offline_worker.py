"""One side of offline_update.py, a process of its own: for each n on stdin the seconds of n updates, until 0.

It imports no more than its side needs, so that d3rlpy's runs in a virtual environment that has none of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.turns import serve

ROOT = Path(__file__).parents[2]
OBS, ACTION, BATCH, HIDDEN, PROPOSALS, GAMMA = 17, 6, 256, (256, 256), 10, 0.99
Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def rows() -> Rows:
    """obs (B, O), action (B, A), reward (B,), next_obs (B, O), done (B,): the same numbers for each side."""
    g = torch.Generator().manual_seed(0)
    obs, next_obs = torch.randn(2, BATCH, OBS, generator=g)
    action = torch.rand(BATCH, ACTION, generator=g) * 2 - 1
    return obs, action, torch.randn(BATCH, generator=g), next_obs, (torch.rand(BATCH, generator=g) < 0.01).float()


def ours(name: str, **wanted: Any) -> tuple[Any, Any]:
    """The agent and its batch."""
    from gcrl.agents import AGENTS
    from gcrl.encoder import Spec
    from relabel.batch import Batch

    kind = AGENTS[name]
    settings = kind.Settings(batch=BATCH, hidden=HIDDEN, **wanted)
    agent = kind(Spec(OBS, ACTION, 0, ((-1000.0, 1000.0),)), settings)
    obs, action, reward, next_obs, done = rows()
    nothing, task = torch.zeros(BATCH, 0), torch.zeros(BATCH, dtype=torch.int64)
    return agent, Batch(obs, action, reward, GAMMA * (1 - done), next_obs, nothing, task)


def d3rlpy(name: str) -> Callable[[], Any]:
    """Its update of one batch, made into tensors beforehand."""
    import d3rlpy
    from d3rlpy.torch_utility import TorchMiniBatch

    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(HIDDEN), activation="relu")
    shared = {"batch_size": BATCH, "gamma": GAMMA, "actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    if name == "cql":  # alpha_learning_rate 0: the weight is fixed, as by default ours is
        fixed = {"alpha_learning_rate": 0.0, "conservative_weight": 5.0, "n_action_samples": PROPOSALS}
        algo = d3rlpy.algos.CQLConfig(**shared, **fixed).create(device="cpu:0")
    else:
        algo = d3rlpy.algos.IQLConfig(**shared, value_encoder_factory=encoder).create(device="cpu:0")
    algo.create_impl((OBS,), ACTION)
    obs, action, reward, next_obs, done = rows()
    column, zero = reward[:, None], torch.zeros(BATCH, 1)
    batch = TorchMiniBatch(
        observations=obs,
        actions=action,
        rewards=column,
        next_observations=next_obs,
        next_actions=action,
        returns_to_go=zero,
        terminals=done[:, None],
        intervals=zero + 1,
        device="cpu:0",
    )
    return lambda: algo.impl.update(batch, 0)


def side(who: str, name: str) -> Callable[[], Any]:
    """One update of `name`, cql or iql."""
    if who == "d3rlpy":
        return d3rlpy(name)
    if who == "plain":
        from tests.benchmarks import plain_offline

        plain = getattr(plain_offline, f"Plain{name.upper()}")(OBS, ACTION)
        batch = rows()
        return lambda: plain.update(batch)
    from gcrl import machine

    machine.prepare(1, "bfloat16" if "bfloat16" in who else "float32")  # as its own training runs
    agent, data = ours(name, **({"through": 0} if who == "ours, all" else {}))
    if "compiled" in who:
        agent.compile_update()
    return lambda: agent.update(data)


def main(who: str, name: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    serve(lambda: side(who, name))


if __name__ == "__main__":
    main(*sys.argv[1:])
