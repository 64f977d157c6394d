"""What every agent is: three verbs, and the state that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gcrl.compiled import Build, Compiled, build
from gcrl.encoder import Encoder, Spec
from gcrl.optim import parameters, slow
from relabel.batch import Batch, State
from relabel.prefetch import Source
from tasks.task import InputError

Metrics = dict[str, Tensor]


class Agent(nn.Module):
    """draw (what data one update needs), update (one gradient step), act.

    `optimizers` by name are part of the state that is saved, and so is `updates`, the number of gradient steps.
    """

    Settings: ClassVar[type[Any]]
    offline: ClassVar[bool] = False
    """made to learn from data alone: its values may lie below the task's own"""
    discrete: ClassVar[bool] = False
    """its actions are choices: the greatest of the A numbers of an action"""
    needs_goals: ClassVar[bool] = False
    """it learns to reach goals and nothing else: a task without goals is none of its own"""
    steady: bool = True
    """does every update of a phase do the same, so that it can be compiled"""
    settings: Any
    optimizers: dict[str, torch.optim.Optimizer]
    pace: Tensor
    """the share of its learning rates that it learns at"""

    def __init__(self, spec: Spec, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.spec = spec
        self.encode = Encoder(spec)
        self.optimizers = {}
        self.updates = 0
        self.register_buffer("pace", torch.ones(()), persistent=False)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)

    def compile_update(self, build: Build = build, optional: bool = False) -> None:
        """From now on an update is one compiled program, which `build` makes.

        Raises InputError if it cannot be; if that is `optional`, updates stay as they are.
        """
        try:
            self.update = Compiled(self, build, optional)  # type: ignore[method-assign]
        except InputError:
            if not optional:
                raise

    def learn_at(self, pace: float) -> None:
        """From now on at this share of the learning rates that were set."""
        slow(self.optimizers.values(), pace)
        self.pace.fill_(pace)

    def phase(self) -> Hashable:
        """What sets the next update apart from others, as far as it does other things; None: it is never compiled."""
        return ()

    def begin(self) -> None:
        """A run of its own begins with what another has learned."""

    def draw(self, replay: Source, rng: np.random.Generator) -> Any:
        """The data one update needs."""
        raise TypeError(f"{type(self).__name__} does not say what it draws")

    def update(self, data: Any) -> Metrics:
        """One gradient step; metrics stay tensors, so that nothing waits for them."""
        raise TypeError(f"{type(self).__name__} does not say how it learns")

    def act(self, state: State, carry: Any = None, explore: bool = False) -> tuple[Tensor, Any]:
        """Actions (B, A) in [-1, 1] for states (B, ...), and what to hand in again at the next step."""
        raise TypeError(f"{type(self).__name__} does not say how it acts")

    @torch.no_grad()
    def worth(self, state: State) -> Tensor:
        """V(s, g), by the policy as it is: (B,). Raises InputError if the method learns no such value."""
        none = state.obs.new_zeros(len(state.obs))
        action = none[:, None].expand(-1, self.spec.action_dim)
        return self.next_value(Batch(state.obs, action, none, none, state.obs, state.goal, state.task))

    def next_value(self, b: Batch) -> Tensor:
        """V(s', g): (B,); left out by a method that learns no such value."""
        raise InputError(f"--values: {type(self).__name__.lower()} learns no value of a state")


class Drawing(Agent):
    """Acts by the mode of its actor; exploring, by a draw from it."""

    actor: Any

    @torch.no_grad()
    def act(self, state: State, carry: Any = None, explore: bool = False) -> tuple[Tensor, Any]:
        x = self.encode(state)
        return (self.actor.sample(x)[0] if explore else self.actor(x)), carry


@contextmanager
def only(agent: Agent, name: str) -> Iterator[None]:
    """What is computed inside needs a gradient in the parameters of the optimizer `name` alone.

    So no loss needs `detach` to protect another network, and no gradient of one is ever computed.
    """
    others = [p for other, optimizer in agent.optimizers.items() if other != name for p in parameters(optimizer)]
    for p in others:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in others:
            p.requires_grad = True


@torch.no_grad()
def follow(target: list[Tensor], online: list[Tensor], tau: float) -> None:
    """target <- (1 - tau) target + tau online"""
    torch._foreach_lerp_(target, online, tau)


def optimizer_state(agent: Agent) -> dict[str, Tensor]:
    """All optimizers' tensors by name."""
    return {
        f"{name}.{i}.{key}": value
        for name, optimizer in agent.optimizers.items()
        for i, slots in optimizer.state_dict()["state"].items()
        for key, value in slots.items()
    }


def load_optimizer_state(agent: Agent, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`."""
    for name, optimizer in agent.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            owner, i, key = path.split(".")
            if owner == name:
                state.setdefault(int(i), {})[key] = value.clone()  # torch would keep and change the caller's own
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
