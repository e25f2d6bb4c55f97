"""What a run records of its data: all that a model has to know of it, and which files it was.

`data.json` holds

    format       1
    modalities   {name: [length, width]}, in the order of the dataset
    task         {kind, outputs, measures, low, high, names}
    samples      of the training split
    aligned      whether step i of every modality is the same moment
    timed        the modalities whose steps have times
    preparation  what new features need (`mmrobust.data.Preparation`); null where the data is not read from files
    range        {modality: [smallest, largest value of each feature in the training split]}, as prepared
    notes        those of the dataset
    files        {option: {path, size, sha256}}
    changes      what was knowingly another file later on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmrobust.contracts import Dataset, Shape, Split, Stream, Task
from mmrobust.data import Preparation
from mmrobust.errors import DataError
from mmrobust.training.fingerprints import Fingerprint, data_paths, fingerprint
from mmrobust.training.folder import RunFolder, to_json

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["DataRecord", "RecordedDataset"]

FORMAT = 1
_CHUNK = 512  # samples looked at together


@dataclass(frozen=True)
class DataRecord:
    """What a run knows of its data.

    Attributes:
        values: As `data.json` holds them.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset) -> DataRecord:
        """The record of a dataset that is open.

        Raises:
            DataError: A data file cannot be read.
        """
        preparation = getattr(dataset, "preparation", None)
        train = dataset.splits["train"]
        return cls(
            {
                "format": FORMAT,
                "modalities": {m: [shape.length, shape.width] for m, shape in dataset.modalities.items()},
                "task": {**asdict(dataset.task), "names": list(dataset.task.names)},
                "samples": len(train),
                "aligned": bool(dataset.aligned),
                "timed": [m for m in dataset.modalities if train.features[m].times is not None],
                "preparation": preparation.to_dict() if isinstance(preparation, Preparation) else None,
                "range": {m: _range(train.features[m]) for m in dataset.modalities},
                "notes": list(dataset.notes),
                "files": {key: found.to_dict() for key, found in _fingerprints(recipe).items()},
                "changes": [],
            }
        )

    @classmethod
    def read(cls, folder: RunFolder) -> DataRecord | None:
        """The record of a run; None where an older version has written none.

        Raises:
            DamagedError: `data.json` is not as it was written.
            ReadError: It cannot be read.
        """
        values = folder.read_json(folder.data)
        if values is None:
            return None
        if values.get("format") != FORMAT:
            raise folder.damaged(folder.data, f"it has format {values.get('format')}, not {FORMAT}")
        return cls(values)

    def to_text(self) -> str:
        """What `data.json` holds."""
        return to_json(self.values, indent=1) + "\n"

    def write(self, folder: RunFolder) -> None:
        """Writes `data.json`.

        Raises:
            WriteError: It cannot be written.
        """
        folder.write(folder.data, self.to_text())

    @property
    def ranges(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Smallest and largest value of each feature of each modality in the training split, as prepared."""
        return {m: (torch.tensor(low), torch.tensor(high)) for m, (low, high) in self.values.get("range", {}).items()}

    @property
    def preparation(self) -> Preparation | None:
        """What new features need to become this model's input."""
        values = self.values["preparation"]
        return None if values is None else Preparation.from_dict(values)

    def check(self, recipe: Recipe, run: str, *, changed: bool = False) -> list[str]:
        """Compares the data files of a recipe with those that the run was trained on.

        Args:
            recipe: Whose options name the files.
            run: The run's name, for messages.
            changed: Go on although a file is another one.

        Returns:
            A note for each file that is another one.

        Raises:
            DataError: A file is another one, and `changed` is not set; or one cannot be read.
        """
        known = {key: Fingerprint(**values) for key, values in self.values["files"].items()}
        notes = []
        for key, now in _fingerprints(recipe).items():
            then = known.get(key)
            if then is None or (then.size, then.sha256) == (now.size, now.sha256):
                continue
            text = f"{now.path} ({now}) is not the file that {run} was trained on: {then.path} ({then})"
            if not changed:
                raise DataError(
                    f"{text}; put that file back, name it with data.{key}=..., or go on knowingly with --changed-data"
                )
            notes.append(text)
        return notes


class RecordedDataset(Dataset):
    """The data of a run as its model knows it, without any sample: enough to build the model again.

    Args:
        record: What the run knows of its data.
    """

    def __init__(self, record: DataRecord) -> None:
        values = record.values
        self.modalities = {m: Shape(width, length) for m, (length, width) in values["modalities"].items()}
        self.task = Task(**{**values["task"], "names": tuple(values["task"]["names"])})
        self.aligned, self.notes = values["aligned"], tuple(values["notes"])
        features = {m: _empty(shape, m in values["timed"]) for m, shape in self.modalities.items()}
        self.splits = {"train": Split(features, None, _Unnamed(values["samples"]))}
        self.preparation = record.preparation


class _Unnamed(Sequence[str]):
    """The names of samples that are not here; only their number is known."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        raise IndexError("the samples of this data are not here; open it with mmrobust.training.open_data")


def _range(stream: Stream) -> list[list[float]]:
    """Smallest and largest finite value of each feature over the real steps; 0 where there is none."""
    low = torch.full((stream.x.shape[2],), torch.inf)
    high = -low
    for x, mask in zip(stream.x.split(_CHUNK), stream.mask.split(_CHUNK), strict=True):
        real = x[mask].float()
        fine = real.isfinite()
        if len(real):
            low = torch.minimum(low, real.masked_fill(~fine, torch.inf).amin(0))
            high = torch.maximum(high, real.masked_fill(~fine, -torch.inf).amax(0))
    known = low <= high
    return [torch.where(known, end, 0.0).tolist() for end in (low, high)]


def _empty(shape: Shape, timed: bool) -> Stream:
    mask = torch.zeros(0, shape.length, dtype=torch.bool)
    times = torch.zeros(0, shape.length, 2) if timed else None
    return Stream(torch.zeros(0, shape.length, shape.width), mask, times)


def _fingerprints(recipe: Recipe) -> dict[str, Fingerprint]:
    return {key: fingerprint(path) for key, path in data_paths(recipe.data.options).items()}
