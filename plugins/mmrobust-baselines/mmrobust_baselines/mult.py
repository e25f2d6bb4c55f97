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
from mmrobust_baselines.layers import Reading, Transformer, by_name, common_width, divide

Side = Literal["generic", "specific"]


class CrossmodalPairs(Fusion):
    """For each modality, one crossmodal Transformer over each other modality; then self-attention over the results.

    CM_{b->a}: Q from modality a, K and V from b; pre-norm blocks with positions. The results of a modality with all
    others, side by side, go through a Transformer of its own; the last real steps of all modalities, side by side, are
    the output, `b 1 M(M-1)d`. In NORM-TR's slot (its section 4.7.4) set `query: generic`: the NRGF of one modality then
    attends to the MFs of the others.

    How it was read: keys and values keep the low-level features of the source in every block, under the block's own
    normalisation. The self-attention Transformer has `self_depth` blocks: as many as the others and at least 3 in the
    authors' public code, the paper does not say. With `reading: release`, what the authors trained, a step does not see
    source steps that are later than itself by more than the difference of the two lengths, positions are sines and then
    cosines counted from 1, and weights begin by Xavier's rule; with `paper` every step sees the whole source and
    positions are Vaswani's. The public code does not mask padding, but gives zero frames no position; here padding is
    masked in both readings, for it must not change a prediction.

    Args:
        context: Shapes, task and settings of the model.
        depth: Blocks D of each crossmodal Transformer.
        self_depth: Blocks of each modality's self-attention Transformer.
        heads: Attention heads.
        ratio: Width of the feed-forward layers over d.
        dropout: Share dropped in the feed-forward layers and on each residual branch in training.
        attention_dropout: Share of the attention weights dropped in training, for all or by the source's name; the
            self-attention of each modality has that of the first source.
        embed_dropout: Share of the positioned input dropped in training.
        query: Which features are the query.
        key_value: Which features are keys and values.
        pool: `last` for the last real step, or `mean`.
        reading: `release` or `paper`, see above.

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
        attention_dropout: float | dict[str, float] = 0.0,
        embed_dropout: float = 0.0,
        query: Side = "specific",
        key_value: Side = "specific",
        pool: Pool = "last",
        reading: Reading = "release",
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

        shares = by_name("attention_dropout", attention_dropout, sources, 0.0)

        def transformer(width: int, depth: int, source: str) -> Transformer:
            return Transformer(
                width,
                length,
                depth,
                heads,
                reading=reading,
                embed_dropout=embed_dropout,
                ratio=ratio,
                dropout=dropout,
                attention_dropout=shares[source],
                backend=context.attention,
            )

        first = next(iter(sources))
        self.pairs = nn.ModuleDict(
            {a: nn.ModuleDict({b: transformer(width, depth, b) for b in bs}) for a, bs in self.sources.items()}
        )
        self.selves = nn.ModuleDict(
            {a: transformer(width * len(bs), self_depth, first) for a, bs in self.sources.items()}
        )
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
