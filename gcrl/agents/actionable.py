"""Actionable Models: every goal of the data, by actions that it shows (Chebotar et al. 2021, arXiv 2104.07749)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, follow
from gcrl.agents.reaching import Pair, Reaching, ValueSettings
from gcrl.encoder import Spec
from gcrl.nets import Critics
from gcrl.optim import adam
from relabel.batch import Batch
from relabel.score import Scores


@dataclass(frozen=True)
class ActionableSettings(ValueSettings):
    value_goals: str = "future:0.5,random:0.5"
    """goals that the value learns from, as --relabel: of the same episode, and of any, which chains episodes"""
    actor_goals: str = "future:0.5,random:0.5"
    """goals that the actor learns from, as --relabel"""
    sampled: int = 4
    """actions of which one is taken for the conservative label, the policy's own among them"""
    conservative: float = 1.0
    """weight of that label"""


class Actionable(Reaching):
    """Q(s, a, g) in (0, 1) is the discounted chance to reach g: a logistic function of what the critic says.

    Deviations: an actor climbs Q, where the paper searches actions by the cross-entropy method, and the conservative
    action is drawn from a few. The paper ends a chained sequence with the value of its own last step; here that step
    bootstraps like any other, which has the same fixed point.
    """

    by_reward = True
    Settings = ActionableSettings
    settings: ActionableSettings

    def __init__(self, spec: Spec, settings: ActionableSettings) -> None:
        super().__init__(spec, settings)
        s = settings
        self.critic = Critics(2, self.encode.dim + spec.action_dim, s.hidden, s.layer_norm)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.pair: tuple[list[Tensor], ...] = [*self.target.parameters()], [*self.critic.parameters()]
        self.optimizers = {
            "critic": adam(nn.ModuleList((self.critic, self.encode)), s.lr),
            "actor": adam(self.actor, s.lr),
        }

    def update(self, data: Pair) -> Metrics:
        sampled = self.unlike(data.value)
        metrics = {
            "critic_loss": self.descend("critic", self.critic_loss, data.value, sampled),
            "actor_loss": self.descend("actor", self.actor_loss, data.actor),
        }
        follow(self.pair[0], self.pair[1], self.settings.tau)
        self.updates += 1
        return metrics

    def critic_loss(self, b: Batch, sampled: Tensor) -> Tensor:
        """E[(y - Q(s, a, g))^2] + weight E[Q(s, a~, g)^2], over the heads

        y = 1 where s' is at g, else gamma min Q'(s', pi(s', g), g)
        """
        x = self.encode(b.state)
        reward, discount = self.reaching(b)
        with torch.no_grad():
            y = 1 + reward + discount * self.next_value(b)
        q, q_sampled = torch.sigmoid(self.critic(x.repeat(2, 1), torch.cat((b.action, sampled)))).chunk(2, 1)
        return ((y - q) ** 2 + self.settings.conservative * q_sampled**2).mean(1).sum()

    @torch.no_grad()
    def unlike(self, b: Batch) -> Tensor:
        """a~ with probability proportional to exp(Q(s, a~, g)), of pi(s, g) and uniform actions: (B, A)"""
        x, m = self.encode(b.state), self.settings.sampled
        uniform = torch.rand(m - 1, *b.action.shape, dtype=x.dtype, device=x.device) * 2 - 1
        actions = torch.cat((self.actor(x)[None], uniform))  # (m, B, A)
        q = torch.sigmoid(self.critic(x.repeat(m, 1), actions.flatten(0, 1))).amin(0).unflatten(0, (m, -1))
        chosen = (q - torch.empty_like(q).exponential_().log()).argmax(0)  # by Gumbel's noise
        return actions[chosen, torch.arange(len(x), device=x.device)]

    def actor_loss(self, b: Batch) -> Tensor:
        """-E[min logit Q(s, pi(s, g), g)]"""
        x = self.encode(b.state)
        q: Tensor = self.critic(x, self.actor(x))
        return -q.amin(0).mean()

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """min Q(s, a, g): (B,)"""
        return torch.sigmoid(self.critic(self.encode(b.state), b.action).amin(0))

    @torch.no_grad()
    def ahead(self, b: Batch) -> Tensor:
        """1 where s' is at g, else gamma V'(s', g): (B,)"""
        reward, discount = self.reaching(b)
        return 1 + reward + discount * self.next_value(b)

    def next_value(self, b: Batch) -> Tensor:
        """min Q'(s', pi(s', g), g): (B,)"""
        x_ = self.encode(b.next_state)
        return torch.sigmoid(self.target(x_, self.actor(x_)).amin(0))

    def scores(self) -> Scores:
        return Scores(self.value, self.ahead)
