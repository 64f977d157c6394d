"""Layers for n networks side by side, and a stack of them as one node of the graph, differentiated by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ALL = slice(None)
ROWS = 512
"""That go through all layers together where nothing is kept: what they take stays in a core's cache."""
EPS = 1e-5
"""of the layer normalisation"""
FEW = 32
"""Outputs up to which a product is computed transposed: the other way round it costs a CPU four times as much."""
TWICE, WHOLE = ContextVar("twice", default=False), ContextVar("whole", default=False)
WIDE = 128
"""Rows and columns from which on a product is worth being rounded to bfloat16."""
ROUNDED = False
"""Are wide products of a CPU computed from bfloat16? Set by `round_products`."""


def round_products(rounded: bool) -> None:
    """From now on, in this process: factors and results of wide products rounded to eight bits, summed in float32.

    Weights, biases, norms, losses and optimizers stay in float32 (Micikevicius et al. 2018, arXiv 1710.03740;
    Kalamkar et al. 2019, arXiv 1905.12322). A GPU multiplies in TF32 instead.
    """
    global ROUNDED
    ROUNDED = rounded
    torch.backends.cuda.matmul.allow_tf32 = rounded


def can_round() -> bool:
    """Does this CPU multiply bfloat16 faster than float32?"""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(torch.cpu._is_avx512_bf16_supported())


@contextmanager
def inside(mode: ContextVar[bool]) -> Iterator[None]:
    token = mode.set(True)
    try:
        yield
    finally:
        mode.reset(token)


def twice() -> AbstractContextManager[None]:
    """What is computed inside can be differentiated twice: for losses of gradients. It costs a CPU more."""
    return inside(TWICE)


def whole() -> AbstractContextManager[None]:
    """Nothing is dropped inside: for those who act by a critic's values."""
    return inside(WHOLE)


class Linears(nn.Module):
    """n linear layers side by side: (B, i) or (n, B, i) -> (n, B, o), each initialised as nn.Linear."""

    def __init__(self, n: int, i: int, o: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(i)
        self.weight = nn.Parameter(torch.empty(n, i, o).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, o).uniform_(-bound, bound))

    def forward(self, x: Tensor, heads: Any = ALL) -> Tensor:
        return stack(x, (), (), self, 0.0, heads)


class Norms(nn.Module):
    """Gains and offsets of n layer normalisations side by side: (n, 1, d)."""

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n, 1, d)), nn.Parameter(torch.zeros(n, 1, d))


def stack(
    x: Tensor, hidden: Sequence[Any], norms: Sequence[Any], out: Linears | None, dropout: float = 0.0, heads: Any = ALL
) -> Tensor:
    """Hidden layers, each linear, dropout, norm (if there are any), ReLU, then `out` as it is.

    x (B, i) for all networks or (n, B, i); `heads` picks some of the n: (n, B, o). On a CPU it is one node of the graph
    and can be differentiated once; `side_by_side`, which a GPU and `twice` get, has no such limit.
    """
    dropout = 0.0 if WHOLE.get() else dropout
    layers = [*hidden, *([] if out is None else [out])]
    parts = [[p.weight for p in layers], [p.bias for p in layers], [p.weight for p in norms], [p.bias for p in norms]]
    if heads != ALL:
        parts = [[p[heads] for p in part] for part in parts]
    if x.is_cuda or TWICE.get():
        return side_by_side(x, parts, len(hidden), dropout)
    if not (dropout or torch.is_grad_enabled()):
        return in_pieces(x, parts, len(hidden))
    y: Tensor = Stack.apply(x, len(hidden), len(norms), dropout, *chain(*parts))
    return y


def side_by_side(x: Tensor, parts: Sequence[Sequence[Tensor]], depth: int, dropout: float = 0.0) -> Tensor:
    """All networks in one product a layer: what a GPU wants. parts: weights, biases, gains, offsets."""
    weights, biases, gains, offsets = parts
    h = x.expand(len(weights[0]), *x.shape[-2:])
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = products(h, w, b)
        if k < depth:
            h = dropped(h, dropout)
            h = torch.addcmul(offsets[k], F.layer_norm(h, h.shape[-1:], eps=EPS), gains[k]) if gains else h
            h = F.relu(h)
    return h


