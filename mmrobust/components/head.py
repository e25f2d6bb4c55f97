"""Heads: the prediction from the fused stream."""

from __future__ import annotations

from torch import Tensor, nn

from mmrobust.contracts import Context, Head, Stream


class MeanPoolLinear(Head):
    """Mean over the real steps, then one linear layer (paper, section 3.4.2).

    The paper says nothing of a normalisation; with pre-norm blocks one has to close the Transformer. It comes after
    the pooling, as in ViTs with average pooling.

    Args:
        context: What the house provides.
        norm: Whether the pooled step is layer-normalised.
        dropout: Share of the pooled values dropped in training.
    """

    pools = True

    def __init__(self, context: Context, *, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        width = context.input.width
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        return self.linear(self.dropout(self.norm(stream.mean())))
