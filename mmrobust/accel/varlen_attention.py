"""Variable-length attention: samples attend one after the other, so that padding costs nothing at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrobust.nn.attention import asked, attention, recording

__all__ = ["pays", "varlen_attention"]

#: Scores of padding, over all heads, that cost a CPU as much as one more call (docs/speed.md).
CALL = 20_000
#: Backends that take any lengths as they come: `timm` wants as many queries as keys, `flex` compiles for each length.
_ANY_LENGTH = ("auto", "manual", "sdpa", "flash")


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


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, queries: Sequence[int], keys: Sequence[int], backend: str = "auto"
) -> Tensor:
    """Each query's weighted mean of the values of its own sample.

    Args:
        query: Those of all samples, one after the other, `r h d`.
        key: Likewise, `u h d`.
        value: Likewise, `u h d`.
        queries: How many of `r` each sample has.
        keys: How many of `u` each sample has.
        backend: Attention backend.

    Returns:
        `r h d`; zero where a sample has no key.

    Raises:
        UsageError: As `attention`.
    """
    parts = (x.unsqueeze(0).split(lengths, 1) for x, lengths in ((query, queries), (key, keys), (value, keys)))
    attended = []
    for q, k, v in zip(*(list(part) for part in parts), strict=True):
        if q.shape[1] and k.shape[1]:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            attended.append(attention(q, k, v, None, backend).transpose(1, 2))
        else:
            attended.append(torch.zeros_like(q))
    return torch.cat(attended, 1).squeeze(0)
