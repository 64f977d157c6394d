"""Bodies: how tasks share a network's weights; soft modularization (Yang et al. 2020, arXiv 2003.13661) is one way.

Every body is n networks side by side as one tensor program. x is the network's input, in whose columns `ident` lies
the task's identity z: for `heads` and `tied` a one-hot id, for the others any vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcrl.layers import ALL, Linears, Norms, stack


class Body(nn.Module):
    """x (B, dim) for all networks, or (n, B, dim) -> (n, B, out); `heads` picks some of the n.

    Hidden layers are linear, dropout, norm, ReLU; with dropout every pass draws masks of its own. m is the number of
    modules or experts, where a body has them.
    """

    def __init__(
        self,
        n: int,
        dim: int,
        out: int,
        hidden: Sequence[int],
        ident: slice,
        layer_norm: bool = False,
        dropout: float = 0.0,
        m: int = 4,
    ) -> None:
        super().__init__()
        columns = range(dim)[ident]
        self.n, self.m, self.layer_norm, self.dropout = n, m, layer_norm, dropout
        self.ident, self.width = slice(columns.start, columns.stop), len(columns)
        """where z lies, and how many numbers it has"""
        self.build(dim, out, hidden)

    def build(self, dim: int, out: int, hidden: Sequence[int]) -> None:
        """Make the parameters."""
        raise TypeError(f"{type(self).__name__} does not say what it is made of")

    def forward(self, x: Tensor, heads: slice = ALL) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes")

    def trunk_of(self, n: int, dim: int, hidden: Sequence[int]) -> Trunk:
        return Trunk(n, dim, hidden, self.layer_norm, self.dropout)

    def without(self, x: Tensor) -> Tensor:
        """x without z: (..., dim) -> (..., dim - K)"""
        return torch.cat((x[..., : self.ident.start], x[..., self.ident.stop :]), -1)


class Trunk(nn.Module):
    """n stacks of hidden layers: (B, dim) or (n, B, dim) -> (n, B, hidden[-1]), or what `out` makes of that."""

    def __init__(self, n: int, dim: int, hidden: Sequence[int], layer_norm: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList(Linears(n, i, o) for i, o in pairwise([dim, *hidden]))
        self.norms = nn.ModuleList(Norms(n, o) for o in hidden if layer_norm)

    def forward(self, x: Tensor, heads: Any = ALL, out: Linears | None = None) -> Tensor:
        return stack(x, list(self.layers), list(self.norms), out, self.dropout, heads)


class Conditioned(Body):
    """One network for all tasks; z is an input like any other: y = W f(x) + b."""

    def build(self, dim: int, out: int, hidden: Sequence[int]) -> None:
        self.trunk = self.trunk_of(self.n, dim, hidden)
        self.out = Linears(self.n, [dim, *hidden][-1], out)

    def forward(self, x: Tensor, heads: slice = ALL) -> Tensor:
        y: Tensor = self.trunk(x, heads, self.out)
        return y


class Heads(Body):
    """Hard sharing: a trunk that does not see z, and a head a task (Caruana 1997): y = sum_k z_k (W_k f(s) + b_k).

    All K heads are computed: K times the cost of the last layer, which is small.
    """

    def build(self, dim: int, out: int, hidden: Sequence[int]) -> None:
        inner = dim - self.width
        self.trunk = self.trunk_of(self.n, inner, hidden)
        self.out = Linears(self.n, [inner, *hidden][-1], self.width * out)

    def forward(self, x: Tensor, heads: slice = ALL) -> Tensor:
        y = self.trunk(self.without(x), heads, self.out).unflatten(-1, (self.width, -1))  # (n, B, K, out)
        return (x[..., self.ident, None] * y).sum(-2)


class Modular(Body):
    """Soft modularization (Yang et al. 2020, arXiv 2003.13661): L layers of m modules; z says how they are connected.

    g^1_j = f(x),    p^1 = W_d^1 ReLU(f(x) h(z)),    p^{l+1} = W_d^{l+1} ReLU((W_u^l p^l) f(x) h(z)),
    g^{l+1}_i = sum_j softmax_j(p^l_ij) ReLU(W^l_j g^l_j),    y = sum_j W^L_j g^L_j.

    f is the first of `hidden` and the modules are the rest and the output, so L = len(hidden), which must be two or
    more. Every width is that of `hidden` divided by sqrt(m): m narrow modules cost what one wide layer does.
    Deviation: f sees z too, as z may be the goal, of which the paper's routes would tell the modules too little.
    """

    def build(self, dim: int, out: int, hidden: Sequence[int]) -> None:
        if len(hidden) < 2:
            raise ValueError("modules need two hidden layers or more: with one there is nothing to route")
        n, m, (first, *rest) = self.n, self.m, narrow(hidden, self.m)
        self.f, self.h = self.trunk_of(n, dim, [first]), Linears(n, self.width, first)
        self.down = nn.ModuleList(Linears(n, first, m * m) for _ in rest)
        self.up = nn.ModuleList(Linears(n, m * m, first) for _ in rest[1:])
        self.layers = nn.ModuleList(self.trunk_of(n * m, i, [o]) for i, o in pairwise([first, *rest]))
        self.out = Linears(n * m, rest[-1], out)

    def forward(self, x: Tensor, heads: slice = ALL) -> Tensor:
        f, all_of = self.f(x, heads), spread(heads, self.n, self.m)
        g = f.repeat_interleave(self.m, 0)  # (n m, B, first)
        for layer, route in zip(self.layers, self.routes(f, x[..., self.ident], heads), strict=True):
            g = torch.einsum("nbij,njbw->nibw", route, layer(g, all_of).unflatten(0, (-1, self.m))).flatten(0, 1)
        y: Tensor = self.out(g, all_of).unflatten(0, (-1, self.m)).sum(1)
        return y

    def routes(self, f: Tensor, z: Tensor, heads: slice = ALL) -> list[Tensor]:
        """softmax_j(p^l_ij) for l = 1 .. L - 1: (n, B, m, m) each, of f (n, B, first) and z (B, K)."""
        both = f * self.h(z, heads)
        p = [self.down[0](F.relu(both), heads)]
        for up, down in zip(self.up, self.down[1:], strict=True):
            p.append(down(F.relu(up(p[-1], heads) * both), heads))
        return [route.unflatten(-1, (self.m, self.m)).softmax(-1) for route in p]


class Experts(Body):
    """Mixture of m experts (Jacobs et al. 1991; CARE, Sodhani et al. 2021, arXiv 2102.06177).

    y = W sum_j alpha_j(z) f_j(x) + b,    alpha = softmax(V z + c).

    Every width is that of `hidden` divided by sqrt(m), so that m experts cost what one trunk does (sqrt(m) times as
    much at the input). Deviation: CARE's experts do not see z; here they do, as z may be the goal.
    """

    def build(self, dim: int, out: int, hidden: Sequence[int]) -> None:
        widths = narrow(hidden, self.m)
        self.trunk = self.trunk_of(self.n * self.m, dim, widths)
        self.gate = Linears(self.n, self.width, self.m)
        self.out = Linears(self.n, [dim, *widths][-1], out)

    def forward(self, x: Tensor, heads: slice = ALL) -> Tensor:
        each = x if x.dim() == 2 else x.repeat_interleave(self.m, 0)
        h = self.trunk(each, spread(heads, self.n, self.m)).unflatten(0, (-1, self.m))  # (n, m, B, w)
        y: Tensor = self.out(torch.einsum("nbj,njbw->nbw", self.weights(x[..., self.ident], heads), h), heads)
        return y

    def weights(self, z: Tensor, heads: slice = ALL) -> Tensor:
        """alpha: (n, B, m), of z (B, K)."""
        alpha: Tensor = self.gate(z, heads).softmax(-1)
        return alpha


class Tied(Body):
    """Soft sharing: a network a task, without z, kept near each other by `tie` (Duong et al. 2015, P15-2139).

    As in arXiv 1706.05098, section 2.2. All K start alike: unlike networks have no parameters that correspond.
    Rows are sorted by task, so that a batch with equal quotas costs what one network does; K times that if all rows
    are of one task. To know the longest quota, the host waits for the device once a pass.
    """

    def build(self, dim: int, out: int, hidden: Sequence[int]) -> None:
        inner = dim - self.width
        self.nets = Conditioned(self.n * self.width, inner, out, hidden, slice(0), self.layer_norm, self.dropout)
        with torch.no_grad():
            for p in self.nets.parameters():
                p.copy_(p[:: self.width].repeat_interleave(self.width, 0))

    def forward(self, x: Tensor, heads: slice = ALL) -> Tensor:
        x = x.expand(len(range(self.n)[heads]), *x.shape[-2:])
        task = x[..., self.ident].argmax(-1)  # (n, B)
        hot = F.one_hot(task, self.width)
        place = (hot.cumsum(1) * hot).sum(-1) - 1  # (n, B), among the rows of its task
        net = torch.arange(len(x), device=x.device)[:, None]
        rows = x.new_zeros(len(x), self.width, int(hot.sum(1).max()), x.shape[-1] - self.width)
        rows = rows.index_put((net, task, place), self.without(x))
        y: Tensor = self.nets(rows.flatten(0, 1), spread(heads, self.n, self.width))
        return y.unflatten(0, (-1, self.width))[net, task, place]

    def tie(self) -> Tensor:
        """sum_k ||theta_k - mean_k theta||^2, over the parameters of the n networks: ()"""
        apart = [p.unflatten(0, (self.n, self.width)) for p in self.nets.parameters()]
        return torch.stack([((p - p.mean(1, keepdim=True)) ** 2).sum() for p in apart]).sum()


BODIES: dict[str, type[Body]] = {
    "conditioned": Conditioned,
    "heads": Heads,
    "modular": Modular,
    "experts": Experts,
    "tied": Tied,
}


def tie_of(module: nn.Module) -> Tensor | None:
    """The ties of all bodies in `module`, summed; None if there is none."""
    ties = [part.tie() for part in module.modules() if isinstance(part, Tied)]
    return torch.stack(ties).sum() if ties else None


def narrow(hidden: Sequence[int], m: int) -> list[int]:
    """hidden / sqrt(m): m layers of these widths have as many weights as one of `hidden`."""
    return [max(1, round(width / m**0.5)) for width in hidden]


def spread(heads: slice, n: int, m: int) -> Any:
    """An index of n m networks, m for each of n: those that belong to `heads`. A slice, a view, unless it has steps."""
    start, stop, step = heads.indices(n)
    return slice(start * m, stop * m) if step == 1 else [k * m + j for k in range(n)[heads] for j in range(m)]
