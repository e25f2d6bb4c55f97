"""Components where training stops, or that cannot be saved."""

import torch
from torch import Tensor, nn

from mmrobust.contracts import Context, Stream
from tests.testing.broken.good import GoodFusion, caught_by


@caught_by("check_gradients")
class ForgottenLayer(GoodFusion):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.gate = nn.Linear(8, 8)


@caught_by("check_gradients")
class Detached(GoodFusion):
    def mean(self, stream: Stream) -> Tensor:
        return stream.mean().detach()


@caught_by("check_state")
class PlainTensor(GoodFusion):
    vmappable = False  # for the same reason, and it says so

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.scale = torch.rand(8) + 0.5

    def change(self, x: Tensor) -> Tensor:
        return x * self.scale
