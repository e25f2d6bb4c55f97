"""What a trained run says of new features, for which nobody knows the labels."""

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
from mmrobust.contracts import Task
from mmrobust.data import open_features
from mmrobust.errors import CheckpointError, UsageError
from mmrobust.measures import describe
from mmrobust.robustness.sweep import CLEAN, Grid, restrict, sweep
from mmrobust.training import Checkpoints, RunFolder, choose_device, finished_seeds, load_trained

__all__ = ["Predictions", "predict"]


@dataclass(frozen=True)
class Predictions:
    """Predictions of new samples, as they stand in a CSV file.

    Attributes:
        path: The file.
        seed: Whose model made them.
        header: Names of the columns: `id`, then `split` where the new file has several, then what is predicted: a
            number; a class and the probability of each; or each decision and the probability of its yes.
        rows: One for each sample.
        notes: What was done to the new features, and why.
    """

    path: Path
    seed: int
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        return {"file": str(self.path), "seed": self.seed, "notes": list(self.notes), "predictions": rows}

    def __str__(self) -> str:
        lines = [f"note: {note}" for note in self.notes]
        return "\n".join(
            [*lines, f"predictions: {self.path} ({len(self.rows)} samples, by the model of seed {self.seed})"]
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def predict(
    run: str | Path | RunFolder,
    file: str | Path,
    *,
    seed: int | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Predictions:
    """Predicts the samples of a file with a run's best checkpoint, and writes them as CSV.

    The features are prepared exactly as those of the training were; labels in the file are not looked at.

    Args:
        run: The run's folder, or a recipe's name for its latest run.
        file: New features, in the layout of the run's data.
        seed: Whose model; None for the one that was best on the validation split.
        out: The CSV file; None for one in the run's `predictions/`, with the new file's name.
        overrides: Changes of the recipe: `data.path=...` where the training data was moved, `train.device=...`.

    Raises:
        UsageError: There is no such run or seed.
        CheckpointError: Nothing is trained yet, or the checkpoint is damaged.
        DataError: The file cannot be read, or its features do not fit the model.
        WriteError: The CSV file cannot be written.
    """
    folder = RunFolder.open(run)
    for change in overrides:
        if not change.lstrip("~").startswith(("data.", "train.device", "evaluate.batch_size")):
            raise UsageError(f"'{change}' changes what was trained; to predict, change data.* or train.device")
    seed = _best_seed(folder) if seed is None else seed
    built = load_trained(folder, seed, overrides=overrides)
    new = open_features(built.recipe.data, Path(file), preparation=getattr(built.dataset, "preparation", None))
    device = choose_device(built.recipe)
    model, size = built.model.to(device), built.recipe.evaluate.batch_size

    header, rows = _columns(built.context.task), []
    for name, split in new.splits.items():
        known = restrict(split, built.context.modalities)
        found = sweep(model, known, Grid({}, (0,)), batch_size=size, device=device)[CLEAN]
        where = (name,) if len(new.splits) > 1 else ()
        values = _values(built.context.task, found)
        rows += [(str(id_), *where, *row) for id_, row in zip(split.ids, values, strict=True)]
    header = ("id", *(("split",) if len(new.splits) > 1 else ()), *header)

    path = folder.predictions / f"{Path(file).stem}.csv" if out is None else Path(out)
    if out is None:
        with files.explained(folder.predictions):
            folder.predictions.mkdir(exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[f"{x:.7g}" if isinstance(x, float) else x for x in row] for row in rows])
    files.write_atomic(path, text.getvalue())
    return Predictions(path, seed, header, rows, tuple(new.notes))


def _best_seed(folder: RunFolder) -> int:
    """The seed whose best checkpoint was the best of all on the validation split; the first where that is unknown."""
    seeds = finished_seeds(folder)
    if not seeds:
        raise CheckpointError(
            f"no seed of {folder.path} is trained yet; go on with: mmrobust train --resume {folder.path}"
        )
    chosen, value = seeds[0], float("nan")
    for seed in seeds:
        best = Checkpoints(folder.seed(seed)).best().state.best
        if best.get("value") is not None and describe(best["measure"]).improves(best["value"], value):
            chosen, value = seed, best["value"]
    return chosen


def _names(task: Task) -> tuple[str, ...]:
    count = task.outputs if task.kind == "classification" else task.outputs // 2
    return task.names or tuple(str(k) for k in range(count))


def _columns(task: Task) -> tuple[str, ...]:
    if task.kind == "regression":
        return ("prediction",)
    if task.kind == "classification":
        return ("prediction", *(f"p_{name}" for name in _names(task)))
    return tuple(column for name in _names(task) for column in (name, f"p_{name}"))


def _values(task: Task, found: Tensor) -> list[tuple[Any, ...]]:
    """The cells of each sample, from `n c`."""
    if task.kind == "regression":
        return [(x,) for x in found[:, 0].tolist()]
    names = _names(task)
    if task.kind == "classification":
        p = torch.softmax(found.double(), -1)
        return [(names[k], *row) for k, row in zip(found.argmax(-1).tolist(), p.tolist(), strict=True)]
    yes = torch.softmax(found.double().unflatten(-1, (-1, 2)), -1)
    said = yes.argmax(-1)
    return [
        tuple(cell for k in range(len(names)) for cell in (said[i, k].item(), yes[i, k, 1].item()))
        for i in range(len(found))
    ]
