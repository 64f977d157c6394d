"""One side of goals_update.py, a process of its own: for each n on stdin the seconds of n updates, until 0.

The side "jax" has the losses of OGBench (Park et al. 2024, arXiv 2410.20092, appendix C), written down in JAX by us, as
one compiled step: the sum of the losses, one Adam, the slow copies. It needs jax and optax and none of our packages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.benchmarks.turns import serve

OBS, ACTION, BATCH, HIDDEN, GAMMA, LATENT, REP, LR, TAU = 28, 5, 256, (256, 256, 256), 0.99, 256, 10, 3e-4, 0.005
INTERVALS = 8


def rows() -> dict[str, np.ndarray]:
    """The same numbers for each side."""
    rng = np.random.default_rng(0)
    names = ("obs", "next_obs", "goal", "actor_goal", "way", "way_goal", "near_goal")
    found = {name: rng.standard_normal((BATCH, OBS), np.float32) for name in names}
    found["action"] = rng.uniform(-1, 1, (BATCH, ACTION)).astype(np.float32)
    found["reward"] = -(rng.random(BATCH) < 0.9).astype(np.float32)
    return found


def ours(name: str, compiled: bool = False) -> Callable[[], Any]:
    """The agent's update of one draw."""
    import torch

    from gcrl import machine
    from gcrl.agents import AGENTS
    from gcrl.agents.qrl import Data
    from gcrl.agents.reaching import Ahead, Pair
    from gcrl.encoder import Spec
    from relabel.batch import Batch
    from relabel.subgoal import Onward

    machine.prepare(1)
    kind = AGENTS[name]
    agent = kind(Spec(OBS, ACTION, OBS, ((-100.0, 0.0),), whole=True), kind.Settings(batch=BATCH, hidden=HIDDEN))
    b = {name: torch.from_numpy(x) for name, x in rows().items()}
    task, ones = torch.zeros(BATCH, dtype=torch.int64), torch.ones(BATCH)
    value = Batch(b["obs"], b["action"], b["reward"], GAMMA * ones, b["next_obs"], b["goal"], task)
    actor = value._replace(goal=b["actor_goal"])
    way = Onward(*actor, ones.long(), ones, b["way"], b["way_goal"], b["near_goal"])
    first = Onward(*value, ones.long(), ones, b["way"], b["way_goal"], b["near_goal"])
    data: Any = {"gcbc": actor, "hiql": Ahead(value, way), "qrl": Data(first, actor)}.get(name, Pair(value, actor))
    if compiled:
        agent.compile_update()
    return lambda: agent.update(data)


