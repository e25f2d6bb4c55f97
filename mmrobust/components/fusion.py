"""Fusions: one stream from the generic and the specific ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmrobust.contracts import Context, Fusion, Segment, Shape, Stream, Streams
from mmrobust.errors import OptionError
from mmrobust.nn.layers import CrossBlock

Side = Literal["generic", "specific"]


class Positions(nn.Module):
    """Joins streams of one width, each step with a learnable position added.

    Args:
        shapes: The streams.
        position: `timestamp` for one vector a time step, shared by the streams; `token` for one a token; `none`.
        option: Name of the option to blame where the widths differ.
    """

    def __init__(self, shapes: Mapping[str, Shape], position: str, option: str) -> None:
        super().__init__()
        if len({shape.width for shape in shapes.values()}) != 1:
            widths = ", ".join(f"{key} {shape.width}" for key, shape in shapes.items())
            raise OptionError(option, f"its streams must have one width, but they have {widths}")
        self.shape = Shape.join(shapes)
        self.shared = position == "timestamp"
        steps = max(segment.length for segment in self.shape.segments) if self.shared else self.shape.length
        self.position = None if position == "none" else nn.Parameter(torch.empty(1, steps, self.shape.width))
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, streams: Streams) -> Stream:
        """Maps `{key: b t d}` to `b s d`."""
        joined = Stream.join({segment.name: streams[segment.name] for segment in self.shape.segments})
        return joined if self.position is None else joined.map(lambda x: x + self.of(joined.segments))

    def of(self, segments: tuple[Segment, ...]) -> Tensor:
        """The positions of a joined stream's steps, `1 s d`."""
        assert self.position is not None
        most = [0 if self.shared else segment.length for segment in self.shape.segments]
        first = [sum(most[:i]) for i in range(len(most))]
        rows = [self.position[:, at : at + part.length] for at, part in zip(first, segments, strict=True)]
        return torch.cat(rows, 1)


class CrossAttention(Fusion):
    """NORM-TR's multimodal fusion Transformer (paper, section 3.4.1 and equation 5).

    The steps of all modalities, one after the other, are the query (the NRGF by default); keys and values (the MFs)
    stay the same in every block, as in MulT's crossmodal blocks. Gives `b s d`, a step for each query step, in the
    query's segments.

    What the paper leaves open, and how it is read here: blocks are pre-norm, as in the ViT that it follows for its
    positions (`norm`); "positional encoding of timestamp" is one learnable vector for each time step, the same for
    every modality, added to the query and, from a table of its own, to keys and values (`position`); the
    feed-forward layer is four times as wide (`ratio`). With `norm: pre` the last normalisation is the head's.

    Args:
        context: What mmrobust provides.
        depth: Number of blocks; the paper has 2 for MOSI and RML, 4 for MOSEI and IEMOCAP.
        heads: Attention heads; must divide the query's width.
        ratio: Width of the feed-forward layer over the query's.
        norm: `pre` or `post` normalisation.
        dropout: Share dropped on each residual branch in training.
        position: `timestamp`, `token` (one vector for each step of each modality) or `none`.
        query: Which features are the query (Table 8 exchanges them).
        key_value: Which features are key and value.

    Raises:
        OptionError: `heads` does not divide the width, or the features asked for are not there.
    """

    def __init__(
        self,
        context: Context,
        *,
        depth: int = 2,
        heads: int = 8,
        ratio: float = 4.0,
        norm: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        position: Literal["timestamp", "token", "none"] = "timestamp",
        query: Side = "generic",
        key_value: Side = "specific",
    ) -> None:
        super().__init__(context)
        sides = {"generic": context.generic, "specific": context.specific}
        for option, side in (("query", query), ("key_value", key_value)):
            if not sides[side]:
                other = "specific" if side == "generic" else "generic"
                raise OptionError(option, f"there is no {side} extractor; set {option}: {other}, or add the extractor")
        if depth < 1:
            raise OptionError("depth", f"must be at least 1, not {depth}")
        self.query_side, self.key_side = query, key_value
        self.queries = Positions(sides[query], position, "query")
        self.keys = Positions(sides[key_value], position, "key_value")
        self.shape = self.queries.shape
        width = self.shape.width
        if heads < 1 or width % heads:
            right = ", ".join(str(h) for h in range(1, width + 1) if width % h == 0 and h <= 32)
            raise OptionError("heads", f"{heads} does not divide the width {width} of the query; {right} do")
        block = partial(CrossBlock, width, self.keys.shape.width, heads, ratio=ratio, norm=norm, dropout=dropout)
        self.blocks = nn.ModuleList(block(backend=context.attention) for _ in range(depth))

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        features = {"generic": generic, "specific": specific}
        query = self.queries(features[self.query_side])
        key_value = self.keys(features[self.key_side])
        x = query.x
        for block in self.blocks:
            x = block(x, key_value.x, key_value.mask)
        return replace(query, x=x)


class Concat(Fusion):
    """Each stream's mean over its real steps, one beside the other: no interaction, the plainest fusion.

    Gives one step, `b 1 d`, where d is the sum of all widths. "Without the multimodal fusion Transformer" of Table 6.

    Args:
        context: What mmrobust provides.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.generic, self.specific = tuple(context.generic), tuple(context.specific)
        shapes = [*context.generic.values(), *context.specific.values()]
        self.shape = Shape(sum(shape.width for shape in shapes), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = [*(generic[key] for key in self.generic), *(specific[key] for key in self.specific)]
        return Stream.pooled(torch.cat([stream.mean() for stream in streams], -1))
