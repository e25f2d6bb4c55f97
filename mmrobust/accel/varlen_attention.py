"""Attention of samples of unequal lengths, one sample after the other, so that padding costs nothing at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrobust.nn.attention import Case, asked, attention, precisely, recording, resolve, tell, wants_gradient
from mmrobust.nn.attention.products import AT_A_TIME, packed

__all__ = ["pays", "ragged"]

#: Scores of padding, over all heads, that cost a CPU as much as one more call (docs/speed.md).
CALL = 20_000
#: Backends that take any lengths as they come: `timm` wants as many queries as keys, `flex` compiles for each length.
_ANY_LENGTH = ("auto", "manual", "bmm", "sdpa", "flash")


def pays(queries: Tensor, keys: Tensor, heads: int, backend: str = "auto") -> bool:
    """Whether a call for each sample takes less time than one call with padding. It waits for the device.

    Args:
        queries: True where a query is real, `b s`.
        keys: True where a key is real, `b t`.
        heads: Number of heads.
        backend: Attention backend, as `attention` takes it.
    """
    if recording() or asked(backend)[0] not in _ANY_LENGTH:
        return False
    real = int((queries.sum(1) * keys.sum(1)).sum())
    padding = len(queries) * queries.shape[1] * keys.shape[1] - real
    return heads * padding > CALL * len(queries)


def ragged(
    query: Tensor, key: Tensor, value: Tensor, queries: Sequence[int], keys: Sequence[int], backend: str = "auto"
) -> Tensor:
    """Each query's weighted mean of the values of its own sample.

    Args:
        query: Those of all samples, one after the other, `r h d`.
        key: Likewise, `u h d`.
        value: Likewise, `u h d`.
        queries: How many of `r` each sample has.
        keys: How many of `u` each sample has.
        backend: Attention backend. `bmm`, also where `auto` takes it for the longest sample, makes all of them one node
            of the graph; otherwise `auto` picks for each.

    Returns:
        `r h d`; zero where a sample has no key.

    Raises:
        UsageError: As `attention`.
    """
    if _at_once(query, key, value, queries, keys, backend):
        return precisely(lambda q, k, v: packed(q, k, v, queries, keys), query, key, value)
    parts = (x.unsqueeze(0).split(lengths, 1) for x, lengths in ((query, queries), (key, keys), (value, keys)))
    found = []
    for q, k, v in zip(*parts, strict=True):
        if q.shape[1] and k.shape[1]:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            found.append(attention(q, k, v, None, backend).transpose(1, 2))
        else:
            found.append(torch.zeros_like(q))
    return torch.cat(found, 1).squeeze(0)


def _at_once(
    query: Tensor, key: Tensor, value: Tensor, queries: Sequence[int], keys: Sequence[int], backend: str
) -> bool:
    """Whether `packed` takes all samples: where `bmm` would run the longest of them, and at once."""
    s, t = max(zip(queries, keys, strict=True), key=lambda pair: pair[0] * pair[1], default=(0, 0))
    backward = wants_gradient(query, key, value)
    longest = Case(query.device.type, query.dtype, s, t, query.shape[2], masked=False, backward=backward)
    if recording() or s * t * query.shape[1] > AT_A_TIME or resolve(backend, longest) != "bmm":
        return False
    tell(longest, "bmm")
    return True
