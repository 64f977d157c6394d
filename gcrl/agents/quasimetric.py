"""IQE: the interval quasimetric embedding, distances by the length of unions (Wang & Isola 2022, arXiv 2211.15120)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IQE(nn.Module):
    """d(x, y) = alpha mean_c l_c + (1 - alpha) max_c l_c,    l_c = | union_i [x_ci, max(x_ci, y_ci)] |.

    d(x, x) = 0 and d(x, z) <= d(x, y) + d(y, z), but d(x, y) is not d(y, x). x and y are (B, k C), k intervals in each
    of C components; the i-th intervals of all components lie together. alpha is learned.
    """

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.size = size
        """k, intervals in a component"""
        self.alpha = nn.Parameter(torch.zeros(()))
        """before its sigmoid"""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, k C), (B, k C) -> (B,)"""
        x, y = (z.unflatten(-1, (self.size, -1)) for z in (x, y))
        with torch.no_grad():  # joined: in memory, or a compiler might compute anew what each comparison reads
            left, right = borders(*torch.cat((x, y)).chunk(2))
        lengths = (y * right - x * left).sum(-2)  # (B, C)
        return torch.lerp(lengths.amax(-1), lengths.mean(-1), torch.sigmoid(self.alpha))


def borders(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """1 where x, and where y, is an end of the union of the intervals [x, y], else 0: (B, k, C) each.

    Then the union is as long as sum_i y_i right_i - x_i left_i, and so its slope is known without sorting, which costs
    five times as much. An end is none if it lies inside another interval; of equal ends the first counts. Compiled it
    is one loop over vectors, because no truth value is ever stored.
    """
    xs, ys = x.unbind(1), y.unbind(1)
    begun = [[a < b for b in ys] for a in xs]  # the i-th interval, before the j-th ends
    left, right = [], []
    for i, (a, b) in enumerate(zip(xs, ys, strict=True)):
        hides_a = hides_b = a >= b
        for j, (c, d) in enumerate(zip(xs, ys, strict=True)):
            if j != i:
                earlier = torch.le if j < i else torch.lt
                hides_a = hides_a | (earlier(c, a) & begun[i][j])
                hides_b = hides_b | (earlier(b, d) & begun[j][i])
        left.append(torch.where(hides_a, 0.0, 1.0))
        right.append(torch.where(hides_b, 0.0, 1.0))
    return torch.stack(left, 1).to(x.dtype), torch.stack(right, 1).to(x.dtype)
