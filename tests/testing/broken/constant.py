"""Noises that promise `constant` and break it."""

from dataclasses import replace

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Rate, Stream, Streams
from tests.testing.broken.good import GoodNoise, caught_by


@caught_by("check_constant")
class ReplacesByOnes(GoodNoise):
    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        return Stream(stream.x.masked_fill(gone.unsqueeze(-1), 1), stream.mask)


@caught_by("check_constant")
class SparesLargeSteps(GoodNoise):
    def result(self, batch: Batch, features: Streams, erased: dict[str, Tensor]) -> Batch:
        spared = {m: s.x.abs().amax(-1) > 1.9 for m, s in batch.features.items()}
        features = {
            m: replace(s, x=torch.where(spared[m].unsqueeze(-1), batch.features[m].x, s.x)) for m, s in features.items()
        }
        return super().result(batch, features, {m: e & ~spared[m] for m, e in erased.items()})

    def expected(self, rate: float) -> dict[str, float] | None:
        return None  # it depends on the features
