"""Components that change something, or depend on more than their input."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmrobust.contracts import Context, Outputs, Progress, Rate, Stream
from tests.testing.broken.good import GoodFusion, GoodNoise, GoodObjective, caught_by


@caught_by("check_deterministic")
class AlwaysNoisy(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        return x * (1 + 0.1 * torch.rand(()))


@caught_by("check_pure")
class InPlace(GoodFusion):
    def mean(self, stream: Stream) -> Tensor:
        stream.x.mul_(0.5)
        return stream.mean()


@caught_by("check_pure")
class CountsInForward(GoodFusion):
    seen: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.register_buffer("seen", torch.zeros(()))

    def change(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.seen += 1
        return x


@caught_by("check_pure")
class RemembersInForward(GoodObjective):
    memory: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.register_buffer("memory", torch.zeros(context.samples))

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        with torch.no_grad():
            self.memory += 1
        return super().forward(out, views, progress)


@caught_by("check_pure")
class ErasesInPlace(GoodNoise):
    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        stream.x[gone] = 0
        return stream


@caught_by("check_deterministic")
class DrawsGlobally(GoodNoise):
    def uniform(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(mask.shape)
