"""Noises of a poor sensor: a range that is too small, too few levels."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrobust.components.noise.corruption import Pattern, Scope, StepCorruption
from mmrobust.contracts import Context, Stream
from mmrobust.errors import OptionError


class Saturation(StepCorruption):
    """Clips what goes beyond a sensor's range (an overdriven microphone, a camera against the light).

    Each feature is clipped to its mean over the sample's real steps plus and minus `limit` of its standard deviations.
    The rate is the share of real steps that are recorded so, on average; values within the range stay as they are.

    Args:
        context: What mmrobust provides.
        limit: Half the range, in standard deviations; 0 leaves the mean alone.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all.
        pattern: `whole`, with the rate's probability all of a sample's steps; `window`, one run of steps; `steps`, each
            on its own with the rate's probability.

    Raises:
        OptionError: There is no such modality, or the limit is negative.
    """

    def __init__(
        self,
        context: Context,
        *,
        limit: float = 0.5,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        pattern: Pattern = "whole",
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities, pattern=pattern)
        if limit < 0:
            raise OptionError("limit", f"a range of {limit:g} standard deviations is none; give 0 or more")
        self.limit = limit

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        mean = stream.mean().unsqueeze(1)
        away = Stream((stream.x - mean).square(), stream.mask).mean().unsqueeze(1).sqrt() * self.limit
        return torch.clamp(stream.x, mean - away, mean + away)


class Quantization(StepCorruption):
    """Rounds to a few levels (a coarse converter, strong compression).

    The levels of each feature lie evenly between its smallest and its largest value over the sample's real steps, both
    included. The rate is the share of real steps that are rounded, on average.

    Args:
        context: What mmrobust provides.
        levels: How many; a converter of k bits has 2^k.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all.
        pattern: `whole`, with the rate's probability all of a sample's steps; `window`, one run of steps; `steps`, each
            on its own with the rate's probability.

    Raises:
        OptionError: There is no such modality, or fewer than two levels.
    """

    def __init__(
        self,
        context: Context,
        *,
        levels: int = 4,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        pattern: Pattern = "whole",
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities, pattern=pattern)
        if levels < 2:
            raise OptionError("levels", f"with {levels} nothing is left to tell apart; give at least 2")
        self.levels = levels

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        out = ~stream.mask.unsqueeze(-1)
        low = stream.x.masked_fill(out, torch.inf).amin(1, keepdim=True)
        high = stream.x.masked_fill(out, -torch.inf).amax(1, keepdim=True)
        step = (high - low) / (self.levels - 1)
        rounded = low + ((stream.x - low) / step).round() * step
        return torch.where(step > 0, rounded, stream.x)
