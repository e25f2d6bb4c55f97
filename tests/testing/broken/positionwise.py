"""Encoders that promise `positionwise` and break it."""

from typing import Any

import torch
from torch import Tensor, nn

from mmrobust.contracts import Context, Streams
from tests.testing.broken.good import GoodEncoder, caught_by


@caught_by("check_positionwise")
class AddsPositions(GoodEncoder):
    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.position = nn.Parameter(torch.randn(max(s.length for s in context.features.values()), context.width))

    def change(self, x: Tensor) -> Tensor:
        return x + self.position[: x.shape[1]]


@caught_by("check_positionwise")
class StopsAtTheLongest(GoodEncoder):
    """What comes after as many steps as the data has is zero."""

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.longest = max(s.length for s in context.features.values())

    def change(self, x: Tensor) -> Tensor:
        return x * (torch.arange(x.shape[1]) < self.longest).unsqueeze(1)


@caught_by("check_positionwise")
class SeesTheOthers(GoodEncoder):
    positionwise = True

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        out = super().forward(streams, notes)
        total = torch.stack([out[m].mean() for m in self.layers]).sum(0)
        return {m: s.map(lambda x: x + total.unsqueeze(1)) for m, s in out.items()}


@caught_by("check_positionwise")
class WritesNotes(GoodEncoder):
    positionwise = True

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        notes["count"] = len(streams)
        return super().forward(streams, notes)


@caught_by("check_positionwise")
class DividesTheGradient(GoodEncoder):
    """The gradient of its scale is divided by the number of samples."""

    positionwise = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.scale = nn.Parameter(torch.ones(()))

    def change(self, x: Tensor) -> Tensor:
        share = self.scale / len(x)
        return x * (share + (self.scale - share).detach())
