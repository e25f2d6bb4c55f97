"""Fusions: one stream made of the generic and the specific ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmrobust.accel.packing import Rows, joined
from mmrobust.accel.varlen_attention import pays
from mmrobust.contracts import Context, Fusion, Shape, Steps, Stream, Streams
from mmrobust.errors import OptionError
from mmrobust.nn.layers import CrossBlock

Side = Literal["generic", "specific"]


class _Tokens(nn.Module):
    """All streams one after the other, with a learnable position added.

    Args:
        shapes: What comes in, all of one width.
        position: `timestamp` for one vector a time step, shared by the streams; `token` for one a token; `none`.
        option: Name of the option to blame where the widths differ.
    """

    def __init__(self, shapes: Mapping[str, Shape], position: str, option: str) -> None:
        super().__init__()
        widths = {shape.width for shape in shapes.values()}
        if len(widths) != 1:
            told = ", ".join(f"{key} {shape.width}" for key, shape in shapes.items())
            raise OptionError(option, f"its streams must have one width, but they have {told}")
        self.width = widths.pop()
        self.lengths = {key: shape.length for key, shape in shapes.items()}
        self.length = sum(shape.length for shape in shapes.values())
        self.shared = position == "timestamp"
        steps = max(shape.length for shape in shapes.values()) if self.shared else self.length
        self.position = None if position == "none" else nn.Parameter(torch.empty(1, steps, self.width))
        if self.position is not None:
            nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, streams: Mapping[str, Steps]) -> tuple[Tensor, Rows, Tensor]:
        """All tokens, packed on a CPU: `r d` or `b s d`; how; and which are real, `b s`."""
        tokens = joined([streams[key] for key in self.lengths])
        mask, rows = tokens.mask, Rows.where(tokens.mask)
        x = rows.of(tokens)
        if self.position is None:
            return x, rows, mask
        first, slices = 0, []
        for key, length in self.lengths.items():
            slices.append(self.position[0, first : first + streams[key].mask.shape[1]])
            first += 0 if self.shared else length
        position = torch.cat(slices)
        if rows.packed:
            position = position.index_select(0, rows.pack(torch.arange(len(position)).expand(mask.shape)))
        return x + position, rows, mask


class CrossAttention(Fusion):
    """NORM-TR's multimodal fusion Transformer (paper, section 3.4.1 and equation 5).

    The steps of all modalities, one after the other, are the query (the NRGF by default); keys and values (the MFs)
    stay the same in every block, as in MulT's crossmodal blocks. Gives `b s d`, a step for each query step; their
    mean, one step, where the head looks at nothing else (the last linear layer then works on one step, not on s).

    What the paper leaves open, and how it is read here: blocks are pre-norm, as in the ViT that it follows for its
    positions (`norm`); "positional encoding of timestamp" is one learnable vector for each time step, the same for
    every modality, added to the query and, from a table of its own, to keys and values (`position`); the
    feed-forward layer is four times as wide (`ratio`). With `norm: pre` the last normalisation is the head's.

    Args:
        context: What the house provides.
        depth: Number of blocks; the paper has 2 for MOSI and RML, 4 for MOSEI and IEMOCAP.
        heads: Attention heads; must divide the query's width.
        ratio: Width of the feed-forward layer over the query's.
        norm: `pre` or `post` normalisation.
        dropout: Share dropped on each residual branch in training.
        position: `timestamp`, `token` (one vector for each step of each modality) or `none`.
        query: Which features ask (Table 8 exchanges them).
        key_value: Which features answer.

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
        self.queries = _Tokens(sides[query], position, "query")
        self.keys = _Tokens(sides[key_value], position, "key_value")
        width = self.queries.width
        if heads < 1 or width % heads:
            right = ", ".join(str(h) for h in range(1, width + 1) if width % h == 0 and h <= 32)
            raise OptionError("heads", f"{heads} does not divide the width {width} of the query; {right} do")
        self.blocks = nn.ModuleList(
            CrossBlock(
                width, self.keys.width, heads, ratio=ratio, norm=norm, dropout=dropout, backend=context.attention
            )
            for _ in range(depth)
        )
        self.pooled = context.pooled
        self.shape = Shape(width, 1 if self.pooled else self.queries.length)
        queries, keys = tuple(self.queries.lengths), tuple(self.keys.lengths)
        self.prepared = {"x": queries, "query": queries} | {f"key_value_{i}": keys for i in range(depth)}

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        return self.attend(self.prepare(generic, specific), notes)

    def prepare(self, generic: Mapping[str, Steps], specific: Mapping[str, Steps]) -> dict[str, Steps]:
        sides = {"generic": generic, "specific": specific}
        x, rows, mask = self.queries(sides[self.query_side])
        source, keys, known = self.keys(sides[self.key_side])
        if rows.packed and torch.equal(mask, known):
            keys, known = rows, mask
        blocks = self._blocks()
        made = {"x": rows.keep(x, mask), "query": rows.keep(blocks[0].query(x), mask)}
        return made | {f"key_value_{i}": keys.keep(block.key_value(source), known) for i, block in enumerate(blocks)}

    def attend(self, prepared: Mapping[str, Steps], notes: dict[str, Any]) -> Stream:
        mask, known = prepared["x"].mask, prepared["key_value_0"].mask
        blocks = self._blocks()
        layer = blocks[0].attention
        rows = Rows.where(mask)
        keys = rows if known is mask else Rows.where(known)
        if not (rows.packed and keys.packed and pays(mask, known, layer.heads, layer.backend)):
            keys = Rows(keys.mask, packed=False)
        x, query = rows.of(prepared["x"]), rows.of(prepared["query"])
        for i, block in enumerate(blocks):
            query = block.query(x) if i else query
            x = block.attend(x, query, keys.of(prepared[f"key_value_{i}"]), rows, keys)
            if self.pooled and block is blocks[-1]:
                return Stream.pooled(block.feed_on_mean(x, rows))
            x = block.feed_on(x)
        return Stream(rows.unpack(x), mask)

    def _blocks(self) -> list[CrossBlock]:
        return list(self.blocks)  # type: ignore[arg-type]


class Concat(Fusion):
    """Each stream's mean over its real steps, one beside the other: no interaction, the plainest fusion.

    Gives one step, `b 1 d`, where d is the sum of all widths. "Without the multimodal fusion Transformer" of Table 6.

    Args:
        context: What the house provides.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.generic, self.specific = tuple(context.generic), tuple(context.specific)
        shapes = [*context.generic.values(), *context.specific.values()]
        self.shape = Shape(sum(shape.width for shape in shapes), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = [*(generic[key] for key in self.generic), *(specific[key] for key in self.specific)]
        return Stream.pooled(torch.cat([stream.mean() for stream in streams], -1))
