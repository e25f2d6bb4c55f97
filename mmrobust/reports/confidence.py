"""What a run's report says of the models' confidence under noise: coverage, width, and errors of calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrobust.measures.catalogue import Measure
from mmrobust.reports.common import Figures, mean_of, rate_text, score_text
from mmrobust.reports.figures import Curve, against_rate
from mmrobust.reports.table import Cell, Column, Table, slug

__all__ = ["confidence_section"]

_MEASURES = (
    Measure("coverage", "coverage", "higher", True, "share of the intervals or sets that hold the truth"),
    Measure("width", "width", "lower", False, "mean width of the intervals, in units of the label"),
    Measure("size", "size", "lower", False, "mean number of classes in the sets"),
    Measure("ece", "ECE", "lower", True, "expected calibration error after temperature scaling, 15 equally full bins"),
    Measure("ece_debiased", "ECE, debiased", "lower", True, "the same without what luck adds in small bins"),
    Measure("ece_uncalibrated", "ECE, raw", "lower", True, "expected calibration error without temperature scaling"),
    Measure("nll", "NLL", "lower", False, "mean negative logarithm of the true class's probability, in nats"),
    Measure("brier", "Brier", "lower", False, "mean squared distance of the probabilities from the truth, 0 to 2"),
    Measure("aurc", "AURC", "lower", False, "mean error over all shares of samples that are kept, the surest first"),
)
_DRAWN = ("coverage", "width", "size", "ece", "aurc")


def confidence_section(evaluation: Mapping[str, Any], figures: Figures, source: str) -> dict[str, Any] | None:
    """Confidence against the rate of noise, and a table for each noise; None where nothing was measured.

    Args:
        evaluation: Of the run.
        figures: Gets the figures.
        source: The run, as tables name it.
    """
    confidence = evaluation.get("confidence")
    if not confidence or not confidence["clean"]:
        return None
    rates, noises = evaluation["rates"], confidence["noises"]
    measures = [measure for measure in _MEASURES if measure.name in confidence["clean"]]
    drawn = []
    for measure in measures:
        if measure.name in _DRAWN and noises and len(rates) > 1:
            ideal = (confidence.get("ideal") or {"noises": {}})["noises"]
            curves = [
                _curve(noise, scores[measure.name], ideal.get(noise, {}).get(measure.name))
                for noise, scores in noises.items()
            ]
            target = confidence["coverage"] if measure.name == "coverage" else None
            figures[f"confidence-{measure.name}"] = against_rate(measure, rates, curves, constant=target)
            drawn.append((f"confidence-{measure.name}", measure.label))
    tables = [_table(noise, scores, rates, measures, source) for noise, scores in noises.items()]
    target = confidence["coverage"]
    return {
        "target": None if target is None else f"{target * 100:.0f}",
        "figures": drawn,
        "tables": tables,
        "ideal": bool(confidence.get("ideal")),
    }


def _curve(noise: str, score: Mapping[str, Any], ideal: list[float] | None) -> Curve:
    return Curve(noise, score["mean"], [[mean_of(draws) for draws in seed] for seed in score["each"]], ideal)


def _table(noise: str, scores: Mapping[str, Any], rates: list[float], measures: list[Measure], source: str) -> Table:
    """A row for each rate, a column for each measure."""
    rows = []
    for i, rate in enumerate(rates):
        row = [Cell(rate_text(rate), value=rate)]
        for measure in measures:
            score = {"mean": scores[measure.name]["mean"][i], "std": scores[measure.name]["std"][i]}
            text = score_text(score, measure)
            row.append(Cell(text["mean"], text["std"], score["mean"], {"std": score["std"]}))
        rows.append(row)
    columns = [Column("Rate"), *(Column.of(measure) for measure in measures)]
    return Table(
        f"confidence-{slug(noise)}", f"Confidence under {noise} at each rate", columns, rows, source=source, wide=True
    )
