"""The section of a run's report on its training: curves over the epochs, and a row for each seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrobust.measures import Measure
from mmrobust.reports.common import Figures, describe_any, value_text
from mmrobust.reports.figures import over_epochs
from mmrobust.reports.table import DASH, Cell, Column, Table, slug
from mmrobust.training import Checkpoints, RunFolder

__all__ = ["duration_text", "training_section"]

Lines = Sequence[Mapping[str, Any]]


def training_section(
    lines: Lines, evaluation: Mapping[str, Any] | None, figures: Figures, source: str
) -> dict[str, Any]:
    """Curves of the losses, the validation measure and the objectives' own figures, and a row for each seed.

    Args:
        lines: Of `metrics.jsonl`, one for each seed and epoch.
        evaluation: Of the run, where there is one.
        figures: Gets the figures.
        source: The run, as tables name it.
    """
    chosen = {row["seed"]: row["epoch"] for row in evaluation["checkpoints"]} if evaluation else {}
    seeds = sorted({line["seed"] for line in lines})

    def draw(name: str, title: str, read: Callable[[Mapping[str, Any]], float | None]) -> bool:
        series = {}
        for seed in seeds:
            points = [(line["epoch"], read(line)) for line in lines if line["seed"] == seed]
            if any(value is not None for _, value in points):
                series[seed] = ([epoch for epoch, _ in points], [value for _, value in points])
        if series:
            figures[name] = over_epochs(title, series, chosen)
        return bool(series)

    main = []
    if draw("training-loss", "training loss", lambda line: (line.get("loss") or {}).get("total")):
        main.append(("training-loss", "Sum of all losses over the epochs"))
    measured = _validated(lines, evaluation)
    if measured is not None:
        measure = describe_any(measured)
        read = lambda line: _percent((line.get("valid") or {}).get(measured), measure)
        name = f"training-{slug(measured)}"
        if draw(name, f"validation {measure.label}{', %' if measure.percent else ''}", read):
            main.append((name, f"Validation {measure.label} over the epochs; it chooses the checkpoint"))
    parts = list(dict.fromkeys(name for line in lines for name in line.get("loss") or {} if name != "total"))
    losses = []
    for part in parts if len(parts) > 1 else []:
        if draw(f"loss-{slug(part)}", part, lambda line, part=part: (line.get("loss") or {}).get(part)):
            losses.append((f"loss-{slug(part)}", f"Loss {part}"))
    own = []
    for key in dict.fromkeys(key for line in lines for key in line.get("figures") or {}):
        if draw(f"figure-{slug(key)}", key, lambda line, key=key: (line.get("figures") or {}).get(key)):
            own.append((f"figure-{slug(key)}", key))
    table = _of_each_seed(lines, seeds, evaluation, source)
    return {"figures": main, "losses": losses, "objectives": own, "rows": seeds, "table": table}


def _validated(lines: Lines, evaluation: Mapping[str, Any] | None) -> str | None:
    """The validation measure that chose the checkpoints; the first one where that is unknown."""
    measured = list(dict.fromkeys(name for line in lines for name in line.get("valid") or {}))
    wanted = next((row.get("measure") for row in evaluation["checkpoints"]), None) if evaluation else None
    return wanted if wanted in measured else next(iter(measured), None)


def _of_each_seed(lines: Lines, seeds: Sequence[int], evaluation: Mapping[str, Any] | None, source: str) -> Table:
    """How each seed was trained, and where its checkpoint and predictions are."""
    best = {row["seed"]: row for row in evaluation["checkpoints"]} if evaluation else {}
    name = next((row["measure"] for row in best.values() if row.get("measure")), None)
    measure = describe_any(name) if name else None
    rows = []
    for seed in seeds:
        own = [line for line in lines if line["seed"] == seed]
        epochs = max(line["epoch"] for line in own)
        seconds = sum(line["seconds"] for line in own if line.get("seconds") is not None)
        row = [Cell(str(seed), value=seed), Cell(str(epochs), value=epochs)]
        if evaluation:
            chosen = best.get(seed, {})
            epoch = chosen.get("epoch")
            row += [
                Cell(str(epoch or DASH), value=epoch, link=_checkpoint(seed, epoch) if epoch else ""),
                Cell(value_text(chosen.get("value"), measure), value=chosen.get("value")),
            ]
        row.append(Cell(duration_text(seconds), value=round(seconds, 1)))
        if evaluation:
            file = RunFolder(Path()).predictions_of(evaluation, seed).as_posix()
            row.append(Cell(file, value=file, link=file) if seed in best else Cell())
        rows.append(row)
    columns = [Column("Seed"), Column("epochs")]
    if evaluation:
        columns += [Column("chosen epoch"), Column.of(measure, "validation") if measure else Column("validation")]
    columns.append(Column("time"))
    if evaluation:
        columns.append(Column("predictions", words=True, aside=True))
    return Table("training", "Training of each seed", columns, rows, source=source)


def _checkpoint(seed: int, epoch: int) -> str:
    """Where a checkpoint is, from the page."""
    folder = RunFolder(Path())
    return f"{Checkpoints(folder.seed(seed)).path(epoch).as_posix()}/"


def duration_text(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _percent(value: float | None, measure: Measure) -> float | None:
    """A score in the unit that figures have: percentages times 100."""
    return value * 100 if value is not None and measure.percent else value
