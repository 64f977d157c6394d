"""A causal transformer (Radford et al. 2018's decoder; norms first: Xiong et al. 2020, arXiv 2002.04745)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Transformer(nn.Module):
    """Tokens (B, T, D) -> (B, T, D), each a function of itself and those before it. Where they lie is theirs to say."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.first, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, tokens: Tensor, dropout: float = 0.0) -> Tensor:
        h = drop(self.first(tokens), dropout)
        for block in self.blocks:
            h = block(h, dropout)
        return self.last(h)


class Block(nn.Module):
    """h + attention(norm h), then h + MLP(norm h): (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.join = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, dropout: float = 0.0) -> Tensor:
        q, k, v = self.qkv(self.norm(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        h = h + drop(self.join(seen.transpose(1, 2).flatten(2)), dropout)
        return h + drop(self.mlp(h), dropout)


def drop(h: Tensor, share: float) -> Tensor:
    return F.dropout(h, share) if share else h