def in_pieces(x: Tensor, parts: Sequence[Sequence[Tensor]], depth: int) -> Tensor:
    """What `Stack` answers, where no gradient is asked for: one network after the other, ROWS rows at a time."""
    many, norms, n = len(parts[0]), len(parts[2]), len(parts[0][0])
    answers: list[Tensor] = []
    for weights, biases, gains, offsets in networks(list(chain(*parts)), many, norms, n):
        pieces = []
        for h in (x if x.dim() == 2 else x[len(answers)]).split(ROWS):
            for k in range(depth):
                h = product(h, weights[k], biases[k])
                h = (F.layer_norm(h, h.shape[-1:], gains[k], offsets[k], EPS) if norms else h).relu_()
            pieces.append(product(h, weights[-1], biases[-1]) if many > depth else h)
        answers.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces))
    return torch.stack(answers)


class Stack(torch.autograd.Function):
    """h_k = relu(g_k norm(drop(h_{k-1} W_k + b_k)) + o_k), and after the last hidden layer y = h W + b.

    By hand, and one network after the other: a graph of single operations on all networks costs a CPU as much again as
    half of the products. What one network needs fits into a core's cache, what is only passed on is changed in place,
    and no gradient is computed that nobody asks for.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, depth: int, norms: int, dropout: float, *params: Tensor) -> Tensor:
        many = len(params) // 2 - norms
        ctx.sizes = len(params[0]), depth, norms, many
        kept: list[
            Tensor | None
        ] = []  # a network and hidden layer: input, mask, linear, mean, scale; then the last one
        answers: list[Tensor] = []
        ctx.networks = list(networks(params, many, norms, len(params[0])))  # views: taking them again costs as much
        for weights, biases, gains, offsets in ctx.networks:
            h = x if x.dim() == 2 else x[len(answers)]
            for k in range(depth):
                z = product(h, weights[k], biases[k])
                mask = mean = scale = None
                if dropout:
                    mask = mask_of(z, dropout)
                    z.mul_(mask)
                kept += (h, mask, z)
                h = z
                if norms:
                    h, mean, scale = torch.native_layer_norm(z, z.shape[-1:], gains[k], offsets[k], EPS)
                kept += (mean, scale)
                h = h.relu_()
            kept.append(h)
            answers.append(product(h, weights[-1], biases[-1]) if many > depth else h)
        ctx.shared = x.dim() == 2
        ctx.save_for_backward(*params, *kept)  # params too: so torch notices if they change before the way back
        return torch.stack(answers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        n, depth, norms, many = ctx.sizes
        params, kept = ctx.saved_tensors[: 2 * (many + norms)], ctx.saved_tensors[2 * (many + norms) :]
        need_x, _, _, _, *need = ctx.needs_input_grad
        out = [torch.empty_like(p) if wanted else None for p, wanted in zip(params, need, strict=True)]
        of_x: list[Tensor] = []
        rows = zip(ctx.networks, networks(out, many, norms, n), grad, strict=True)
        for (weights, _, gains, offsets), (of_w, of_b, of_g, of_o), g in rows:
            mine = kept[len(of_x) * (5 * depth + 1) :]
            for k in reversed(range(many)):
                h = mine[5 * k]
                if k < depth:
                    mask, z, mean, scale, after = mine[5 * k + 1 : 5 * k + 6]
                    g = positive(g, after, None if k == many - 1 else g)
                    if norms:
                        wanted = [True, of_g[k] is not None, of_o[k] is not None]
                        g, gain, offset = torch.ops.aten.native_layer_norm_backward(
                            g, z, z.shape[-1:], mean, scale, gains[k], offsets[k], wanted
                        )
                        if of_g[k] is not None:
                            of_g[k].copy_(gain)
                        if of_o[k] is not None:
                            of_o[k].copy_(offset)
                    if mask is not None:
                        g.mul_(mask)
                if of_b[k] is not None:
                    torch.sum(g, 0, out=of_b[k])
                if of_w[k] is not None:
                    outer(h, g, of_w[k])
                if k or need_x:
                    g = back(g, weights[k])
            of_x.append(g)
        whole = None if not need_x else torch.stack(of_x).sum(0) if ctx.shared else torch.stack(of_x)
        return whole, None, None, None, *out


def networks(params: Sequence[Any], many: int, norms: int, n: int) -> Iterator[tuple[Sequence[Any], ...]]:
    """Of each of the n networks: weights (i, o) and biases (o,) of `many` layers, gains and offsets (d,) of `norms`."""
    apart = [
        [None] * n if p is None else p.unbind() if k < many else p.flatten(1).unbind() for k, p in enumerate(params)
    ]
    for mine in zip(*apart, strict=True):
        rest = mine[2 * many :]
        yield mine[:many], mine[many : 2 * many], rest[:norms], rest[norms:]


def rounded(a: Tensor, b: Tensor) -> Tensor | None:
    """a b, (B, i), (i, o) -> (B, o) float32, from bfloat16; None where that is not wanted or not worth it."""
    if not worth_rounding(a, b):
        return None
    return torch.mm(a.bfloat16(), b.bfloat16()).float()


def products(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """h w + b, (n, B, i), (n, i, o), (n, 1, o) -> (n, B, o), differentiable as often as wanted."""
    if not worth_rounding(h, w):
        return torch.baddbmm(b, h, w)
    return torch.bmm(h.bfloat16(), w.bfloat16()).float() + b


def worth_rounding(a: Tensor, b: Tensor) -> bool:
    """Is a b, (..., B, i), (..., i, o), wide enough, and wanted from bfloat16?"""
    return ROUNDED and not a.is_cuda and a.dtype == torch.float32 and min(*a.shape[-2:], b.shape[-1]) >= WIDE


def product(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """h w + b, (B, i), (i, o), (o,) -> (B, o)"""
    if (y := rounded(h, w)) is not None:
        return y.add_(b)
    if w.shape[1] > FEW:
        return torch.addmm(b, h, w)
    # in order, or a compiler would lay out what follows otherwise
    return torch.addmm(b[:, None], w.t(), h.t()).t().contiguous()


def outer(h: Tensor, g: Tensor, out: Tensor) -> None:
    """out <- h^T g, (B, i), (B, o) -> (i, o)"""
    if (y := rounded(h.t(), g)) is not None:
        out.copy_(y)
    elif g.shape[1] > FEW:
        torch.mm(h.t(), g, out=out)
    else:
        out.copy_(torch.mm(g.t(), h).t())


def back(g: Tensor, w: Tensor) -> Tensor:
    """g w^T, (B, o), (i, o) -> (B, i)"""
    y = rounded(g, w.t())
    return torch.mm(g, w.t()) if y is None else y


def dropped(h: Tensor, share: float) -> Tensor:
    """h with `share` of its numbers at 0 and the rest so much larger."""
    if not share:
        return h
    return F.dropout(h, share) if h.is_cuda else h * mask_of(h, share)


def mask_of(h: Tensor, share: float) -> Tensor:
    """What dropout multiplies by, shaped as h: 0 for `share` of the numbers, else 1 / (1 - share).

    Sixteen bits decide on each, as a draw of its own for each costs a CPU five times as much; so `share` counts in
    steps of 2^-16. They are taken as halves of 32 bits, since a compiler knows no vectors of 16-bit integers.
    """
    n, steps = h.numel(), 1 << 16
    out = min(round(share * steps), steps - 1)
    least = (out - steps // 2) * steps
    high = torch.randint(-(1 << 63), (1 << 63) - 1, (-(-n // 4),)).view(torch.int32)
    kept = torch.cat([(bits >= least).to(h.dtype) for bits in (high, high << 16)])
    return kept.mul_(steps / (steps - out))[:n].view(h.shape)


def positive(g: Tensor, h: Tensor, out: Tensor | None = None) -> Tensor:
    """g where h > 0, else 0."""
    back = torch.ops.aten.threshold_backward
    return back(g, h, 0) if out is None else back.grad_input(g, h, 0, grad_input=out)
