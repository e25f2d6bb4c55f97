"""Noises that consist of other noises."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from mmrobust.contracts import Batch, Context, Noise, Part, Rate
from mmrobust.errors import OptionError


def _made(context: Context, parts: list[Part[Noise]]) -> list[Noise]:
    """The noises that an option names.

    Raises:
        OptionError: There is none, or one of them refuses an option.
    """
    if not parts:
        raise OptionError("noises", "names no noise")
    noises = []
    for part in parts:
        try:
            noises.append(context.make(Noise, part))
        except OptionError as error:
            what = "" if error.option == "use" else f", option '{error.option}'"
            raise OptionError("noises", f"'{part.use}'{what}: {error.message}") from error
    return noises


def _numbers(option: str, given: list[float] | None, count: int, default: float) -> list[float]:
    """One number for each noise.

    Raises:
        OptionError: There are more or fewer.
    """
    numbers = [default] * count if given is None else given
    if len(numbers) != count:
        raise OptionError(option, f"there are {count} noises and {len(numbers)} {option}; give one for each")
    return numbers


class Sequence(Noise):
    """Several noises, one after the other (a noisy microphone and dropped frames and wrong words).

    Each noise has the rate times its own factor, in its own unit; from a pair of rates each draws its own. What any of
    them marks is `erased`.

    Args:
        context: What mmrobust provides.
        noises: The noises, in the order in which they strike.
        factors: What the rate is multiplied with for each of them, 0 to 1; None for 1.

    Raises:
        OptionError: There is no noise, or there is not one factor between 0 and 1 for each.
    """

    def __init__(self, context: Context, *, noises: list[Part[Noise]], factors: list[float] | None = None) -> None:
        super().__init__(context)
        self.noises = _made(context, noises)
        self.factors = _numbers("factors", factors, len(noises), 1.0)
        for factor in self.factors:
            if not 0 <= factor <= 1:
                raise OptionError("factors", f"{factor:g} times the rate would leave 0 to 1; give 0 to 1")
        self.constant = all(noise.constant for noise in self.noises)
        self.fixed = all(noise.fixed for noise in self.noises)

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        noisy = batch
        for noise, factor in zip(self.noises, self.factors, strict=True):
            own = (rate[0] * factor, rate[1] * factor) if isinstance(rate, tuple) else rate * factor
            noisy = noise(noisy, own, generator)
        return noisy

    def expected(self, rate: float) -> dict[str, float] | None:
        """None where two of the noises strike one modality: how often they meet depends on their patterns."""
        parts = [noise.expected(rate * factor) for noise, factor in zip(self.noises, self.factors, strict=True)]
        total = {}
        for m in self.modalities:
            shares = [math.nan if part is None else part[m] for part in parts]
            some = [share for share in shares if share != 0]
            if len(some) > 1 or any(map(math.isnan, some)):
                return None
            total[m] = sum(some)
        return total


class OneOf(Noise):
    """One of several noises, drawn for each sample.

    Args:
        context: What mmrobust provides.
        noises: The noises.
        weights: How likely each is, in any unit; None for all alike.
        clean: Share of samples that are left alone, on average.

    Raises:
        OptionError: There is no noise, not one weight for each, a negative weight or none above 0, or `clean` is not
            between 0 and 1.
    """

    def __init__(
        self,
        context: Context,
        *,
        noises: list[Part[Noise]],
        weights: list[float] | None = None,
        clean: float = 0.0,
    ) -> None:
        super().__init__(context)
        self.noises = _made(context, noises)
        given = _numbers("weights", weights, len(noises), 1.0)
        if min(given) < 0 or sum(given) <= 0:
            text = ", ".join(f"{w:g}" for w in given)
            raise OptionError("weights", f"[{text}] are no weights; give numbers from 0, at least one of them above 0")
        if not 0 <= clean <= 1:
            raise OptionError("clean", f"{clean:g} is no share of samples; give 0 to 1")
        self.weights = [w / sum(given) * (1 - clean) for w in given]
        self.constant = all(noise.constant for noise in self.noises)

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        draw = torch.rand(len(batch), generator=generator, device=generator.device)
        features, erased = dict(batch.features), dict(batch.erased)
        low = 0.0
        for noise, weight in zip(self.noises, self.weights, strict=True):
            # Every noise is drawn for every sample, so that who gets which changes nothing for the others.
            noisy = noise(batch, rate, generator)
            mine = ((draw >= low) & (draw < low + weight)).unsqueeze(1)
            low += weight
            for m, stream in noisy.features.items():
                x = torch.where(mine.unsqueeze(-1), stream.x, features[m].x)
                features[m] = replace(features[m], x=x)
                erased[m] = torch.where(mine, noisy.erased[m], erased[m])
        return batch.noisy(features, erased)

    def expected(self, rate: float) -> dict[str, float] | None:
        parts = [noise.expected(rate) for noise in self.noises]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return {m: sum(w * part[m] for w, part in zip(self.weights, known, strict=True)) for m in self.modalities}
