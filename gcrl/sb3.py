"""Stable-Baselines3 as a neighbour: our replay in its algorithms, our policies in its evaluation, its actors in ours.

SAC, TD3 and DDPG learn from our replay by being told so:

    SAC("MultiInputPolicy", environment("fetch-reach"), replay_buffer_class=HindsightReplayBuffer,
        replay_buffer_kwargs=dict(task="fetch-reach", relabel="future"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.nn.functional import linear

import tasks
from gcrl import policy
from gcrl.weights import read_weights
from relabel.batch import State
from relabel.goals import parse
from relabel.replay import Replay
from relabel.store import slots_for
from tasks import Episode, InputError, SimulatorError, Task

__all__ = ["HindsightReplayBuffer", "Policy", "actor_of", "environment", "read_weights"]

Array = NDArray[Any]
KEYS = ("achieved_goal", "desired_goal", "observation")  # in the order in which SB3's networks take them


class Scored(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The task's reward where SB3's own HerReplayBuffer looks for it."""

    def __init__(self, env: gymnasium.Env[Any, Any], task: Task) -> None:
        super().__init__(env)
        self.task = task

    def compute_reward(self, achieved: Array, desired: Array, info: Any) -> Any:
        assert self.task.reward is not None, "a task without goals has no reward for another goal"
        return self.task.reward(achieved, desired)


