"""QRL: the distance to a goal, spread out as far as single steps allow (Wang et al. 2023, arXiv 2304.01203)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcrl.agents.agent import Metrics, only
from gcrl.agents.quasimetric import IQE
from gcrl.agents.reaching import Reaching, ReachingSettings, weight
from gcrl.bodies import Conditioned
from gcrl.encoder import Spec
from gcrl.nets import NOWHERE, Alone, ClippedActor
from gcrl.optim import adam, step
from relabel.batch import Batch, State
from relabel.prefetch import Source
from relabel.subgoal import Onward
from tasks.task import InputError


@dataclass(frozen=True)
class QRLSettings(ReachingSettings):
    layer_norm: bool = True
    """normalise the hidden layers of embedding and dynamics"""
    value_goals: str = "random:1"
    """goals that are pushed away, as --relabel"""
    latent: int = 256
    """numbers of an embedding, a multiple of `size` (OGBench: 512)"""
    size: int = 8
    """intervals in a component of the quasimetric"""
    slack: float = 0.05
    """mean squared excess of a single step that is allowed"""
    actor: str = "ddpg"
    """ddpg: climb through the dynamics, held by imitation; awr: imitate, weighted by the advantage"""
    alpha: float = 0.0003
    """ddpg: weight of the imitation (OGBench: .0003 in point mazes, .003 in ant mazes, .3 in manipulation); awr: of an
    advantage"""


class Data(NamedTuple):
    """Transitions with goals to be pushed away, and others for the actor."""

    value: Onward
    actor: Batch

    @property
    def state(self) -> State:
        return self.actor.state


class QRL(Reaching):
    """d(s, g) = IQE(phi(s), psi(g)), the number of steps, is -V(s, g) without a discount.

    Where a goal is a whole observation psi is phi. Deviation: other goals have an embedding of their own, and what ties
    it to phi is that a step is held to the goal that it achieves as it is to the state that it leads to.
    """

    Settings = QRLSettings
    settings: QRLSettings
    Policy = ClippedActor

    def __init__(self, spec: Spec, settings: QRLSettings) -> None:
        super().__init__(spec, settings)
        s = settings
        if s.actor not in ("ddpg", "awr"):
            raise InputError(f"--actor {s.actor}: choose from ddpg, awr")
        if s.latent % s.size:
            raise InputError(f"--latent {s.latent}: must be a multiple of --size {s.size}")

        def network(dim: int) -> Alone:
            return Alone(Conditioned(1, dim, s.latent, s.hidden, NOWHERE, s.layer_norm))

        state, goal = self.encode.dims
        self.phi, self.psi = network(state), None if spec.whole else network(goal)
        self.dynamics = network(s.latent + spec.action_dim)
        self.d = IQE(s.size)
        metric = [self.phi, *([self.psi] if self.psi else []), self.dynamics, self.d, self.encode]
        self.log_multiplier = nn.Parameter(torch.zeros(()))
        self.optimizers = {
            "value": adam(nn.ModuleList(metric), s.lr),
            "actor": adam(self.actor, s.lr),
            "multiplier": adam([self.log_multiplier], s.lr),
        }

    def draw(self, replay: Source, rng: Any) -> Data:
        return Data(self.onward(replay, rng, "value_goals", 1), self.sample(replay, rng, "actor_goals"))

    def update(self, data: Data) -> Metrics:
        with only(self, "value"):
            loss, excess = self.metric_loss(data.value)
        step(self.optimizers["value"], loss)
        excess = excess.detach()
        step(self.optimizers["multiplier"], self.multiplier_loss(excess))
        actor_loss = self.descend("actor", self.actor_loss, data.actor)
        self.updates += 1
        return {
            "value_loss": loss.detach(),
            "excess": excess,
            "multiplier": self.log_multiplier.detach().exp(),
            "actor_loss": actor_loss,
        }

    def metric_loss(self, b: Onward) -> tuple[Tensor, Tensor]:
        """E[100 softplus(5 - d(s, g) / 100)] + lambda excess + dynamics_loss;  excess = E[max(d(s, s') - 1, 0)^2]

        Where psi is not phi the excess is also over d(s, g'), g' being what s' achieves.
        """
        size = len(b.obs)
        x, g = self.encode.apart(State(*(torch.cat(two) for two in self.both(b))))
        if self.psi is None:
            z, z_, w = self.phi(torch.cat((x, g[:size]))).split(size)
            ends = [w, z_]
        else:
            (z, z_), (w, w_) = self.phi(x).split(size), self.psi(g).split(size)
            ends = [w, z_, w_]
        d = self.d(z.repeat(len(ends), 1), torch.cat(ends))
        far = (100 * F.softplus(5 - d[:size] / 100)).mean()
        excess = (F.relu(d[size:] - 1) ** 2).mean()
        return far + self.log_multiplier.exp() * excess + self.dynamics_loss(z, b.action, z_), excess

    @staticmethod
    def both(b: Onward) -> tuple[tuple[Tensor, Tensor], ...]:
        """Of s with g, and of s' with what it achieves: observations, goals, tasks."""
        return (b.obs, b.next_obs), (b.goal, b.near_goal), (b.task, b.task)

    def dynamics_loss(self, z: Tensor, action: Tensor, z_: Tensor) -> Tensor:
        """E[d(z', f(z, a)) + d(f(z, a), z')] / 2,  z = phi(s), z' = phi(s')"""
        guess = self.after(z, action)
        return self.d(torch.cat((z_, guess)), torch.cat((guess, z_))).mean()

    def multiplier_loss(self, excess: Tensor) -> Tensor:
        """lambda (slack - excess)"""
        return self.log_multiplier.exp() * (self.settings.slack - excess)

    def actor_loss(self, b: Batch) -> Tensor:
        """ddpg: E[d(f(phi(s), pi), psi(g))] / E[d] - alpha E[log N(a; mean, 1)]

        awr: -E[min(exp(alpha (d(s, g) - d(s', g))), 100) log pi(a|s, g)]
        """
        alpha = self.settings.alpha
        if self.settings.actor == "awr":
            with torch.no_grad():
                advantage = self.distance(b.state) - self.distance(b.next_state)
            return -(weight(advantage, alpha) * self.log_prob(self.encode(b.state), b.action)).mean()
        return self.climb(self.encode(b.state), b, partial(self.q, b.state), alpha)

    def distance(self, state: State) -> Tensor:
        """d(s, g): (B,)"""
        x, g = self.encode.apart(state)
        d: Tensor = self.d(self.phi(x), self.place(g))
        return d

    def place(self, goal: Tensor) -> Tensor:
        """psi(g), the embedding of goals: (B, Z)"""
        w: Tensor = (self.psi or self.phi)(goal)
        return w

    def next_value(self, b: Batch) -> Tensor:
        """-d(s', g): (B,)"""
        return -self.distance(b.next_state)

    def after(self, z: Tensor, action: Tensor) -> Tensor:
        """f(z, a), the embedding of what follows: (B, Z)"""
        change: Tensor = self.dynamics(torch.cat((z, action), 1))
        return z + change

    def q(self, state: State, action: Tensor) -> Tensor:
        """-d(f(phi(s), a), psi(g)): (B,)"""
        x, g = self.encode.apart(state)
        d: Tensor = self.d(self.after(self.phi(x), action), self.place(g))
        return -d
