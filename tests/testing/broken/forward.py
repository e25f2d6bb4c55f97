"""Components that return something else than they declare."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmrobust.contracts import Context, Outputs, Progress, Rate, Shape, Stream, Streams
from tests.testing.broken.good import GoodEncoder, GoodFusion, GoodHead, GoodNoise, GoodObjective, caught_by


@caught_by("check_output")
class DeclaresAnotherWidth(GoodFusion):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shape = Shape(9, 1)


@caught_by("check_output")
class ReturnsATensor(GoodFusion):
    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Any:
        return super().forward(generic, specific, notes).x


@caught_by("check_output")
class ReturnsTensors(GoodEncoder):
    def forward(self, streams: Streams, notes: dict[str, Any]) -> Any:
        return {m: stream.x for m, stream in super().forward(streams, notes).items()}


@caught_by("check_output")
class DropsAnAxis(GoodHead):
    def forward(self, stream: Stream) -> Tensor:
        return super().forward(stream).mean(-1)


@caught_by("check_one_sample")
class Squeezes(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        return x.squeeze(0)


@caught_by("check_output")
class LossOfEachSample(GoodObjective):
    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        return super().forward(out, views, progress) + out.prediction


@caught_by("check_output")
class ChangesTheMask(GoodNoise):
    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        return Stream(stream.x, stream.mask & ~gone)


@caught_by("check_any_length")
class LooksAtTheMiddle(GoodEncoder):
    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        for m, stream in streams.items():
            _ = stream.x[:, self.shapes[m].length // 2 - 1]
        return super().forward(streams, notes)


@caught_by("check_notes")
class DeclaresANote(GoodFusion):
    writes = ("attention",)
