"""Fusions whose output does not say which step belongs to whom."""

from dataclasses import replace
from typing import Any

from mmrobust.contracts import Context, Segment, Shape, Stream, Streams
from tests.testing.broken.good import GoodJoin, caught_by


@caught_by("check_segments")
class JoinsInSilence(GoodJoin):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shape = Shape(8, self.shape.length)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        return replace(super().forward(generic, specific, notes), segments=())


@caught_by("check_segments")
class ForgetsToDeclare(GoodJoin):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shape = Shape(8, self.shape.length)


@caught_by("check_segments")
class MistakesTheNames(GoodJoin):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shape = replace(self.shape, segments=self.turned(self.shape.segments))

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        out = super().forward(generic, specific, notes)
        return replace(out, segments=self.turned(out.segments))

    def turned(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        names = [segment.name for segment in reversed(segments)]
        return tuple(Segment(name, s.length) for name, s in zip(names, segments, strict=True))
