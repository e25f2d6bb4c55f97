"""Layers that more than one component is built from."""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from mmrobust.nn.attention import attention


def mlp(width: int, hidden: int, out: int, *, slope: float = 0.01, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers, each followed by Leaky ReLU: the perceptron of NORM-TR, section 3.3.1.

    Args:
        width: Size of the input.
        hidden: Size between the layers.
        out: Size of the output.
        slope: Leaky ReLU's slope below zero.
        dropout: Share of hidden values dropped in training.
    """
    layers = [nn.Linear(width, hidden), nn.LeakyReLU(slope)]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(hidden, out), nn.LeakyReLU(slope))


class MultiheadAttention(nn.Module):
    """Multi-head attention of one sequence over another (Vaswani et al., 2017, section 3.2.2).

    Args:
        width: Size of the query and of the output; a multiple of `heads`.
        source: Size of the steps that keys and values come from.
        heads: Number of heads.
        backend: Attention backend.
    """

    def __init__(self, width: int, source: int, heads: int, backend: str = "auto") -> None:
        super().__init__()
        self.heads = heads
        self.backend = backend
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Attends from `x` `b s d` to `source` `b t k`, whose real steps are True in `mask` `b t`; gives `b s d`."""
        query = rearrange(self.query(x), "b s (h d) -> b h s d", h=self.heads)
        key, value = rearrange(self.key_value(source), "b t (kv h d) -> kv b h t d", kv=2, h=self.heads)
        attended = attention(query, key, value, mask, self.backend)
        return self.out(rearrange(attended, "b h s d -> b s (h d)"))


class CrossBlock(nn.Module):
    """One Transformer block whose keys and values come from elsewhere.

    Args:
        width: Size of the query and of the output.
        source: Size of the steps that keys and values come from.
        heads: Number of heads.
        ratio: Width of the feed-forward layer over `width`.
        norm: `pre` normalises what enters each part (as ViT), `post` the sum (as Vaswani et al.).
        dropout: Share dropped on each residual branch in training.
        backend: Attention backend.
    """

    def __init__(
        self,
        width: int,
        source: int,
        heads: int,
        *,
        ratio: float = 4.0,
        norm: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.attention = MultiheadAttention(width, source, heads, backend)
        self.norm_query = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(source) if self.pre else nn.Identity()
        self.norm_feed = nn.LayerNorm(width)
        hidden = round(width * ratio)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """`x` `b s d` after attending to `source` `b t k`, whose real steps are True in `mask` `b t`."""
        if self.pre:
            x = x + self.dropout(self.attention(self.norm_query(x), self.norm_source(source), mask))
            return x + self.dropout(self.feed(self.norm_feed(x)))
        x = self.norm_query(x + self.dropout(self.attention(x, source, mask)))
        return self.norm_feed(x + self.dropout(self.feed(x)))
