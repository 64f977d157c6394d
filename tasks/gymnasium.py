"""Any registered gymnasium environment as a task, `gym:<id>`, of goals or of one. Long: a probe and its reasons.

Relabelling needs reward and end as functions of (achieved, desired). A goal environment's own compute_reward and
compute_terminated are taken for them once a probe has found that they say what `step` said, read nothing else and
change nothing.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from tasks.simulator import register_robotics, require_mujoco
from tasks.task import Array, InputError, Task, part

Env = gymnasium.Env[Any, Any]

HORIZON = 1000
"""Steps of an episode where the registration names no limit."""
STEPS, RESET, PAIRS = 100, 25, 300
"""The probe: steps of a walk, steps between its resets, and pairs of goals to score."""
PURE = "make it a function of (achieved_goal, desired_goal) alone, without effects"
RECORD = "record in achieved_goal all that reward and end depend on"


class GoalLast(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The achieved goal as the last numbers of the observation, so that it can be read off there."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        spaces: Any = env.observation_space
        own, goal = spaces["observation"], spaces["achieved_goal"]
        low, high = np.concatenate([own.low, goal.low]), np.concatenate([own.high, goal.high])
        both = Box(low, high, dtype=np.result_type(own.dtype, goal.dtype).type)
        self.observation_space = Dict({**spaces, "observation": both})

    def observation(self, observation: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        both = np.concatenate([observation["observation"], observation["achieved_goal"]])
        return {**observation, "observation": both}


class Choice(gymnasium.ActionWrapper[Any, Any, Any]):
    """One of n choices as a vector of n numbers: the greatest is what is chosen, of equals the first."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        space: Any = env.action_space
        self.start, self.action_space = int(space.start), Box(-1.0, 1.0, (int(space.n),), np.float32)

    def action(self, action: NDArray[Any]) -> int:
        return self.start + int(np.argmax(action))


def make(env_id: str, render_mode: str | None = None) -> Env:
    """The environment without its clock, its actions a vector in [-1, 1]; InputError where it is not one for us."""
    known(env_id)
    drawing = {} if render_mode is None else {"render_mode": render_mode}
    try:
        env: Env = gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **drawing)
    except Exception as error:
        raise InputError(f"gym:{env_id} cannot be made: {brief(error)}") from error
    check_spaces(env_id, env)
    if isinstance(env.observation_space, Dict):
        env = GoalLast(env)
    actions: Any = env.action_space
    if isinstance(actions, Discrete):
        env = Choice(env)
    elif (actions.low != -1).any() or (actions.high != 1).any():
        env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env


def known(env_id: str) -> None:
    """InputError, with the nearest names, unless gymnasium knows the environment."""
    if env_id not in gymnasium.registry:
        register_robotics()
    if env_id not in gymnasium.registry:
        near = [f"gym:{name}" for name in difflib.get_close_matches(env_id, gymnasium.registry)]
        cure = f"did you mean {' or '.join(near)}?" if near else "import the package that registers it first"
        raise InputError(f"gymnasium knows no environment 'gym:{env_id}': {cure}")
    if "gymnasium_robotics" in str(gymnasium.registry[env_id].entry_point):
        require_mujoco()


def check_spaces(env_id: str, env: Env) -> None:
    """InputError unless all that is observed are vectors of numbers, and actions are choices or vectors with limits."""
    actions, seen = env.action_space, env.observation_space
    discrete = isinstance(actions, Discrete)
    if not discrete and (not is_vector(actions) or not np.issubdtype(actions.dtype, np.floating)):
        raise InputError(
            f"gym:{env_id} takes {kind(actions)} actions: choose one with Discrete or a vector of continuous ones"
        )
    if not discrete and not actions.is_bounded():  # type: ignore[attr-defined]
        raise InputError(f"gym:{env_id} has actions without limits: register it with a wrapper that gives them limits")
    parts = seen.spaces if isinstance(seen, Dict) else {"observation": seen}
    if isinstance(seen, Dict) and set(parts) != {"observation", "achieved_goal", "desired_goal"}:
        raise InputError(
            f"gym:{env_id} observes a dict of {', '.join(parts)}: register it with an observation, an achieved_goal "
            "and a desired_goal, or with gymnasium.wrappers.FlattenObservation"
        )
    for name, space in parts.items():
        if not is_vector(space) or (name == "desired_goal" and space.shape != parts["achieved_goal"].shape):
            cure = "register it with a wrapper that makes all it observes vectors, both goals alike"
            raise InputError(f"gym:{env_id} has as {name} a {kind(space)}: {cure}")


