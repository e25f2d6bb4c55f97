"""Components that count modalities, or go by their order."""

from torch import Tensor

from mmrobust.contracts import Batch, Context, Streams
from mmrobust.errors import OptionError
from tests.testing.broken.good import GoodFusion, GoodNoise, caught_by


@caught_by("check_modality_order")
class GoesByTheDict(GoodFusion):
    def means(self, generic: Streams, specific: Streams) -> list[Tensor]:
        streams = [*generic.values(), *specific.values()]
        return [layer(s.mean()) for layer, s in zip(self.layers.values(), streams, strict=True)]


@caught_by("check_modality_counts")
class ThreeForGranted(GoodFusion):
    def change(self, x: Tensor) -> Tensor:
        _, _, _ = self.modalities
        return x


@caught_by("check_modality_counts")
class UndeclaredMinimum(GoodFusion):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if len(context.modalities) < 2:
            raise OptionError("use", "needs two modalities")


@caught_by("check_modality_order")
class DrawsInTheDictsOrder(GoodNoise):
    def order(self, batch: Batch) -> tuple[str, ...]:
        return tuple(batch.features)


@caught_by("check_modality_counts")
class AtMostThree(GoodNoise):
    def order(self, batch: Batch) -> tuple[str, ...]:
        seeds = dict(zip(self.modalities, (111, 1111, 11111), strict=False))
        return tuple(m for m in self.modalities if seeds[m])
