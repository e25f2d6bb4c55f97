"""Components where training stops."""

from __future__ import annotations

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
