"""Specific extractors, F_M: features with each modality's own detail."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmrobust.contracts import Context, Shape, SpecificExtractor, Streams
from mmrobust.nn.layers import mlp


class PerModalityMLP(SpecificExtractor):
    """A two-layer perceptron of its own for each modality: MLP_M (paper, equation 4).

    Maps `{m: b t_m n}` to `{m: b t_m d}`. Its architecture is that of `shared_mlp`.

    Args:
        context: What mmrobust provides.
        out: Width d of the features; None for half of the input's.
        hidden: Width between the two layers; None for `out`.
        slope: Leaky ReLU's slope below zero.
        dropout: Share of hidden values dropped in training.
    """

    positionwise = True

    def __init__(
        self,
        context: Context,
        *,
        out: int | None = None,
        hidden: int | None = None,
        slope: float = 0.01,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        self.shapes = {m: Shape(out or max(1, s.width // 2), s.length) for m, s in context.encoded.items()}
        self.mlps = nn.ModuleDict(
            {
                m: mlp(s.width, hidden or self.shapes[m].width, self.shapes[m].width, slope=slope, dropout=dropout)
                for m, s in context.encoded.items()
            }
        )

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: stream.map(self.mlps[m]) for m, stream in streams.items()}


class Identity(SpecificExtractor):
    """The encoded features as they are.

    Args:
        context: What mmrobust provides.
    """

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = dict(context.encoded)

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return streams


class Nothing(SpecificExtractor):
    """No specific features at all; the fusion sees the generic ones alone.

    Args:
        context: What mmrobust provides.
    """

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = {}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {}
