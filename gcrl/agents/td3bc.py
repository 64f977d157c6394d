"""TD3+BC: TD3 whose actor also imitates (Fujimoto and Gu 2021, arXiv 2106.06860)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gcrl.agents.by_task import unit
from gcrl.agents.offline import OfflineTD3Settings
from gcrl.agents.td3 import TD3
from relabel.batch import Batch


@dataclass(frozen=True)
class TD3BCSettings(OfflineTD3Settings):
    scale: float = 2.5
    """how much the value counts beside the imitation (the paper's alpha)"""


class TD3BC(TD3):
    """Deviations: as of TD3; targets are kept within what the task's rewards allow; the normaliser is the encoder's."""

    Settings = TD3BCSettings
    settings: TD3BCSettings
    offline = True

    def actor_loss(self, b: Batch) -> Tensor:
        """E[-lambda Q_1(s, pi(s)) + |pi(s) - a|^2 / A + penalty |pi(s)|^2 / A],  lambda = scale / its task's |Q_1|"""
        s, x = self.settings, self.encode(b.state)
        a = self.actor(x)
        q = self.critic(x, a, slice(0, 1))[0]
        imitation = ((a - b.action) ** 2).mean(-1)
        return (-s.scale * unit(q, b.task, self.spec.tasks) + imitation + s.action_penalty * (a**2).mean(-1)).mean()
