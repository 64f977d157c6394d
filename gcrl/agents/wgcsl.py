"""WGCSL: weighted imitation of what reached the relabelled goal (Yang et al. 2022, arXiv 2202.04478)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, follow
from gcrl.agents.reaching import Ahead, Reaching, ValueSettings
from gcrl.encoder import Spec
from gcrl.nets import Critics
from gcrl.optim import adam
from relabel.batch import Batch
from relabel.prefetch import Source
from relabel.score import Scores
from relabel.subgoal import Onward
from tasks.task import InputError

WEIGHTS = ("discount", "advantage", "best")


@dataclass(frozen=True)
class WGCSLSettings(ValueSettings):
    lr: float = 5e-4
    """learning rate of all networks"""
    layer_norm: bool = False
    """normalise the hidden layers of values"""
    tau: float = 0.02
    """how fast the targets follow (the authors: 0.1 every 5 to 20 updates)"""
    value_goals: str = "future:0.8"
    """goals that the value learns from, as --relabel"""
    weigh: str = "discount,advantage,best"
    """which weights an action has; advantage alone: MARWIL with goals; none: GCSL"""
    most: float = 10.0
    """bound of exp(A)"""
    percentile: float = 80.0
    """percentile of recent advantages from which on an action counts in full, in the end"""
    rise: float = 0.15
    """how much that percentile grows with every update, from 0 on (the authors: .15, in Fetch's harder tasks .01)"""
    rest: float = 0.05
    """weight of an action below it"""
    window: int = 5000
    """advantages on which the percentile is taken (the authors: 50,000, which cost as much as the update)"""


class WGCSL(Reaching):
    """The value is that of the policy, DDPG's, and the task's own: reaching the goal does not end it.

    Deviation: the target's action comes from the actor itself, not from a slow copy.
    """

    Settings = WGCSLSettings
    settings: WGCSLSettings
    advantages: Tensor
    bounds: Tensor

    def __init__(self, spec: Spec, settings: WGCSLSettings) -> None:
        super().__init__(spec, settings)
        s = settings
        self.kinds = () if s.weigh == "none" else tuple(s.weigh.split(","))
        if unknown := set(self.kinds) - set(WEIGHTS):
            raise InputError(f"--weigh {s.weigh}: {min(unknown)!r} is none of {', '.join(WEIGHTS)}, none")
        self.critic = Critics(1, self.encode.dim + spec.action_dim, s.hidden, s.layer_norm)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.pair: tuple[list[Tensor], ...] = [*self.target.parameters()], [*self.critic.parameters()]
        self.steady = "best" not in self.kinds  # a percentile that rises from update to update
        self.register_buffer("advantages", torch.zeros(s.window))
        self.register_buffer("bounds", torch.tensor(spec.bounds), persistent=False)
        self.optimizers = {
            "critic": adam(nn.ModuleList((self.critic, self.encode)), s.lr),
            "actor": adam(self.actor, s.lr),
        }

    def draw(self, replay: Source, rng: Any) -> Ahead:
        return Ahead(self.sample(replay, rng, "value_goals"), self.onward(replay, rng, "actor_goals", 1))

    def update(self, data: Ahead) -> Metrics:
        metrics = {"critic_loss": self.descend("critic", self.critic_loss, data.value)}
        w = self.weight(data.actor)
        metrics |= {"actor_loss": self.descend("actor", self.actor_loss, data.actor.batch, w), "weight": w.mean()}
        follow(self.pair[0], self.pair[1], self.settings.tau)
        self.updates += 1
        return metrics

    def critic_loss(self, b: Batch) -> Tensor:
        """E[(clip(r + gamma Q'(s', pi(s'))) - Q(s, a))^2]"""
        with torch.no_grad():
            low, high = self.bounds[b.task].unbind(1)
            y = (b.reward + b.discount * self.next_value(b)).clamp(low, high)
        return ((self.critic(self.encode(b.state), b.action)[0] - y) ** 2).mean()

    def actor_loss(self, b: Batch, w: Tensor) -> Tensor:
        """-E[w log pi(a|s, g)]"""
        return -(w * self.log_prob(self.encode(b.state), b.action)).mean()

    @torch.no_grad()
    def weight(self, b: Onward) -> Tensor:
        """gamma^(steps - 1) min(exp(A), most) (1 if A is among the best, else rest),  A = r + gamma V(s') - V(s): (B,)

        V(s) = Q(s, pi(s)). The best are those above a percentile of recent advantages, which rises.
        """
        s, w = self.settings, torch.ones_like(b.reward)
        if "discount" in self.kinds:
            w = w * b.fade
        if "advantage" in self.kinds or "best" in self.kinds:
            x = self.ends(b.batch)
            v, v_ = self.critic(x, self.actor(x))[0].chunk(2)
            advantage = b.reward + b.discount * v_ - v
            if "advantage" in self.kinds:
                w = w * advantage.exp().clamp(max=s.most)
            if "best" in self.kinds:
                w = w * torch.where(advantage >= self.threshold(advantage), 1.0, s.rest)
        return w

    def threshold(self, advantage: Tensor) -> Tensor:
        """Take advantages (B,) into the window; the percentile of all in it, as far as it has risen."""
        s, recent = self.settings, advantage[-self.settings.window :]
        count = (self.updates + 1) * len(recent)
        place = (torch.arange(len(recent), device=recent.device) + count - len(recent)) % s.window
        self.advantages[place] = recent.to(self.advantages.dtype)
        percentile = min(s.percentile, s.rise * (self.updates + 1))
        return torch.quantile(self.advantages[:count], percentile / 100)

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """Q(s, a, g): (B,)"""
        return self.critic(self.encode(b.state), b.action)[0]

    @torch.no_grad()
    def ahead(self, b: Batch) -> Tensor:
        """r + gamma V'(s', g): (B,)"""
        return b.reward + b.discount * self.next_value(b)

    def next_value(self, b: Batch) -> Tensor:
        """Q'(s', pi(s', g), g): (B,)"""
        x_ = self.encode(b.next_state)
        q: Tensor = self.target(x_, self.actor(x_))[0]
        return q

    def scores(self) -> Scores:
        return Scores(self.value, self.ahead)