def is_vector(space: gymnasium.Space[Any]) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1


def kind(space: gymnasium.Space[Any]) -> str:
    return f"{type(space).__name__}{space.shape or ''}"


def brief(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class NoInfo(dict[str, Any]):
    """The info of a goal that was never pursued: there is none."""

    def refuse(self, *_: Any) -> NoReturn:
        raise InputError("reads info, and there is none for a goal that was never pursued")

    __getitem__ = get = __contains__ = __iter__ = refuse


@functools.cache
def judge(env_id: str) -> Env:
    """The instance that is asked for rewards, one for each process."""
    env = make(env_id)
    env.reset(seed=0)
    return env


@dataclass(frozen=True)
class Asked:
    """(achieved (..., G), desired (..., G)) -> (...): what the environment's own function says. Pickles as names."""

    env_id: str
    question: str
    """compute_reward or compute_terminated"""
    dtype: type
    batched: bool = False
    """Does the function take many rows at once. If not it is called for each."""

    def __call__(self, achieved: Array, desired: Array) -> Array:
        shape = np.broadcast_shapes(achieved.shape, desired.shape)
        rows = [np.array(np.broadcast_to(to_numpy(goal), shape)).reshape(-1, shape[-1]) for goal in (achieved, desired)]
        answer = self.of(judge(self.env_id), *rows).reshape(shape[:-1])
        if isinstance(achieved, np.ndarray):
            return answer
        answer = achieved.new_tensor(answer)
        return answer > 0 if self.dtype is bool else answer

    def of(self, env: Env, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[Any]:
        """(N, G) x (N, G) -> (N,), asked of `env`."""
        ask = env.get_wrapper_attr(self.question)
        if self.batched:
            return np.asarray(ask(achieved, desired, NoInfo()), self.dtype)
        return np.array([ask(a, d, NoInfo()) for a, d in zip(achieved, desired, strict=True)], self.dtype)


def to_numpy(x: Array) -> NDArray[Any]:
    return np.asarray(x if isinstance(x, np.ndarray) else x.detach().cpu())


@dataclass(frozen=True)
class AsGoodAsThere:
    """Success where the environment defines none: the reward is that of standing on the goal.

    Exact for sparse rewards. A dense reward is matched on the very spot only: its success rate says little.
    """

    reward: Asked

    def __call__(self, achieved: Array, desired: Array) -> Array:
        return self.reward(achieved, desired) >= self.reward(desired, desired)


class Walk(NamedTuple):
    """Random steps and what came of each, in STEPS rows; the last two are named after the functions that give them."""

    observation: NDArray[Any]
    achieved: NDArray[Any]
    desired: NDArray[Any]
    compute_reward: NDArray[Any]
    compute_terminated: NDArray[Any]


def walk(env_id: str, meddle: Callable[[int, Env], None] | None = None) -> Walk:
    """Always the same seeds and actions; `meddle(step, env)` comes before each step."""
    env, rng, rows = make(env_id), np.random.default_rng(0), []
    actions = rng.uniform(-1, 1, (STEPS, *env.action_space.shape)).astype(env.action_space.dtype)  # type: ignore[misc]
    obs, _ = env.reset(seed=0)
    for step, action in enumerate(actions):
        desired = obs["desired_goal"].copy()  # the one in force: the step may choose another
        if meddle is not None:
            meddle(step, env)
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs["observation"].copy(), obs["achieved_goal"].copy(), desired, reward, terminated))
        if terminated or truncated or step % RESET == RESET - 1:
            obs, _ = env.reset()
    env.close()
    return Walk(*map(np.array, zip(*rows, strict=True)))


def pairs(walked: Walk) -> tuple[NDArray[Any], NDArray[Any]]:
    """Goals to score, (PAIRS, G) x 2: those of the steps, then the achieved ones against four kinds of others."""
    rng = np.random.default_rng(1)
    row = rng.integers(0, STEPS, PAIRS - STEPS)
    on, soon = walked.achieved[row], walked.achieved[np.minimum(row + rng.integers(1, 4, len(row)), STEPS - 1)]
    near = on + (walked.achieved.std(0) * rng.normal(size=(len(row), 1)) ** 3).astype(on.dtype)
    far = walked.desired[rng.permutation(row)]
    other = np.choose(np.arange(len(row))[:, None] % 4, [on, soon, near, far])
    return np.concatenate([walked.achieved, on]), np.concatenate([walked.desired, other])


