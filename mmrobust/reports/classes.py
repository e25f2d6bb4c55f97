"""What a run's report says of single classes: the table of confusion, scores of each class, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mmrobust.errors import MmrobustError
from mmrobust.measures import Reliability, confusion, f1_of_classes, reliability
from mmrobust.reports.common import Figures
from mmrobust.reports.drawing import INK, QUIET, SERIES, Drawing, one_panel, plain, style
from mmrobust.reports.table import Cell, Column, Table
from mmrobust.robustness.resampling import Predicted, predicted
from mmrobust.training import RunFolder

__all__ = ["classes_section"]

_MOST = 24  # classes in a figure


def classes_section(
    folder: RunFolder, evaluation: Mapping[str, Any], figures: Figures, source: str
) -> dict[str, Any] | None:
    """Confusion, scores of each class, and calibration on clean data; None for another kind of task.

    Args:
        folder: The run, whose `predictions/` are read.
        evaluation: Of the run.
        figures: Gets the figures.
        source: The run, as tables name it.
    """
    if evaluation["task"]["kind"] != "classification":
        return None
    try:
        run = predicted(folder)
    except MmrobustError as error:
        return {"missing": str(error), "confusion": None, "table": None, "calibration": None}
    names = run.task.names or tuple(map(str, range(run.task.outputs)))
    each = [(saved.predictions["clean"], saved.label.long()) for saved in run.saved.values()]
    tables = torch.stack([confusion(label, logits.argmax(-1), run.task.outputs) for logits, label in each])
    if len(names) <= _MOST:
        figures["confusion"] = confusion_figure(tables.mean(0), names)
    figures["calibration"] = calibration_figure(_pooled_reliability(each))
    return {
        "missing": "",
        "confusion": "confusion" if len(names) <= _MOST else None,
        "table": _of_each_class(run, tables, names, source),
        "calibration": f"{_pooled_reliability(each).error * 100:.1f}",
    }


def _pooled_reliability(each: Sequence[tuple[Tensor, Tensor]]) -> Reliability:
    """Calibration over the predictions of all seeds."""
    return reliability(torch.cat([logits for logits, _ in each]), torch.cat([label for _, label in each]))


def _of_each_class(run: Predicted, tables: Tensor, names: Sequence[str], source: str) -> Table:
    """A row for each class: recall, precision and F1, mean and standard deviation over the seeds."""
    f1, true, guessed = f1_of_classes(tables)  # seeds classes
    right = tables.diagonal(dim1=-2, dim2=-1)
    recall, precision = right / true.clamp(min=1e-300), right / guessed.clamp(min=1e-300)
    rows = [
        [Cell(name, value=name), *(_share(score[:, i], run.saved) for score in (recall, precision, f1)),
         Cell(f"{int(true[0, i])}", value=int(true[0, i]), quiet=True)]
        for i, name in enumerate(names)
    ]  # fmt: skip
    columns = [
        Column("Class"),
        Column("recall", "%", "higher", "share of the class that is recognised; their mean is UA"),
        Column("precision", "%", "higher", "share of the predictions of the class that is right"),
        Column("F1", "%", "higher", "harmonic mean of recall and precision"),
        Column("n"),
    ]
    return Table("classes", "Scores of each class on clean data", columns, rows, source=source)


def _share(values: Tensor, seeds: Mapping[int, Any]) -> Cell:
    """Mean and standard deviation over the seeds, in percent."""
    mean, std = values.mean().item(), values.std().item() if len(values) > 1 else None
    each = {f"seed {seed}": value for seed, value in zip(seeds, values.tolist(), strict=True)}
    return Cell(f"{mean * 100:.1f}", "" if std is None else f"{std * 100:.1f}", mean, {"std": std, **each})


def confusion_figure(table: Tensor, names: Sequence[str]) -> Drawing:
    """How often each class (row) is predicted as each class (column), in percent of the row.

    Args:
        table: Mean counts over the seeds, `c c`, the truth first.
        names: Of the classes.
    """
    with style("confusion") as salt:
        shares = table / table.sum(-1, keepdim=True).clamp(min=1e-300)
        side, label = max(0.36, min(0.62, 3.2 / len(names))) * len(names), 0.35 + 0.064 * max(map(len, names))
        width, height = label + side + 0.2, side + label + 0.4
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((label / width, label / height, side / width, side / height))
        for y, row in enumerate(shares.tolist()):
            for x, share in enumerate(row):
                axes.fill_between([x, x + 1], y, y + 1, color=SERIES[0], alpha=max(0.02, 0.75 * share), linewidth=0)
                axes.text(x + 0.5, y + 0.5, f"{share * 100:.0f}", ha="center", va="center", color=INK,
                          fontsize=8 if len(names) < 12 else 6, fontweight="bold" if x == y else "normal")  # fmt: skip
        axes.set(xlim=(0, len(names)), ylim=(len(names), 0))
        middles = [i + 0.5 for i in range(len(names))]
        axes.set_xticks(middles, [plain(name) for name in names], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, [plain(name) for name in names])
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title("predicted as, % of each true class (rows)", fontsize=8.5, fontweight="normal", color=QUIET)
        return Drawing(figure, salt)


def calibration_figure(bins: Reliability) -> Drawing:
    """Accuracy against confidence; on the diagonal a classifier is as sure as it should be."""
    with style("calibration") as salt:
        figure, axes = one_panel(3.45, 3.1)
        axes.plot([0, 100], [0, 100], color=QUIET, linestyle=(0, (4, 2.5)), linewidth=1)
        full = bins.count > 0
        share = bins.count / bins.count.sum()
        axes.bar([5 + 100 * i / len(share) for i in range(len(share))], (100 * share).tolist(), width=8,
                 color=SERIES[0], alpha=0.18, linewidth=0)  # fmt: skip
        axes.plot((100 * bins.confidence[full]).tolist(), (100 * bins.accuracy[full]).tolist(), color=SERIES[0],
                  marker="o", markersize=4)  # fmt: skip
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %")
        axes.set_title("accuracy, %; bars: share of predictions")
        return Drawing(figure, salt)
