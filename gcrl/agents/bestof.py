"""What BCQ (1812.02900) and BEAR (1906.00949) share: a model of the data's actions, and the best of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gcrl.agents.agent import Metrics
from gcrl.agents.offline import OfflineSettings
from gcrl.agents.offpolicy import OffPolicy
from gcrl.behaviour import ActionVAE
from gcrl.encoder import Spec
from gcrl.layers import whole
from gcrl.optim import adam
from relabel.batch import Batch, State


@dataclass(frozen=True)
class BestOfSettings(OfflineSettings):
    batch: int = 100
    """transitions in one update"""
    samples: int = 10
    """candidates of which the target takes the best"""
    choices: int = 100
    """candidates of which acting takes the best"""
    pessimism: float = 0.75
    """lambda: weight of the least head, the greatest gets the rest"""
    kl: float = 0.5
    """weight of the code's divergence in the autoencoder's loss"""


class BestOf(OffPolicy):
    """A subclass says what a candidate is, and how its actor learns.

    Without exploring the candidates' draws are always the same ones, made once and saved, so that acting is a function
    of the state.
    """

    settings: BestOfSettings
    offline = True
    draws: Tensor

    def __init__(self, spec: Spec, settings: BestOfSettings, actor: type[nn.Module]) -> None:
        super().__init__(spec, settings, actor)
        s = settings
        self.vae = ActionVAE(self.encode.dim, spec.action_dim, s.hidden, s.weights, self.encode.ident)
        self.optimizers["vae"] = adam(self.vae, s.lr)
        self.register_buffer("draws", torch.randn(s.choices, self.width))

    @property
    def width(self) -> int:
        """Numbers that one draw has."""
        raise TypeError(f"{type(self).__name__} does not say what it draws")

    def candidates(self, x: Tensor, noise: Tensor) -> Tensor:
        """Actions of draws from N(0, 1): x (B, X), noise (n, B, width) -> (n, B, A)."""
        raise TypeError(f"{type(self).__name__} has no candidates")

    def update(self, data: Batch) -> Metrics:
        vae_loss = self.descend("vae", self.vae, data, lambda b, _: self.vae_loss(b))
        return {"vae_loss": vae_loss, **super().update(data)}

    def vae_loss(self, b: Batch) -> Tensor:
        """E[(a - D(s, z))^2] + weight KL(E(s, a) || N(0, 1)),  z ~ E(s, a)"""
        return self.vae.elbo_loss(self.encode(b.state), b.action, self.settings.kl)

    def next_value(self, b: Batch) -> Tensor:
        """max_i lambda min_k Q'_k(s', a_i) + (1 - lambda) max_k Q'_k(s', a_i): (B,)"""
        x_ = self.encode(b.next_state)
        noise = torch.randn(self.settings.samples, len(x_), self.width, dtype=x_.dtype, device=x_.device)
        q = all_of(self.target, x_, self.candidates(x_, noise))
        return soft_clipped(q, self.settings.pessimism).amax(0)

    @torch.no_grad()
    def act(self, state: State, carry: Any = None, explore: bool = False) -> tuple[Tensor, Any]:
        """arg max_i Q_1(s, a_i); exploring: a candidate"""
        x = self.encode(state)
        if explore:
            return self.candidates(x, torch.randn(1, len(x), self.width, dtype=x.dtype, device=x.device))[0], carry
        a = self.candidates(x, self.draws[:, None].expand(-1, len(x), -1))
        with whole():
            best = all_of(self.critic, x, a, slice(0, 1))[0].argmax(0)
        return a[best, torch.arange(len(x), device=x.device)], carry


def all_of(critic: nn.Module, x: Tensor, a: Tensor, *heads: slice) -> Tensor:
    """Q of n actions a state, in one pass: x (B, X), a (n, B, A) -> (heads, n, B)."""
    q: Tensor = critic(x.repeat(len(a), 1), a.flatten(0, 1), *heads)
    return q.unflatten(1, a.shape[:2])


def soft_clipped(q: Tensor, pessimism: float) -> Tensor:
    """lambda min_k q_k + (1 - lambda) max_k q_k: (heads, ...) -> (...)"""
    return pessimism * q.amin(0) + (1 - pessimism) * q.amax(0)
