"""A component that promises `vmappable` and breaks it."""

from typing import Any

import torch
from torch import Tensor

from tests.testing.broken.good import GoodFusion, caught_by


class _NoRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


@caught_by("check_vmappable")
class NoVmapRule(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        return _NoRule.apply(x)  # type: ignore[return-value]
