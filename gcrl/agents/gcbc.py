"""GCBC, and online GCSL: imitation of what reached the relabelled goal (Ghosh et al. 2019, arXiv 1912.06088)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gcrl.agents.agent import Metrics
from gcrl.agents.reaching import Reaching, ReachingSettings
from gcrl.encoder import Spec
from gcrl.optim import adam
from relabel.batch import Batch
from relabel.prefetch import Source


class GCBC(Reaching):
    """On data alone this is GCBC; with episodes that the policy collects while it learns it is GCSL."""

    Settings = ReachingSettings

    def __init__(self, spec: Spec, settings: ReachingSettings) -> None:
        super().__init__(spec, settings)
        self.optimizers["actor"] = adam(nn.ModuleList((self.actor, self.encode)), settings.lr)

    def draw(self, replay: Source, rng: Any) -> Batch:
        return self.sample(replay, rng, "actor_goals")

    def update(self, data: Batch) -> Metrics:
        loss = self.descend("actor", self.actor_loss, data)
        self.updates += 1
        return {"actor_loss": loss}

    def actor_loss(self, b: Batch) -> Tensor:
        """-E[log pi(a|s, g)]"""
        return -self.log_prob(self.encode(b.state), b.action).mean()