def same(a: Iterable[NDArray[Any]], b: Iterable[NDArray[Any]]) -> bool:
    return all(map(np.array_equal, a, b))


def probe(env_id: str) -> tuple[Asked, Asked, tuple[float, float]]:
    """Reward and end as functions, batched where they can be; InputError unless they are functions of two goals.

    And the least and the greatest reward, of one that takes two values, as sparse ones do; else they are not known.
    """
    asked = [Asked(env_id, "compute_reward", float), Asked(env_id, "compute_terminated", bool)]
    walked = walk(env_id)
    goals = pairs(walked)
    answers = [first_answers(function, walked, *goals) for function in asked]
    steady = []

    def meddle(step: int, env: Env) -> None:
        some = slice(step, None, STEPS)
        for function, told in zip(asked, answers, strict=True):
            steady.append(np.array_equal(function.of(env, goals[0][some], goals[1][some]), told[some]))

    if not same(walk(env_id, meddle), walked) and same(walk(env_id), walked):
        raise InputError(f"gym:{env_id} is changed by asking it for a reward: {PURE}")
    if not all(steady):
        raise InputError(f"gym:{env_id} gives other rewards for the same two goals when its state is another: {RECORD}")
    quick = [replace(function, batched=True) for function in asked]
    chosen = [q if agrees(q, *goals, told) else f for f, q, told in zip(asked, quick, answers, strict=True)]
    paid = np.unique(answers[0])
    limits = (float(paid[0]), float(paid[1])) if len(paid) == 2 else (-math.inf, math.inf)
    return chosen[0], chosen[1], limits


def first_answers(asked: Asked, walked: Walk, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[Any]:
    """(PAIRS,): what the function says, once it has said the same as `step` did, and the same twice."""
    where = f"gym:{asked.env_id}: its {asked.question}"
    try:
        answers = asked(achieved, desired)
        again = asked(achieved[::-1], desired[::-1])[::-1]
    except Exception as error:
        raise InputError(f"{where} cannot be asked about another goal ({brief(error)}): {PURE}") from error
    if not np.allclose(answers[:STEPS], getattr(walked, asked.question).astype(asked.dtype), 1e-5, 1e-6):
        raise InputError(f"{where} does not say what step says: {RECORD}")
    if not np.array_equal(answers, again):
        raise InputError(f"{where} does not say the same twice about the same two goals: {PURE}")
    return answers


def agrees(batched: Asked, achieved: NDArray[Any], desired: NDArray[Any], answers: NDArray[Any]) -> bool:
    """Does one call for all rows say what a call for each row said."""
    try:
        return np.allclose(batched(achieved, desired), answers, 1e-5, 1e-6)
    except Exception:
        return False


def task_of(env_id: str) -> Task:
    """The task of a registered environment: InputError, in one line, where it cannot be one."""
    env = make(env_id)
    spaces: Any = env.observation_space
    goals = isinstance(spaces, Dict)
    task = partial(
        Task,
        name=f"gym:{env_id}",
        make=partial(make, env_id),
        obs_dim=(spaces["observation"] if goals else spaces).shape[0],
        action_dim=env.action_space.shape[0],  # type: ignore[index]
        discrete=isinstance(env, Choice),
        horizon=gymnasium.registry[env_id].max_episode_steps or HORIZON,
        family=f"gym:{env_id}",
        scene=f"gym:{env_id}",
    )
    env.close()
    if not goals:
        return task(description=f"do what {env_id} rewards")
    for question in ("compute_reward", "compute_terminated"):
        if not env.has_wrapper_attr(question):
            raise InputError(f"gym:{env_id} has no {question}(achieved_goal, desired_goal, info): add one")
    reward, terminated, limits = probe(env_id)
    return task(
        description=f"reach the goals of {env_id}",
        goal_dim=spaces["desired_goal"].shape[0],
        goal_of=part(-spaces["desired_goal"].shape[0], None),
        reward=reward,
        reward_range=limits,
        terminated=terminated,
        success=AsGoodAsThere(reward),
    )
