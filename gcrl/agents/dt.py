"""Decision Transformer: actions from returns to go, states and earlier actions (Chen et al. 2021, arXiv 2106.01345)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gcrl.agents.agent import Agent, Metrics, only
from gcrl.encoder import Spec
from gcrl.nets import Critics
from gcrl.optim import adam, advance, differentiate, parameters, step
from gcrl.transformer import Transformer
from relabel.batch import State
from relabel.prefetch import Source
from relabel.replay import Replay
from relabel.segment import Segment
from relabel.store import EpisodeStore
from tasks.task import InputError


@dataclass(frozen=True)
class DTSettings:
    batch: int = 64
    """windows in one update, each of `context` steps"""
    context: int = 20
    """K, steps that the policy looks back on"""
    returns: bool = True
    """condition on the return to go; no: on the goal alone, which every state shows"""
    target: float | None = None
    """the return to act for, in scaled reward; none: the best of the data, task by task, for the goals desired there"""
    layers: int = 3
    """blocks of the transformer"""
    longest: int = 1000
    """steps of an episode that are told apart"""
    heads: int = 1
    """of its attention"""
    width: int = 128
    """numbers of a token"""
    dropout: float = 0.1
    """of tokens, attention and what the blocks add"""
    lr: float = 1e-4
    """learning rate"""
    weight_decay: float = 1e-4
    """of AdamW"""
    clip_norm: float = 0.25
    """bound of the gradient's norm"""
    hidden: tuple[int, ...] = (256, 256)
    """units of the hidden layers of the reward model"""
    noise: float = 0.1
    """deviation of the Gaussian exploration noise"""


class Memory(NamedTuple):
    """What each row remembers of its last K steps, the oldest first; nothing mixes the rows."""

    x: Tensor
    """(B, K, X)"""
    action: Tensor
    """(B, K, A)"""
    to_go: Tensor
    """(B, K) in units of the scale"""
    steps: Tensor
    """(B,) int64, of the episode so far, this one counted"""


class DT(Agent):
    """A policy that reads on: `act` hands on a Memory.

    Deviations: what is subtracted from the return to go while acting is a model's reward r(s, a, s'), as the world's
    own is not told to a policy; blocks normalise first, and so need no warm-up (Xiong et al. 2020, arXiv 2002.04745);
    what the time adds begins small, so that few episodes are not told apart by it before their states are.
    """

    Settings = DTSettings
    settings: DTSettings
    offline = True
    best: Tensor
    scale: Tensor
    looked: Tensor

    def __init__(self, spec: Spec, settings: DTSettings) -> None:
        super().__init__(spec, settings)
        s, dim = settings, self.encode.dim
        if s.width % s.heads:
            raise InputError(f"--width {s.width}: must be a multiple of --heads {s.heads}")
        self.actor = Reader(dim, spec.action_dim, s)
        both = nn.ModuleList((self.actor, self.encode)).parameters()
        self.optimizers = {"actor": torch.optim.AdamW(both, lr=s.lr, weight_decay=s.weight_decay, fused=True)}
        if s.returns:
            self.reward = Critics(1, 2 * dim + spec.action_dim, s.hidden, layer_norm=False)
            self.optimizers["reward"] = adam(self.reward, s.lr)
        self.register_buffer("best", torch.zeros(spec.tasks))
        self.register_buffer("scale", torch.ones(spec.tasks))
        self.register_buffer("looked", torch.tensor(0))

    def draw(self, replay: Source, rng: np.random.Generator) -> Segment:
        s = self.settings
        if s.returns and len(replay) > 1.1 * int(self.looked):
            self.look(replay.replays)
        return replay.segments(rng, s.batch, s.context, 1.0 if s.returns else None)

    def look(self, replays: Sequence[Replay]) -> None:
        """Of each task, the best return of an episode and the greatest size of one.

        A task without data asks for as much as the best of its scene, from whom it has what it learns from.
        """
        own: list[list[NDArray[np.float32]]] = [
            [returns(r.stores[k], r.judge.end_at_goal) * r.scale[k] for r in replays if len(r.stores[k])]
            for k in range(len(self.best))
        ]
        scenes = [task.scene for task in replays[0].tasks]
        for k, scene in enumerate(scenes):
            near = [x for j, found in enumerate(own) if scenes[j] == scene for x in found]
            if found := own[k] or near:
                every = np.concatenate(found)
                self.best[k], self.scale[k] = float(every.max()), max(1e-6, float(abs(every).max()))
        self.looked.fill_(sum(map(len, replays)))

    def begin(self) -> None:
        self.looked.zero_()  # its data are others

    def update(self, data: Segment) -> Metrics:
        s, optimizer = self.settings, self.optimizers["actor"]
        with only(self, "actor"):
            loss = self.action_loss(data)
        differentiate(optimizer, loss)
        norm = nn.utils.clip_grad_norm_(parameters(optimizer), s.clip_norm)
        advance(optimizer)
        metrics = {"action_loss": loss.detach(), "gradient": norm.detach()}
        if s.returns:
            with only(self, "reward"):
                loss = self.reward_loss(data)
            step(self.optimizers["reward"], loss)
            metrics["reward_loss"] = loss.detach()
        self.updates += 1
        return metrics

    def action_loss(self, b: Segment) -> Tensor:
        """E[|pi(R_1, s_1, a_1, .., R_t, s_t) - a_t|^2] over the steps that count"""
        pi = self.actor(self.encode.window(b)[:, :-1], b.action, self.to_go(b), b.past, self.settings.dropout)
        return b.mean(((pi - b.action) ** 2).mean(-1))

    def reward_loss(self, b: Segment) -> Tensor:
        """E[(r(s, a, s') - r)^2] over the steps that count"""
        x = self.encode.window(b)
        pay = self.reward(torch.cat((x[:, :-1], x[:, 1:]), -1).flatten(0, 1), b.action.flatten(0, 1))[0]
        return b.mean((pay.unflatten(0, b.reward.shape) - b.reward) ** 2)

    def to_go(self, b: Segment) -> Tensor:
        """R_t: (B, L), in units of the scale."""
        paid = b.reward.cumsum(1) - b.reward
        return (b.to_go[:, None] - paid) / self.scale[b.task][:, None]

    @torch.no_grad()
    def act(self, state: State, carry: Memory | None = None, explore: bool = False) -> tuple[Tensor, Memory]:
        """pi of the last K steps; exploring: plus Gaussian noise. A row without memory begins an episode."""
        s, memory = self.settings, self.recall(state, carry)
        held = memory.steps.clamp(max=s.context)
        n, last = int(held.max()), (torch.arange(len(held), device=held.device), held - 1)
        seen = (m[:, :n] for m in (memory.x, memory.action, memory.to_go))
        a = self.actor(*seen, memory.steps - held)[last]
        if explore:
            a = (a + s.noise * torch.randn_like(a)).clamp(-1, 1)
        return a, memory._replace(action=memory.action.index_put(last, a))

    def recall(self, state: State, carry: Memory | None) -> Memory:
        """The memory with what is seen now as its last step, whose action is still open."""
        s, x = self.settings, self.encode(state)
        wanted = self.best if s.target is None else torch.full_like(self.best, s.target)
        now, scale = (wanted / self.scale)[state.task], self.scale[state.task]
        if carry is None:
            xs, actions = (x.new_zeros(len(x), s.context, n) for n in (x.shape[1], self.spec.action_dim))
            carry = Memory(xs, actions, xs[..., 0], torch.zeros_like(state.task))
        rows = torch.arange(len(x), device=x.device)
        held = carry.steps.clamp(max=s.context)
        before = rows, held.clamp(min=1) - 1
        if s.returns:
            paid = self.reward(torch.cat((carry.x[before], x), -1), carry.action[before])[0] / scale
            now = torch.where(carry.steps > 0, carry.to_go[before] - paid, now)
        full, at = held == s.context, (rows, held.clamp(max=s.context - 1))
        xs, action, to_go = (torch.where(full.view(-1, *[1] * (m.dim() - 1)), m.roll(-1, 1), m) for m in carry[:3])
        return Memory(xs.index_put(at, x), action, to_go.index_put(at, now), carry.steps + 1)


