"""The model: parts wired one after the other. It knows no component by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmrobust.contracts import (
    Component,
    Encoder,
    Fusion,
    GenericExtractor,
    Head,
    Outputs,
    SpecificExtractor,
    Steps,
    Streams,
)


@dataclass(frozen=True)
class Tokens:
    """What a model makes of each step alone, before steps meet in the fusion.

    Attributes:
        encoded: U', `{m: b t_m n}`.
        generic: F_NR, `{key: b t d}`.
        specific: F_M, `{key: b t d}`.
        prepared: What `Fusion.prepare` made of both; empty for a fusion that is not split.
        notes: Side values.
    """

    encoded: Streams
    generic: Streams
    specific: Streams
    prepared: Mapping[str, Steps] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Model(nn.Module):
    """From features to a prediction: encoder, both extractors, fusion, head (paper, equation 1 and figure 2).

    Args:
        modalities: In the recipe's order.
        encoder: g.
        generic: F_NR.
        specific: F_M.
        fusion: The Transformer, or another.
        head: The prediction.
    """

    def __init__(
        self,
        modalities: tuple[str, ...],
        encoder: Encoder,
        generic: GenericExtractor,
        specific: SpecificExtractor,
        fusion: Fusion,
        head: Head,
    ) -> None:
        super().__init__()
        self.modalities = modalities
        self.encoder = encoder
        self.generic = generic
        self.specific = specific
        self.fusion = fusion
        self.head = head

    @property
    def parts(self) -> dict[str, Component]:
        """Every part by its name, in the order in which data meets them."""
        return {
            "encoder": self.encoder,
            "generic": self.generic,
            "specific": self.specific,
            "fusion": self.fusion,
            "head": self.head,
        }

    @property
    def samplewise(self) -> bool:
        """True where a batch of 2b gives what two batches of b give."""
        return all(part.samplewise for part in self.parts.values())

    def forward(self, features: Streams) -> Outputs:
        """One pass; see `Outputs` for what it holds.

        The model never sees labels, what was erased, or clean data. Padding is zero wherever a part looks, NaN
        included, and dicts have the recipe's order.

        Args:
            features: `{m: b t_m n_m}`, in any order; modalities that the recipe does not use are passed over.
        """
        return self.fuse(self.tokens(features))

    def tokens(self, features: Streams, *, zeroed: bool = True) -> Tokens:
        """The first half of `forward`: encoder and extractors.

        Args:
            features: As `forward` takes them.
            zeroed: Set padding to zero before every part and in what comes out. Without it, padding holds anything
                finite; it must be zero in the features, and every part positionwise.
        """
        notes: dict[str, Any] = {}
        tidy = lambda streams: self._ordered({k: s.zeroed() for k, s in streams.items()} if zeroed else streams)
        encoded = tidy(self.encoder(tidy({m: features[m] for m in self.modalities}), notes))
        return Tokens(encoded, tidy(self.generic(encoded, notes)), tidy(self.specific(encoded, notes)), notes=notes)

    def fuse(self, tokens: Tokens) -> Outputs:
        """The second half of `forward`: fusion and head; notes are added to those of the tokens."""
        if tokens.prepared:
            fused = self.fusion.attend(tokens.prepared, tokens.notes)
        else:
            fused = self.fusion(tokens.generic, tokens.specific, tokens.notes)
        fused = fused.zeroed()
        return Outputs(tokens.encoded, tokens.generic, tokens.specific, fused, self.head(fused), tokens.notes)

    def _ordered(self, streams: Streams) -> Streams:
        order = [m for m in self.modalities if m in streams]
        return {key: streams[key] for key in [*order, *(key for key in streams if key not in self.modalities)]}
