"""Noises of time: steps out of order, modalities out of step with each other, frames that are stuck."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmrobust.components.noise.corruption import Corruption, Pattern, Scope, StepCorruption, order, take
from mmrobust.contracts import Context, Stream
from mmrobust.errors import OptionError


class Shuffle(Corruption):
    """Shuffles the steps within windows of successive ones (packets that arrive out of order).

    Each sample's real steps are cut into windows of the same size, from the first one on; a window is shuffled with
    the rate's probability. The rate is thus the share of real steps in shuffled windows, on average; some of them land
    in their old place.

    Args:
        context: What mmrobust provides.
        window: Steps of a window; the last one of a sample may be shorter.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all.

    Raises:
        OptionError: There is no such modality, or a window has fewer than two steps.
    """

    def __init__(
        self,
        context: Context,
        *,
        window: int = 5,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities)
        if window < 2:
            raise OptionError("window", f"a window of {window} cannot be shuffled; give at least 2 steps")
        self.window = window

    def corrupt(self, m: str, stream: Stream, share: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mask, device = stream.mask, generator.device
        _, rank = order(mask)
        window = rank // self.window
        struck = torch.rand(mask.shape, generator=generator, device=device) < share.unsqueeze(1)  # by window
        hit = mask & struck.gather(1, window)
        inside = (rank % self.window) / self.window
        draw = torch.rand(mask.shape, generator=generator, device=device)
        # Sorting by window and then by chance, or by the old order, leaves every step in its window.
        key = (window + torch.where(hit, draw, inside).double()).masked_fill(~mask, torch.inf)
        return take(stream.x, key.argsort(dim=1, stable=True).gather(1, rank)), hit


class TimeShift(Corruption):
    """Shifts a modality in time against the others (a soundtrack that lags behind the picture).

    The rate is the shift as a share of a sample's real steps, rounded, one step at least: at 0.2 a modality of 50 steps
    comes 10 steps late or early. Steps that are pushed over the end are lost, those that become free are zero, so that
    at rate 1 nothing is left. Every real step of a shifted modality is `erased`, since it no longer holds what it did.

    Args:
        context: What mmrobust provides.
        direction: `late`, `early`, or `either`, drawn for each modality of each sample.
        scope: `one_modality`, drawn anew for each sample, or `every_modality`, which needs `either` lest all be shifted
            alike and stay aligned.
        modalities: Which modalities can be shifted; None for all.

    Raises:
        OptionError: There is no such modality, or all would be shifted alike.
    """

    def __init__(
        self,
        context: Context,
        *,
        direction: Literal["late", "early", "either"] = "either",
        scope: Scope = "one_modality",
        modalities: list[str] | None = None,
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities)
        alike = not self.one and len(self.chosen) == len(context.modalities) > 1
        if alike and direction != "either":
            reason = f"'{direction}' shifts every modality alike, so that they stay aligned"
            raise OptionError("direction", f"{reason}; use either, scope: one_modality, or name some modalities")
        self.direction = direction
        self.fixed = direction != "either" and (not self.one or len(self.chosen) == 1)

    def corrupt(self, m: str, stream: Stream, share: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mask = stream.mask
        real = mask.sum(1)
        size = torch.where(share > 0, (share * real).round().clamp(min=1), 0).long()
        late = torch.rand(len(size), generator=generator, device=generator.device) < 0.5
        if self.direction != "either":
            late = torch.full_like(late, self.direction == "late")
        places, rank = order(mask)
        source = rank - torch.where(late, size, -size).unsqueeze(1)
        inside = (source >= 0) & (source < real.unsqueeze(1))
        x = take(stream.x, places.gather(1, source.clamp(0, mask.shape[1] - 1)))
        return x.masked_fill(~inside.unsqueeze(-1), 0), mask & (size > 0).unsqueeze(1)

    def share(self, m: str, rate: float) -> float:
        return float(rate > 0)


class Freeze(StepCorruption):
    """Repeats the last good step (a picture that is stuck while packets are lost).

    The rate is the share of real steps that are stuck, on average. Before the first good step there is nothing to
    repeat, and zeros stand there.

    Args:
        context: What mmrobust provides.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all.
        pattern: `window`, one run of steps; `steps`, each on its own with the rate's probability; `whole`, with the
            rate's probability all of a sample's steps.

    Raises:
        OptionError: There is no such modality.
    """

    def __init__(
        self,
        context: Context,
        *,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        pattern: Pattern = "window",
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities, pattern=pattern)

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        step = torch.arange(hit.shape[1], device=hit.device)
        last = torch.where(stream.mask & ~hit, step, -1).cummax(1).values
        return take(stream.x, last.clamp(min=0)).masked_fill((last < 0).unsqueeze(-1), 0)
