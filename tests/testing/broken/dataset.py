"""Datasets that do not hold what they declare."""

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Posterior, Shape, Split
from tests.testing.broken.good import GoodData, caught_by


@caught_by("check_dataset_splits")
class CallsItDev(GoodData):
    def names(self) -> tuple[str, ...]:
        return ("train", "dev", "test")


@caught_by("check_dataset_shapes")
class DeclaresAnotherLength(GoodData):
    def change(self) -> None:
        self.modalities = {"a": Shape(3, 3), "b": Shape(2, 5)}


@caught_by("check_dataset_values")
class HoldsNaN(GoodData):
    def change(self) -> None:
        self.splits["test"].features["a"].x[0, 0, 0] = float("nan")


@caught_by("check_dataset_labels")
class CountsClassesFromOne(GoodData):
    def change(self) -> None:
        label = self.splits["test"].label
        assert label is not None
        label += 1


@caught_by("check_dataset_ids")
class SameIds(GoodData):
    def split(self, name: str, generator: torch.Generator | None) -> Split:
        split = super().split(name, generator)
        return Split(split.features, split.label, ["clip"] * 10)


@caught_by("check_dataset_repeatable")
class DrawsAnew(GoodData):
    def split(self, name: str, generator: torch.Generator | None) -> Split:
        return super().split(name, None)


class _Sorted(Split):
    def batch(self, index: Tensor) -> Batch:
        return super().batch(index.sort().values)


@caught_by("check_dataset_batches")
class SortsBatches(GoodData):
    def split(self, name: str, generator: torch.Generator | None) -> Split:
        split = super().split(name, generator)
        return _Sorted(split.features, split.label, split.ids)


@caught_by("check_dataset_posterior")
class SumsToTwo(GoodData):
    def posterior(self, split: str, batch: Batch) -> Posterior | None:
        right = super().posterior(split, batch)
        assert right is not None
        return Posterior(right.values, right.weights * 2)


@caught_by("check_dataset_posterior")
class SeesWhatIsErased(GoodData):
    def posterior(self, split: str, batch: Batch) -> Posterior | None:
        return super().posterior(split, batch.clean or batch)
