"""The predictor: a trained run as a function of new samples."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrobust.errors import UsageError
from mmrobust.inference.calibration import ALL, confidence_of, interval_of, read_calibration, sets_of
from mmrobust.inference.ensemble import load_ensemble, mean_prediction
from mmrobust.inference.naming import class_names
from mmrobust.inference.package import save_package
from mmrobust.inference.prediction import Prediction
from mmrobust.inference.samples import Samples, samples_of_arrays, samples_of_file
from mmrobust.training.data_record import DataRecord
from mmrobust.training.folder import RunFolder

__all__ = ["Predictor"]


class Predictor:
    """A trained run as a function: arrays in, predictions out. It may be called from several threads at once.

    Args:
        run: The run's folder, a recipe's name for its latest run, or a package (see `save`). The data that it was
            trained on is not needed.
        seeds: `best` for the model that was best on the validation split, `all` for the mean of all seeds' models, or
            one seed.
        coverage: The probability with which an interval or a set shall hold the truth.
        abstain: When not to predict: `{"coverage": 0.8}` for the share of samples that is still predicted, or
            `{"risk": 0.1}` for the largest mean error of those (absolute, or the share of wrong classes), as on the
            validation split under the recipe's noises. Never where None.
        device: Where to predict: `cpu`, `cuda`; what the recipe says where None.

    Raises:
        UsageError: There is no such run or seed.
        CheckpointError: Nothing is trained yet, or a checkpoint is damaged.
        DataError: The run's data is not read from files, so that there are no new samples for it.

    Example:
        >>> predictor = mmrobust.Predictor("runs/normtr_mosi", seeds="all")
        >>> predictor({"text": text, "audio": audio}).value     # no vision; text is (steps, 768)
    """

    def __init__(
        self,
        run: str | os.PathLike[str] | RunFolder,
        seeds: int | str = "best",
        *,
        coverage: float = 0.9,
        abstain: Mapping[str, float] | None = None,
        device: str | None = None,
    ) -> None:
        self.run = RunFolder.open(run)
        overrides = [] if device is None else [f"train.device={device}"]
        self._ensemble = load_ensemble(self.run, seeds, overrides)
        record = DataRecord.read(self.run)
        self._ranges = {} if record is None else record.ranges
        if not 0 < coverage < 1:
            raise UsageError(f"coverage {coverage}: give a probability between 0 and 1")
        self._coverage = coverage
        there = read_calibration(self.run)
        key = ALL if len(self.seeds) > 1 else "".join(map(str, self.seeds))
        self._calibration = None if there is None else there[1].get(key)
        self._threshold = -math.inf if abstain is None else self._limit(abstain)

    @property
    def modalities(self) -> dict[str, int]:
        """The values of one step of each modality that it takes."""
        return dict(self._ensemble.preparation.width)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Whose models predict."""
        return self._ensemble.seeds

    def __call__(self, sample: Any) -> Any:
        """Predicts one sample, or several.

        Args:
            sample: One sample: `{modality: (steps, width)}`, NumPy or torch, float16 to float64; a missing key or None
                is a missing modality. Several: a list of such samples, or `{modality: [(steps, width), ...]}`, or
                `{modality: (samples, steps, width)}`; their lengths may differ.

        Returns:
            A `Prediction` for one sample, a list of them for several.

        Raises:
            DataError: An array does not fit the model.
            UsageError: There is no sample, or what was given is none.
        """
        if isinstance(sample, Mapping) and self._is_one(sample):
            return self.batch([sample])[0]
        return self.batch(sample)

    def batch(self, samples: Any) -> list[Prediction]:
        """Predicts several samples; see `__call__` for what may be given.

        Raises:
            DataError: An array does not fit the model.
            UsageError: There is no sample, or what was given is none.
        """
        rows = self._rows(samples)
        return self._predictions(samples_of_arrays(rows, self._ensemble.preparation, self._ranges))

    def file(self, path: str | os.PathLike[str]) -> list[Prediction]:
        """Predicts the samples of a file in the layout of the run's data; labels in it are not looked at.

        Raises:
            DataError: It cannot be read, or does not fit the model.
        """
        one = self._ensemble
        splits = samples_of_file(one.recipe.data, Path(path), one.preparation, self._ranges)
        return [prediction for samples in splits for prediction in self._predictions(samples)]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes a package, a folder that holds what this predictor needs and no more; `Predictor(folder)` loads it.

        Args:
            folder: Where; nothing may be there.

        Raises:
            UsageError: Something is there already.
            WriteError: It cannot be written.
        """
        return save_package(self.run, self.seeds, folder)

    def __repr__(self) -> str:
        task = self._ensemble.task
        what = {"regression": "a number", "classification": "a class", "multilabel": "decisions"}[task.kind]
        takes = ", ".join(f"{m} (steps, {width})" for m, width in self.modalities.items())
        return f"Predictor of {what} from {takes}, by {self._ensemble.chosen} in {self.run.path}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def _limit(self, abstain: Mapping[str, float]) -> float:
        """The confidence below which to abstain."""
        if set(abstain) not in ({"risk"}, {"coverage"}):
            raise UsageError(f"abstain {dict(abstain)}: give {{'risk': 0.1}} or {{'coverage': 0.8}}")
        if self._calibration is None:
            raise UsageError(f"{self.run.path} is not calibrated, so it cannot abstain; run mmrobust evaluate first")
        return self._calibration.threshold(**abstain)

    def _is_one(self, sample: Mapping[str, Any]) -> bool:
        """Whether arrays by modality are one sample and not several."""
        there = {m: value for m, value in sample.items() if value is not None}
        if any(isinstance(value, (list, tuple)) and value and _rank(value[0]) > 0 for value in there.values()):
            return all(_rank(x) < 2 for value in there.values() if isinstance(value, (list, tuple)) for x in value)
        longest = self._ensemble.preparation.length
        steps = [_rank(value) for m, value in there.items() if longest.get(m, 2) > 1]
        return all(rank <= 2 for rank in steps) if steps else all(_rank(value) < 2 for value in there.values())

    def _rows(self, samples: Any) -> list[Mapping[str, Any]]:
        """Samples as a list of one mapping each."""
        if isinstance(samples, Mapping):
            if self._is_one(samples):
                return [samples]
            there = {m: value for m, value in samples.items() if value is not None}
            counts = {m: len(value) for m, value in there.items()}
            if len(set(counts.values())) > 1:
                shown = ", ".join(f"{m} has {count}" for m, count in counts.items())
                raise UsageError(f"every modality needs the same number of samples; {shown}")
            count = next(iter(counts.values()), 0)
            return [{m: value[i] for m, value in there.items()} for i in range(count)]
        if isinstance(samples, Sequence) and all(isinstance(sample, Mapping) for sample in samples):
            return list(samples)
        raise UsageError(
            f"a sample is a mapping of modalities to arrays, as in {{'{next(iter(self.modalities))}': x}}, or several "
            f"in a list; not {type(samples).__name__}"
        )

    def _predictions(self, samples: Samples) -> list[Prediction]:
        one = self._ensemble
        calibration = self._calibration
        outputs = one.outputs(samples.split)
        predicted = mean_prediction(one.task, outputs, 1.0 if calibration is None else calibration.temperature)
        sure = None if calibration is None else calibration.bounds(samples.lost, self._coverage)
        return [
            Prediction(
                id=str(samples.split.ids[i]),
                lost={m: round(share[i].item(), 6) for m, share in samples.lost.items()},
                notes=samples.notes,
                **self._said(row),
                **({} if sure is None else self._sure(row, sure[i].item())),
            )
            for i, row in enumerate(predicted)
        ]

    def _sure(self, row: Tensor, bound: float) -> dict[str, Any]:
        """Interval or set of one sample, and whether it is too uncertain."""
        task, bounds = self._ensemble.task, torch.tensor([bound], dtype=torch.float64)
        sure = {
            "coverage": self._coverage,
            "abstain": confidence_of(task, row.unsqueeze(0), bounds).item() < self._threshold,
        }
        if task.kind == "regression":
            return {**sure, "interval": interval_of(task, row[0].item(), bound)}
        kept = sets_of(row.unsqueeze(0), bounds)[0].tolist()
        return {**sure, "set": tuple(name for name, keep in zip(class_names(task), kept, strict=True) if keep)}

    def _said(self, row: Tensor) -> dict[str, Any]:
        """Value, label and probabilities of one sample."""
        task, numbers = self._ensemble.task, row.tolist()
        if task.kind == "regression":
            if len(numbers) == 1:
                return {"value": numbers[0]}
            return {"value": dict(zip(class_names(task), numbers, strict=True))}
        names = class_names(task)
        probabilities = dict(zip(names, numbers, strict=True))
        if task.kind == "classification":
            return {"label": names[int(row.argmax())], "probabilities": probabilities}
        return {"label": tuple(name for name, p in probabilities.items() if p > 0.5), "probabilities": probabilities}


def _rank(value: Any) -> int:
    """The number of dimensions of an array, a tensor or a nested list."""
    if isinstance(value, torch.Tensor):
        return value.ndim
    if hasattr(value, "ndim"):
        return int(value.ndim)
    return 1 + _rank(value[0]) if isinstance(value, (list, tuple)) and len(value) else 0
