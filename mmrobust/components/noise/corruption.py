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
_ROUNDING = 1e-4  # what float32 makes of a whole number of steps when it is divided and multiplied again
Pattern = Literal["steps", "window", "whole"]
#: Values of which those at struck steps are used, `b t n`, or None for zeros; and the struck steps, `b t`.
Struck = tuple[Tensor | None, Tensor]


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
        context: What mmrobust provides.
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
        for i, (m, (x, hit)) in enumerate(self.struck(batch, rate, generator).items()):
            stream = features[m]
            struck[m] = hit if drawn is None else hit & (drawn == i).unsqueeze(1)
            where = struck[m].unsqueeze(-1)
            after = stream.x.masked_fill(where, 0) if x is None else torch.where(where, x, stream.x)
            features[m] = replace(stream, x=after)
        return batch.noisy(features, struck)

    def struck(self, batch: Batch, rate: Rate, generator: torch.Generator) -> dict[str, Struck]:
        """What becomes of each modality that can be struck; drawn in their order."""
        return {
            m: self.corrupt(m, batch.features[m], self.shares(batch.features[m].mask, rate, generator), generator)
            for m in self.chosen
        }

    def shares(self, mask: Tensor, rate: Rate, generator: torch.Generator) -> Tensor:
        """Each sample's rate, `b`: the number itself, or drawn from the pair.

        Args:
            mask: The real steps of the modality, `b t`.
            rate: See `Noise`.
            generator: Source of every random number.
        """
        return draw_rate(rate, len(mask), generator)

    @abstractmethod
    def corrupt(self, m: str, stream: Stream, share: Tensor, generator: torch.Generator) -> Struck:
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
        context: What mmrobust provides.
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

    def struck(self, batch: Batch, rate: Rate, generator: torch.Generator) -> dict[str, Struck]:
        if not self.constant:
            return super().struck(batch, rate, generator)
        masks = {m: batch.features[m].mask for m in self.chosen}
        drawn = {m: (self.shares(masks[m], rate, generator), self._random(masks[m], generator)) for m in masks}
        hits = {}
        for steps in {mask.shape[1] for mask in masks.values()}:  # modalities of one length at once: many small steps
            names = [m for m, mask in masks.items() if mask.shape[1] == steps]
            shares, randoms = zip(*(drawn[m] for m in names), strict=True)
            shared = self._hit(torch.cat([masks[m] for m in names]), torch.cat(shares), torch.cat(randoms))
            hits |= dict(zip(names, shared.split(len(batch)), strict=True))
        return {m: (None, hits[m]) for m in self.chosen}

    def shares(self, mask: Tensor, rate: Rate, generator: torch.Generator) -> Tensor:
        if self.pattern != "window" or not isinstance(rate, tuple):
            return super().shares(mask, rate, generator)
        random = torch.rand(len(mask), generator=generator, device=generator.device)
        return _whole_steps(mask.sum(1), rate, random)

    def corrupt(self, m: str, stream: Stream, share: Tensor, generator: torch.Generator) -> Struck:
        hit = self._hit(stream.mask, share, self._random(stream.mask, generator))
        return self.changed(m, stream.zeroed(), hit, generator), hit

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        """The values that replace the struck steps, `b t n`; not asked of a noise that is `constant`.

        Args:
            m: The modality's name.
            stream: Its values, with zero padding.
            hit: The struck steps, `b t`.
            generator: Source of every random number.
        """
        raise NotImplementedError

    def _random(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        """The numbers, uniform in [0, 1), that decide which steps of `b t` are struck: `b r`."""
        if self.pattern == "window":
            return torch.rand(1 + self.bursts, len(mask), generator=generator, device=generator.device).T
        shape = mask.shape if self.pattern == "steps" else (len(mask), 1)
        return torch.rand(shape, generator=generator, device=generator.device)

    def _hit(self, mask: Tensor, share: Tensor, random: Tensor) -> Tensor:
        if self.pattern == "window":
            return _windows(mask, share, random)
        return mask & (random < share.unsqueeze(1))


def _whole_steps(real: Tensor, rate: tuple[float, float], random: Tensor) -> Tensor:
    """The share of a window that is a whole number of steps, each number between the ends as likely, `b`.

    Args:
        real: How many real steps each sample has, T, `b`.
        rate: The window's shortest and longest share; `[0, 0.5]` gives 0 to floor(T / 2) steps.
        random: Uniform in [0, 1), `b`.
    """
    least, most = (torch.floor(real * share + _ROUNDING) for share in rate)
    steps = torch.minimum(least + torch.floor(random * (most - least + 1)), most)
    return steps / real.clamp(min=1)


def _windows(mask: Tensor, share: Tensor, random: Tensor) -> Tensor:
    """Runs of successive real steps, `b t`, which together hold the share `b` of a sample's.

    A fraction of a step is rounded up or down at random, so that the mean is exact. The steps between the windows are
    placed uniformly.

    Args:
        mask: The real steps, `b t`.
        share: `b`.
        random: Uniform numbers: one for the rounding, and one for each window, `b (1 + windows)`.
    """
    rounding, *places = random.unbind(1)
    bursts = len(places)
    # Steps are counted among the real ones, so padding at either end, or between, costs no window.
    step = mask.cumsum(1, dtype=share.dtype)
    real = step[:, -1]
    wanted = share * real
    nearest = wanted.round()
    wanted = torch.where((wanted - nearest).abs() < _ROUNDING, nearest, wanted)
    size = torch.minimum(torch.floor(wanted + rounding.clamp(max=1 - _ROUNDING)), real)
    rest = real - size
    # How many of the steps that are left come before each window.
    before = [torch.minimum(torch.floor(place * (rest + 1)), rest) for place in places]
    before = torch.stack(before).sort(0).values if bursts > 1 else before
    hits = []
    for k in range(bursts):
        first = before[k] + torch.floor(size * k / bursts)
        last = before[k] + torch.floor(size * (k + 1) / bursts)
        hits.append((step > first.unsqueeze(1)) & (step <= last.unsqueeze(1)))
    return mask & (hits[0] if bursts == 1 else torch.stack(hits).any(0))


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
