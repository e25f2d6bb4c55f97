"""Attention as batched matrix products with a backward pass of its own, which is what trains fastest on a CPU.

Torch's fused kernel there computes all scores again in its backward pass and is made for wide heads. Here weights are
kept, a few heads are done at a time, so that their scores stay in the cache, and narrow heads lie with features before
steps, so that the long side of every product is steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["NARROW", "bmm", "packed"]

#: Heads narrower than this lie with features before steps (docs/speed.md).
NARROW = 16
#: Scores at a time: 1 MiB in fp32, about what a core caches.
AT_A_TIME = 2**18
#: Weights of so many scores are kept in a call, 64 MiB in fp32; those of more are computed again.
KEPT = 2**24


def bmm(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of `b h s d` over `b h t d`; `mask` `b t` is True where a key is real. Gives `b h s d`."""
    out = _OfHeads.apply(query, key, value, mask)
    if mask is None:
        return out
    some = mask.any(1)
    if some.device.type == "cpu" and some.all():
        return out
    return out.masked_fill(~some[:, None, None, None], 0)


def packed(query: Tensor, key: Tensor, value: Tensor, queries: Sequence[int], keys: Sequence[int]) -> Tensor:
    """Attention of samples that lie one after the other, each over its own steps.

    Args:
        query: `r h d`.
        key: `u h d`.
        value: `u h d`.
        queries: How many of `r` each sample has.
        keys: How many of `u` each sample has.

    Returns:
        `r h d`; zero where a sample has no key.
    """
    return _OfSamples.apply(query, key, value, list(queries), list(keys))


class _OfHeads(torch.autograd.Function):
    """Attention of `b h s d` over `b h t d`, a few heads at a time."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        b, h, s, _ = query.shape
        each = max(1, AT_A_TIME // max(1, s * key.shape[2]))
        ctx.cut = [min(each, b * h - done) for done in range(0, b * h, each)]
        ctx.heads = (b, h)
        hidden = None
        if mask is not None:
            # Half of the lowest number, so that no sum overflows.
            hidden = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min / 2)
            hidden = hidden.repeat_interleave(h, 0).unsqueeze(1)
        query, key, value = (_as_heads(x) for x in (query, key, value))
        return _joined(_forward(ctx, query, key, value, hidden, 0, ctx.cut, ctx.cut)).unflatten(0, ctx.heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        made = _backward(ctx, _as_heads(gradients[0]), 0, ctx.cut, ctx.cut)
        by_query, by_key, by_value = (_joined(x).unflatten(0, ctx.heads) for x in made)
        return by_query.mul_(by_query.shape[-1] ** -0.5), by_key, by_value, None


class _OfSamples(torch.autograd.Function):
    """Attention of `r h d` over `u h d`, one sample after the other."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, queries: list[int], keys: list[int]) -> Tensor:
        ctx.cut = (queries, keys)
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        return _one_after_the_other(_forward(ctx, query, key, value, None, 1, queries, keys))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        made = _backward(ctx, gradients[0].transpose(0, 1), 1, *ctx.cut)
        by_query, by_key, by_value = (_one_after_the_other(x) for x in made)
        return by_query.mul_(by_query.shape[-1] ** -0.5), by_key, by_value, None, None


def _as_heads(x: Tensor) -> Tensor:
    """`b h s d` as `(b h) s d`."""
    return x.flatten(0, 1) if x.shape[-1] >= NARROW else x.mT.flatten(0, 1).mT


def _one_after_the_other(samples: list[Tensor]) -> Tensor:
    """Each `h s d`, all as `r h d`."""
    return _joined([x.transpose(0, 1) for x in samples])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _forward(
    ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, dim: int, queries: list[int],
    keys: list[int],
) -> list[Tensor]:  # fmt: skip
    """Attention of `n s d` over `n t d`, piece by piece along `dim`; `hidden` `n 1 t` is added to the scores."""
    query = query * query.shape[-1] ** -0.5
    found: list[Tensor] = []
    kept: list[Tensor | None] = []
    left = KEPT
    for q, k, v, hides in _pieces((query,), (key, value), hidden, dim, queries, keys):
        weights = _weights(q, k, hides)
        found.append(_times(weights, v))
        left -= weights.numel()
        kept.append(weights if left >= 0 else None)
    ctx.save_for_backward(query, key, value, hidden, *kept)
    return found


def _backward(
    ctx: Any, gradient: Tensor, dim: int, queries: list[int], keys: list[int]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The gradients by scaled query, key and value, piece by piece."""
    query, key, value, hidden, *kept = ctx.saved_tensors
    by_query, by_key, by_value = [], [], []
    pieces = _pieces((query, gradient), (key, value), hidden, dim, queries, keys)
    for weights, (q, g, k, v, hides) in zip(kept, pieces, strict=True):
        weights = _weights(q, k, hides) if weights is None else weights
        by_value.append(_times(weights.mT, g))
        by_scores = torch.ops.aten._softmax_backward_data(torch.bmm(g, v.mT), weights, -1, weights.dtype)
        by_query.append(_times(by_scores, k))
        by_key.append(_times(by_scores.mT, q))
    return by_query, by_key, by_value


def _pieces(
    asking: Sequence[Tensor], answering: Sequence[Tensor], hidden: Tensor | None, dim: int, queries: list[int],
    keys: list[int],
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """The same piece of each tensor of either side, and what is added to its scores."""
    hides = itertools.repeat(None) if hidden is None else hidden.split(keys, dim)
    return zip(*(x.split(queries, dim) for x in asking), *(x.split(keys, dim) for x in answering), hides, strict=False)


def _weights(q: Tensor, k: Tensor, hides: Tensor | None) -> Tensor:
    """Attention weights `n s t`, of scaled queries."""
    scores = torch.bmm(q, k.mT)
    return torch.softmax(scores if hides is None else scores.add_(hides), -1)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """The product of `n s t` and `n t d`, in memory as the latter."""
    return torch.bmm(b.mT, a.mT).mT if b.shape[-1] < NARROW else torch.bmm(a, b)
