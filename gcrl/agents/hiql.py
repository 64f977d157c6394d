"""HIQL: one value, two policies, of which one proposes subgoals to the other (Park et al. 2023, arXiv 2307.11949)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, follow
from gcrl.agents.reaching import Ahead, Reaching, ValueSettings, unit_density, weight
from gcrl.bodies import Conditioned
from gcrl.encoder import Spec
from gcrl.nets import NOWHERE, Actor, Alone, Values, network
from gcrl.optim import adam
from relabel.batch import Batch, State
from relabel.prefetch import Source
from relabel.subgoal import Onward


@dataclass(frozen=True)
class HIQLSettings(ValueSettings):
    expectile: float = 0.7
    """which expectile of what follows is the value of a state: 0.5 the mean, 1 the best"""
    alpha: float = 3.0
    """how much an advantage weighs in imitation, of either policy"""
    ahead: int = 25
    """steps to the subgoal (OGBench: 25, in manipulation 10)"""
    rep: int = 10
    """numbers that a subgoal is represented by"""


class Seen(nn.Module):
    """V_i(s, phi(s, g)) of two heads; phi has the length sqrt(rep).

    x (B, X) is an encoded state and goal; `goal` says in which of its columns the goal lies.
    """

    def __init__(self, dim: int, goal: slice, rep: int, hidden: Sequence[int], layer_norm: bool) -> None:
        super().__init__()
        self.goal, self.rep = goal, rep
        self.phi = Alone(Conditioned(1, dim, rep, hidden, NOWHERE, layer_norm))
        self.v = Values(2, dim - (goal.stop - goal.start) + rep, hidden, layer_norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (2, B), and phi (B, rep)."""
        z = self.represent(x)
        v: Tensor = self.v(self.towards(x, z))
        return v, z

    def represent(self, x: Tensor) -> Tensor:
        """phi(s, g): (B, rep)"""
        return scaled(self.phi(x))

    def towards(self, x: Tensor, z: Tensor) -> Tensor:
        """The state of x, with z (B, rep) in the goal's place."""
        return torch.cat((x[:, : self.goal.start], z, x[:, self.goal.stop :]), 1)


class HIQL(Reaching):
    """Subgoals are what was achieved `ahead` steps later, as phi sees it from the state.

    Both levels learn from the same transitions. A subgoal is a goal of the task, not a whole state.
    """

    by_reward = True
    Settings = HIQLSettings
    settings: HIQLSettings

    def __init__(self, spec: Spec, settings: HIQLSettings) -> None:
        super().__init__(spec, settings)
        s, dim, first = settings, self.encode.dim, len(self.encode.seen)
        self.v = Seen(dim, slice(first, first + spec.goal_dim), s.rep, s.hidden, s.layer_norm)
        self.target = deepcopy(self.v).requires_grad_(False)
        self.pair: tuple[list[Tensor], ...] = [*self.target.parameters()], [*self.v.parameters()]
        self.actor = Actor(dim - spec.goal_dim + s.rep, spec.action_dim, s.hidden)
        self.high = network(dim, s.rep, s.hidden, "conditioned", NOWHERE)
        self.optimizers = {
            "value": adam(nn.ModuleList((self.v, self.encode)), s.lr),
            "actor": adam(self.actor, s.lr),
            "high": adam(self.high, s.lr),
        }

    def draw(self, replay: Source, rng: Any) -> Ahead:
        way = self.onward(replay, rng, "actor_goals", self.settings.ahead)
        return Ahead(self.sample(replay, rng, "value_goals"), way)

    def update(self, data: Ahead) -> Metrics:
        metrics = {
            "value_loss": self.descend("value", self.value_loss, data.value),
            "low_loss": self.descend("actor", self.low_loss, data.actor),
            "high_loss": self.descend("high", self.high_loss, data.actor),
        }
        follow(self.pair[0], self.pair[1], self.settings.tau)
        self.updates += 1
        return metrics

    def value_loss(self, b: Batch) -> Tensor:
        """sum_i E[|tau - 1(A < 0)| (r + gamma V'_i(s') - V_i(s))^2],  A = r + gamma min V'(s') - mean V'(s)"""
        return self.upward(b, lambda x: self.target(x)[0], lambda x: self.v(x)[0], self.settings.expectile)

    def low_loss(self, b: Onward) -> Tensor:
        """-E[min(exp(alpha (V(s', w) - V(s, w))), 100) log pi(a|s, phi(s, w))],  w achieved k steps ahead"""
        x = self.ends(b.batch._replace(goal=b.near_goal))
        size = len(b.obs)
        with torch.no_grad():
            values, z = self.v(x)
            v, v_ = values.mean(0).chunk(2)
        logp = self.log_prob(self.v.towards(x[:size], z[:size]), b.action)
        return -(weight(v_ - v, self.settings.alpha) * logp).mean()

    def high_loss(self, b: Onward) -> Tensor:
        """-E[min(exp(alpha (V(s_w, g) - V(s, g))), 100) log pi_h(phi(s, w)|s, g)]

        s_w is k steps ahead, or at the goal if that is nearer, and w is achieved there.
        """
        x = self.ends(b.batch._replace(next_obs=b.way))
        size = len(b.obs)
        with torch.no_grad():
            v, v_ = self.v(x)[0].mean(0).chunk(2)
            z = self.v.represent(self.encode(State(b.obs, b.way_goal, b.task)))
        logp = unit_density(z - self.high(x[:size]))
        return -(weight(v_ - v, self.settings.alpha) * logp).mean()

    def next_value(self, b: Batch) -> Tensor:
        """mean V(s', g): (B,)"""
        v: Tensor = self.v(self.encode(b.next_state))[0].mean(0)
        return v

    @torch.no_grad()
    def act(self, state: State, carry: Any = None, explore: bool = False) -> tuple[Tensor, Any]:
        """pi(s, z) towards the subgoal z = pi_h(s, g), of phi's length; exploring: plus Gaussian noise."""
        x = self.encode(state)
        a = self.actor(self.v.towards(x, scaled(self.high(x))))
        return self.explored(a, explore), carry


def scaled(z: Tensor) -> Tensor:
    """z (B, R), made sqrt(R) long."""
    return z / z.norm(dim=-1, keepdim=True) * z.shape[-1] ** 0.5
