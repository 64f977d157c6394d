"""AWR: advantage-weighted regression on returns (Peng et al. 2019, arXiv 1910.00177)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gcrl.agents.agent import Drawing, Metrics, only
from gcrl.agents.by_task import sums
from gcrl.encoder import Spec
from gcrl.nets import NormalActor, Values
from gcrl.optim import adam, step
from relabel.batch import Batch
from relabel.prefetch import Source
from relabel.segment import Segment


@dataclass(frozen=True)
class AWRSettings:
    batch: int = 32
    """windows in one update, each of `length` steps"""
    length: int = 16
    """steps of a window; what follows is the value's guess"""
    lr: float = 3e-4
    """learning rate of actor and value"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""
    layer_norm: bool = False
    """normalise the value's hidden layers"""
    trace: float = 0.95
    """lambda of the returns: 0 one step of reward and the value behind it, 1 all rewards of the window"""
    normalise: bool = True
    """a task's advantages get mean 0 and deviation 1, as in the authors' code; no: as they are, --temperature 0.05"""
    temperature: float = 1.0
    """beta: the greater, the nearer to plain imitation"""
    most: float = 20.0
    """bound of a weight"""


class AWR(Drawing):
    """No action values at all: a value of states, and imitation of what turned out better than it.

    Deviations: returns reach to the end of a window, not of the episode; Adam in place of SGD with momentum.
    """

    Settings = AWRSettings
    settings: AWRSettings
    offline = True

    def __init__(self, spec: Spec, settings: AWRSettings) -> None:
        super().__init__(spec, settings)
        s = settings
        self.actor = NormalActor(self.encode.dim, spec.action_dim, s.hidden)
        self.v = Values(1, self.encode.dim, s.hidden, s.layer_norm)
        self.optimizers = {
            "value": adam(nn.ModuleList((self.v, self.encode)), s.lr),
            "actor": adam(self.actor, s.lr),
        }

    def draw(self, replay: Source, rng: np.random.Generator) -> Segment:
        return replay.segments(rng, self.settings.batch, self.settings.length)

    def update(self, data: Segment) -> Metrics:
        metrics = {}
        for name, loss in (("value", self.value_loss), ("actor", self.actor_loss)):
            with only(self, name):
                of = loss(data)
            step(self.optimizers[name], of)
            metrics[f"{name}_loss"] = of.detach()
        self.updates += 1
        return metrics

    def value_loss(self, b: Segment) -> Tensor:
        """E[(G - V(s))^2] over the steps that count"""
        v = self.values(b)
        return b.mean((self.returns(b, v.detach()) - v[:, :-1]) ** 2)

    def actor_loss(self, b: Segment) -> Tensor:
        """-E[min(exp(A / beta), most) log pi(a|s)],  A = G - V(s), over the steps that count"""
        logp = self.actor.log_prob(self.encode.window(b)[:, :-1].flatten(0, 1), b.action.flatten(0, 1))
        return -b.mean(self.weight(b) * logp.unflatten(0, b.reward.shape))

    @torch.no_grad()
    def weight(self, b: Segment) -> Tensor:
        """(B, L)"""
        s, v = self.settings, self.values(b)
        advantage = self.returns(b, v) - v[:, :-1]
        if s.normalise:
            centred = advantage - self.mean_of_its_task(b, advantage)
            advantage = centred / (self.mean_of_its_task(b, centred**2).sqrt() + 1e-5)
        return (advantage / s.temperature).exp().clamp(max=s.most)

    def mean_of_its_task(self, b: Segment, x: Tensor) -> Tensor:
        """x (B, L) over the steps that count in the windows of the same task: (B, 1)"""
        over = torch.where(b.counts, x, 0).sum(1), b.counts.sum(1).to(x.dtype)
        total, steps = (sums(part, b.task, self.spec.tasks) for part in over)
        return (total / steps)[:, None]

    def returns(self, b: Segment, v: Tensor) -> Tensor:
        """G_t = r_t + gamma ((1 - lambda) V(s_t+1) + lambda G_t+1), and G = V behind the last step; v (B, L + 1)"""
        trace, g, out = self.settings.trace, v[:, -1], []
        for t in reversed(range(b.reward.shape[1])):
            g = b.reward[:, t] + b.discount[:, t] * ((1 - trace) * v[:, t + 1] + trace * g)
            g = torch.where(b.counts[:, t], g, v[:, t])  # behind an episode's end lies its last state, again and again
            out.append(g)
        return torch.stack(out[::-1], 1)

    def values(self, b: Segment) -> Tensor:
        """V(s): (B, L + 1)"""
        v: Tensor = self.v(self.encode(b.states()))[0].unflatten(0, b.obs.shape[:2])
        return v

    def next_value(self, b: Batch) -> Tensor:
        """V(s'): (B,)"""
        v: Tensor = self.v(self.encode(b.next_state))[0]
        return v
