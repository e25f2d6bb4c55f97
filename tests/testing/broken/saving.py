"""Components that cannot be saved."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrobust.contracts import Context
from tests.testing.broken.good import GoodFusion, caught_by


@caught_by("check_state")
class PlainTensor(GoodFusion):
    vmappable = False  # for the same reason, and it says so

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.scale = torch.rand(8) + 0.5

    def change(self, x: Tensor) -> Tensor:
        return x * self.scale
