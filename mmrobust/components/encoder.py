"""Encoders, g: each modality to the common width n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmrobust.contracts import Context, Encoder, Part, Shape, Streams
from mmrobust.errors import OptionError, nearest


class Linear(Encoder):
    """One linear layer for each modality: NORM-TR's g (paper, section 3.2 and equation 2).

    Maps `{m: b t_m n_m}` to `{m: b t_m n}`.

    Args:
        context: What mmrobust provides.
        bias: Whether the layers have a bias.
    """

    positionwise = True

    def __init__(self, context: Context, *, bias: bool = True) -> None:
        super().__init__(context)
        self.layers = nn.ModuleDict(
            {m: nn.Linear(shape.width, context.width, bias=bias) for m, shape in context.features.items()}
        )
        self.shapes = {m: Shape(context.width, shape.length) for m, shape in context.features.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: stream.map(self.layers[m]) for m, stream in streams.items()}


class Identity(Encoder):
    """No encoder: features go on as they are, each modality in its own width.

    Args:
        context: What mmrobust provides.
    """

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = dict(context.features)

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return streams


class Each(Encoder):
    """Another encoder for each modality.

    Args:
        context: What mmrobust provides.
        parts: Encoder of each modality, by its name.
        others: Encoder of the modalities that `parts` does not name.

    Raises:
        OptionError: `parts` names a modality that there is not.
    """

    def __init__(
        self,
        context: Context,
        *,
        parts: Mapping[str, Part[Encoder]] | None = None,
        others: Part[Encoder] = Part("linear"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(context)
        parts = parts or {}
        for name in parts:
            if name not in context.features:
                raise OptionError("parts", f"there is no modality '{name}'{nearest(name, context.features)}")
        self.encoders = nn.ModuleDict()
        self.shapes = {}
        for m, shape in context.features.items():
            part = context.make(Encoder, parts.get(m, others), modalities=(m,), features={m: shape})
            self.encoders[m] = part
            self.shapes[m] = part.shapes[m]

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: self.encoders[m]({m: stream}, notes)[m] for m, stream in streams.items()}
