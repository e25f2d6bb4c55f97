"""Noises that are added to what is there: white noise, another sample, spikes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from mmrobust.components.noise.corruption import Pattern, Scope, StepCorruption, chosen, order, take
from mmrobust.contracts import Context, Stream
from mmrobust.errors import OptionError

#: Decibels; a pair is drawn from uniformly for each sample; a mapping has a number for each modality.
SNR = float | tuple[float, float] | dict[str, float]
_LIMIT = 100.0  # beyond that one of the two is lost in float32


class Additive(StepCorruption):
    """Adds noise at a signal-to-noise ratio.

    The ratio is 10 log10 of signal power over noise power. The power of the signal is the mean square of a sample's
    modality over its real steps and features, as it comes in; the struck steps get noise of that power divided by the
    ratio. A signal of zeros gets none.

    Args:
        context: What mmrobust provides.
        snr: Signal-to-noise ratio in decibels; a pair is drawn from uniformly for each sample; a mapping gives one to
            each modality, and the others are left alone.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are struck; None for all, or for those that `snr` names.
        pattern: How the rate picks steps, see `StepCorruption`.

    Raises:
        OptionError: There is no such modality, one has no ratio, or a ratio is not between -100 and 100 dB.
    """

    def __init__(
        self,
        context: Context,
        *,
        snr: SNR,
        scope: Scope,
        modalities: list[str] | None,
        pattern: Pattern,
    ) -> None:
        named = list(snr) if isinstance(snr, Mapping) else None
        names = chosen(context, named, "snr")
        names = names if modalities is None else chosen(context, modalities)
        super().__init__(context, scope=scope, modalities=names, pattern=pattern)
        ratios = dict(snr) if isinstance(snr, Mapping) else dict.fromkeys(names, snr)
        self._ratios: dict[str, tuple[float, float]] = {}
        for m in names:
            if m not in ratios:
                raise OptionError("snr", f"says nothing of '{m}'; it names {', '.join(ratios)}")
            ratio = ratios[m]
            low, high = ratio if isinstance(ratio, tuple) else (ratio, ratio)
            if not -_LIMIT <= low <= high <= _LIMIT:
                given = f"[{low:g}, {high:g}]" if isinstance(ratio, tuple) else f"{low:g}"
                rule = f"give decibels between {-_LIMIT:g} and {_LIMIT:g}, or a rising pair of them"
                raise OptionError("snr", f"{given} is no signal-to-noise ratio; {rule}")
            self._ratios[m] = (low, high)
        self.snr = self._ratios

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        low, high = self._ratios[m]
        draw = torch.rand(len(hit), 1, 1, generator=generator, device=generator.device)
        wanted = power(stream) * 10 ** (-(draw * (high - low) + low) / 10)
        return stream.x + self.noise(stream, generator) * wanted.sqrt()

    @abstractmethod
    def noise(self, stream: Stream, generator: torch.Generator) -> Tensor:
        """Noise of power 1, or zeros for a sample that gets none, `b t n`."""


def power(stream: Stream) -> Tensor:
    """Mean square over real steps and features, `b 1 1`; zero where a sample has none. Padding has to be zero."""
    real = stream.mask.sum(1) * stream.x.shape[-1]
    return (stream.x.square().sum((1, 2)) / real.clamp(min=1))[:, None, None]


class Gaussian(Additive):
    """Adds white Gaussian noise at a signal-to-noise ratio (hiss; MultiBench's noise on audio and time series).

    The rate is the share of real steps that get noise, on average; how loud it is there is said in decibels: 10 log10
    of the sample's power (the mean square of the modality's features over its real steps) over that of the noise.

    Args:
        context: What mmrobust provides.
        snr: Signal-to-noise ratio in decibels; a pair is drawn from uniformly for each sample; a mapping gives one to
            each modality, and the others are left alone.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all, or for those that `snr` names.
        pattern: `steps`, each on its own with the rate's probability; `window`, one run of them; `whole`, with the
            rate's probability all of a sample's steps.

    Raises:
        OptionError: There is no such modality, one has no ratio, or a ratio is not between -100 and 100 dB.
    """

    def __init__(
        self,
        context: Context,
        *,
        snr: SNR = 0.0,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        pattern: Pattern = "steps",
    ) -> None:
        super().__init__(context, snr=snr, scope=scope, modalities=modalities, pattern=pattern)

    def noise(self, stream: Stream, generator: torch.Generator) -> Tensor:
        return torch.randn(stream.x.shape, generator=generator, device=generator.device)


class Babble(Additive):
    """Mixes in another sample of the batch at a signal-to-noise ratio (a voice in the background).

    The other sample's modality is repeated from its beginning until it is as long as this one's, scaled to the wanted
    power, and added; label and all else stay. The rate is the share of real steps that it covers, on average.

    The background depends on the batch: the same samples in another batch meet another background. (In an
    evaluation batches are always the same, in the split's order.) A sample that is alone in its batch has no
    background, and nothing of it is erased; neither does one whose drawn partner lacks the modality.

    Args:
        context: What mmrobust provides.
        snr: Signal-to-noise ratio in decibels; a pair is drawn from uniformly for each sample; a mapping gives one to
            each modality, and the others are left alone.
        scope: `every_modality`, each with a partner of its own, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all, or for those that `snr` names.
        pattern: `steps`, each on its own with the rate's probability; `window`, one run of them; `whole`, with the
            rate's probability all of a sample's steps.

    Raises:
        OptionError: There is no such modality, one has no ratio, or a ratio is not between -100 and 100 dB.
    """

    def __init__(
        self,
        context: Context,
        *,
        snr: SNR = 0.0,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        pattern: Pattern = "window",
    ) -> None:
        super().__init__(context, snr=snr, scope=scope, modalities=modalities, pattern=pattern)

    def corrupt(
        self, m: str, stream: Stream, share: Tensor, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor]:
        x, hit = super().corrupt(m, stream, share, generator)
        changed = (x != stream.x) & stream.mask.unsqueeze(-1)
        return x, hit & changed.flatten(1).any(1, keepdim=True)

    def noise(self, stream: Stream, generator: torch.Generator) -> Tensor:
        count, device = len(stream.x), generator.device
        if count == 1:
            return torch.zeros_like(stream.x)
        # Anybody but oneself, each as likely.
        away = 1 + torch.randint(count - 1, (count,), generator=generator, device=device)
        partner = (torch.arange(count, device=device) + away) % count
        places, rank = order(stream.mask)
        length = stream.mask.sum(1)[partner].clamp(min=1).unsqueeze(1)
        voice = take(stream.x[partner], places[partner].gather(1, rank % length))
        voice = Stream(voice, stream.mask).zeroed()
        loud = power(voice).sqrt()
        return torch.where(loud > 0, voice.x / loud, 0)


class Spikes(StepCorruption):
    """Adds heavy-tailed spikes (impulses of a loose contact, glitches of a face tracker).

    A struck step gets a Gaussian vector whose size follows a Pareto law: `scale` times the root mean square of the
    sample's modality at least, and x times that with probability x^-tail. The rate is the share of real steps that are
    struck, on average.

    Args:
        context: What mmrobust provides.
        scale: Smallest size of a spike, in units of the signal's root mean square.
        tail: Exponent of the tail: the smaller, the heavier. At 2 and below spikes have no variance.
        scope: `every_modality`, or `one_modality`, drawn anew for each sample.
        modalities: Which modalities are hit; None for all.
        pattern: `steps`, each on its own with the rate's probability; `window`, one run of them; `whole`, with the
            rate's probability all of a sample's steps.

    Raises:
        OptionError: There is no such modality, the scale is not above 0, or the tail is below 1.
    """

    def __init__(
        self,
        context: Context,
        *,
        scale: float = 3.0,
        tail: float = 2.0,
        scope: Scope = "every_modality",
        modalities: list[str] | None = None,
        pattern: Pattern = "steps",
    ) -> None:
        super().__init__(context, scope=scope, modalities=modalities, pattern=pattern)
        if scale <= 0:
            raise OptionError("scale", f"a spike of {scale:g} times the signal is none; give a number above 0")
        if tail < 1:
            raise OptionError("tail", f"with {tail:g} spikes have no mean size; give 1 or more (2 is heavy, 10 light)")
        self.scale, self.tail = scale, tail

    def changed(self, m: str, stream: Stream, hit: Tensor, generator: torch.Generator) -> Tensor:
        draw = torch.rand(*hit.shape, 1, generator=generator, device=generator.device)
        size = self.scale * power(stream).sqrt() * (1 - draw) ** (-1 / self.tail)
        return stream.x + size * torch.randn(stream.x.shape, generator=generator, device=generator.device)
