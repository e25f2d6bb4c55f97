"""The sections of a run's report on its scores: at a glance, under noise, clean, and at every rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrobust.measures import Measure
from mmrobust.reports.common import Figures, describe_any, mean_of, rate_text, score_text, value_text
from mmrobust.reports.figures import Curve, against_rate
from mmrobust.reports.forest import Panel, Point, forest
from mmrobust.reports.table import Cell, Column, Table, slug
from mmrobust.robustness.grids import said
from mmrobust.robustness.significance import interval

__all__ = ["scores_section"]


def scores_section(evaluation: Mapping[str, Any], figures: Figures, source: str) -> dict[str, Any]:
    """What the page shows of an evaluation.

    Args:
        evaluation: What stands in `evaluation.json`.
        figures: Gets the figures.
        source: The run, as tables name it.
    """
    names, rates, noises = evaluation["measures"], evaluation["rates"], evaluation["noises"]
    measures = {name: describe_any(name) for name in names}
    primary = evaluation["primary"] if evaluation["primary"] in names else names[0]
    swept = bool(noises) and len(rates) > 1
    if swept:
        for name, measure in measures.items():
            curves = [_curve(noise, sweep, name) for noise, sweep in noises.items()]
            figures[f"rates-{slug(name)}"] = against_rate(
                measure, rates, curves, large=name == primary, constant=_constant(evaluation, name)
            )
    figures["glance"] = _glance(evaluation, primary, measures[primary])
    return {
        "split": evaluation["split"],
        "samples": f"{evaluation['samples']:,}",
        "seeds": len(evaluation["seeds"]),
        "draws": evaluation["draws"],
        "limited": bool(evaluation["limit"]) or any(sweep["limit"] for sweep in noises.values()),
        "constant": _constant_words(evaluation),
        "primary": measures[primary].label,
        "tiles": _tiles(evaluation, primary),
        "clean": _clean(evaluation, measures, source),
        "hero": (f"rates-{slug(primary)}", measures[primary].label) if swept else None,
        "others": [(f"rates-{slug(n)}", measures[n].label) for n in names if n != primary and swept],
        "range": (rate_text(rates[0]), rate_text(rates[-1])),
        "unit_range": rates[0] == 0 and rates[-1] == 1,
        "auilc": _areas(evaluation, measures, source) if swept else None,
        "noises": [_noise(evaluation, measures, noise, sweep, source) for noise, sweep in noises.items()],
        "definitions": [(measure.label, measure.name, measure.doc) for measure in measures.values()],
    }


def _noise(
    evaluation: Mapping[str, Any], measures: Mapping[str, Measure], noise: str, sweep: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """The scores at every rate of one noise."""
    limits = sweep["limit"]
    return {
        "name": noise,
        "options": said(sweep["options"]),
        "table": _at_rates(f"rates-{slug(noise)}", f"Scores under {noise} at each rate", evaluation, measures,
                           sweep["at"], source),
        "limits": _at_rates(f"limit-{slug(noise)}", f"The limit under {noise} at each rate", evaluation, measures,
                            limits["at"], source) if limits else None,
    }  # fmt: skip


def _curve(noise: str, sweep: Mapping[str, Any], name: str) -> Curve:
    at = sweep["at"][name]
    each = [[mean_of(draws) for draws in seed] for seed in at["each"]]
    return Curve(noise, at["mean"], each, sweep["limit"]["at"][name]["mean"] if sweep["limit"] else None)


def _constant(evaluation: Mapping[str, Any], name: str) -> float | None:
    """The score of the constant prediction; None where an older evaluation does not say it."""
    return ((evaluation.get("constant") or {}).get("scores") or {}).get(name)


def _constant_words(evaluation: Mapping[str, Any]) -> str:
    """What the constant prediction is; nothing where it is unknown."""
    constant, task = evaluation.get("constant"), evaluation["task"]
    if not constant:
        return ""
    if task["kind"] == "regression":
        return f"the median of the training labels, {constant['prediction'][0]:.3g}".replace("-", "−")
    if task["kind"] == "multilabel":
        return "the more frequent answer to each decision in the training labels"
    number = max(range(len(constant["prediction"])), key=constant["prediction"].__getitem__)
    name = task["names"][number] if number < len(task["names"]) else number
    return f"the most frequent class of the training labels, {name}"


def _glance(evaluation: Mapping[str, Any], primary: str, measure: Measure) -> Any:
    """The primary measure with its interval, clean and over all rates of each noise."""
    clean = evaluation["clean"][primary]
    rows = {"clean": (clean, (evaluation["limit"] or {}).get(primary))}
    if len(evaluation["rates"]) > 1:
        for noise, sweep in evaluation["noises"].items():
            limit = sweep["limit"]["auilc_mean"][primary] if sweep["limit"] else None
            rows[f"{noise}, all rates"] = (sweep["auilc_mean"][primary], limit)
    points = [_point(score) for score, _ in rows.values()]
    limits = [limit for _, limit in rows.values()]
    panel = Panel(
        "mean and 95 % interval" if len(evaluation["seeds"]) > 1 else "one seed, no interval",
        points, limits=limits, constant=_constant(evaluation, primary),
    )  # fmt: skip
    return forest(measure, list(rows), [panel])


def _point(score: Mapping[str, Any]) -> Point:
    each = score["each"]
    known = [x for x in each if x is not None]
    ends = interval(known) if len(known) == len(each) else None
    return Point(score["mean"], *(ends or (None, None)), each=each, best=True)


def _measured(score: Mapping[str, Any], measure: Measure, seeds: Sequence[int]) -> Cell:
    """A mean over seeds; the CSV file and pointing at it give those of each seed."""
    each = dict(zip(seeds, score.get("each") or [], strict=False))
    text = score_text(score, measure)
    more: dict[str, Any] = {"std": score.get("std")} | ({"n": score["n"]} if "n" in score else {})
    return Cell(
        text["mean"], text["std"], score["mean"],
        more | {f"seed {seed}": value for seed, value in each.items()},
        "; ".join(f"seed {seed}: {value_text(value, measure)}" for seed, value in each.items() if len(each) > 1),
    )  # fmt: skip


def _clean(evaluation: Mapping[str, Any], measures: Mapping[str, Measure], source: str) -> Table:
    """A row for each measure: score, interval, constant prediction, limit, each seed."""
    seeds, rows = evaluation["seeds"], []
    several, known = len(seeds) > 1, bool(evaluation.get("constant"))
    for name, measure in measures.items():
        score = evaluation["clean"][name]
        row = [Cell(value=name, head=Column.of(measure)), _measured({**score, "each": None}, measure, seeds)]
        row += [_between(score, measure)] if several else []
        row += [_beside(_constant(evaluation, name), measure)] if known else []
        row += [_beside(evaluation["limit"].get(name), measure)] if evaluation["limit"] else []
        row.append(Cell(str(score["n"]), value=score["n"], quiet=True))
        row += [Cell(value_text(x, measure), value=x, quiet=True) for x in score["each"] if several]
        rows.append(row)
    columns = [Column("Measure"), Column("mean ± std" if several else "score")]
    columns += [Column("95 % interval", doc="Student's t, of the mean over the seeds")] if several else []
    columns += [Column("constant", doc="the same answer for every sample")] if known else []
    columns += [Column("limit")] if evaluation["limit"] else []
    columns += [Column("n"), *(Column(f"seed {seed}") for seed in seeds if several)]
    return Table("clean", f"Clean scores on the {evaluation['split']} split", columns, rows, source=source)


def _between(score: Mapping[str, Any], measure: Measure) -> Cell:
    """The interval of the mean."""
    point = _point(score)
    if point.low is None or point.high is None:
        return Cell(quiet=True)
    text = f"{value_text(point.low, measure)} to {value_text(point.high, measure)}"
    return Cell(text, value=text, more={"low": point.low, "high": point.high}, quiet=True)


def _beside(value: float | None, measure: Measure) -> Cell:
    return Cell(value_text(value, measure), value=value, quiet=True)


def _at_rates(
    name: str,
    caption: str,
    evaluation: Mapping[str, Any],
    measures: Mapping[str, Measure],
    at: Mapping[str, Any],
    source: str,
) -> Table:
    """A row for each rate, a column for each measure."""

    def cell(measure: str, i: int) -> Cell:
        score = {key: values[i] for key, values in at[measure].items() if key in ("mean", "std")}
        each = [mean_of(seed[i]) for seed in at[measure]["each"]] if "std" in at[measure] else None
        return _measured({**score, "each": each}, measures[measure], evaluation["seeds"])

    rows = [
        [Cell(rate_text(rate), value=rate), *(cell(measure, i) for measure in measures)]
        for i, rate in enumerate(evaluation["rates"])
    ]
    return Table(name, caption, [Column("Rate"), *map(Column.of, measures.values())], rows, source=source, wide=True)


def _tiles(evaluation: Mapping[str, Any], primary: str) -> list[dict[str, Any]]:
    """The primary measure in large figures: clean, over all rates, and at half the rates."""
    measure, rates = describe_any(primary), evaluation["rates"]
    limit = evaluation["limit"] or {}
    tiles = [_tile(f"{measure.label}, clean", evaluation["clean"][primary], limit.get(primary), measure)]
    for noise, sweep in list(evaluation["noises"].items())[:2]:
        if len(rates) > 1:
            best = sweep["limit"]["auilc_mean"][primary] if sweep["limit"] else None
            title = f"{measure.label}, mean over all rates of {noise}"
            tiles.append(_tile(title, sweep["auilc_mean"][primary], best, measure))
    for noise, sweep in list(evaluation["noises"].items())[:1]:
        half = min(range(len(rates)), key=lambda i: abs(rates[i] - 0.5))
        at = sweep["at"][primary]
        best = sweep["limit"]["at"][primary]["mean"][half] if sweep["limit"] else None
        score = {"mean": at["mean"][half], "std": at["std"][half]}
        tiles.append(_tile(f"{measure.label}, {noise} at rate {rate_text(rates[half])}", score, best, measure))
    return tiles


def _tile(name: str, score: Mapping[str, Any], limit: float | None, measure: Measure) -> dict[str, Any]:
    shown = None if limit is None else value_text(limit, measure)
    return {"name": name, "score": score_text(score, measure), "limit": shown}


def _areas(evaluation: Mapping[str, Any], measures: Mapping[str, Measure], source: str) -> Table:
    """The area under the curve of each measure, under each noise."""
    noises, rates, seeds = evaluation["noises"], evaluation["rates"], evaluation["seeds"]
    unit = rates[0] == 0 and rates[-1] == 1
    columns = [Column("Measure")]
    for noise, sweep in noises.items():
        columns.append(Column(noise))
        columns += [] if unit else [Column(f"{noise}, per unit of rate")]
        columns += [Column("limit")] if sweep["limit"] else []
    rows = []
    for name, measure in measures.items():
        row = [Cell(value=name, head=Column.of(measure))]
        for sweep in noises.values():
            row.append(_measured(sweep["auilc"][name], measure, seeds))
            row += [] if unit else [_measured(sweep["auilc_mean"][name], measure, seeds)]
            row += [_beside(sweep["limit"]["auilc"][name], measure)] if sweep["limit"] else []
        rows.append([*row, Cell(str(len(seeds)), value=len(seeds), quiet=True)])
    caption = f"Area under the curve (AUILC) over the rates from {rate_text(rates[0])} to {rate_text(rates[-1])}"
    return Table("auilc", caption, [*columns, Column("n")], rows, source=source)
