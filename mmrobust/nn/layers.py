"""Layers that more than one component is made of."""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from mmrobust.accel.packing import Rows
from mmrobust.accel.varlen_attention import ragged
from mmrobust.nn.attention import attention, precisely


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
        source: Size of what keys and values are made of.
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
        """Attends from `x` `b s d` to `source` `b t k`, whose real steps `mask` `b t` tells; gives `b s d`."""
        return self.attend(self.query(x), self.key_value(source), Rows(), Rows(mask, packed=False))

    def attend(self, query: Tensor, key_value: Tensor, rows: Rows, keys: Rows) -> Tensor:
        """The same, of projections that were made before.

        Args:
            query: `b s d`, packed as `rows`.
            key_value: `b t (2 d)`, packed as `keys`.
            rows: How queries are packed, and what comes out.
            keys: How keys and values are packed: where they are, samples attend one after the other.

        Returns:
            `b s d`, packed as `rows`.
        """

        def heard(asks: Tensor, answers: Tensor) -> Tensor:
            if keys.packed:
                q = rearrange(asks, "r (h d) -> r h d", h=self.heads)
                k, v = rearrange(answers, "u (kv h d) -> kv u h d", kv=2, h=self.heads)
                # What is nobody's hears nothing, and is heard by nobody.
                queries, answering = [*rows.lengths, rows.spare, 0], [*keys.lengths, 0, keys.spare]
                return ragged(q, k, v, queries, answering, self.backend).flatten(1)
            q = rearrange(rows.unpack(asks), "b s (h d) -> b h s d", h=self.heads)
            k, v = rearrange(answers, "b t (kv h d) -> kv b h t d", kv=2, h=self.heads)
            return rows.pack(rearrange(attention(q, k, v, keys.mask, self.backend), "b h s d -> b s (h d)"))

        return self.out(precisely(heard, query, key_value))  # converted before samples and heads are taken apart


class CrossBlock(nn.Module):
    """One Transformer block whose keys and values come from elsewhere.

    Args:
        width: Size of the query and of the output.
        source: Size of what keys and values are made of.
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
        """`x` `b s d` after attending to `source` `b t k`, whose real steps `mask` `b t` tells."""
        return self.feed_on(self.attend(x, self.query(x), self.key_value(source), Rows(), Rows(mask, packed=False)))

    def query(self, x: Tensor) -> Tensor:
        """The query that `x` `b s d` becomes, `b s d`: each step on its own."""
        return self.attention.query(self.norm_query(x) if self.pre else x)

    def key_value(self, source: Tensor) -> Tensor:
        """The keys and values that `source` `b t k` becomes, `b t (2 d)`: each step on its own."""
        return self.attention.key_value(self.norm_source(source))

    def attend(self, x: Tensor, query: Tensor, key_value: Tensor, rows: Rows, keys: Rows) -> Tensor:
        """The first half of the block: `x`, packed as `rows`, after attending; see `MultiheadAttention.attend`."""
        x = x + self.dropout(self.attention.attend(query, key_value, rows, keys))
        return x if self.pre else self.norm_query(x)

    def feed_on(self, x: Tensor) -> Tensor:
        """The second half of the block: the feed-forward layer, `... d`."""
        if self.pre:
            return x + self.dropout(self.feed(self.norm_feed(x)))
        return self.norm_feed(x + self.dropout(self.feed(x)))

    def feed_on_mean(self, x: Tensor, rows: Rows) -> Tensor:
        """The mean of what `feed_on` gives for each sample, `b d`; zero where a sample has no real step.

        A mean and a linear layer can change places, so the last layer sees one step (not under dropout after it, nor
        where a normalisation follows). `x` is packed as `rows`.
        """
        if not self.pre or (self.training and self.dropout.p):
            return rows.mean(self.feed_on(x))
        *hidden, last = self.feed
        inner = self.norm_feed(x)
        for layer in hidden:
            inner = layer(inner)
        fed = last(rows.mean(inner))
        return rows.mean(x) + (fed if rows.mask is None else fed * rows.mask.any(1, keepdim=True))
