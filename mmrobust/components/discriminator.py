"""Discriminators: the networks that adversarial objectives train."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmrobust.contracts import Context, Discriminator, Shape, Stream
from mmrobust.nn.layers import mlp

Pool = Literal["flatten", "mean"]


def _pool(stream: Stream, pool: Pool, shape: Shape) -> Tensor:
    """One vector for each sample: the mean of the real steps, `b d`, or all steps in a row, `b (t d)`."""
    if pool == "mean":
        return stream.mean()
    x = stream.zeroed().x
    return rearrange(F.pad(x, (0, 0, 0, shape.length - x.shape[1])), "b t d -> b (t d)")


def _pooled_width(context: Context, pool: Pool) -> int:
    assert context.input is not None
    return context.input.width * (context.input.length if pool == "flatten" else 1)


class Linear(Discriminator):
    """One fully connected layer, as both discriminators of NORM-TR (paper, section 3.5.2).

    Maps `b t d` to `b c`. The paper's features have the shape `(T N/2)` for each modality, so all steps in a row are
    what the layer reads by default; with modalities of different lengths, zeros would fill the shorter ones and give
    them away, and `pool: mean` is right.

    Args:
        context: What mmrobust provides.
        pool: `flatten` for all steps in a row, `mean` for the mean of the real ones.
    """

    def __init__(self, context: Context, *, pool: Pool = "flatten") -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        self.pool: Pool = pool
        self.shape = context.input
        self.linear = nn.Linear(_pooled_width(context, pool), context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        return self.linear(_pool(stream, self.pool, self.shape))


class MLP(Discriminator):
    """A perceptron with one hidden layer: a stronger adversary than the paper's.

    Maps `b t d` to `b c`.

    Args:
        context: What mmrobust provides.
        hidden: Width of the hidden layer.
        pool: `flatten` for all steps in a row, `mean` for the mean of the real ones.
        dropout: Share of hidden values dropped in training.
    """

    def __init__(self, context: Context, *, hidden: int = 128, pool: Pool = "flatten", dropout: float = 0.0) -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        self.pool: Pool = pool
        self.shape = context.input
        self.hidden = mlp(_pooled_width(context, pool), hidden, hidden, dropout=dropout)
        self.linear = nn.Linear(hidden, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        return self.linear(self.hidden(_pool(stream, self.pool, self.shape)))