def jaxs(name: str) -> Callable[[], Any]:
    """The compiled step of one batch."""
    import jax
    import jax.numpy as jnp
    import optax

    b = {key: jnp.asarray(x) for key, x in rows().items()}
    keys = iter(jax.random.split(jax.random.PRNGKey(0), 64))

    def net(i: int, o: int, n: int = 0, norm: bool = True) -> Any:
        """Weights of an MLP, of n side by side if n."""
        lead, layers = ((n,) if n else ()), []
        for a, z in zip((i, *HIDDEN), (*HIDDEN, o), strict=True):
            w = jax.random.uniform(next(keys), (*lead, a, z), minval=-1, maxval=1) / np.sqrt(a)
            layers.append({"w": w, "b": jnp.zeros((*lead, z))})
        for layer in layers[:-1] if norm else ():
            layer |= {"g": jnp.ones_like(layer["b"]), "o": jnp.zeros_like(layer["b"])}
        return layers

    def mlp(layers: Any, *parts: Any) -> Any:
        """(B, ..) -> (B, o)"""
        x = jnp.concatenate(parts, -1)
        for layer in layers[:-1]:
            x = x @ layer["w"] + layer["b"]
            if "g" in layer:
                mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
                x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * layer["g"] + layer["o"]
            x = jax.nn.relu(x)
        return x @ layers[-1]["w"] + layers[-1]["b"]

    def both(layers: Any, *parts: Any) -> Any:
        """Of networks side by side: (n, B, o)"""
        return jax.vmap(lambda one: mlp(one, *parts))(layers)

    def far(action: Any, mean: Any) -> Any:
        """-log N(a; mean, 1), less a constant: (B,)"""
        return 0.5 * ((action - mean) ** 2).sum(-1)

    def expectile(advantage: Any, u: Any, tau: float) -> Any:
        return (jnp.where(advantage < 0, 1 - tau, tau) * u**2).mean(-1).sum()

    fixed, discount = jax.lax.stop_gradient, GAMMA * -b["reward"]
    s, s_, a, g, ga = (b[key] for key in ("obs", "next_obs", "action", "goal", "actor_goal"))

    def upward(v: Any, slow: Any, tau: float) -> Any:
        v_ = slow(s_)
        advantage = b["reward"] + discount * v_.min(0) - slow(s).mean(0)
        return expectile(advantage, b["reward"] + discount * v_ - v(s), tau)

    def weight(advantage: Any, alpha: float) -> Any:
        return fixed(jnp.minimum(jnp.exp(alpha * advantage), 100.0))

    def climbing(q: Any) -> Any:
        return -q.mean() / (fixed(jnp.abs(q).mean()) + 1e-6)

    actor = net(2 * OBS, ACTION, norm=False)

    def pi(p: Any, *parts: Any) -> Any:
        return jnp.tanh(mlp(p["actor"], *parts))

    def clip(mean: Any) -> Any:
        return jnp.clip(mean, -1, 1)

    def gcbc(p: Any, t: Any) -> Any:
        return far(a, pi(p, s, ga)).mean()

    def gcivl(p: Any, t: Any) -> Any:
        value = upward(lambda x: both(p["v"], x, g)[..., 0], lambda x: both(t["v"], x, g)[..., 0], 0.9)
        now, then = (both(fixed(p["v"]), x, ga)[..., 0].mean(0) for x in (s, s_))
        return value + (weight(then - now, 10.0) * far(a, pi(p, s, ga))).mean()

    def gciql(p: Any, t: Any) -> Any:
        u = both(t["critic"], s, g, a)[..., 0].min(0) - mlp(p["v"], s, g)[:, 0]
        y = fixed(b["reward"] + discount * mlp(p["v"], s_, g)[:, 0])
        critic = ((both(p["critic"], s, g, a)[..., 0] - y) ** 2).mean(-1).sum()
        mean = mlp(p["actor"], s, ga)
        q = both(fixed(p["critic"]), s, ga, clip(mean))[..., 0].min(0)
        return expectile(u, u, 0.9) + critic + climbing(q) + 0.003 * far(a, mean).mean()

    def crl(p: Any, t: Any) -> Any:
        phi, psi = both(p["phi"], s, a), both(p["psi"], g)
        f = phi @ psi.transpose(0, 2, 1) / np.sqrt(LATENT)
        one = jnp.eye(BATCH)
        critic = (jax.nn.softplus(f) - one * f).mean()
        mean = pi(p, s, ga)
        q = (both(fixed(p["phi"]), s, mean) * both(fixed(p["psi"]), ga)).sum(-1) / np.sqrt(LATENT)
        return critic + climbing(q.min(0)) + 0.03 * far(a, mean).mean()

    def hiql(p: Any, t: Any) -> Any:
        def rep(q: Any, x: Any, goal: Any) -> Any:
            z = mlp(q["rep"], x, goal)
            return z / jnp.linalg.norm(z, axis=-1, keepdims=True) * np.sqrt(REP)

        def v(q: Any, x: Any, goal: Any) -> Any:
            return both(q["v"], x, rep(q, x, goal))[..., 0]

        value = upward(lambda x: v(p, x, g), lambda x: v(t, x, g), 0.7)
        still, near = fixed(p), b["near_goal"]
        w = weight(v(still, s_, near).mean(0) - v(still, s, near).mean(0), 3.0)
        low = (w * far(a, pi(p, s, fixed(rep(p, s, near))))).mean()
        w = weight(v(still, b["way"], ga).mean(0) - v(still, s, ga).mean(0), 3.0)
        high = (w * far(fixed(rep(p, s, b["way_goal"])), mlp(p["high"], s, ga))).mean()
        return value + low + high

    def qrl(p: Any, t: Any) -> Any:
        def d(q: Any, x: Any, y: Any) -> Any:
            """Length of the union of the intervals [x, y] of a component, by sorting; mean and max mixed."""
            x, y = (z.reshape(*z.shape[:-1], -1, INTERVALS) for z in (x, y))
            ends, real = jnp.concatenate((x, y), -1), x < y
            order = jnp.argsort(ends, -1)
            step = jnp.take_along_axis(jnp.concatenate((1 * real, -1 * real), -1), order, -1)
            ends = jnp.take_along_axis(ends, order, -1)
            inside = step.cumsum(-1)[..., :-1] > 0
            lengths = (inside * (ends[..., 1:] - ends[..., :-1])).sum(-1)
            share = jax.nn.sigmoid(q["mix"])
            return share * lengths.mean(-1) + (1 - share) * lengths.max(-1)

        z, z_, w = (mlp(p["phi"], x) for x in (s, s_, g))
        excess = (jax.nn.relu(d(p, z, z_) - 1) ** 2).mean()
        guess = z + mlp(p["dynamics"], z, a)
        follows = (d(p, z_, guess) + d(p, guess, z_)).mean() / 2
        value = (100 * jax.nn.softplus(5 - d(p, z, w) / 100)).mean() + fixed(jnp.exp(p["multiplier"])) * excess
        multiplier = jnp.exp(p["multiplier"]) * (0.05 - fixed(excess))
        still, mean = fixed(p), mlp(p["actor"], s, ga)
        z = mlp(still["phi"], s)
        q = -d(still, z + mlp(still["dynamics"], z, clip(mean)), mlp(still["phi"], ga))
        return value + follows + multiplier + climbing(q) + 0.0003 * far(a, mean).mean()

    networks: dict[str, Any] = {
        "gcbc": {"actor": actor},
        "gcivl": {"actor": actor, "v": net(2 * OBS, 1, 2)},
        "gciql": {"actor": actor, "v": net(2 * OBS, 1), "critic": net(2 * OBS + ACTION, 1, 2)},
        "crl": {"actor": actor, "phi": net(OBS + ACTION, LATENT, 2), "psi": net(OBS, LATENT, 2)},
        "qrl": {
            "actor": actor,
            "phi": net(OBS, LATENT),
            "dynamics": net(LATENT + ACTION, LATENT),
            "mix": jnp.zeros(()),
            "multiplier": jnp.zeros(()),
        },
        "hiql": {
            "actor": net(OBS + REP, ACTION, norm=False),
            "high": net(2 * OBS, REP, norm=False),
            "rep": net(2 * OBS, REP),
            "v": net(OBS + REP, 1, 2),
        },
    }
    loss = {"gcbc": gcbc, "gcivl": gcivl, "gciql": gciql, "crl": crl, "qrl": qrl, "hiql": hiql}[name]
    slow = {"gcivl": ("v",), "gciql": ("critic",), "hiql": ("rep", "v")}.get(name, ())
    adam = optax.adam(LR)

    def step(p: Any, t: Any, state: Any) -> Any:
        change, state = adam.update(jax.grad(loss)(p, t), state)
        p = optax.apply_updates(p, change)
        return p, jax.tree.map(lambda old, new: old + TAU * (new - old), t, {key: p[key] for key in slow}), state

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    p = networks[name]
    held: list[Any] = [(p, jax.tree.map(jnp.copy, {key: p[key] for key in slow}), adam.init(p))]

    def update() -> None:
        held[0] = jax.block_until_ready(compiled(*held[0]))

    return update


def main(who: str, name: str) -> None:
    if hasattr(os, "sched_setaffinity"):  # XLA takes every core that it may
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    serve(lambda: {"ours": ours, "ours, compiled": partial(ours, compiled=True), "jax": jaxs}[who](name))


if __name__ == "__main__":
    main(*sys.argv[1:])
