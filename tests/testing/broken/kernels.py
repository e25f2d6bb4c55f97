"""Components that depend on the attention backend or on the number format."""

import torch
from torch import Tensor

from mmrobust.nn.attention import asked
from tests.testing.broken.good import GoodFusion, caught_by


@caught_by("check_attention")
class AnotherManualAttention(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        return x * 1.01 if asked()[0] == "manual" else x


@caught_by("check_autocast")
class FixedDtype(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        return torch.lerp(torch.zeros(x.shape), x, 1.0)
