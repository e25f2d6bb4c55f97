"""Components that take for granted what stands around them."""

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Context, Rate, Stream, Streams
from tests.testing.broken.good import GoodFusion, GoodHead, GoodNoise, caught_by


@caught_by("check_unequal_lengths")
class StacksSteps(GoodFusion):
    def means(self, generic: Streams, specific: Streams) -> list[Tensor]:
        for side in (generic, specific):
            if side:
                torch.stack([stream.mask for stream in side.values()])
        return super().means(generic, specific)


@caught_by("check_unequal_widths")
class StacksBothSides(GoodFusion):
    def means(self, generic: Streams, specific: Streams) -> list[Tensor]:
        torch.stack([s.mean() for s in (*generic.values(), *specific.values())])
        return super().means(generic, specific)


@caught_by("check_one_side")
class TakesBothForGranted(GoodFusion):
    def means(self, generic: Streams, specific: Streams) -> list[Tensor]:
        _ = next(iter(generic.values())), next(iter(specific.values()))
        return super().means(generic, specific)


@caught_by("check_other_keys")
class PairsByKey(GoodFusion):
    def means(self, generic: Streams, specific: Streams) -> list[Tensor]:
        if generic and specific:
            _ = [specific[key] for key in generic]
        return super().means(generic, specific)


@caught_by("check_pooled")
class SpacesTheSteps(GoodFusion):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.spacing = {key: 1 / (shape.length - 1) for key, shape in context.specific.items()}


@caught_by("check_joined")
class TakesNoJoin(GoodHead):
    def forward(self, stream: Stream) -> Tensor:
        assert not stream.segments
        return super().forward(stream)


@caught_by("check_tasks")
class KnowsTwoTasks(GoodHead):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.task.kind in ("regression", "classification")


@caught_by("check_unequal_lengths")
class OneDrawForAll(GoodNoise):
    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        torch.stack([batch.features[m].mask for m in self.modalities])
        return super().__call__(batch, rate, generator)
