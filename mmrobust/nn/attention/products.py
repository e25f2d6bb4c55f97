"""Attention as batched matrix products with a backward pass of its own, which is what trains fastest on a CPU.

Torch's fused kernel there computes all scores again in its backward pass and is made for wide heads. Here weights are
kept. `bmm` does no more heads at once than the cache has room for, and has narrow ones with features before steps, so
that the long side of every product is steps; `packed` does sample after sample as it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["NARROW", "bmm", "hiding", "packed"]

#: Heads narrower than this lie with features before steps (docs/speed.md).
NARROW = 16
#: Scores at a time, 4 MiB in fp32: of more the cache keeps too little, of fewer there are too many calls.
AT_A_TIME = 2**20
#: Weights of more scores in a call, 64 MiB in fp32, are not kept but computed again.
KEPT = 2**24


def bmm(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of `b h s d` over `b h t d`; `mask` `b t` is True where a key is real. Gives `b h s d`."""
    b, h, s, _ = query.shape
    keep = b * h * s * key.shape[2] <= KEPT
    each = max(1, AT_A_TIME // max(1, s * key.shape[2]))
    hides = None if mask is None else hiding(mask, query.dtype)
    if each >= b * h:
        out = _OfHeads.apply(query, key, value, hides, keep)
    else:
        split = [_as_heads(x).split(each) for x in (query, key, value)]
        hidden = [None] * len(split[0]) if hides is None else hides.expand(-1, h, -1, -1).flatten(0, 1).split(each)
        out = torch.cat([_OfHeads.apply(*piece, keep) for piece in zip(*split, hidden, strict=True)])
        out = out.unflatten(0, (b, h))
    if mask is None:
        return out
    some = mask.any(1)
    return out if some.all() else out.masked_fill(~some[:, None, None, None], 0)


def hiding(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that keys which are not real get no weight, `b 1 1 t`, from `b t`.

    A low finite number instead of -inf: a row without keys stays finite, forward and backward. Half of the lowest, so
    that the sum stays finite in float16 as well.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min / 2)[:, None, None]


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
    keep = query.shape[1] * sum(s * t for s, t in zip(queries, keys, strict=True)) <= KEPT
    return _OfSamples.apply(query, key, value, list(queries), list(keys), keep)


class _OfHeads(torch.autograd.Function):
    """Attention of `... s d` over `... t d`; `hides`, which spreads to `... s t`, is added to the scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, hides: Tensor | None, keep: bool) -> Tensor:
        ctx.heads = query.shape[:-2]
        q, k, v = _as_heads(query * query.shape[-1] ** -0.5), _as_heads(key), _as_heads(value)
        weights = _weights(q, k, hides, ctx.heads)
        ctx.save_for_backward(q, k, v, hides, weights if keep else None)
        return _times(weights, v).unflatten(0, ctx.heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, hides, weights = ctx.saved_tensors
        with _exactly():
            weights = _weights(q, k, hides, ctx.heads) if weights is None else weights
            by_query, by_key, by_value = _backward(q, k, v, weights, _as_heads(_spread(gradients[0])))
        by_query.mul_(q.shape[-1] ** -0.5)
        return *(x.unflatten(0, ctx.heads) for x in (by_query, by_key, by_value)), None, None


class _OfSamples(torch.autograd.Function):
    """Attention of `r h d` over `u h d`, one sample after the other."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, queries: list[int], keys: list[int], keep: bool
    ) -> Tensor:
        ctx.cut = queries, keys
        query = query * query.shape[-1] ** -0.5
        out = query.new_empty(query.shape)
        kept: list[Tensor] = []
        for q, o, k, v in zip(*_cut(queries, query, out), *_cut(keys, key, value), strict=True):
            weights = _weights(q, k)
            o.copy_(torch.bmm(weights, v))
            if keep:
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        queries, keys = ctx.cut
        query, key, value, *kept = ctx.saved_tensors
        made = [x.new_empty(x.shape) for x in (query, key, value)]
        asks, answers = _cut(queries, query, _spread(gradients[0]), made[0]), _cut(keys, key, value, *made[1:])
        with _exactly():
            for i, (q, g, d_q, k, v, *d_k_v) in enumerate(zip(*asks, *answers, strict=True)):
                weights = kept[i] if kept else _weights(q, k)
                for out, found in zip((d_q, *d_k_v), _backward(q, k, v, weights, g), strict=True):
                    out.copy_(found)
        return made[0].mul_(query.shape[-1] ** -0.5), *made[1:], None, None, None


def _exactly() -> torch.autocast:
    """Products as they are written, also where a backward pass is started under autocast."""
    return torch.autocast("cpu", enabled=False)


def _spread(gradient: Tensor) -> Tensor:
    """The gradient with memory of its own: that of a sum or a mean has one number for many, which bmm is slow with."""
    return gradient.contiguous() if 0 in gradient.stride() else gradient


def _cut(lengths: list[int], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Each of `r h d` as samples, `h s d`."""
    return [x.transpose(0, 1).split(lengths, 1) for x in tensors]


def _as_heads(x: Tensor) -> Tensor:
    """`... s d` as `n s d`."""
    return x.flatten(0, -3) if x.shape[-1] >= NARROW else x.mT.flatten(0, -3).mT


def _weights(query: Tensor, key: Tensor, hides: Tensor | None = None, heads: Sequence[int] = ()) -> Tensor:
    """Attention weights `n s t`, of scaled queries; `hides`, which spreads to `heads s t`, is added to the scores."""
    scores = torch.bmm(query, key.mT)
    if hides is not None:
        scores.unflatten(0, heads).add_(hides)
    return torch.softmax(scores, -1)


def _backward(q: Tensor, k: Tensor, v: Tensor, weights: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by scaled queries, by keys and by values."""
    by_value = _times(weights.mT, gradient)
    by_weights = torch.bmm(gradient, v.mT)
    by_scores = torch.ops.aten._softmax_backward_data(by_weights, weights, -1, weights.dtype)
    return _times(by_scores, k), _times(by_scores.mT, q), by_value


def _times(a: Tensor, b: Tensor) -> Tensor:
    """The product of `n s t` and `n t d`, in memory as the latter."""
    return torch.bmm(b.mT, a.mT).mT if b.shape[-1] < NARROW else torch.bmm(a, b)
