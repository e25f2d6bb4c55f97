"""Noises that take something away: windows, steps, whole modalities, single features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mmrobust.components.noise.corruption import Corruption, Scope, StepCorruption
from mmrobust.contracts import Batch, Context, Rate, Stream
from mmrobust.errors import OptionError, nearest

#: What stands in the place of a step that is gone.
Fill = Literal["zero", "mean"] | dict[str, list[float]]


def vectors(context: Context, fill: Mapping[str, list[float]]) -> dict[str, Tensor]:
    """The fill vector of each modality that has one, `n_m`.

    Raises:
        OptionError: There is no such modality, or it has another width.
    """
    for m, vector in fill.items():
        if m not in context.modalities:
            raise OptionError("fill", f"there is no modality '{m}'{nearest(m, context.modalities)}")
        if len(vector) != context.features[m].width:
            width = context.features[m].width
            raise OptionError("fill", f"a step of '{m}' has {width} numbers, and its vector has {len(vector)}")
    return {m: torch.tensor(vector) for m, vector in fill.items()}


class WindowErase(StepCorruption):
    """Erases windows of successive steps (NORM-TR, section 3.5.1).

    The rate is the share of a sample's real steps that the windows hold together. A pair draws a whole number of steps,
    each number between its ends as likely: `[0, 0.5]` with one window gives the paper's windows of 0 to floor(T/2)
    steps, and none where there is one step. Of a fixed rate, as in a sweep, a fraction of a step is rounded up or down
    at random, so that the mean is exact. Each modality of each sample has windows of its own.

    Args:
        context: What mmrobust provides.
        scope: `every_modality` (Type-1 noise) or `one_modality`, drawn anew for each sample (Type-2 noise).
        modalities: Which modalities can be hit; None for all.
        bursts: Over how many windows the share is spread; they do not overlap, and may touch.

    Raises:
        OptionError: There is no such modality, or fewer than one burst.
    """

    constant = True

    def __init__(
        self,
        context: Context,
        *,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        bursts: int = 1,
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities, pattern="window", bursts=bursts)


class FrameDrop(StepCorruption):
    """Drops single steps, each on its own with the rate's probability (NORM-TR, section 4.6; TFR-Net's missing frames).

    The rate is the share of real steps that are dropped, on average.

    Args:
        context: What mmrobust provides.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all.
        fill: What stands in a dropped step: `zero`; `mean`, of the sample's steps that are left (zero where none is);
            or a vector for a modality, such as the embedding of an unknown token (the others are filled with zeros).

    Raises:
        OptionError: There is no such modality, or a vector has another width than its modality.
    """

    def __init__(
        self,
        context: Context,
        *,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        fill: Fill = "zero",
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities, pattern="steps")
        self.mean = fill == "mean"
        self.vectors = vectors(context, fill) if isinstance(fill, Mapping) else {}
        self.constant = fill == "zero"

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        if self.mean:
            return replace(stream, mask=stream.mask & ~hit).mean().unsqueeze(1).expand_as(stream.x)
        if m in self.vectors:
            return self.vectors[m].to(stream.x).expand_as(stream.x)
        return torch.zeros_like(stream.x)


class ModalityDrop(StepCorruption):
    """Drops whole modalities: all their steps become zero (a camera that is off, a muted microphone).

    The rate is the probability with which a sample lacks a modality; each modality is drawn on its own.

    Args:
        context: What mmrobust provides.
        scope: `every_modality`, or `one_modality`: at most one is missing, drawn anew for each sample.
        modalities: Which modalities can be missing; None for all.
        keep_one: Never take everything: where every modality of a sample would be dropped, one of those that it has
            is kept, drawn at random.

    Raises:
        OptionError: There is no such modality.
    """

    constant = True

    def __init__(
        self,
        context: Context,
        *,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        keep_one: bool = False,
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities, pattern="whole")
        self.keep_one = keep_one

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        noisy = super().__call__(batch, rate, generator)
        if not self.keep_one:
            return noisy
        left = {m: s.mask & ~noisy.erased[m] for m, s in batch.features.items()}
        gone = ~torch.stack([x.any(1) for x in left.values()]).any(0)
        there = torch.stack([(batch.features[m].mask & ~batch.erased[m]).any(1) for m in self.modalities], 1)
        draw = torch.rand(there.shape, generator=generator, device=generator.device)
        kept = (draw * there).argmax(1)
        features, erased = dict(noisy.features), dict(noisy.erased)
        for i, m in enumerate(self.modalities):
            back = (gone & (kept == i)).unsqueeze(1)
            features[m] = replace(features[m], x=torch.where(back.unsqueeze(-1), batch.features[m].x, features[m].x))
            erased[m] = torch.where(back, batch.erased[m], erased[m])
        return batch.noisy(features, erased)

    def share(self, m: str, rate: float) -> float:
        everything = len(self.chosen) == len(self.modalities)
        if not (self.keep_one and everything):
            return rate
        count = len(self.modalities)
        # One of them alone is all there is to take, or, with several, all are taken and one comes back.
        return rate * (count > 1) if self.one else rate - rate**count / count


class FeatureDropout(Corruption):
    """Sets single features to zero, as dropout does on an input layer (Srivastava et al., 2014), without rescaling.

    The rate is the share of a modality's numbers that become zero, on average. A step is `erased` if it loses any: of
    a step of width n that is the case with probability 1 - (1 - rate)^n.

    Args:
        context: What mmrobust provides.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all.
        unit: `value`, each number of each step on its own, or `feature`: a feature is lost in all steps of a sample (a
            dead channel).

    Raises:
        OptionError: There is no such modality.
    """

    def __init__(
        self,
        context: Context,
        *,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        unit: Literal["value", "feature"] = "value",
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities)
        self.unit = unit
        self.widths = {m: shape.width for m, shape in context.features.items()}

    def corrupt(self, m: str, stream: Stream, share: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, steps, width = stream.x.shape
        shape = (count, steps if self.unit == "value" else 1, width)
        lost = torch.rand(shape, generator=generator, device=generator.device) < share[:, None, None]
        return stream.x.masked_fill(lost, 0), stream.mask & lost.any(-1)

    def share(self, m: str, rate: float) -> float:
        return 1 - (1 - rate) ** self.widths[m]
