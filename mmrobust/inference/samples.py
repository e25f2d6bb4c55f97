"""New samples, from arrays or from a file, made the input of a trained model; and what of them was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrobust import registry
from mmrobust.contracts import Dataset, Part, Split, Stream
from mmrobust.data import FileDataset, FileOptions, Preparation
from mmrobust.data.arrays import arrays_contents
from mmrobust.data.labels import Wanted
from mmrobust.data.tables import Contents
from mmrobust.errors import DataError, UsageError

__all__ = ["Samples", "samples_of_arrays", "samples_of_file"]

Ranges = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Samples:
    """New samples of one split.

    Attributes:
        name: Of the split; `new` where there is one.
        split: The features, prepared as those of the training.
        lost: For each modality the share of each sample's steps that is missing, not finite, all zero or far outside
            the training's range, `{m: n}`; 1 where there is no step at all.
        notes: What was done to the features, and why.
    """

    name: str
    split: Split
    lost: dict[str, Tensor]
    notes: tuple[str, ...]


def samples_of_file(part: Part[Dataset], path: Path, preparation: Preparation, ranges: Ranges) -> list[Samples]:
    """The samples of a file in the layout of the training data.

    Args:
        part: The dataset of the recipe.
        path: The new file.
        preparation: What the run has recorded of its data.
        ranges: Smallest and largest value of each feature in the training, `{m: (n_m, n_m)}`, as prepared.

    Raises:
        DataError: It cannot be read, or does not fit the model.
    """
    catalogue = registry.catalogue()
    cls = catalogue.load(catalogue.find("dataset", part.use))
    if not issubclass(cls, FileDataset):
        raise DataError(f"{path}: dataset '{part.use}' is not read from files, so there are no new features for it")

    class NewFile(_Watched, cls):  # type: ignore[misc, valid-type]
        _given = preparation

    return _samples(NewFile(**{**part.options, "path": path}), ranges)


def samples_of_arrays(samples: Sequence[Mapping[str, Any]], preparation: Preparation, ranges: Ranges) -> Samples:
    """Samples that are arrays.

    Args:
        samples: For each sample its modalities, `{m: t_m n_m}`; None or no such key where one is missing.
        preparation: What the run has recorded of its data.
        ranges: See `samples_of_file`.

    Raises:
        UsageError: There is no sample.
        DataError: An array does not fit the model.
    """
    if not samples:
        raise UsageError("there are no samples; give at least one")
    keys: dict[str, Any] = {}
    for m in preparation.modalities:
        rows = [_steps(sample.get(m), preparation, m, i) for i, sample in enumerate(samples)]
        if any(len(row) for row in rows):
            keys[m] = rows
    unknown = sorted({key for sample in samples for key in sample} - set(preparation.modalities))
    if unknown:
        known = ", ".join(preparation.modalities)
        raise DataError(f"there is no modality '{unknown[0]}' in this model; it has {known}")
    if not keys:
        raise DataError(f"nothing is there of any sample; this model takes {', '.join(preparation.modalities)}")

    class NewArrays(_Watched, _InMemory):
        _given = preparation

    (made,) = _samples(NewArrays(keys), ranges)
    return made


def _steps(value: Any, preparation: Preparation, m: str, i: int) -> np.ndarray[Any, Any]:
    """One modality of one sample as `t w`; no steps where it is missing."""
    width = preparation.width[m]
    if value is None:
        return np.zeros((0, width), np.float32)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
    try:
        x = np.asarray(value)
    except ValueError:
        x = np.asarray(None)
    if x.dtype.kind not in "fiub":
        raise DataError(f"sample {i}, {m}: an array of numbers is needed, not {type(value).__name__}")
    if x.size == 0:
        return np.zeros((0, width), np.float32)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] != width:
        raise DataError(f"sample {i}, {m}: the shape is {x.shape}; the model takes (steps, {width})")
    return x.astype(np.float32) if x.dtype.kind != "f" or x.dtype.itemsize > 4 else x


@dataclass(frozen=True)
class _Loss:
    """Steps of each sample of one modality, `n`: those that are not finite or all zero, and all there are."""

    bad: Tensor
    count: Tensor

    def share(self, far: Tensor) -> Tensor:
        """The share that is lost, with more steps far outside the training's range; 1 where there is no step."""
        lost = (self.bad + far) / self.count.clamp(min=1)
        return torch.where(self.count > 0, lost.clamp(max=1), 1.0)


class _Watched(FileDataset):
    """Notes what of each sample is lost before anything is masked or standardised."""

    lost: dict[str, dict[str, _Loss]]

    def read(self, path: Path) -> Contents:
        """Reads the file, and looks at it."""
        contents = super().read(path)  # type: ignore[safe-super]
        self.lost = {}
        for split, table in contents.tables.items():
            self.lost[split] = {}
            for m, x in table.features.items():
                real = torch.from_numpy(np.ascontiguousarray(table.masks[m]))
                bad = torch.from_numpy(~np.isfinite(x).all(-1) | (x == 0).all(-1))
                self.lost[split][m] = _Loss((bad & real).sum(1), real.sum(1))
        return contents


class _InMemory(FileDataset):
    """Samples that lie in no file."""

    layout = "arrays"

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys
        super().__init__(Path("the samples"), FileOptions())

    def read(self, path: Path) -> Contents:
        """What the samples hold."""
        return arrays_contents(path, self._keys, Wanted("auto", "auto", None, False), model=self._given)


def _samples(dataset: _Watched, ranges: Ranges) -> list[Samples]:
    made = []
    for name, split in dataset.splits.items():
        lost, notes = {}, list(dataset.notes)
        for m, stream in split.features.items():
            far = _far(stream, *ranges[m]).sum(1) if m in ranges else torch.zeros(len(split), dtype=torch.int64)
            lost[m] = dataset.lost[name][m].share(far)
            if far.any():
                notes.append(
                    f"{name}, {m}: {int((far > 0).sum())} of {len(split)} samples have steps far outside the range of "
                    "the training"
                )
        made.append(Samples(name, split, lost, tuple(notes)))
    return made


def _far(stream: Stream, low: Tensor, high: Tensor) -> Tensor:
    """Steps with a value further outside the training's range than that range is wide, `n t`."""
    span = (high - low).clamp(min=1e-6)
    x = stream.x.float()
    return ((x < low - span) | (x > high + span)).any(-1) & stream.mask
