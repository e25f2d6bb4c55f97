"""What a trained run says of new features, for which nobody knows the labels, as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrobust import files
from mmrobust import recipe as recipes
from mmrobust.contracts import Task
from mmrobust.data import open_features
from mmrobust.errors import UsageError
from mmrobust.inference.ensemble import load_ensemble, mean_prediction
from mmrobust.inference.naming import class_names
from mmrobust.training.data_record import DataRecord
from mmrobust.training.folder import RunFolder

__all__ = ["Predictions", "predict"]


@dataclass(frozen=True)
class Predictions:
    """Predictions of new samples, as they stand in a CSV file.

    Attributes:
        path: The file.
        seeds: Whose models predicted them.
        header: Names of the columns: `id`, then `split` where the new file has several, then what is predicted: a
            number; a class and the probability of each; or each decision and the probability of its yes.
        rows: One for each sample.
        notes: What was done to the new features, and why.
        chosen: Why these seeds, in words.
    """

    path: Path
    seeds: tuple[int, ...]
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: tuple[str, ...] = ()
    chosen: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        return {"file": str(self.path), "seeds": list(self.seeds), "notes": list(self.notes), "predictions": rows}

    def __str__(self) -> str:
        count = f"{len(self.rows)} sample{'s'[: len(self.rows) != 1]}"
        return "\n".join(
            [*(f"note: {note}" for note in self.notes), f"predictions: {self.path} ({count}, by {self.chosen})"]
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def predict(
    run: str | Path | RunFolder,
    file: str | Path,
    *,
    seeds: int | str = "best",
    out: str | Path | None = None,
    force: bool = False,
    enrolment: str | Path | None = None,
    overrides: recipes.Overrides = (),
) -> Predictions:
    """Predicts the samples of a file with a run's best checkpoints, and writes them as CSV.

    The features are prepared as those of the training were, by what the run has recorded; neither the training data
    nor labels in the file are looked at. What is missing is masked with a note.

    Args:
        run: The run's folder, or a recipe's name for its latest run.
        file: New features, in the layout of the run's data.
        seeds: `best` for the model that was best on the validation split, `all` for the mean of all seeds' models, or
            one seed.
        out: The CSV file; None for one in the run's `predictions/`, with the new file's name, which is replaced.
        force: Replace `out` if it exists.
        enrolment: More clips of the same speakers, without labels, for a model that standardises by group.
        overrides: Changes of the recipe: `train.device=...`, `evaluate.batch_size=...`.

    Raises:
        UsageError: There is no such run or seed, or `out` exists.
        CheckpointError: Nothing is trained yet, or a checkpoint is damaged.
        DamagedError: Another file of the run is damaged.
        ReadError: A file of the run cannot be read.
        DataError: The file cannot be read, or its features do not fit the model.
        WriteError: The CSV file cannot be written.
    """
    folder = RunFolder.open(run)
    allowed = ("data", "train.device", "evaluate.batch_size")
    overrides = recipes.restricted(overrides, allowed, "to predict, change data.* or train.device")
    if out is not None and not force and Path(out).is_file():
        raise UsageError(f"{out} exists; name another file, or replace it with --force")
    ensemble = load_ensemble(folder, seeds, overrides)
    new = open_features(ensemble.recipe.data, Path(file), preparation=ensemble.preparation, enrolment=enrolment)
    record = DataRecord.read(folder)
    changed = [] if record is None else record.check(ensemble.recipe, str(folder.path), changed=True)

    header, rows = _columns(ensemble.task), []
    for name, split in new.splits.items():
        predicted = mean_prediction(ensemble.task, ensemble.outputs(split))
        where = (name,) if len(new.splits) > 1 else ()
        cells = _cells(ensemble.task, predicted)
        rows += [(str(id_), *where, *row) for id_, row in zip(split.ids, cells, strict=True)]
    header = ("id", *(("split",) if len(new.splits) > 1 else ()), *header)

    path = folder.predictions / f"{Path(file).stem}.csv" if out is None else Path(out)
    if out is None:
        with files.explained(folder.predictions):
            folder.predictions.mkdir(exist_ok=True)
    files.write_atomic(path, _csv(header, rows))
    notes = (*new.notes, *(f"{note}; predictions need what the run has recorded, not that file" for note in changed))
    return Predictions(path, ensemble.seeds, header, rows, notes, ensemble.chosen)


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV, in which no text is a formula for a spreadsheet."""

    def cell(value: Any) -> Any:
        if isinstance(value, str):
            return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
        return f"{value:.7g}" if isinstance(value, float) else value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[cell(value) for value in row] for row in (header, *rows)])
    return text.getvalue()


def _columns(task: Task) -> tuple[str, ...]:
    if task.kind == "regression":
        return ("prediction",) if task.outputs == 1 else class_names(task)
    if task.kind == "classification":
        return ("prediction", *(f"p_{name}" for name in class_names(task)))
    return tuple(column for name in class_names(task) for column in (name, f"p_{name}"))


def _cells(task: Task, predicted: Tensor) -> list[tuple[Any, ...]]:
    """The cells of each sample, from what `mean_prediction` gives."""
    if task.kind == "regression":
        return [tuple(row) for row in predicted.tolist()]
    if task.kind == "classification":
        names = class_names(task)
        return [(names[k], *row) for k, row in zip(predicted.argmax(-1).tolist(), predicted.tolist(), strict=True)]
    yes = torch.stack([(predicted > 0.5).double(), predicted], -1)
    return [tuple(cell for said, p in row for cell in (int(said), p)) for row in yes.tolist()]
