"""The report of a study: its tables and every variant's curves on one page, from `study.json` and the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrobust.errors import MmrobustError
from mmrobust.measures import Measure
from mmrobust.reports.common import (
    Figures,
    date_text,
    describe_any,
    environment_rows,
    label_of,
    listed,
    mean_of,
    p_text,
    rate_text,
    read_text,
    source_of,
    write_page,
)
from mmrobust.reports.drawing import SERIES, Drawing
from mmrobust.reports.figures import Curve, compared, multiples, ranked
from mmrobust.reports.forest import Panel, Point, forest
from mmrobust.reports.headline import study_headline
from mmrobust.reports.study_tables import (
    by_seed,
    multibench,
    overview,
    ranks_table,
    score_tables,
    sources,
    table_name,
)
from mmrobust.reports.table import slug
from mmrobust.training import RunFolder

__all__ = ["report_study"]

MANY = 8  # more curves than can be told apart by colour


def report_study(path: Path, *, latex: bool = False) -> Path:
    """Writes `report.html`, `figures/` and `tables/*.tex` into a study's folder, from the variants that are finished.

    Args:
        path: The study's folder; its `study.json` holds the tables (see `mmrobust.studies`).
        latex: Write the figures as PDF too, for a paper.

    Returns:
        The page.

    Raises:
        MmrobustError: A file of the study is damaged.
        WriteError: The page cannot be written.
    """
    try:
        record = json.loads(read_text(path / "study.json"))
    except ValueError as error:
        raise MmrobustError(f"{path / 'study.json'} is damaged; start the study anew") from error
    runs = {name: RunFolder(path / "variants" / name) for name in record["variants"]}
    evaluations = {name: one for name, run in runs.items() if (one := run.read_evaluation()) is not None}
    first = evaluations.get(record["reference"]) or next(iter(evaluations.values()))
    measures = {name: describe_any(name) for name in first["measures"]}
    if record.get("primary") not in measures:
        record["primary"] = first["primary"] if first["primary"] in measures else next(iter(measures))
    figures: Figures = {}
    source = source_of(RunFolder(path))
    figures["glance"] = _glance(record, evaluations, measures[record["primary"]])
    env = runs[record["reference"]].read_env()
    scores = [score for table in record["tables"] for row in table["rows"].values() for score in row.values()]
    view = {
        "name": record["name"],
        "summary": record["summary"] or "",
        "kind": "study",
        "headline": study_headline(record),
        "facts": _facts(record, first, evaluations, env),
        "warnings": _warnings(record, evaluations),
        "failed": _failed(record, evaluations),
        "overview": overview(record, evaluations, measures, source),
        "intervals": any(score.get("interval") for score in scores),
        "several": max(len(one["seeds"]) for one in evaluations.values()) > 1,
        "primary": measures[record["primary"]].label,
        "exploratory": len(measures) > 1,
        "compared": record.get("compared", 0),
        "reference": label_of(record, record["reference"]),
        "tables": [_section(table, record, evaluations, measures, figures, source) for table in record["tables"]],
        "definitions": [(measure.label, measure.name, measure.doc) for measure in measures.values()],
        "ranks": _ranks(record, measures, figures, source),
        "sources": sources(record, evaluations, source),
        "recipe": read_text(path / "recipe.yaml"),
        "environment": environment_rows({**env, "command": record["command"]}),
    }
    return write_page(path, "study.html", view, figures, latex)


def _facts(
    record: Mapping[str, Any], first: Mapping[str, Any], evaluations: Mapping[str, Any], env: Mapping[str, Any]
) -> list[tuple[str, str]]:
    facts = [("Begun", date_text(env["date"]))] if env.get("date") else []
    facts.append(("Variants", f"{len(evaluations)} of {len(record['variants'])} finished"
                  if len(evaluations) < len(record["variants"]) else str(len(record["variants"]))))  # fmt: skip
    uses = list(dict.fromkeys(one["data"]["use"] for one in evaluations.values()))
    facts.append(("Data", listed(uses)))
    facts.append(("Test", f"{first['split']} split, {first['samples']:,} samples"))
    if first["noises"]:
        rates = first["rates"]
        facts.append(("Noise", f"{listed(first['noises'])}; rates {rate_text(rates[0])} to {rate_text(rates[-1])}, "
                               f"{first['draws']} draw{'s' if first['draws'] != 1 else ''}"))  # fmt: skip
    facts.append(("Seeds", listed(first["seeds"])))
    return facts


def _warnings(record: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    texts = []
    under_way = [
        name
        for name, variant in record["variants"].items()
        if name not in evaluations and variant["state"] != "failed" and not variant["error"]
    ]
    if under_way:
        texts.append(f"Not finished yet, and not in the tables: {listed(under_way)}.")
    for name, variant in record["variants"].items():
        if name in evaluations and variant["missing"]:
            texts.append(f"{name} is without seed {listed(variant['missing'])}, not trained to the end.")
    single = [name for name, one in evaluations.items() if len(one["seeds"]) < 2]
    if single:
        who = "A single seed" if len(single) == len(evaluations) else f"A single seed of {listed(single)}"
        texts.append(
            f"{who}: how much the scores change from one training to the next is not known, so no variant can be "
            "called better or worse than another. Five seeds or more can show a difference: --seeds 5."
        )
    elif evaluations and min(len(one["seeds"]) for one in evaluations.values()) < 4 and len(evaluations) > 1:
        texts.append(
            "With so few seeds only large differences can be told from luck; one without a † may well be real."
        )
    return texts + [note for table in record["tables"][:1] for note in table["notes"]]


def _failed(record: Mapping[str, Any], evaluations: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, variant["error"] or "it left no message")
        for name, variant in record["variants"].items()
        if variant["missing"] or (name not in evaluations and (variant["error"] or variant["state"] == "failed"))
    ]


def _glance(record: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]], measure: Measure) -> Drawing:
    """A forest plot of the primary measure, clean and under up to two noises, the best variant at the top."""
    name, tables = record["primary"], record["tables"][:3]
    clean = {variant: row.get(name, {}).get("mean") for variant, row in tables[0]["rows"].items()}
    worst = float("inf") if measure.better == "lower" else float("-inf")
    order = sorted(clean, key=lambda v: worst if clean[v] is None else clean[v], reverse=measure.better == "higher")
    panels = []
    for table in tables:
        scores = {variant: table["rows"].get(variant, {}).get(name) for variant in order}
        reference = scores.get(record["reference"])
        limits = {score["limit"] for score in scores.values() if score}
        panels.append(
            Panel(
                "clean" if table["where"] == "clean" else f"AUILC, {table['where']}",
                [_point(scores[v], evaluations[v], table["where"], name) for v in order],
                reference=reference["mean"] if reference else None,
                limit=next(iter(limits)) if len(limits) == 1 else None,
                constant=_constant(evaluations, name) if table["where"] == "clean" else None,
            )
        )
    return forest(measure, [label_of(record, v) for v in order], panels, label_of(record, record["reference"]))


def _point(score: Mapping[str, Any] | None, evaluation: Mapping[str, Any], where: str, name: str) -> Point | None:
    if score is None:
        return None
    scores = evaluation["clean"] if where == "clean" else (evaluation["noises"].get(where) or {}).get("auilc", {})
    low, high = score.get("interval") or (None, None)
    each = (scores.get(name) or {}).get("each", ())
    return Point(score["mean"], low, high, each, bool(score.get("best")), bool(score["significant"]))


def _constant(evaluations: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """The score of the constant prediction where all variants share it."""
    scores = {((one.get("constant") or {}).get("scores") or {}).get(name) for one in evaluations.values()}
    return next(iter(scores)) if len(scores) == 1 else None


def _section(
    table: Mapping[str, Any],
    record: Mapping[str, Any],
    evaluations: Mapping[str, Mapping[str, Any]],
    measures: Mapping[str, Measure],
    figures: Figures,
    source: str,
) -> dict[str, Any]:
    """One table of the study and what stands around it."""
    noise = None if table["where"] == "clean" else table["where"]
    rates = next((one["rates"] for one in evaluations.values() if noise in one["noises"]), [0, 1])
    first, every = score_tables(table, record, evaluations, measures, source)
    section = {
        "noise": noise,
        "csv": table_name(table["where"]),
        "notes": table["notes"],
        "table": first,
        "all": every,
        "seeds": by_seed(record, table["where"], evaluations, measures, source),
        "multibench": multibench(table, record, measures, source),
        "chance": _at_chance(record, noise),
        "levels": len(rates),
        "paper": any(column.paper for column in first.columns),
        "range": (rate_text(rates[0]), rate_text(rates[-1])),
        "hero": None,
        "hero_says": "",
        "each": None,
        "others": [],
        "limited": False,
    }
    if noise:
        _draw(section, noise, record, evaluations, measures, figures)
    return section


def _at_chance(record: Mapping[str, Any], noise: str | None) -> str:
    """The variants that are at chance in the primary measure, so that no effective robustness is shown of them."""
    if noise is None:
        return ""
    rows = record["tables"][0]["rows"]
    names = [v for v, row in rows.items() if row.get(record["primary"], {}).get("at_chance")]
    return listed(label_of(record, v) for v in names)


def _ranks(
    record: Mapping[str, Any], measures: Mapping[str, Measure], figures: Figures, source: str
) -> dict[str, Any] | None:
    """Mean ranks over several noises, and a picture of those of the primary measure."""
    ranks = {name: one for name, one in (record.get("ranks") or {}).items() if name in measures}
    if not ranks:
        return None
    name = record["primary"] if record["primary"] in ranks else next(iter(ranks))
    one = ranks[name]
    mean = {label_of(record, variant): rank for variant, rank in one["mean"].items()}
    figures["ranks"] = ranked(mean, one["critical_difference"], label_of(record, record["reference"]))
    return {
        "label": measures[name].label,
        "over": listed(one["over"]),
        "count": len(one["over"]),
        "p": p_text(one["p"]),
        "table": ranks_table(record, ranks, measures, source),
    }


def _draw(
    section: dict[str, Any],
    noise: str,
    record: Mapping[str, Any],
    evaluations: Mapping[str, Mapping[str, Any]],
    measures: Mapping[str, Measure],
    figures: Figures,
) -> None:
    """A figure of each measure against the rate of one noise, all variants in it."""
    primary, reference = record["primary"], record["reference"]
    met = {name: one for name, one in evaluations.items() if noise in one["noises"] and len(one["rates"]) > 1}
    best = _best(met, noise, primary, measures[primary], reference) if len(met) > MANY else None
    for name, measure in measures.items():
        curves, shown, areas = _curves(record, met, noise, name, best)
        if not curves:
            continue
        limits = {None if curve.limit is None else tuple(curve.limit) for _, curve in curves}
        figure = f"rates-{slug(noise)}-{slug(name)}"
        figures[figure] = compared(
            measure, noise, curves, one_limit=len(limits) == 1, large=name == primary,
            shown=None if best is None else shown, areas=areas,
        )  # fmt: skip
        entry = (figure, measure.label)
        if name != primary:
            section["others"].append(entry)
            continue
        section["hero"] = entry
        if best is not None:
            section["each"] = f"each-{slug(noise)}-{slug(name)}"
            figures[section["each"]] = multiples(measure, noise, curves)
    section["limited"] = any(one["noises"][noise]["limit"] for one in met.values())
    if best is not None:
        others = len(best) - (reference in best)
        name = label_of(record, reference)
        section["hero_says"] = f"In colour: {name} and the {others} others of the best areas; all in their order."


def _curves(
    record: Mapping[str, Any],
    met: Mapping[str, Mapping[str, Any]],
    noise: str,
    name: str,
    best: Sequence[str] | None,
) -> tuple[list[tuple[Sequence[float], Curve]], dict[int, int], list[float | None]]:
    """Rates and curve of each variant that has the measure, which of them has which colour, and their areas."""
    curves, shown, areas = [], {}, []
    for variant, one in met.items():
        sweep = one["noises"][noise]
        at = sweep["at"].get(name)
        if at is None:
            continue
        limit = (sweep["limit"] or {}).get("at", {}).get(name, {}).get("mean")
        each = [[mean_of(draws) for draws in seed] for seed in at["each"]]
        if best is not None and variant in best:
            shown[len(curves)] = best.index(variant)
        areas.append(sweep["auilc"][name]["mean"])
        curves.append((one["rates"], Curve(label_of(record, variant), at["mean"], each, limit)))
    return curves, shown, areas


def _best(met: Mapping[str, Mapping[str, Any]], noise: str, name: str, measure: Measure, reference: str) -> list[str]:
    """The variants that have a colour where there are too few: the reference, and the best by their areas."""
    areas = {variant: one["noises"][noise]["auilc"].get(name, {}).get("mean") for variant, one in met.items()}
    known = {variant: area for variant, area in areas.items() if area is not None and variant != reference}
    order = sorted(known, key=known.__getitem__, reverse=measure.better == "higher")
    return [*([reference] if reference in met else []), *order[: len(SERIES) - 1]]