class Reader(nn.Module):
    """What to do in each state, read off return, state and action of each step, or off state and action alone."""

    def __init__(self, dim: int, action_dim: int, s: DTSettings) -> None:
        super().__init__()
        self.of_return = nn.Linear(1, s.width) if s.returns else None
        self.of_state, self.of_action = nn.Linear(dim, s.width), nn.Linear(action_dim, s.width)
        self.of_time = nn.Embedding(s.longest, s.width)
        nn.init.normal_(self.of_time.weight, std=0.02)  # at torch's 1 it drowns the state
        self.body = Transformer(s.width, s.layers, s.heads)
        self.out = nn.Linear(s.width, action_dim)

    def forward(self, x: Tensor, action: Tensor, to_go: Tensor, past: Tensor, dropout: float = 0.0) -> Tensor:
        """(B, L, X), (B, L, A), (B, L), (B,) -> (B, L, A); what is said at t depends on no action from t on.

        `past` counts the steps of the episode before the first.
        """
        tokens = [self.of_state(x), self.of_action(action)]
        if self.of_return is not None:
            tokens.insert(0, self.of_return(to_go[..., None]))
        n, k = x.shape[1], len(tokens)
        time = (past[:, None] + torch.arange(n, device=x.device)).clamp(max=self.of_time.num_embeddings - 1)
        h = torch.stack(tokens, 2) + self.of_time(time)[:, :, None]
        h = self.body(h.flatten(1, 2), dropout)[:, k - 2 :: k]  # what follows a state's token
        return torch.tanh(self.out(h))


def returns(store: EpisodeStore, end_at_goal: bool = False) -> NDArray[np.float32]:
    """Of the episodes, oldest first, under the goals desired in them, as far as `Segment.to_go` counts them.

    As recorded where the task does not score.
    """
    index, task = np.arange(len(store)), store.task
    slots, reward = store.slot(index), store.reward[store.slot(index)]
    first = np.flatnonzero(store.rows(index).past == 0)
    if task.reward is not None:  # a stranger's data may pay otherwise
        achieved, desired = task.goal_of(store.observation[(slots + 1) % store.capacity]), store.desired[slots]
        there, ends = task.success(achieved, desired), task.terminated(achieved, desired)
        ends = ends | (end_at_goal & there & ~task.success(task.goal_of(store.observation[slots]), desired))
        before = np.cumsum(ends) - ends
        over = before > np.repeat(before[first], np.diff(np.append(first, len(store))))
        reward = np.where(over, np.float32(0), np.asarray(task.reward(achieved, desired), np.float32))
    return np.add.reduceat(reward, first)
