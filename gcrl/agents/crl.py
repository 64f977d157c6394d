"""CRL: contrastive values, phi(s, a) against psi(g) (Eysenbach et al. 2022, arXiv 2206.07568)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcrl.agents.agent import Metrics
from gcrl.agents.reaching import Pair, Reaching, ReachingSettings
from gcrl.bodies import Conditioned
from gcrl.encoder import Spec
from gcrl.nets import NOWHERE
from gcrl.optim import adam
from relabel.batch import Batch, State
from relabel.score import Scores


@dataclass(frozen=True)
class CRLSettings(ReachingSettings):
    layer_norm: bool = True
    """normalise the hidden layers of values"""
    value_goals: str = "geometric:1"
    """goals that count as reached, as --relabel; those of all other rows of the batch count as missed"""
    latent: int = 256
    """numbers of phi and psi (OGBench: 512)"""
    alpha: float = 0.03
    """weight of the imitation (OGBench: .03 in point mazes, .1 in ant mazes, 3 in manipulation)"""


class Likeness(nn.Module):
    """n pairs of networks phi(s, a) and psi(g), compared by <phi, psi> / sqrt(latent)."""

    def __init__(self, n: int, dims: tuple[int, int], latent: int, hidden: Sequence[int], layer_norm: bool) -> None:
        super().__init__()
        self.phi, self.psi = (Conditioned(n, dim, latent, hidden, NOWHERE, layer_norm) for dim in dims)
        self.length = latent**0.5

    def table(self, x: Tensor, g: Tensor) -> Tensor:
        """Of every row of x (B, X) with every row of g (B, G): (n, B, B)."""
        f: Tensor = self.phi(x) @ self.psi(g).mT / self.length
        return f

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Of every row of x with the same row of g: (n, B)."""
        f: Tensor = (self.phi(x) * self.psi(g)).sum(-1) / self.length
        return f


class CRL(Reaching):
    """Q(s, a, g), the log of how much likelier g is to follow than to be met anywhere: no reward, no bootstrap.

    What follows is drawn geometrically, by the task's discount. Made for data; it learns from its own episodes too.
    Deviation: the actor's mean is a tanh here too, which does better (docs/results.md).
    """

    Settings = CRLSettings
    settings: CRLSettings

    def __init__(self, spec: Spec, settings: CRLSettings) -> None:
        super().__init__(spec, settings)
        s, (state, goal) = settings, self.encode.dims
        self.critic = Likeness(2, (state + spec.action_dim, goal), s.latent, s.hidden, s.layer_norm)
        self.optimizers = {
            "critic": adam(nn.ModuleList((self.critic, self.encode)), s.lr),
            "actor": adam(self.actor, s.lr),
        }

    def update(self, data: Pair) -> Metrics:
        metrics = {
            "critic_loss": self.descend("critic", self.critic_loss, data.value),
            "actor_loss": self.descend("actor", self.actor_loss, data.actor),
        }
        self.updates += 1
        return metrics

    def critic_loss(self, b: Batch) -> Tensor:
        """E_ij[softplus(f_ij) - 1(i = j) f_ij],  f_ij = <phi(s_i, a_i), psi(g_j)> / sqrt(latent), over the heads"""
        x, g = self.encode.apart(b.state)
        f = self.critic.table(torch.cat((x, b.action), 1), g)
        return F.softplus(f).mean() - f.diagonal(dim1=1, dim2=2).mean() / len(x)

    def actor_loss(self, b: Batch) -> Tensor:
        """-E[min Q(s, pi, g)] / E|min Q(s, pi, g)| - alpha E[log N(a; pi, 1)]"""
        return self.climb(self.encode(b.state), b, partial(self.q, b.state), self.settings.alpha)

    def q(self, state: State, action: Tensor) -> Tensor:
        """min Q(s, a, g): (B,)"""
        x, g = self.encode.apart(state)
        f: Tensor = self.critic(torch.cat((x, action), 1), g)
        return f.amin(0)

    @torch.no_grad()
    def value(self, b: Batch) -> Tensor:
        """min Q(s, a, g): (B,)"""
        return self.q(b.state, b.action)

    @torch.no_grad()
    def ahead(self, b: Batch) -> Tensor:
        """The same: there is no bootstrap."""
        return self.value(b)

    @torch.no_grad()
    def next_value(self, b: Batch) -> Tensor:
        """min Q(s', pi, g): (B,)"""
        return self.q(b.next_state, self.actor(self.encode(b.next_state)))

    def scores(self) -> Scores:
        return Scores(self.value, self.ahead)
