"""Heads: the prediction from the fused stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmrobust.contracts import Context, Head, Stream
from mmrobust.errors import OptionError


class MeanPoolLinear(Head):
    """Mean over the real steps, then one linear layer (paper, section 3.4.2).

    The paper says nothing of a normalisation; with pre-norm blocks one has to close the Transformer. It comes after
    the pooling, as in ViTs with average pooling.

    Args:
        context: What mmrobust provides.
        norm: Whether the pooled step is layer-normalised.
        dropout: Share of the pooled values dropped in training.
    """

    def __init__(self, context: Context, *, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        width = context.input.width
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        return self.linear(self.dropout(self.norm(stream.mean())))


class ModalityPool(Head):
    """The mean of each modality's steps, side by side, then one linear layer.

    Maps `b s d` to `b c`. Unlike one mean over all steps it lets a short modality count as much as a long one, and a
    modality that is absent leaves zeros in its own place.

    Args:
        context: What mmrobust provides.
        norm: Whether each mean is layer-normalised.
        dropout: Share of the pooled values dropped in training.

    Raises:
        OptionError: The fusion does not say which steps belong to which modality.
    """

    def __init__(self, context: Context, *, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        self.names = [segment.name for segment in context.input.segments]
        if not self.names:
            raise OptionError("use", "needs a fusion that keeps the modalities' steps apart, as 'cross_attention' does")
        self.norm = nn.LayerNorm(context.input.width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(len(self.names) * context.input.width, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        parts = stream.parts()
        pooled = torch.cat([self.norm(parts[name].mean()) for name in self.names], -1)
        return self.linear(self.dropout(pooled))
