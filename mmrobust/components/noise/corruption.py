"""Where a noise strikes, for every noise alike: which modalities, and which of their steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Context, Noise, Rate, Stream, draw_rate
from mmrobust.errors import OptionError, nearest

Scope = Literal["every_modality", "one_modality"]
Pattern = Literal["steps", "window", "whole"]


def chosen(context: Context, modalities: Iterable[str] | None, option: str = "modalities") -> tuple[str, ...]:
    """The modalities that an option names, in the context's order; all for None.

    Raises:
        OptionError: There is no such modality, or the option names none.
    """
    if modalities is None:
        return context.modalities
    names = tuple(modalities)
    for name in names:
        if name not in context.modalities:
            raise OptionError(option, f"there is no modality '{name}'{nearest(name, context.modalities)}")
    if not names:
        raise OptionError(option, f"names no modality; leave it out for all of {', '.join(context.modalities)}")
    return tuple(m for m in context.modalities if m in names)


class Corruption(Noise):
    """A noise that strikes each modality by itself: this class says which ones, a subclass what happens to them.

    Args:
        context: What the house provides.
        scope: `every_modality`, each struck on its own, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities can be struck; None for all.

    Raises:
        OptionError: There is no such modality.
    """

    def __init__(self, context: Context, *, scope: Scope, modalities: Iterable[str] | None) -> None:
        super().__init__(context)
        self.one = scope == "one_modality"
        self.chosen = chosen(context, modalities)

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        count = len(batch)
        drawn = None
        if self.one:
            drawn = torch.randint(len(self.chosen), (count,), generator=generator, device=generator.device)
        features = dict(batch.features)
        struck = {m: torch.zeros_like(stream.mask) for m, stream in features.items()}
        for i, m in enumerate(self.chosen):
            stream = features[m]
            x, hit = self.corrupt(m, stream, draw_rate(rate, count, generator), generator)
            struck[m] = hit if drawn is None else hit & (drawn == i).unsqueeze(1)
            where = struck[m].unsqueeze(-1)
            after = stream.x.masked_fill(where, 0) if x is None else torch.where(where, x, stream.x)
            features[m] = replace(stream, x=after)
        return batch.noisy(features, struck)

    @abstractmethod
    def corrupt(
        self, m: str, stream: Stream, share: Tensor, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor]:
        """What becomes of one modality.

        Args:
            m: Its name.
            stream: Its values, `b t n`; padding may hold anything.
            share: Each sample's rate, `b`.
            generator: Source of every random number.

        Returns:
            Values, of which those at struck steps are used, `b t n`, or None for zeros; and which real steps are
            struck, `b t`.
        """

    def share(self, m: str, rate: float) -> float:
        """Mean share of the real steps of a modality that the rate strikes, were it the drawn one."""
        return rate

    def expected(self, rate: float) -> dict[str, float] | None:
        part = len(self.chosen) if self.one else 1
        return {m: self.share(m, rate) / part if m in self.chosen else 0.0 for m in self.modalities}


class StepCorruption(Corruption):
    """A corruption of some of the steps: this class says which, a subclass what stands there afterwards.

    The rate is the share of real steps that are struck, on average, whatever the pattern.

    Args:
        context: What the house provides.
        scope: See `Corruption`.
        modalities: See `Corruption`.
        pattern: How real steps are picked: `steps`, each on its own with the rate's probability; `window`, one run of
            successive steps that holds the rate's share of them; `whole`, with the rate's probability all of a
            sample's.
        bursts: Over how many windows the share is spread; they do not overlap, and may touch.

    Raises:
        OptionError: There is no such modality, or fewer than one burst.
    """

    def __init__(
        self,
        context: Context,
        *,
        scope: Scope,
        modalities: Iterable[str] | None,
        pattern: Pattern,
        bursts: int = 1,
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities)
        if bursts < 1:
            raise OptionError("bursts", f"{bursts} windows cannot hold anything; give at least 1")
        self.pattern: Pattern = pattern
        self.bursts = bursts

    def corrupt(
        self, m: str, stream: Stream, share: Tensor, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor]:
        hit = self._steps(stream.mask, share, generator)
        return None if self.constant else self.changed(m, stream.zeroed(), hit, generator), hit

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        """The values that replace the struck steps, `b t n`; not asked of a noise that is `constant`.

        Args:
            m: The modality's name.
            stream: Its values, with zero padding.
            hit: The struck steps, `b t`.
            generator: Source of every random number.
        """
        raise NotImplementedError

    def _steps(self, mask: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
        if self.pattern == "window":
            return _windows(mask, share, self.bursts, generator)
        shape = mask.shape if self.pattern == "steps" else (len(mask), 1)
        return mask & (torch.rand(shape, generator=generator, device=generator.device) < share.unsqueeze(1))


def _windows(mask: Tensor, share: Tensor, bursts: int, generator: torch.Generator) -> Tensor:
    """Runs of successive real steps, `b t`, which together hold the share `b` of a sample's.

    A fraction of a step is rounded up or down at random, so that the mean is exact. The steps between the windows are
    placed uniformly.
    """
    real = mask.sum(1)
    rounding, *places = torch.rand(1 + bursts, len(mask), generator=generator, device=generator.device)
    # At most all of them, also where the share is 1 and the product is rounded up.
    size = torch.minimum(torch.floor(share * real + rounding), real)
    rest = real - size
    # How many of the steps that are left come before each window.
    before = [torch.minimum(torch.floor(place * (rest + 1)), rest) for place in places]
    before = torch.stack(before).sort(0).values if bursts > 1 else before
    # Steps are counted among the real ones, so padding at either end, or between, costs no window.
    step = mask.cumsum(1) - 1
    hit = torch.zeros_like(mask)
    for k in range(bursts):
        first = before[k] + torch.floor(size * k / bursts)
        last = before[k] + torch.floor(size * (k + 1) / bursts)
        hit |= (step >= first.unsqueeze(1)) & (step < last.unsqueeze(1))
    return mask & hit


def order(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the real steps are.

    Returns:
        Positions, `b t`, the real steps' first, in order; and for each real step how many come before it, `b t`
        (0 in padding in front).
    """
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True), (mask.cumsum(1) - 1).clamp(min=0)


def take(x: Tensor, index: Tensor) -> Tensor:
    """`x` (`b t n`) at the steps `index` (`b s`): `b s n`."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
