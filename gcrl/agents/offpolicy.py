"""What DDPG, TD3 and SAC share: an actor, n critics with slow targets, and the order of one update."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcrl import surgery
from gcrl.agents.agent import Agent, Metrics, follow, only
from gcrl.bodies import tie_of
from gcrl.encoder import Spec
from gcrl.nets import Critics
from gcrl.optim import adam, forget, step
from relabel.batch import Batch
from relabel.prefetch import Source
from relabel.score import Scores


@dataclass(frozen=True)
class OffPolicySettings:
    """Numbers of an off-policy actor-critic."""

    batch: int = 256
    """transitions in one update"""
    lr: float = 1e-3
    """learning rate of actor and critics"""
    hidden: tuple[int, ...] = (128, 128)
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
    reset_every: int = 0
    """updates after which the networks begin anew from the replay (Nikishin et al. 2022, arXiv 2205.07802); 0: never"""
    weights: str = "conditioned"
    """how tasks share the networks: conditioned, heads, modular, experts or tied"""
    tie: float = 1e-3
    """of tied networks: weight of their squared distance"""
    surgery: str = "none"
    """what is done about conflicting gradients of tasks: none, pcgrad or cagrad"""


Rows = Tensor | slice


def by_task(b: Any) -> list[tuple[Any, Rows]]:
    """The rows of each task, of a batch or of segments."""
    rows = [torch.nonzero(b.task == k)[:, 0] for k in b.task.unique()]
    return [(type(b)(*(x[of] for x in b)), of) for of in rows]


class Replaying(Agent):
    """Descends in losses of replayed transitions: what it draws, its tasks' gradients, and what its targets may be."""

    bounds: Tensor

    def __init__(self, spec: Spec, settings: Any) -> None:
        super().__init__(spec, settings)
        self.register_buffer("bounds", torch.tensor(spec.bounds), persistent=False)
        apart = getattr(settings, "surgery", "none") != "none" and spec.tasks > 1
        self.steady = not apart and getattr(settings, "weights", "conditioned") != "tied"

    def draw(self, replay: Source, rng: np.random.Generator) -> Batch:
        return replay.sample(rng, self.settings.batch, scores=Scores(self.value, self.ahead))

    def value(self, b: Batch) -> Tensor:
        """Q(s, a, z): (B,)"""
        raise TypeError(f"{type(self).__name__} has no value of an action")

    @torch.no_grad()
    def ahead(self, b: Batch) -> Tensor:
        """r + gamma V'(s', z): (B,)"""
        return b.reward + b.discount * self.next_value(b)

    def next_value(self, b: Batch) -> Tensor:
        """What the target bootstraps from, V'(s', z): (B,)."""
        raise TypeError(f"{type(self).__name__} has no value of the next state")

    def descend(self, name: str, network: nn.Module, b: Batch, loss: Callable[[Batch, Rows], Tensor]) -> Tensor:
        """One step of the optimizer `name` along the gradient of the loss, or what surgery makes of each task's.

        `loss` takes a part of the batch, and which rows of it these are.
        """
        s = self.settings
        tie = tie_of(network) if s.weights == "tied" else None
        parts = [(b, slice(None))] if s.surgery == "none" or len(self.bounds) == 1 else by_task(b)
        with only(self, name):
            losses = [loss(part, rows) for part, rows in parts]
        if tie is not None:
            losses = [part + s.tie * tie for part in losses]
        if len(losses) == 1:
            step(self.optimizers[name], losses[0])
        else:
            surgery.apply(self.optimizers[name], losses, surgery.SURGERIES[s.surgery])
        return torch.stack(losses).detach().mean()

    def clip(self, y: Tensor, b: Batch) -> Tensor:
        """y (B,) kept within the returns that the task's rewards allow (Andrychowicz et al. 2017, appendix A)."""
        if not self.settings.clip_target:
            return y
        bounds = self.bounds[b.task]
        return y.clamp(bounds[:, 0], bounds[:, 1])


class OffPolicy(Replaying):
    """Actor-critic on replayed transitions; a subclass says what its actor is and writes the two losses."""

    settings: OffPolicySettings

    def __init__(self, spec: Spec, settings: OffPolicySettings, actor: type[nn.Module]) -> None:
        super().__init__(spec, settings)
        s = settings
        dim, ident = self.encode.dim, self.encode.ident
        self.actor = actor(dim, spec.action_dim, s.hidden, s.weights, ident)
        self.critic = Critics(s.critics, dim + spec.action_dim, s.hidden, s.layer_norm, s.dropout, s.weights, ident)
        self.target = deepcopy(self.critic).requires_grad_(False)
        targets: list[Tensor] = list(self.target.parameters())
        self.pair: tuple[list[Tensor], ...] = targets, [*self.critic.parameters()]  # to look them up takes 0.2 ms
        self.optimizers = {
            "critic": adam(nn.ModuleList((self.critic, self.encode)), s.lr),
            "actor": adam(self.actor, s.lr),
        }

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """min Q(s, a, z): (B,)"""
        return self.critic(self.encode(b.state), b.action).amin(0)

    def update(self, data: Batch) -> Metrics:
        metrics = {"critic_loss": self.descend("critic", self.critic, data, lambda b, _: self.critic_loss(b))}
        self.updates += 1
        if self.updates % self.settings.delay == 0:
            metrics |= self.improve(data)
        follow(self.pair[0], self.pair[1], self.settings.tau)
        if self.settings.reset_every and self.updates % self.settings.reset_every == 0:
            self.renew()
        return metrics

    def phase(self) -> Hashable:
        """With the actor's step or without; None: new networks."""
        s, n = self.settings, self.updates + 1
        return None if s.reset_every and n % s.reset_every == 0 else n % s.delay == 0

    def renew(self) -> None:
        """New weights for actor and critics, and their optimizers at their start; what was seen stays normalised."""
        fresh = type(self)(self.spec, self.settings)  # type: ignore[call-arg]  # a subclass knows its actor
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(getattr(fresh, name).state_dict())
        for name in ("actor", "critic"):
            forget(self.optimizers[name])

    def improve(self, b: Batch) -> Metrics:
        """The actor's step."""
        return {"actor_loss": self.descend("actor", self.actor, b, lambda b, _: self.actor_loss(b))}

    def critic_loss(self, b: Batch) -> Tensor:
        """E[(clip(r + gamma V'(s')) - Q(s, a))^2], summed over the heads; V' is `next_value`"""
        with torch.no_grad():
            y = self.clip(b.reward + b.discount * self.next_value(b), b)
        return ((self.critic(self.encode(b.state), b.action) - y) ** 2).mean(1).sum()

    def actor_loss(self, b: Batch) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no actor loss")

    def least(self, q: Tensor) -> Tensor:
        """min over a random subset of the heads, (n, B) -> (B,) (REDQ, Chen et al. 2021, arXiv 2101.05982, eq. 1)."""
        if self.settings.subset < len(q):
            q = q[torch.randperm(len(q), device=q.device)[: self.settings.subset]]
        return q.amin(0)
