"""What the methods for reaching goals from data share: goals of value and actor, the end at the goal, an actor.

As OGBench sets them up (Park et al. 2024, arXiv 2410.20092, appendix C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from gcrl.agents.agent import Agent, only
from gcrl.agents.by_task import means
from gcrl.agents.offline import expectile
from gcrl.encoder import Spec
from gcrl.nets import Actor, normal_density
from gcrl.optim import step
from relabel.batch import Batch, State
from relabel.goals import Strategy, parse
from relabel.prefetch import Source
from relabel.score import Scores
from relabel.subgoal import Onward
from tasks.task import InputError


@dataclass(frozen=True)
class ReachingSettings:
    """Numbers of a method that learns to reach goals from data."""

    batch: int = 256
    """transitions in one update (OGBench: 1024)"""
    lr: float = 3e-4
    """learning rate of all networks"""
    hidden: tuple[int, ...] = (256, 256, 256)
    """units of the hidden layers (OGBench: 512 512 512)"""
    actor_goals: str = "future:1"
    """goals that the actor learns from, as --relabel; where short episodes must be joined: future:0.5,random:0.5"""
    noise: float = 0.1
    """deviation of the Gaussian exploration noise"""


@dataclass(frozen=True)
class ValueSettings(ReachingSettings):
    """Numbers of one that learns a value too."""

    layer_norm: bool = True
    """normalise the hidden layers of values"""
    tau: float = 0.005
    """how fast the targets follow"""
    value_goals: str = "current:0.2,geometric:0.5,random:0.3"
    """goals that the value learns from, as --relabel"""


class Pair(NamedTuple):
    """Transitions under the goals of the value, and others under those of the actor."""

    value: Batch
    actor: Batch

    @property
    def state(self) -> State:
        return self.actor.state


class Ahead(NamedTuple):
    """As `Pair`, where those of the actor know what lies ahead of them."""

    value: Batch
    actor: Onward

    @property
    def state(self) -> State:
        return self.actor.state


class Reaching(Agent):
    """A policy N(pi(s, g), 1) that imitates or climbs a value; a subclass says how.

    A goal is reached where the task's own reward, r(s', g), is more than the least it pays; where that is below 0 and 0
    can be had, where it is 0 or more, so that what costs less on the way is no arrival. For the value that step
    costs nothing and is the last, all others cost 1. OGBench has r(s, g): there a state at the goal is worth 0 and ends
    it, here the transition that arrives does, so that its values are these, one step earlier.

    Deviations: ReLU, not GELU; the mean is a tanh but in GCIQL and QRL; values and actor learn from transitions of
    their own, not from the same ones under two goals.
    """

    offline = True
    needs_goals = True
    by_reward: ClassVar[bool] = False
    """it asks the reward whether a step arrives"""
    settings: ReachingSettings
    Policy: type[Actor] = Actor
    """clipped in GCIQL and QRL: a tanh that has climbed to the wrong side would stay there"""
    least: Tensor

    def __init__(self, spec: Spec, settings: ReachingSettings) -> None:
        name = type(self).__name__.lower()
        if not spec.goal_dim or "goal" not in spec.task_id:
            raise InputError(f"--agent {name} learns to reach goals: give it a task with goals, and let it see them")
        low, high = torch.tensor(spec.bounds).T
        if self.by_reward and not low.isfinite().all():
            raise InputError(
                f"--agent {name} takes what pays more than the least for an arrival, and a task here declares no least "
                "one (reward_range): give it one that pays for arriving alone"
            )
        super().__init__(spec, settings)
        self.actor = self.Policy(self.encode.dim, spec.action_dim, settings.hidden)
        for flag in ("actor_goals", "value_goals"):
            if text := getattr(settings, flag, ""):
                parse(text, flag=f"--{flag.replace('_', '-')}")
        below = torch.where(high < 0, (1 - spec.gamma) * low * (1 - 1e-4), -1e-6)  # margins for rounding
        self.register_buffer("least", torch.where(low < 0, below, low), persistent=False)

    def goals(self, which: str, replay: Source) -> Strategy:
        """The strategy of the setting `which`."""
        return parse(getattr(self.settings, which), replay.gamma)

    def sample(self, replay: Source, rng: Any, which: str) -> Batch:
        """Transitions of one step under the goals of the setting `which`."""
        with replay.under(self.goals(which, replay)):
            return replay.sample(rng, self.settings.batch, 1, self.scores())

    def draw(self, replay: Source, rng: Any) -> Any:
        return Pair(self.sample(replay, rng, "value_goals"), self.sample(replay, rng, "actor_goals"))

    def onward(self, replay: Source, rng: Any, which: str, k: int) -> Onward:
        """The same, and what lies k steps ahead."""
        with replay.under(self.goals(which, replay)):
            return replay.onward(rng, self.settings.batch, k)

    def scores(self) -> Scores | None:
        """What sharing by values asks."""
        return None

    def reaching(self, b: Batch) -> tuple[Tensor, Tensor]:
        """Reward and discount (B,) of the way to the goal: -1 and gamma, and 0 and 0 for the step that arrives."""
        far = (b.reward <= self.least[b.task]).to(b.reward.dtype)
        return -far, b.discount * far

    def way(self, b: Batch) -> tuple[Tensor, Tensor]:
        """As `reaching`, for values of -1 a step: who ends elsewhere pays what never arriving costs."""
        reward, discount = self.reaching(b)
        return torch.where((reward < 0) & (discount == 0), -1 / (1 - self.spec.gamma), reward), discount

    def upward(self, b: Batch, target: Callable[[Tensor], Tensor], v: Callable[[Tensor], Tensor], tau: float) -> Tensor:
        """sum_i E[|tau - 1(A < 0)| (r + gamma V'_i(s') - V_i(s))^2],  A = r + gamma min V'(s') - mean V'(s)

        target and v: (B, X) -> (2, B), the slow values and those that learn.
        """
        x = self.ends(b)
        reward, discount = self.way(b)
        with torch.no_grad():
            old, v_ = target(x).chunk(2, 1)
            advantage = reward + discount * v_.amin(0) - old.mean(0)
        return expectile(advantage, reward + discount * v_ - v(x[: len(b.obs)]), tau).sum()

    def ends(self, b: Batch) -> Tensor:
        """The states and then the next ones, encoded: (2B, X)."""
        obs, goal, task = torch.cat((b.obs, b.next_obs)), b.goal.repeat(2, 1), b.task.repeat(2)
        x: Tensor = self.encode(State(obs, goal, task))
        return x

    def log_prob(self, x: Tensor, action: Tensor) -> Tensor:
        """log N(a; mean(x), 1): (B,)"""
        return unit_density(action - self.actor.mean(x))

    def climb(self, x: Tensor, b: Batch, q: Callable[[Tensor], Tensor], alpha: float) -> Tensor:
        """-E[Q(pi) / E|Q(pi)|] - alpha E[log N(a; mean, 1)], the divisor a task's and constant, pi the mean clipped.

        x (B, X) the actor's input, q (B, A) -> (B,).
        """
        mean = self.actor.mean(x)
        value = q(mean.clamp(-1, 1))
        size = means(value.detach().abs(), b.task, self.spec.tasks) + 1e-6
        return -(value / size).mean() - alpha * unit_density(b.action - mean).mean()

    def descend(self, name: str, loss: Callable[..., Tensor], *data: Any) -> Tensor:
        """A step of the optimizer `name` along the gradient of loss(data)."""
        with only(self, name):
            y = loss(*data)
        step(self.optimizers[name], y)
        return y.detach()

    @torch.no_grad()
    def act(self, state: State, carry: Any = None, explore: bool = False) -> tuple[Tensor, Any]:
        """pi(s, g); exploring: plus Gaussian noise."""
        return self.explored(self.actor(self.encode(state)), explore), carry

    def explored(self, a: Tensor, explore: bool) -> Tensor:
        """a (B, A); exploring: plus Gaussian noise, within [-1, 1]."""
        return (a + self.settings.noise * torch.randn_like(a)).clamp(-1, 1) if explore else a


def unit_density(off: Tensor) -> Tensor:
    """The log density of a normal of deviation 1, so far off its mean: (B, A) -> (B,)."""
    return normal_density(off, off.new_zeros(off.shape[-1]))


def weight(advantage: Tensor, alpha: float) -> Tensor:
    """min(exp(alpha A), 100): (B,)"""
    return (alpha * advantage).exp().clamp(max=100.0)
