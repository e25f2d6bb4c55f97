"""Generic extractors, F_NR: features common to all modalities and insensitive to noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmrobust.contracts import Context, GenericExtractor, Shape, Stream, Streams
from mmrobust.errors import OptionError
from mmrobust.nn.layers import mlp


class SharedMLP(GenericExtractor):
    """One two-layer perceptron with shared parameters for all modalities: MLP_NR (paper, equation 3).

    Maps `{m: b t_m n}` to `{m: b t_m d}`. The paper reduces N to N/2 and does not give the hidden width; it is taken
    to be the output's.

    Args:
        context: What mmrobust provides.
        out: Width d of the features; None for half of the input's.
        hidden: Width between the two layers; None for `out`.
        slope: Leaky ReLU's slope below zero.
        dropout: Share of hidden values dropped in training.

    Raises:
        OptionError: The encoder left the modalities in different widths.
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
        widths = {shape.width for shape in context.encoded.values()}
        if len(widths) != 1:
            given = ", ".join(f"{m} {shape.width}" for m, shape in context.encoded.items())
            raise OptionError("use", f"needs one common width, but the encoder gives {given}; use encoder 'linear'")
        width = widths.pop()
        out = out or max(1, width // 2)
        self.mlp = mlp(width, hidden or out, out, slope=slope, dropout=dropout)
        self.shapes = {m: Shape(out, shape.length) for m, shape in context.encoded.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: stream.map(self.mlp) for m, stream in streams.items()}


class MeanMLP(SharedMLP):
    """What `shared_mlp` gives, each step replaced by the mean over all real steps of all modalities of its sample.

    Maps `{m: b t_m n}` to `{m: b t_m d}`. For `studies/query`: a query that says what a sample is, not where.

    Args:
        context: What mmrobust provides.
        out: Width d of the features; None for half of the input's.
        hidden: Width between the two layers; None for `out`.
        slope: Leaky ReLU's slope below zero.
        dropout: Share of hidden values dropped in training.
    """

    positionwise = False

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        features = super().forward(streams, notes)
        mean = Stream.join(features).mean().unsqueeze(1)
        return {m: stream.map(lambda x: mean.expand_as(x)) for m, stream in features.items()}


class Constant(GenericExtractor):
    """The same vector at every step, whatever comes in: a query that says nothing of the sample.

    Maps `{m: b t_m n}` to `{m: b t_m d}`. For `studies/query`.

    Args:
        context: What mmrobust provides.
        out: Width d of the vector; None for half of `model.width`.
        learned: Whether the vector is learned; otherwise it is zero.
    """

    positionwise = True

    def __init__(self, context: Context, *, out: int | None = None, learned: bool = True) -> None:
        super().__init__(context)
        out = out or max(1, context.width // 2)
        self.vector = nn.Parameter(torch.empty(out), requires_grad=learned)
        nn.init.normal_(self.vector, std=0.02) if learned else nn.init.zeros_(self.vector)
        self.shapes = {m: Shape(out, shape.length) for m, shape in context.encoded.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: stream.map(lambda x: self.vector.expand(*x.shape[:-1], -1)) for m, stream in streams.items()}


class Identity(GenericExtractor):
    """The encoded features as they are: "without the NRGF extractor", read as a query of plain features.

    Args:
        context: What mmrobust provides.
    """

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = dict(context.encoded)

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return streams


class Nothing(GenericExtractor):
    """No generic features at all; the fusion sees the specific ones alone.

    Args:
        context: What mmrobust provides.
    """

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = {}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {}
