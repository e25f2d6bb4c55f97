"""Components that promise `samplewise` and break it."""

from torch import Tensor, nn

from mmrobust.contracts import Context
from tests.testing.broken.good import GoodFusion, caught_by


@caught_by("check_samplewise")
class CentresTheBatch(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        return x - 0.5 * x.mean(0)


@caught_by("check_samplewise")
class UndeclaredBatchNorm(GoodFusion):
    vmappable = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.norm = nn.BatchNorm1d(8)

    def change(self, x: Tensor) -> Tensor:
        return self.norm(x)
