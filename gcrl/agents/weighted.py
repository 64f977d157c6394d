"""What IQL, AWAC and CRR share: a policy that imitates the data, each action with a weight that its value decides."""

from __future__ import annotations

import torch
from torch import Tensor

from gcrl.agents.agent import Drawing
from gcrl.agents.offline import OfflineSettings
from gcrl.agents.offpolicy import OffPolicy
from gcrl.encoder import Spec
from gcrl.nets import NormalActor
from relabel.batch import Batch


class Weighted(Drawing, OffPolicy):
    """A subclass says what an action of the data weighs, and what the critic bootstraps from."""

    offline = True
    actor: NormalActor

    def __init__(self, spec: Spec, settings: OfflineSettings) -> None:
        super().__init__(spec, settings, NormalActor)

    def next_value(self, b: Batch) -> Tensor:
        """min Q'(s', a'),  a' ~ pi(.|s'): (B,)"""
        x_ = self.encode(b.next_state)
        return self.least(self.target(x_, self.actor.sample(x_)[0]))

    def actor_loss(self, b: Batch) -> Tensor:
        """-E[w(s, a) log pi(a|s)]"""
        x = self.encode(b.state)
        return -(self.weight(x, b) * self.actor.log_prob(x, b.action)).mean()

    def weight(self, x: Tensor, b: Batch) -> Tensor:
        """w(s, a), without a gradient, x (B, X) the encoded states: (B,)"""
        raise TypeError(f"{type(self).__name__} does not say what an action weighs")

    def compared(self, x: Tensor, action: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """min Q(s, a) (B,) and min Q(s, a_j) (n, B) of n actions a_j ~ pi(.|s), all in one pass."""
        mean, log_std = self.actor.normal(x)
        sampled = (mean + log_std.exp() * torch.randn(n, *mean.shape, dtype=x.dtype, device=x.device)).clamp(-1, 1)
        a = torch.cat((action[None], sampled)).flatten(0, 1)
        q = self.critic(x.repeat(n + 1, 1), a).amin(0).unflatten(0, (n + 1, -1))
        return q[0], q[1:]
