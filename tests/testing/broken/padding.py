"""Components that read padding, or break without a modality."""

import torch
from torch import Tensor

from mmrobust.contracts import Stream
from tests.testing.broken.good import GoodFusion, GoodNoise, GoodObjective, caught_by


@caught_by("check_padding")
class CountsPadding(GoodFusion):
    def mean(self, stream: Stream) -> Tensor:
        return stream.x.mean(1)


@caught_by("check_missing_modality")
class DividesByZero(GoodFusion):
    def mean(self, stream: Stream) -> Tensor:
        return stream.zeroed().x.sum(1) / stream.mask.sum(1, keepdim=True)


@caught_by("check_padding")
class ReconstructsPadding(GoodObjective):
    def mean(self, stream: Stream) -> Tensor:
        return stream.x.mean(1)


@caught_by("check_missing_modality")
class PicksAStep(GoodNoise):
    def uniform(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        if mask.any():
            torch.multinomial(mask.float(), 1, generator=generator)
        return super().uniform(mask, generator)
