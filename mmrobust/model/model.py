"""The model: parts wired one after the other. It knows no component by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmrobust.contracts import (
    Component,
    Encoder,
    Fusion,
    GenericExtractor,
    Head,
    Outputs,
    SpecificExtractor,
    Streams,
)

Tick = Callable[[int], None]


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
        notes: dict[str, Any] = {}
        return self.fuse(*self.encode(features, notes), notes)

    def encode(self, features: Streams, notes: dict[str, Any]) -> tuple[Streams, Streams, Streams]:
        """The first half of `forward`: U' `{m: b t_m n}`, F_NR `{key: b t d}` and F_M `{key: b t d}`."""
        encoded = self._tidy(self.encoder(self._tidy({m: features[m] for m in self.modalities}), notes))
        return encoded, self.extract(encoded, notes), self._tidy(self.specific(encoded, notes))

    def extract(self, encoded: Streams, notes: dict[str, Any]) -> Streams:
        """F_NR `{key: b t d}` of U' `{m: b t_m n}`."""
        return self._tidy(self.generic(encoded, notes))

    def fuse(self, encoded: Streams, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Outputs:
        """The second half of `forward`: fusion and head; `encoded` is passed on to the outputs."""
        fused = self.fusion(generic, specific, notes).zeroed()
        return Outputs(encoded, generic, specific, fused, self.head(fused), notes)

    @torch.inference_mode()
    def predict(self, features: Streams, batch_size: int, tick: Tick | None = None) -> Tensor:
        """The predictions of any number of samples, `n c`, float32.

        Args:
            features: `{m: n t_m n_m}`, on the model's device.
            batch_size: Samples of one forward pass; what bounds the memory.
            tick: Called with the number of samples after each forward pass.
        """
        count = len(next(iter(features.values())).mask)
        parts = []
        for index in torch.arange(count, device=next(iter(features.values())).mask.device).split(batch_size):
            parts.append(self({m: stream.take(index) for m, stream in features.items()}).prediction.float())
            if tick is not None:
                tick(len(index))
        return torch.cat(parts)

    @torch.inference_mode()
    def predict_erased(
        self, features: Streams, erased: Mapping[str, Tensor], batch_size: int, tick: Tick | None = None
    ) -> Tensor:
        """The predictions of `k` copies of the samples, each with other steps set to zero, `k n c`, float32.

        Args:
            features: `{m: n t_m n_m}`, clean, on the model's device.
            erased: True where a step is set to zero, `{m: k n t_m}`, never in padding.
            batch_size: Samples of one forward pass.
            tick: Called with the number of samples after each forward pass.
        """
        copies = len(next(iter(erased.values())))
        views = ({m: stream.without(erased[m][i]) for m, stream in features.items()} for i in range(copies))
        return torch.stack([self.predict(view, batch_size, tick) for view in views])

    def ordered(self, streams: Streams) -> Streams:
        """The streams in the recipe's order of modalities; keys that are no modality come last."""
        order = [m for m in self.modalities if m in streams]
        return {key: streams[key] for key in [*order, *(key for key in streams if key not in self.modalities)]}

    def _tidy(self, streams: Streams) -> Streams:
        return {key: stream.zeroed() for key, stream in self.ordered(streams).items()}
