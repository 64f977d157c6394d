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
        with torch.no_grad():
            left, right = borders(x, y)
        lengths = (y * right - x * left).sum(-2)  # (B, C)
        return torch.lerp(lengths.amax(-1), lengths.mean(-1), torch.sigmoid(self.alpha))


@torch.library.custom_op("gcrl::borders", mutates_args=())
def borders(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """1 where x, and where y, is an end of the union of the intervals [x, y], else 0: (B, k, C) each.

    Then the union is as long as sum_i y_i right_i - x_i left_i, and so its slope is known without sorting, which costs
    five times as much. An end is none if it lies inside another interval; of equal ends the first counts. To a compiler
    it is one operation: as a fused loop it would take ten times as long.
    """
    k = x.shape[1]
    counts = x < y
    left, right = counts.clone(), counts
    xs, ys = torch.cat((x, x), 1), torch.cat((y, y), 1)
    for r in range(1, k):
        x_, y_ = xs[:, r : r + k], ys[:, r : r + k]  # another interval of the same component; the last r come before
        before = torch.cat((x_[:, : k - r] < x[:, : k - r], x_[:, k - r :] <= x[:, k - r :]), 1)
        left &= ~(before & (x < y_))
        before = torch.cat((y_[:, : k - r] > y[:, : k - r], y_[:, k - r :] >= y[:, k - r :]), 1)
        right &= ~(before & (x_ < y))
    return left.to(x.dtype), right.to(x.dtype)


@borders.register_fake
def _(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)
