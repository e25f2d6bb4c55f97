"""Noises, V(U, s): what destroys part of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Context, Noise, Rate, Stream, draw_rate
from mmrobust.errors import OptionError, nearest


def _chosen(context: Context, modalities: Sequence[str] | None) -> tuple[str, ...]:
    for name in modalities or ():
        if name not in context.modalities:
            raise OptionError("modalities", f"there is no modality '{name}'{nearest(name, context.modalities)}")
    return context.modalities if modalities is None else tuple(m for m in context.modalities if m in modalities)


def _erase(batch: Batch, erased: dict[str, Tensor]) -> Batch:
    """The batch with erased steps set to zero: V multiplies the features by a mask (paper, section 3.5.1)."""
    features = dict(batch.features)
    for m, gone in erased.items():
        stream = features[m]
        features[m] = Stream(stream.x.masked_fill(gone.unsqueeze(-1), 0), stream.mask, stream.times)
    none = {m: torch.zeros_like(s.mask) for m, s in batch.features.items() if m not in erased}
    return batch.noisy(features, {**erased, **none})


class WindowErase(Noise):
    """Erases one window of successive steps (paper, section 3.5.1).

    The rate is the window's share of a sample's real steps; a pair `(0, 0.5)` gives the paper's windows of 0 to T/2
    steps. A window of a fraction of a step is rounded up or down at random, so that the mean is exact. Each modality
    of each sample has a window of its own.

    Args:
        context: What the house provides.
        scope: `every_modality` (Type-1 noise) or `one_modality`, drawn anew for each sample (Type-2 noise).
        modalities: Which modalities can be hit; None for all.

    Raises:
        OptionError: There is no such modality.
    """

    constant = True

    def __init__(
        self,
        context: Context,
        *,
        scope: Literal["every_modality", "one_modality"] = "every_modality",
        modalities: list[str] | None = None,
    ) -> None:
        super().__init__(context)
        self.one = scope == "one_modality"
        self.chosen = _chosen(context, modalities)

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        count, device = len(batch), generator.device
        erased = {}
        hit = torch.randint(len(self.chosen), (count,), generator=generator, device=device) if self.one else None
        for i, m in enumerate(self.chosen):
            mask = batch.features[m].mask
            real = mask.sum(1)
            share = draw_rate(rate, count, generator)
            rounding, place = torch.rand(2, count, generator=generator, device=device)
            size = torch.floor(share * real + rounding).clamp(max=real)
            first = torch.floor(place * (real - size + 1)).clamp(max=real - size)
            # Steps are counted among the real ones, so padding at either end, or between, costs no window.
            step = mask.cumsum(1) - 1
            gone = mask & (step >= first.unsqueeze(1)) & (step < (first + size).unsqueeze(1))
            erased[m] = gone if hit is None else gone & (hit == i).unsqueeze(1)
        return _erase(batch, erased)

    def expected(self, rate: float) -> dict[str, float]:
        share = rate / len(self.chosen) if self.one else rate
        return {m: share if m in self.chosen else 0.0 for m in self.modalities}


class FrameDrop(Noise):
    """Sets steps to zero, each on its own with the rate's probability (paper, section 4.6; TFR-Net's missing frames).

    Args:
        context: What the house provides.
        modalities: Which modalities are hit; None for all.

    Raises:
        OptionError: There is no such modality.
    """

    constant = True

    def __init__(self, context: Context, *, modalities: list[str] | None = None) -> None:
        super().__init__(context)
        self.chosen = _chosen(context, modalities)

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        erased = {}
        for m in self.chosen:
            mask = batch.features[m].mask
            share = draw_rate(rate, len(batch), generator)
            drawn = torch.rand(mask.shape, generator=generator, device=generator.device)
            erased[m] = mask & (drawn < share.unsqueeze(1))
        return _erase(batch, erased)

    def expected(self, rate: float) -> dict[str, float]:
        return {m: rate if m in self.chosen else 0.0 for m in self.modalities}
