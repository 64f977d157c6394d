"""A causal transformer (Radford et al. 2018's decoder; norms first: Xiong et al. 2020, arXiv 2002.04745)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gcrl.layers import Linears, dropped, stack


class Transformer(nn.Module):
    """Tokens (B, T, D) -> (B, T, D), each a function of itself and those before it. Where they lie is theirs to say."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.first, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, tokens: Tensor, dropout: float = 0.0) -> Tensor:
        h = dropped(self.first(tokens), dropout)
        for block in self.blocks:
            h = block(h, dropout)
        return self.last(h)


class Block(nn.Module):
    """h + attention(norm h), then h + MLP(norm h): (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.join = nn.LayerNorm(width), Linears(1, width, 3 * width), Linears(1, width, width)
        self.after, self.up, self.down = nn.LayerNorm(width), Linears(1, width, 4 * width), Linears(1, 4 * width, width)

    def forward(self, h: Tensor, dropout: float = 0.0) -> Tensor:
        q, k, v = through(self.norm(h), self.qkv).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        h = h + dropped(through(seen.transpose(1, 2).flatten(2), self.join), dropout)
        return h + dropped(through(self.after(h), self.up, self.down), dropout)


def through(h: Tensor, *layers: Linears) -> Tensor:
    """Linear layers, ReLU between them, token by token: (B, T, i) -> (B, T, o)."""
    return stack(h.flatten(0, 1), layers[:-1], (), layers[-1])[0].unflatten(0, h.shape[:2])
