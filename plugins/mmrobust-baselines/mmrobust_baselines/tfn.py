"""TFN: Zadeh, Chen, Poria, Cambria, Morency (2017), "Tensor fusion network for multimodal sentiment analysis"."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from mmrobust.errors import OptionError
from torch import Tensor, nn

from mmrobust_baselines.layers import joined

MOST = 2_000_000


def outer(vectors: list[Tensor]) -> Tensor:
    """The outer product of vectors `b d_m`, each with a one appended, row by row `b (d_1 + 1)...(d_M + 1)`."""
    product: Tensor | None = None
    for x in vectors:
        z = torch.cat([x, x.new_ones(x.shape[0], 1)], 1)
        # A matrix product: its gradient needs no intermediate of the product's size, a multiplication's does.
        product = z if product is None else torch.bmm(product.unsqueeze(2), z.unsqueeze(1)).flatten(1)
    assert product is not None
    return product


class TensorFusion(Fusion):
    """Tensor fusion: the outer product of all modalities, each with a one appended.

    z = [z^l; 1] x [z^v; 1] x [z^a; 1] holds unimodal, bimodal and trimodal products. Gives `b 1 D`, D the product of
    all `d_m + 1`. Streams of more steps are averaged first. There are no parameters.

    The rest of the model is other components: an LSTM with 128 units and a linear layer for the
    spoken words, three ReLU layers of 32 units over the mean step for the others, and two ReLU layers of 128 units
    and a sigmoid scaled to the labels' range as the head. Text features are pre-computed, in place of GloVe through
    a time-dependent network.

    Args:
        context: Shapes, task and settings of the model.
        dropout: Share of the product dropped in training.

    Raises:
        OptionError: The product has more than two million numbers.
    """

    def __init__(self, context: Context, *, dropout: float = 0.0) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        self.keys = tuple(shapes)
        width = math.prod(shape.width + 1 for shape in shapes.values())
        if width > MOST:
            sizes = " x ".join(str(shape.width + 1) for shape in shapes.values())
            raise OptionError(
                "use", f"the product of {sizes} numbers is too large; make the encoder or extractor narrower"
            )
        self.dropout = nn.Dropout(dropout)
        self.shape = Shape(width, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = joined(generic, specific)
        return Stream.pooled(self.dropout(outer([streams[key].mean() for key in self.keys])))
