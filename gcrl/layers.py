"""Layers for n networks side by side."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linears(nn.Module):
    """n linear layers side by side: (B, i) or (n, B, i) -> (n, B, o), each initialised as nn.Linear."""

    def __init__(self, n: int, i: int, o: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(i)
        self.weight = nn.Parameter(torch.empty(n, i, o).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n, 1, o).uniform_(-bound, bound))

    def forward(self, x: Tensor, heads: slice) -> Tensor:
        weight, bias = self.weight[heads], self.bias[heads]
        return torch.baddbmm(bias, x.expand(len(weight), *x.shape[-2:]), weight)


class Norms(nn.Module):
    """n layer normalisations side by side: (n, B, d) -> (n, B, d)."""

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n, 1, d)), nn.Parameter(torch.zeros(n, 1, d))

    def forward(self, x: Tensor, heads: slice) -> Tensor:
        return torch.addcmul(self.bias[heads], F.layer_norm(x, x.shape[-1:]), self.weight[heads])


ALL = slice(None)
