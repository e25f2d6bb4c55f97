"""Noises that do not do what they say."""

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Context, Rate, Stream, Streams
from tests.testing.broken.good import GoodNoise, caught_by


@caught_by("check_noise_rate_zero")
class NeverQuiteZero(GoodNoise):
    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        noisy = super().destroyed(stream, gone, rate)
        return noisy.map(lambda x: x * 1.001) if rate in (0, (0, 0)) else noisy


@caught_by("check_noise_rate_one")
class DividesByWhatIsLeft(GoodNoise):
    constant = False

    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        left = 1 - torch.tensor(max(rate) if isinstance(rate, tuple) else rate)
        scale = 1 / left if rate == 1 else 2.0
        return stream.map(lambda x: torch.where(gone.unsqueeze(-1), x * scale, x))


@caught_by("check_noise_rate")
class ErasesTooLittle(GoodNoise):
    def share(self, rate: Rate, count: int, generator: torch.Generator) -> Tensor:
        return super().share(rate if isinstance(rate, tuple) else rate**2, count, generator)


@caught_by("check_noise_rate_range")
class OneRateForAll(GoodNoise):
    def share(self, rate: Rate, count: int, generator: torch.Generator) -> Tensor:
        return super().share(rate, 1, generator).expand(count)


@caught_by("check_noise_generator")
class AlwaysTheSame(GoodNoise):
    def uniform(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(mask.shape, generator=torch.Generator().manual_seed(5))


@caught_by("check_noise_padding")
class ErasesPadding(GoodNoise):
    def result(self, batch: Batch, features: Streams, erased: dict[str, Tensor]) -> Batch:
        noisy = super().result(batch, features, erased)
        merged = {m: batch.erased[m] | gone for m, gone in erased.items()}
        return Batch(noisy.features, noisy.label, noisy.index, merged, noisy.clean)


@caught_by("check_noise_padding")
class FillsWithTheMeanOfEverything(GoodNoise):
    constant = False

    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        return stream.map(lambda x: torch.where(gone.unsqueeze(-1), x.mean(1, keepdim=True), x))


@caught_by("check_noise_monotone")
class WorstInTheMiddle(GoodNoise):
    def share(self, rate: Rate, count: int, generator: torch.Generator) -> Tensor:
        share = super().share(rate, count, generator)
        return share * (1 - share)

    def expected(self, rate: float) -> None:
        return None


@caught_by("check_noise_marks")
class HissesEverywhere(GoodNoise):
    constant = False

    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        return super().destroyed(stream, gone, rate).map(lambda x: x if rate in (0, (0, 0)) else x * 1.001)


@caught_by("check_noise_scope")
class StrikesAllTheSame(GoodNoise):
    """Strikes every modality, whatever its scope says.

    Args:
        context: The context.
        scope: Which modalities are struck.
    """

    def __init__(self, context: Context, *, scope: str = "one_modality") -> None:
        super().__init__(context)


@caught_by("check_noise_snr")
class TakesAmplitudeForPower(GoodNoise):
    constant = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.snr = dict.fromkeys(context.modalities, (10.0, 10.0))

    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        x = stream.zeroed().x
        size = x.square().mean((1, 2), keepdim=True).sqrt() * 10 ** (-10 / 10)
        random = torch.Generator().manual_seed(0)
        return stream.map(lambda _: x + gone.unsqueeze(-1) * size * torch.randn(x.shape, generator=random))


@caught_by("check_noise_odd_input")
class DividesByTheSpread(GoodNoise):
    constant = False

    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        """Looks after silence, and forgets a still picture."""
        x = stream.zeroed().x
        spread = torch.where(x.any(2).any(1)[:, None, None], x.std((1, 2), keepdim=True), 1)
        return stream.map(lambda _: torch.where(gone.unsqueeze(-1), x / spread, x))


@caught_by("check_noise_composition")
class ForgetsWhatWasErased(GoodNoise):
    def result(self, batch: Batch, features: Streams, erased: dict[str, Tensor]) -> Batch:
        fresh = {m: gone & batch.features[m].mask for m, gone in erased.items()}
        return Batch(features, batch.label, batch.index, fresh, batch.clean or batch)


@caught_by("check_noise_composition")
class CallsTheNoisyOneClean(GoodNoise):
    def result(self, batch: Batch, features: Streams, erased: dict[str, Tensor]) -> Batch:
        noisy = super().result(batch, features, erased)
        return Batch(noisy.features, noisy.label, noisy.index, noisy.erased, batch)
