"""The sections of a run's report on its model and its data: parts and sizes, and how the labels are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrobust.reports.common import Figures
from mmrobust.reports.drawing import SERIES, Drawing, one_panel, plain, style
from mmrobust.reports.table import Cell, Column, Table

__all__ = ["count_text", "labels_section", "model_table"]

_MOST = 40  # classes in a figure


def count_text(number: int) -> str:
    """A large number as people say it: 1.2 M, 34 k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def model_table(evaluation: Mapping[str, Any], source: str) -> Table | None:
    """The parts of the model with what they give, their parameters and MACs; None where it is unknown."""
    model = evaluation.get("model")
    if not model:
        return None
    rows = [
        [Cell(part["slot"], value=part["slot"]), Cell(part["use"], value=part["use"]),
         Cell(part["gives"] or "", value=part["gives"]), *_sizes(part)]
        for part in model["parts"]
    ]  # fmt: skip
    total = [Cell("all", value="all"), Cell(""), Cell(""), *_sizes(model)]
    columns = [
        Column("Part"),
        Column("component", words=True),
        Column("gives (steps × width)", words=True),
        Column("parameters"),
        Column("MACs", doc="multiplications and additions of one sample's forward pass"),
    ]
    return Table("model", "Parts of the model", columns, rows, [total], source=source)


def _sizes(part: Mapping[str, Any]) -> list[Cell]:
    return [Cell(f"{part[key]:,}", value=part[key]) for key in ("parameters", "macs")]


def labels_section(evaluation: Mapping[str, Any], figures: Figures, source: str) -> dict[str, Any] | None:
    """How the labels of each split are spread, as a table for classes and as a figure; None where it is unknown."""
    labels = evaluation.get("labels")
    if not labels:
        return None
    first = next(iter(labels.values()))
    if "edges" in first:
        figures["labels"] = _histogram(labels)
        return {"table": None, "figure": "labels"}
    names = list(first["classes"])
    if len(names) <= _MOST:
        figures["labels"] = _bars(labels, names)
    rows = [
        [Cell(name, value=name), *(_count(split["classes"][name], split["n"]) for split in labels.values())]
        for name in names
    ]
    columns = [Column("Class"), *(Column(name) for name in labels)]
    table = Table("labels", "How often each class is true", columns, rows, source=source)
    return {"table": table, "figure": "labels" if len(names) <= _MOST else None}


def _count(count: int, of: int) -> Cell:
    return Cell(f"{count:,} ({100 * count / of:.0f} %)", value=count, more={"share": count / of}) if of else Cell()


def _histogram(labels: Mapping[str, Any]) -> Drawing:
    """Share of the labels in bins of equal width, for each split."""
    with style("labels") as salt:
        figure, axes = one_panel(5.8, 2.5)
        for i, (name, split) in enumerate(labels.items()):
            shares = [100 * count / split["n"] for count in split["counts"]]
            axes.stairs(shares, split["edges"], color=SERIES[i % len(SERIES)], linewidth=1.5, label=plain(name))
        axes.set_title("labels, % of the split")
        axes.set_xlabel("label")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right", handlelength=1.2)
        return Drawing(figure, salt)


def _bars(labels: Mapping[str, Any], names: list[str]) -> Drawing:
    """Share of each class, for each split."""
    with style("labels") as salt:
        figure, axes = one_panel(max(3.45, 1.2 + 0.5 * len(names)), 2.7, 0.35)
        wide = 0.8 / len(labels)
        for i, (name, split) in enumerate(labels.items()):
            shares = [100 * split["classes"][one] / max(1, split["n"]) for one in names]
            axes.bar([x + i * wide for x in range(len(names))], shares, wide * 0.92, color=SERIES[i % len(SERIES)],
                     label=plain(name))  # fmt: skip
        middle = 0.4 - wide / 2
        axes.set_xticks([x + middle for x in range(len(names))], [plain(n) for n in names], rotation=30, ha="right",
                        rotation_mode="anchor")  # fmt: skip
        axes.set_title("classes, % of the split")
        axes.grid(False, axis="x")
        axes.legend(loc="upper right", ncols=len(labels), bbox_to_anchor=(1, 1.14), handlelength=0.9)
        return Drawing(figure, salt)
