"""What DQN, its kin and fitted Q-iteration share: a value for each choice, and the order of one update."""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, follow
from gcrl.agents.offpolicy import Replaying
from gcrl.encoder import Spec
from gcrl.nets import Choices
from gcrl.optim import adam
from relabel.batch import Batch, State


@dataclass(frozen=True)
class DiscreteSettings:
    """Numbers of an agent that values choices."""

    batch: int = 256
    """transitions in one update"""
    lr: float = 3e-4
    """learning rate"""
    hidden: tuple[int, ...] = (128, 128)
    """units of the hidden layers"""
    layer_norm: bool = False
    """normalise the hidden layers"""
    period: int = 1
    """updates from one step of the target to the next"""
    tau: float = 0.01
    """how far a step of the target goes; 1: it becomes the network itself"""
    huber: float = 1.0
    """error beyond which the loss is linear; 0: it is squared everywhere"""
    epsilon: float = 0.1
    """share of exploring actions that are uniform"""
    anneal: int = 1000
    """updates over which that share falls from 1"""
    clip_target: bool = True
    """keep the targets within what the task's rewards allow"""
    weights: str = "conditioned"
    """how tasks share the network: conditioned, heads, modular, experts or tied"""
    tie: float = 1e-3
    """of tied networks: weight of their squared distance"""
    surgery: str = "none"
    """what is done about conflicting gradients of tasks: none, pcgrad or cagrad"""


class Discrete(Replaying):
    """Q(s, a) for every choice a at once; a subclass says what the target bootstraps from.

    Exploring is epsilon-greedy. `network` makes the values of n heads: (B, X) -> (n, B, A); their mean is what counts.
    """

    settings: DiscreteSettings
    discrete = True

    def __init__(self, spec: Spec, settings: DiscreteSettings, n: int = 1, network: type[nn.Module] = Choices) -> None:
        super().__init__(spec, settings)
        s, encode = settings, self.encode
        self.critic = network(n, encode.dim, spec.action_dim, s.hidden, s.layer_norm, s.weights, encode.ident)
        self.target = deepcopy(self.critic).requires_grad_(False)
        targets: list[Tensor] = list(self.target.parameters())
        self.pair: tuple[list[Tensor], ...] = targets, [*self.critic.parameters()]
        self.optimizers = {"critic": adam(nn.ModuleList((self.critic, self.encode)), s.lr)}

    def update(self, data: Batch) -> Metrics:
        metrics = {"critic_loss": self.descend("critic", self.critic, data, lambda b, _: self.critic_loss(b))}
        self.updates += 1
        if self.updates % self.settings.period == 0:
            self.advance()
        return metrics

    def phase(self) -> Hashable:
        """With the target's step or without."""
        return (self.updates + 1) % self.settings.period == 0

    def advance(self) -> None:
        """The target's step."""
        follow(self.pair[0], self.pair[1], self.settings.tau)

    def critic_loss(self, b: Batch) -> Tensor:
        """E[h(clip(r + gamma V'(s')) - Q(s, a))],  h(e) = e^2 / 2 up to |e| = c, c |e| - c^2 / 2 beyond"""
        with torch.no_grad():
            y = self.clip(b.reward + b.discount * self.next_value(b), b)
        return self.mean_error(y, of(b.action, self.critic(self.encode(b.state)).mean(0)))

    def mean_error(self, y: Tensor, q: Tensor) -> Tensor:
        """E[h(y - q)], (B,) x (B,) -> () (Huber 1964); Nature's clipped error is its slope, with c = 1."""
        c = self.settings.huber
        return F.huber_loss(q, y, delta=c) if c else F.mse_loss(q, y) / 2

    def values(self, x: Tensor) -> Tensor:
        """Q(s, a) of every choice, by which it acts: (B, X) -> (B, A)."""
        q: Tensor = self.critic(x).mean(0)
        return q

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """Q(s, a, z): (B,)"""
        return of(b.action, self.values(self.encode(b.state)))

    def share(self) -> float:
        """Of exploring actions that are uniform now."""
        s = self.settings
        return s.epsilon + (1 - s.epsilon) * max(0.0, 1 - self.updates / s.anneal if s.anneal else 0.0)

    @torch.no_grad()
    def act(self, state: State, carry: Any = None, explore: bool = False) -> tuple[Tensor, Any]:
        """argmax_a Q(s, a); exploring: now and then any of them."""
        q = self.values(self.encode(state))
        choice = q.argmax(-1, keepdim=True)
        if explore:
            uniform = torch.rand(len(q), 1, device=q.device) < self.share()
            choice = torch.where(uniform, torch.randint_like(choice, q.shape[-1]), choice)
        action = torch.full_like(q, -1.0).scatter_(-1, choice, 1.0)
        # a choice is a number whatever its values are: whoever collects must be told that they are none any more
        return torch.where(q.isfinite().all(-1, keepdim=True), action, torch.nan), carry


def of(action: Tensor, q: Tensor) -> Tensor:
    """The value of what is chosen, the greatest number of the action: (B, A) x (B, A) -> (B,)."""
    return q.gather(-1, action.argmax(-1, keepdim=True)).squeeze(-1)