def environment(task: str | Task, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """The task's own environment, and its clock."""
    task = tasks.get(task) if isinstance(task, str) else task
    return gymnasium.wrappers.TimeLimit(Scored(task.make(render_mode=render_mode), task), task.horizon)


class Step(NamedTuple):
    """One transition of an episode that is under way."""

    obs: Array  # (O,)
    action: Array  # (A,) in [-1, 1], as SB3 stores them
    desired: Array  # (G,) in force at action time
    reward: np.float32
    next_obs: Array  # (O,)


class HindsightReplayBuffer(ReplayBuffer):
    """`relabel.Replay` as SB3's `replay_buffer_class`: goals by any strategy, reward and end anew for each goal.

    An episode can be drawn from once it has ended. `n_steps` and `gamma` are those of SB3's NStepReplayBuffer; what
    VecNormalize clips is then the sum of the n rewards.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,  # every observation is stored once anyway
        *,
        task: str | Task,
        relabel: str = "future",
        n_steps: int = 1,
        gamma: float | None = None,
    ) -> None:
        super(ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs)
        self.task = task = tasks.get(task) if isinstance(task, str) else task
        self.n_steps, self.gamma = n_steps, gamma
        self.optimize_memory_usage, self.handle_timeout_termination = False, True  # SB3 asks for both
        fits(task, observation_space, action_space)
        if buffer_size < task.horizon:
            raise InputError(f"buffer_size {buffer_size}: must hold an episode of {task.name}, {task.horizon} steps")
        if n_steps < 1 or (gamma is None and (n_steps > 1 or "geometric" in relabel)):
            raise InputError(f"n_steps {n_steps}, relabel {relabel!r}: give 1 or more steps, and the algorithm's gamma")
        if gamma is not None and not 0 <= gamma <= 1:
            raise InputError(f"gamma {gamma}: must be from 0 to 1")
        power = 0.99 if gamma is None else gamma  # one step: SB3 discounts, by its own gamma
        slots = slots_for(buffer_size, task)
        self.empty = partial(Replay, [task], slots, parse(relabel if task.goal_dim else "none", power), power)
        self.rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002 - what SB3's own `seed` has seeded
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.replay, self.begun = self.empty(), [list[Step]() for _ in range(self.n_envs)]

    def size(self) -> int:
        """Transitions that can be drawn."""
        return len(self.replay)

    def add(self, obs: Any, next_obs: Any, action: Array, reward: Array, done: Array, infos: Any) -> None:
        """One step of every environment: (N, O), (N, O), (N, A), (N,), (N,). SimulatorError where it is not finite."""
        (before, desired), (after, _) = self._columns(obs), self._columns(next_obs)
        action, reward = np.array(action, np.float32).reshape(self.n_envs, -1), np.array(reward, np.float32)
        if not all(np.isfinite(x).all() for x in (before, desired, after, reward)):
            raise SimulatorError(f"the simulator of {self.task.name} gave a number that is not finite")
        if self.task.goal_dim and not np.allclose(self.task.goal_of(before), obs["achieved_goal"], 1e-4, 1e-4):
            raise InputError(
                f"the achieved_goal is not what {self.task.name} reads off the observation: "
                f"give SB3 gcrl.sb3.environment({self.task.name!r})"
            )
        for i, steps in enumerate(self.begun):
            if steps and not np.array_equal(steps[-1].next_obs, before[i]):
                self._finish(i, terminated=False)  # `learn` was called again, and that resets the environments
            self.begun[i].append(Step(before[i], action[i], desired[i], reward[i], after[i]))
            if done[i]:
                self._finish(i, terminated=not infos[i].get("TimeLimit.truncated", False))

    def _columns(self, seen: Any) -> tuple[Array, Array]:
        """Copies of the observation (N, O) and the desired goal (N, G)."""
        if not self.task.goal_dim:
            return np.array(seen, np.float32), np.zeros((self.n_envs, 0), np.float32)
        return np.array(seen["observation"], np.float32), np.array(seen["desired_goal"], np.float32)

    def _finish(self, i: int, terminated: bool) -> None:
        steps, self.begun[i] = self.begun[i], []
        obs, action, desired, reward, next_obs = (np.stack(column) for column in zip(*steps, strict=True))
        observation = np.concatenate((obs, next_obs[-1:]))
        self.replay.stores[0].add(Episode(observation, action, desired, reward, terminated))

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """(Dict)ReplayBufferSamples, normalised as `env` says; `discounts` where `gamma` was given."""
        if not len(self.replay):
            least = self.task.horizon * self.n_envs
            raise InputError(f"no episode of {self.task.name} has ended yet: give SB3 learning_starts={least} or more")
        b = self.replay.sample(self.rng, batch_size, self.n_steps)
        obs, next_obs = (self._seen(x.numpy(), b.goal.numpy(), env) for x in (b.obs, b.next_obs))
        reward = self.to_torch(self._normalize_reward(b.reward[:, None].numpy(), env))
        action, discount = b.action.to(self.device), b.discount[:, None].to(self.device)
        kind = DictReplayBufferSamples if self.task.goal_dim else ReplayBufferSamples
        return kind(obs, action, next_obs, (discount == 0).float(), reward, None if self.gamma is None else discount)

    def _seen(self, obs: Array, goal: Array, env: VecNormalize | None) -> Any:
        """What the environment would have shown with these goals: (B, O), (B, G) -> tensors."""
        if not self.task.goal_dim:
            return self.to_torch(self._normalize_obs(obs, env))  # type: ignore[arg-type]
        rows: Any = dict(zip(KEYS, (self.task.goal_of(obs), goal, obs), strict=True))
        return {key: self.to_torch(x) for key, x in self._normalize_obs(rows, env).items()}  # type: ignore[union-attr]


def fits(task: Task, seen: gymnasium.Space[Any], actions: gymnasium.Space[Any]) -> None:
    """InputError unless these are the spaces of the task."""
    spaces = seen.spaces if isinstance(seen, gymnasium.spaces.Dict) else {"observation": seen}
    found = {key: space.shape for key, space in spaces.items()}
    sizes = zip(KEYS, (task.goal_dim, task.goal_dim, task.obs_dim), strict=True)
    if found != {key: (n,) for key, n in sizes if n} or actions.shape != (task.action_dim,):
        raise InputError(
            f"{task.name} does not observe {found} with actions {actions.shape}: "
            f"give SB3 gcrl.sb3.environment({task.name!r}), or the task of its environment to the buffer"
        )


class Policy:
    """What SB3 asks of a policy: `predict`. Calling it with an observation gives the action alone.

    `act` maps what is observed, (B, ...) by key, a carry and whether to explore to actions (B, A) and the next carry.
    """

    def __init__(self, act: Callable[[dict[str, Tensor], Any, bool], tuple[Tensor, Any]]) -> None:
        self.act = act

    @staticmethod
    def load(folder: str | Path, device: str = "auto", task: str | None = None) -> Policy:
        """The newest policy of a run of ours; of several tasks it plays `task`, none: the first. Raises InputError."""
        agent, plan, _ = policy.load(Path(folder), device)
        names = [known.name for known in plan.tasks]
        if task is not None and task not in names:
            raise InputError(f"task {task!r}: {folder} has learnt {', '.join(names)}")
        k = 0 if task is None else names.index(task)
        own, laid = tasks.get(names[k]), plan.tasks[k]
        columns = list(own.columns if own.obs_dim < laid.obs_dim else range(own.obs_dim))

        def act(seen: dict[str, Tensor], carry: Any, explore: bool) -> tuple[Tensor, Any]:
            rows = len(seen["observation"])
            obs, goal = torch.zeros(rows, laid.obs_dim), torch.zeros(rows, laid.goal_dim)
            desired = seen["desired_goal"] if own.goal_dim else torch.zeros(rows, 0)
            if seen["observation"].shape[1] != own.obs_dim or desired.shape[1] != own.goal_dim:
                raise InputError(f"{folder} has learnt {names[k]}, which does not observe what was handed in")
            obs[:, columns], goal[:, : own.goal_dim] = seen["observation"], desired
            state = State(obs, goal, torch.full((rows,), k))
            return agent.act(State(*(x.to(plan.device) for x in state)), carry, explore)

        return Policy(act)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        """Actions (B, A), or (A,) for a single observation, and the state to hand in again."""
        seen = observation if isinstance(observation, Mapping) else {"observation": observation}
        rows = {key: torch.as_tensor(np.array(x, np.float32, ndmin=2)) for key, x in seen.items()}
        carry = None if episode_start is not None and np.all(episode_start) else state
        with torch.no_grad():
            action, carry = self.act(rows, carry, not deterministic)
        return action.cpu().numpy().reshape(*np.shape(seen["observation"])[:-1], -1), carry

    def __call__(self, observation: Any) -> Array:
        return self.predict(observation)[0]


def actor_of(
    weights: Mapping[str, Mapping[str, Tensor]],
    keys: Sequence[str] = KEYS,
    activation: Callable[[Tensor], Tensor] = torch.relu,
) -> Policy:
    """The deterministic policy of SB3's SAC, TD3 or DDPG with MultiInputPolicy, in [-1, 1]. Raises InputError.

    A model's file does not tell the activation (SB3's default is ReLU), nor VecNormalize's statistics: where it was
    trained with them, hand the policy what `normalize_obs` gives.
    """
    actor = weights.get("actor", {})
    sac = "mu.weight" in actor  # its mean and its deviation are layers of their own
    trunk = "latent_pi" if sac else "mu"
    names = [f"{trunk}.{i}" for i in range(len(actor)) if f"{trunk}.{i}.weight" in actor] + ["mu"] * sac
    known = {f"{name}.{what}" for name in [*names, *["log_std"] * sac] for what in ("weight", "bias")}
    if not names or set(actor) != known:
        raise InputError("these weights hold no actor of SAC, TD3 or DDPG that is made of linear layers, without gSDE")
    layers = [(actor[f"{name}.weight"].float(), actor[f"{name}.bias"].float()) for name in names]

    def act(seen: dict[str, Tensor], carry: Any, explore: bool) -> tuple[Tensor, Any]:
        if explore:
            raise InputError("an actor read from a file of SB3 does not explore: leave deterministic=True")
        x = torch.cat([seen[key] for key in keys], 1)
        if x.shape[1] != layers[0][0].shape[1]:
            raise InputError(f"this actor takes {layers[0][0].shape[1]} numbers, the observation has {x.shape[1]}")
        for weight, bias in layers[:-1]:
            x = activation(linear(x, weight, bias))
        return torch.tanh(linear(x, *layers[-1])), carry

    return Policy(act)
