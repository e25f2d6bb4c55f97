"""MulT: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov (2019), "Multimodal transformer for unaligned multimodal
language sequences".

Its parts: a temporal convolution as encoder (`conv1d`), the pairs of crossmodal Transformers as fusion, and
a residual perceptron as head (`residual_mlp`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from mmrobust.errors import OptionError
from torch import nn

from mmrobust_baselines.heads import Pool, pooled
from mmrobust_baselines.layers import Transformer, common_width, divide

Side = Literal["generic", "specific"]


class CrossmodalPairs(Fusion):
    """For each modality, one crossmodal Transformer over each other modality; then self-attention over the results.

    CM_{b->a}: Q from modality a, K and V from b; pre-norm blocks with positions. The results of a modality with all
    others, side by side, go through a Transformer of its own; the last real steps of all modalities, side by side, are
    the output, `b 1 M(M-1)d`. In NORM-TR's slot (its section 4.7.4) set `query: generic`: the NRGF of one modality then
    attends to the MFs of the others.

    How it was read: keys and values keep the low-level features of the source in every block, under the
    block's own normalisation; the self-attention Transformer has `self_depth` blocks (the public release takes at
    least 3, the paper says nothing); the release also forbids a step to see sources behind it in time, which the paper
    does not have and which is left out; padding is masked everywhere.

    Args:
        context: Shapes, task and settings of the model.
        depth: Blocks D of each crossmodal Transformer.
        self_depth: Blocks of each modality's self-attention Transformer.
        heads: Attention heads.
        ratio: Width of the feed-forward layers over d.
        dropout: Share dropped on each residual branch in training.
        embed_dropout: Share of the positioned input dropped in training.
        query: Which features are the query.
        key_value: Which features are keys and values.
        pool: `last` for the last real step, or `mean`.

    Raises:
        OptionError: There is no other stream to attend to, widths differ, or `heads` does not divide them.
    """

    minimum = 2

    def __init__(
        self,
        context: Context,
        *,
        depth: int = 4,
        self_depth: int = 3,
        heads: int = 8,
        ratio: float = 4.0,
        dropout: float = 0.0,
        embed_dropout: float = 0.0,
        query: Side = "specific",
        key_value: Side = "specific",
        pool: Pool = "last",
    ) -> None:
        super().__init__(context)
        sides = {"generic": context.generic, "specific": context.specific}
        for option, side in (("query", query), ("key_value", key_value)):
            if not sides[side]:
                other = "specific" if side == "generic" else "generic"
                raise OptionError(option, f"there is no {side} extractor; set {option}: {other}, or add the extractor")
        queries, sources = sides[query], sides[key_value]
        self.sources = {a: tuple(b for b in sources if b != a) for a in queries}
        if not all(self.sources.values()):
            raise OptionError("use", "needs another modality to attend to")
        width = common_width({f"query {a}": s for a, s in queries.items()} | dict(sources), "streams")
        divide(width, heads)
        length = max(shape.length for shape in (*queries.values(), *sources.values()))

        def transformer(width: int, depth: int) -> Transformer:
            return Transformer(
                width,
                length,
                depth,
                heads,
                ratio=ratio,
                dropout=dropout,
                embed_dropout=embed_dropout,
                backend=context.attention,
            )

        self.pairs = nn.ModuleDict(
            {a: nn.ModuleDict({b: transformer(width, depth) for b in bs}) for a, bs in self.sources.items()}
        )
        self.selves = nn.ModuleDict({a: transformer(width * len(bs), self_depth) for a, bs in self.sources.items()})
        self.query_side, self.key_side = query, key_value
        self.pool: Pool = pool
        self.shape = Shape(width * sum(len(bs) for bs in self.sources.values()), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        sides = {"generic": generic, "specific": specific}
        queries, sources = sides[self.query_side], sides[self.key_side]
        vectors = []
        for a, others in self.sources.items():
            pairs = self.pairs[a]
            assert isinstance(pairs, nn.ModuleDict)
            attended = torch.cat([pairs[b](queries[a], sources[b]).x for b in others], -1)
            vectors.append(pooled(self.selves[a](replace(queries[a], x=attended)), self.pool))
        return Stream.pooled(torch.cat(vectors, -1))
