"""NORM-TR's fusion without padding, and with its projections apart, so that noisy views can share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor

from mmrobust.accel.packing import Packing, Steps, join
from mmrobust.accel.varlen_attention import pays, varlen_attention
from mmrobust.components.fusion import CrossAttention, Positions
from mmrobust.contracts import Segment, Stream, Streams
from mmrobust.nn.attention import attention, precisely
from mmrobust.nn.layers import CrossBlock, MultiheadAttention

__all__ = ["FastCrossAttention", "Projections"]


@dataclass(frozen=True)
class Projections:
    """Everything in the fusion that looks at one step alone.

    Attributes:
        x: The query with its positions, `b s d`.
        query: What the first block's attention projects it to, `b s d`.
        key_values: What each block's attention projects keys and values to, `b t (2 d)`.
        segments: Of the query.
        times: Of the query, where it has any.
    """

    x: Steps
    query: Steps
    key_values: tuple[Steps, ...]
    segments: tuple[Segment, ...]
    times: Tensor | None = None


class FastCrossAttention(CrossAttention):
    """`CrossAttention`: the same numbers, sooner."""

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        """See `Fusion.forward`."""
        return self.attend(self.project(generic, specific))

    def project(self, generic: Mapping[str, Steps], specific: Mapping[str, Steps]) -> Projections:
        """All that is done step by step: positions, and every projection that does not wait for attention."""
        features = {"generic": generic, "specific": specific}
        x, rows, mask, segments, times = _positioned(self.queries, features[self.query_side])
        source, keys, known, _, _ = _positioned(self.keys, features[self.key_side])
        if rows.packed and torch.equal(mask, known):
            keys, known = rows, mask
        blocks = self._blocks()
        return Projections(
            rows.steps(x, mask),
            rows.steps(_query(blocks[0], x), mask),
            tuple(keys.steps(_key_value(block, source), known) for block in blocks),
            segments,
            times,
        )

    def attend(self, projections: Projections) -> Stream:
        """All the rest: `b s d`, padding zero; in what comes in, padding may hold anything finite."""
        mask, known = projections.x.mask, projections.key_values[0].mask
        blocks = self._blocks()
        layer = blocks[0].attention
        rows = Packing.choose(mask)
        keys = rows if known is mask else Packing.choose(known)
        if not (rows.packed and keys.packed and pays(mask, known, layer.heads, layer.backend)):
            keys = Packing(known, packed=False)
        x, query = rows.values(projections.x), rows.values(projections.query)
        for i, block in enumerate(blocks):
            query = _query(block, x) if i else query
            x = x + block.dropout(_attend(block.attention, query, keys.values(projections.key_values[i]), rows, keys))
            if block.pre:
                x = x + block.dropout(block.feed(block.norm_feed(x)))
            else:
                x = block.norm_query(x)
                x = block.norm_feed(x + block.dropout(block.feed(x)))
        stream = Stream(rows.unpack(x), mask, projections.times, projections.segments)
        return stream if rows.packed else stream.zeroed()

    def _blocks(self) -> list[CrossBlock]:
        return cast("list[CrossBlock]", list(self.blocks))


def _positioned(
    positions: Positions, streams: Mapping[str, Steps]
) -> tuple[Tensor, Packing, Tensor, tuple[Segment, ...], Tensor | None]:
    """Joined steps with their positions, packed on a CPU: `r d` or `b s d`; the packing, mask, segments and times."""
    parts = {segment.name: streams[segment.name] for segment in positions.shape.segments}
    segments = tuple(Segment(name, part.mask.shape[1]) for name, part in parts.items())
    times = [part.times for part in parts.values() if isinstance(part, Stream) and part.times is not None]
    joined = join(list(parts.values()))
    rows = Packing.choose(joined.mask)
    x = rows.values(joined)
    if positions.position is not None:
        position = positions.of(segments)
        if rows.packed:
            step = torch.arange(position.shape[1]).expand(joined.mask.shape)
            position = position[0].index_select(0, rows.pack(step))
        x = x + position
    return x, rows, joined.mask, segments, torch.cat(times, 1) if len(times) == len(parts) else None


def _query(block: CrossBlock, x: Tensor) -> Tensor:
    return block.attention.query(block.norm_query(x) if block.pre else x)


def _key_value(block: CrossBlock, source: Tensor) -> Tensor:
    return block.attention.key_value(block.norm_source(source))


def _attend(layer: MultiheadAttention, query: Tensor, key_value: Tensor, rows: Packing, keys: Packing) -> Tensor:
    """Attention of projections that are packed as `rows` and `keys` say; the result is packed as `rows`."""

    def of_samples(query: Tensor, key_value: Tensor) -> Tensor:
        q = rearrange(query, "r (h d) -> r h d", h=layer.heads)
        k, v = rearrange(key_value, "u (kv h d) -> kv u h d", kv=2, h=layer.heads)
        # Rows that were added to round the number see no keys and no query sees them: they are two more samples.
        queries, lengths = [*rows.lengths, rows.spare, 0], [*keys.lengths, 0, keys.spare]
        return varlen_attention(q, k, v, queries, lengths, layer.backend).flatten(1)

    def of_batch(query: Tensor, key_value: Tensor) -> Tensor:
        q = rearrange(rows.unpack(query), "b s (h d) -> b h s d", h=layer.heads)
        k, v = rearrange(key_value, "b t (kv h d) -> kv b h t d", kv=2, h=layer.heads)
        return rows.pack(rearrange(attention(q, k, v, keys.mask, layer.backend), "b h s d -> b s (h d)"))

    return layer.out(precisely(of_samples if keys.packed else of_batch, query, key_value))
