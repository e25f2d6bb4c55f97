"""Attention with narrow heads on a CPU, as MulT and TFR-Net have it: heads 5 to 15 wide.

Torch's kernel there is made for wide heads: most of a training step went into it. The same is computed here as batched
matrix products with features before steps, so that the long side of every product is steps; a few heads at a time, so
that scores stay in the cache; and scores are computed again in the backward pass, so that none are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mmrobust.nn.attention as house
import torch
from einops import rearrange
from mmrobust.nn.rows import eager
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Heads at least this wide are faster in torch's kernel.
WIDE = 16
#: Scores at a time: 512 KiB in fp32, about what a core caches.
SCORES = 2**17


def attend(query: Tensor, key_value: Tensor, mask: Tensor | None, heads: int, backend: str) -> Tensor:
    """Multi-head attention of projections `b s (h d)` over projections `b t (2 h d)`, `b s (h d)`.

    Args:
        query: What asks.
        key_value: Keys and values, side by side.
        mask: True where a key is real, `b t`; None if all are.
        heads: Number of heads.
        backend: Attention backend; with `auto`, training with narrow heads on a CPU is done here.

    Returns:
        Zero where a sample has no real key.
    """
    if _here(query, heads, backend):
        hidden = query.new_zeros(len(query), 1, key_value.shape[1])
        if mask is None:
            return _Narrow.apply(query, key_value, hidden, heads)
        out = _Narrow.apply(query, key_value, hidden.masked_fill(~mask.unsqueeze(1), _low(query)), heads)
        some = mask.any(1)
        return out if some.all() else out.masked_fill(~some[:, None, None], 0)
    query = rearrange(query, "b s (h d) -> b h s d", h=heads)
    key, value = rearrange(key_value, "b t (kv h d) -> kv b h t d", kv=2, h=heads)
    return rearrange(house.attention(query, key, value, mask, backend), "b h s d -> b s (h d)")


def _here(query: Tensor, heads: int, backend: str) -> bool:
    return (
        query.device.type == "cpu"
        and query.requires_grad
        and query.dtype in (torch.float32, torch.float64)
        and query.shape[-1] // heads < WIDE
        and eager()
        and not torch.is_autocast_enabled("cpu")
        and house.asked(backend)[0] == "auto"
        # Somebody looks at the weights, or counts the calls: only the house's own attention tells them.
        and not house.recording()
        and not house.watching()
    )


def _low(like: Tensor) -> float:
    """What hides a score; half of the lowest number, so that no sum overflows."""
    return torch.finfo(like.dtype).min / 2


def _apart(x: Tensor, heads: int) -> Tensor:
    """Features before steps, heads among the samples: `b s (h d)` as `(b h) d s`."""
    return x.mT.reshape(len(x) * heads, -1, x.shape[1])


def _joined(x: Tensor, heads: int) -> Tensor:
    """The way back: `(b h) d s` as `b s (h d)`."""
    return x.view(len(x) // heads, -1, x.shape[2]).mT


class _Narrow(torch.autograd.Function):
    """Attention of `b s (h d)` over `b t (2 h d)`; `b 1 t` is added to the scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key_value: Tensor, hidden: Tensor, heads: int) -> Tensor:
        q, k, v = (_apart(x, heads) for x in (query, *key_value.chunk(2, -1)))
        q = q * q.shape[1] ** -0.5
        hidden = hidden.repeat_interleave(heads, 0)
        out = torch.empty_like(q)
        for (p,), q_, k_, v_, hidden_, out_ in _few(1, q, k, v, hidden, out):
            _weights(q_, k_, hidden_, p)
            torch.bmm(v_, p.mT, out=out_)
        ctx.save_for_backward(q, k, v, hidden)
        ctx.heads = heads
        return _joined(out, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        q, k, v, hidden = ctx.saved_tensors
        g = _apart(gradients[0], ctx.heads)
        d_q, d_k, d_v = (torch.empty_like(x) for x in (q, k, v))
        for (p, d_p), q_, k_, v_, hidden_, g_, d_q_, d_k_, d_v_ in _few(2, q, k, v, hidden, g, d_q, d_k, d_v):
            _weights(q_, k_, hidden_, p)
            torch.bmm(g_, p, out=d_v_)
            torch.bmm(g_.mT, v_, out=d_p)
            torch.ops.aten._softmax_backward_data.out(d_p, p, -1, p.dtype, grad_input=d_p)
            torch.bmm(k_, d_p.mT, out=d_q_)
            torch.bmm(q_, d_p, out=d_k_)
        d_q.mul_(q.shape[1] ** -0.5)
        d_key_value = torch.cat([_joined(d_k, ctx.heads), _joined(d_v, ctx.heads)], -1)
        return _joined(d_q, ctx.heads), d_key_value, None, None


def _few(tables: int, q: Tensor, k: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few heads of each tensor at a time, after room for tables of their scores, `tables n s t`, always the same."""
    s, t = q.shape[2], k.shape[2]
    each = min(len(q), max(1, SCORES // (s * t)))
    room = q.new_empty(tables, each, s, t)
    for parts in zip(*(x.split(each) for x in (q, k, *others)), strict=True):
        yield room[:, : len(parts[0])], *parts


def _weights(q: Tensor, k: Tensor, hidden: Tensor, out: Tensor) -> None:
    """Writes the attention weights `n s t`, of scaled queries `n d s` over keys `n d t`."""
    torch.baddbmm(hidden, q.mT, k, out=out)
    torch.softmax(out, -1, out=out)
