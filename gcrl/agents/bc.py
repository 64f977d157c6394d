"""BC: behaviour cloning, the likeliest policy of the data (Pomerleau 1989); 10%BC is the same on the best episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from gcrl.agents.agent import Drawing, Metrics
from gcrl.encoder import Spec
from gcrl.nets import NormalActor
from gcrl.optim import adam, step
from relabel.batch import Batch
from relabel.prefetch import Source


@dataclass(frozen=True)
class BCSettings:
    batch: int = 256
    """transitions in one update"""
    lr: float = 3e-4
    """learning rate of the actor"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""


class BC(Drawing):
    Settings = BCSettings
    settings: BCSettings
    offline = True

    def __init__(self, spec: Spec, settings: BCSettings) -> None:
        super().__init__(spec, settings)
        self.actor = NormalActor(self.encode.dim, spec.action_dim, settings.hidden)
        self.optimizers = {"actor": adam(nn.ModuleList((self.actor, self.encode)), settings.lr)}

    def draw(self, replay: Source, rng: np.random.Generator) -> Batch:
        return replay.sample(rng, self.settings.batch)

    def update(self, data: Batch) -> Metrics:
        loss = self.actor_loss(data)
        step(self.optimizers["actor"], loss)
        self.updates += 1
        return {"actor_loss": loss.detach()}

    def actor_loss(self, b: Batch) -> Tensor:
        """E[-log pi(a | s)]"""
        return -self.actor.log_prob(self.encode(b.state), b.action).mean()
