"""A component that promises `exportable` and breaks it."""

from torch import Tensor

from tests.testing.broken.good import GoodFusion, caught_by


@caught_by("check_export")
class FixedBatch(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        return x.clone() if x.shape[0] == 6 else x
