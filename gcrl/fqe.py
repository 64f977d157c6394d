"""gcrl fqe: what a policy is worth, from data alone, by fitted Q evaluation (Le et al. 2019, arXiv 1903.08738).

As recommended by Paine et al. 2020 (arXiv 2007.09055): a critic like those that learn, fitted to the policy as it is.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from gcrl import machine, policy
from gcrl.agents.agent import Agent, follow
from gcrl.cli import guarded, parse
from gcrl.evaluate import interval
from gcrl.limits import check_numbers
from gcrl.nets import Critics
from gcrl.optim import adam, step
from gcrl.run import RunError
from relabel.batch import Batch, State
from relabel.replay import Replay
from tasks import InputError

STARTS = 2000
"""Initial states of a task that are asked for at most, evenly among all."""


@dataclass(frozen=True)
class FQESettings:
    """Numbers of the fit."""

    batch: int = 256
    """transitions in one update"""
    lr: float = 3e-4
    """learning rate"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""
    critics: int = 2
    """critics, each with a target of its own; the value is their mean"""
    layer_norm: bool = True
    """normalise their hidden layers"""
    tau: float = 0.005
    """how fast the targets follow"""
    clip_target: bool = True
    """keep the targets within what the task's rewards allow"""


class FQE(nn.Module):
    """Q of an agent's policy as it is, without exploration, and without memory of earlier steps."""

    bounds: Tensor

    def __init__(self, agent: Agent, settings: FQESettings) -> None:
        super().__init__()
        s, self.settings, self.act, self.encode = settings, settings, agent.act, agent.encode
        dim = agent.encode.dim + agent.spec.action_dim
        self.critic = Critics(s.critics, dim, s.hidden, s.layer_norm)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("bounds", torch.tensor(agent.spec.bounds))
        self.to(next(agent.parameters()).device)
        self.optimizer = adam(self.critic, s.lr)

    def loss(self, b: Batch) -> Tensor:
        """E[(clip(r + gamma Q'(s', pi(s'))) - Q(s, a))^2], summed over the critics"""
        with torch.no_grad():
            x, x_ = self.encode(b.state), self.encode(b.next_state)
            y = b.reward + b.discount * self.target(x_, self.act(b.next_state)[0])
            if self.settings.clip_target:
                low, high = self.bounds[b.task].T
                y = y.clamp(low, high)
        return ((self.critic(x, b.action) - y) ** 2).mean(1).sum()

    def update(self, b: Batch) -> Tensor:
        """One step; the loss."""
        loss = self.loss(b)
        step(self.optimizer, loss)
        follow(list(self.target.parameters()), list(self.critic.parameters()), self.settings.tau)
        return loss.detach()

    @torch.no_grad()
    def value(self, state: State) -> Tensor:
        """Q(s, pi(s)): (B,)"""
        return self.critic(self.encode(state), self.act(state)[0]).mean(0)


class Estimate(NamedTuple):
    """Of a policy on one task."""

    value: float
    """mean over initial states of the discounted return"""
    low: float
    high: float
    """its 95 % bootstrap interval over the initial states; what the critic has wrong is not in it"""
    starts: int
    """initial states"""
    behaviour: float
    """mean discounted return of the episodes themselves, as far as they were recorded"""


def evaluate(
    agent: Agent, replay: Replay, updates: int, settings: FQESettings = FQESettings(), seed: int = 0
) -> dict[str, Estimate]:
    """What the agent's policy is worth in each task of the replay that has data, by name. Leaves the agent as it is.

    Transitions of one step are drawn as the replay relabels and shares them.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fqe = FQE(agent, settings)
        for _ in range(updates):
            fqe.update(replay.sample(rng, settings.batch, n=1))
    found = {}
    for k, task in enumerate(replay.tasks):
        if len(replay.stores[k]):
            state, behaviour = starts(replay, k)
            value = fqe.value(state).double().cpu().numpy()
            found[task.name] = Estimate(float(value.mean()), *interval(value), len(value), behaviour)
    return found


def starts(replay: Replay, k: int) -> tuple[State, float]:
    """Where the episodes of task k begin, under their own goals, and the mean discounted return that they have had."""
    store = replay.stores[k]
    index = np.arange(len(store))
    slots, past = store.slot(index), store.rows(index).past
    first = np.flatnonzero(past == 0)
    score = store.reward[slots] * replay.scale[k] * replay.gamma**past
    behaviour = float(np.add.reduceat(score, first).mean())
    chosen = slots[first[np.linspace(0, len(first) - 1, min(len(first), STARTS)).astype(np.int64)]]
    columns = store.observation[chosen], store.desired[chosen], np.full(len(chosen), k)
    return State(*(torch.from_numpy(x).to(replay.device) for x in columns)), behaviour


@dataclass(frozen=True)
class Settings:
    """Say what a trained policy is worth without playing it: the discounted return from the initial states of data."""

    run: Annotated[Path, tyro.conf.Positional]
    """its folder, runs/<id>"""
    data: tuple[str, ...]
    """data sets, as for gcrl train; TASK=PATH says of which task"""
    updates: int = 10_000
    """steps of the fit"""
    fit: FQESettings = FQESettings()
    """numbers of the fit"""
    seed: int = 0
    """of all that is drawn"""
    json: bool = False
    """end with one JSON object on a line of its own"""
    device: str = "auto"
    """auto, cpu or cuda"""


def report(s: Settings) -> dict[str, dict[str, Any]]:
    """The estimates by task. Raises InputError for a run, a flag or data that cannot be used."""
    from gcrl import offline, training

    check_numbers(s)
    check_numbers(s.fit)
    if not s.data:
        raise InputError("--data: give at least one data set")
    agent, plan, _ = policy.load(s.run, s.device)
    asked: dict[str, Any] = {"data": s.data, "best": 1.0, "share": "own"}
    asked |= {"offline": False}  # so that data of some of the tasks will do
    asked |= {"balance": 0.0, "reflect": 0.0, "moved": 0.0}
    settings = dataclasses.replace(plan.settings, **asked)
    plan = dataclasses.replace(plan, settings=settings, n_step=1, end_at_goal=False)  # worth what the task pays
    found = offline.load(plan)
    replay = training.replay(plan, offline.slots(found))
    for k, mine in enumerate(found):
        for episode in mine:
            replay.add(k, episode)
    with machine.enough_memory():
        said = {name: e._asdict() for name, e in evaluate(agent, replay, s.updates, s.fit, s.seed).items()}
    if not all(math.isfinite(e["value"]) for e in said.values()):
        raise RunError("the values have diverged, they are not finite: give a lower --lr, or a policy that has not")
    return said


def main(args: Sequence[str]) -> int:
    s = parse(Settings, args, prog="gcrl fqe")
    said = report(s)
    width = max(map(len, said))
    print(f"{'task':{width}}  {'value':>9}  {'95 % interval':>20}  starts  in the data")
    for name, e in said.items():
        between = f"[{e['low']:.3f}, {e['high']:.3f}]"
        print(f"{name:{width}}  {e['value']:9.3f}  {between:>20}  {e['starts']:6}  {e['behaviour']:11.3f}")
    if s.json:
        print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
