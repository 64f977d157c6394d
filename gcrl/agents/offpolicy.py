"""What DDPG, TD3 and SAC share: an actor, n critics with slow targets, and the order of one update."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gcrl.agents.agent import Agent, Metrics, adam, follow, step
from gcrl.nets import Critics, Spec
from relabel.replay import Batch, Replay


@dataclass(frozen=True)
class OffPolicySettings:
    """Numbers of an off-policy actor-critic."""

    batch: int = 256
    """transitions in one update"""
    lr: float = 1e-3
    """learning rate of actor and critics"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""
    critics: int = 2
    """heads of the critic (REDQ: 10)"""
    subset: int = 2
    """of how many heads, drawn at random, the target is the minimum (REDQ: 2)"""
    layer_norm: bool = True
    """normalise the critic's hidden layers"""
    dropout: float = 0.0
    """of the critic's hidden layers (DroQ: 0.01)"""
    tau: float = 0.02
    """how fast the targets follow"""
    delay: int = 1
    """critic updates for one actor update"""
    clip_target: bool = True
    """keep the critic's targets within what the task's rewards allow"""


class OffPolicy(Agent):
    """Actor-critic on replayed transitions; a subclass says what its actor is and writes the two losses."""

    settings: OffPolicySettings
    bounds: Tensor

    def __init__(self, spec: Spec, settings: OffPolicySettings, actor: type[nn.Module]) -> None:
        super().__init__(spec, settings)
        s = settings
        self.actor = actor(self.encode.dim, spec.action_dim, s.hidden)
        self.critic = Critics(s.critics, self.encode.dim + spec.action_dim, s.hidden, s.layer_norm, s.dropout)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("bounds", torch.tensor(spec.bounds), persistent=False)
        self.optimizers = {"critic": adam(self.critic, s.lr), "actor": adam(self.actor, s.lr)}

    def draw(self, replay: Replay, rng: np.random.Generator) -> Batch:
        return replay.sample(rng, self.settings.batch)

    def update(self, data: Batch) -> Metrics:
        critic_loss = self.critic_loss(data)
        step(self.optimizers["critic"], critic_loss)
        metrics = {"critic_loss": critic_loss.detach()}
        self.updates += 1
        if self.updates % self.settings.delay == 0:
            metrics |= self.improve(data)
        follow(self.target, self.critic, self.settings.tau)
        return metrics

    def improve(self, b: Batch) -> Metrics:
        """The actor's step."""
        loss = self.actor_loss(b)
        step(self.optimizers["actor"], loss)
        return {"actor_loss": loss.detach()}

    def critic_loss(self, b: Batch) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no critic loss")

    def actor_loss(self, b: Batch) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no actor loss")

    def least(self, q: Tensor) -> Tensor:
        """min over a random subset of the heads, (n, B) -> (B,) (REDQ, Chen et al. 2021, arXiv 2101.05982, eq. 1)."""
        if self.settings.subset < len(q):
            q = q[torch.randperm(len(q), device=q.device)[: self.settings.subset]]
        return q.amin(0)

    def clip(self, y: Tensor, b: Batch) -> Tensor:
        """y (B,) kept within the returns that the task's rewards allow (Andrychowicz et al. 2017, appendix A)."""
        if not self.settings.clip_target:
            return y
        bounds = self.bounds[b.task]
        return y.clamp(bounds[:, 0], bounds[:, 1])
