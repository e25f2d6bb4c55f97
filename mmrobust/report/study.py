"""The report of a study: its tables and every variant's curves on one page, from `study.json` and the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmrobust import files
from mmrobust.measures import Measure
from mmrobust.report.figures import Curve, compared, inline
from mmrobust.report.page import (
    DASH,
    _date,
    _describe,
    _environment,
    _evaluation,
    _head,
    _list,
    _mean,
    _rate,
    _score,
    _slug,
    _template,
    _text,
    _value,
)
from mmrobust.training import RunFolder

__all__ = ["report_study", "table_name"]


def table_name(where: str) -> str:
    """The name of a table's CSV file, without `.csv`."""
    return where if where == "clean" else f"auilc-{_slug(where)}"


def report_study(path: Path) -> Path:
    """Writes `report.html` and `figures/` into a study's folder, from the variants that are finished.

    Args:
        path: The study's folder; its `study.json` holds the tables (see `mmrobust.study`).

    Returns:
        The page.

    Raises:
        MmrobustError: A file of the study is damaged.
        WriteError: The page cannot be written.
    """
    told = json.loads(_text(path / "study.json"))
    runs = {name: RunFolder(path / "variants" / name) for name in told["variants"]}
    evaluations = {name: found for name, run in runs.items() if (found := _evaluation(run)) is not None}
    first = evaluations.get(told["reference"]) or next(iter(evaluations.values()))
    measures = {name: _describe(name) for name in first["measures"]}
    primary = first["primary"] if first["primary"] in measures else next(iter(measures))
    figures: dict[str, str] = {}
    tables = [_table(table, told, evaluations, measures) for table in told["tables"]]
    for table in tables:
        if table["noise"]:
            _draw(table, evaluations, measures, primary, told["reference"], figures)
    env = runs[told["reference"]].read_env()
    view = {
        "name": told["name"],
        "summary": told["summary"] or "",
        "facts": _facts(told, first, evaluations, env),
        "warnings": _warnings(told, evaluations),
        "failed": _failed(told, evaluations),
        "overview": _overview(told, evaluations, primary, measures[primary]),
        "several": max(len(found["seeds"]) for found in evaluations.values()) > 1,
        "split": first["split"],
        "samples": f"{first['samples']:,}",
        "reference": told["reference"],
        "tables": tables,
        "definitions": [(measure.label, measure.name, measure.doc) for measure in measures.values()],
        "recipe": _text(path / "recipe.yaml"),
        "environment": _environment({**env, "command": told["command"]}),
        "inline": lambda name: Markup(inline(figures[name])),
    }
    page = _template("study.html").render(view)
    (path / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        files.write_atomic(path / "figures" / f"{name}.svg", svg)
    files.write_atomic(path / "report.html", page)
    return path / "report.html"


def _facts(
    told: Mapping[str, Any], first: Mapping[str, Any], evaluations: Mapping[str, Any], env: Mapping[str, Any]
) -> list[tuple[str, str]]:
    facts = [("Begun", _date(env["date"]))] if env.get("date") else []
    facts.append(("Variants", f"{len(evaluations)} of {len(told['variants'])} finished"
                  if len(evaluations) < len(told["variants"]) else str(len(told["variants"]))))  # fmt: skip
    uses = list(dict.fromkeys(found["data"]["use"] for found in evaluations.values()))
    facts.append(("Data", _list(uses)))
    facts.append(("Test", f"{first['split']} split, {first['samples']:,} samples"))
    if first["noises"]:
        rates = first["rates"]
        facts.append(("Noise", f"{_list(first['noises'])}; rates {_rate(rates[0])} to {_rate(rates[-1])}, "
                               f"{first['draws']} draw{'s' if first['draws'] != 1 else ''}"))  # fmt: skip
    facts.append(("Seeds", _list(first["seeds"])))
    return facts


def _warnings(told: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = []
    for name, found in told["variants"].items():
        if name in evaluations and found["missing"]:
            said.append(f"{name} is without seed {_list(found['missing'])}, not trained to the end.")
    single = [name for name, found in evaluations.items() if len(found["seeds"]) < 2]
    if single:
        who = "A single seed" if len(single) == len(evaluations) else f"A single seed of {_list(single)}"
        said.append(
            f"{who}: how much the scores change from one training to the next is not known, so no variant can be "
            "called better or worse than another. Five seeds or more can tell: --seeds 5."
        )
    elif evaluations and min(len(found["seeds"]) for found in evaluations.values()) < 4 and len(evaluations) > 1:
        said.append(
            "With so few seeds only large differences can be told from luck; a difference that is not bold may well "
            "be real."
        )
    return said + [note for table in told["tables"][:1] for note in table["notes"]]


def _failed(told: Mapping[str, Any], evaluations: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, found["error"] or f"{found['state']}, not finished")
        for name, found in told["variants"].items()
        if name not in evaluations or found["missing"]
    ]


def _overview(told: Mapping[str, Any], evaluations: Mapping[str, Any], name: str, measure: Measure) -> dict[str, Any]:
    """The primary measure alone, clean and under each noise."""
    columns = [
        ("clean" if table["where"] == "clean" else f"AUILC, {table['where']}", table) for table in told["tables"]
    ]
    limits = [_limits(table, name) for _, table in columns]
    return {
        "head": _head(measure),
        "columns": [title for title, _ in columns],
        "rows": [
            {
                **_variant(told, variant),
                "cells": [
                    _cell(table["rows"].get(variant, {}).get(name), measure, variant == told["reference"], shared)
                    for (_, table), shared in zip(columns, limits, strict=True)
                ],
            }
            for variant in evaluations
        ],
        "limits": [_value(shared, measure) for shared in limits] if any(x is not None for x in limits) else None,
    }


def _variant(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = told["variants"][name]
    size = found["parameters"]
    return {
        "name": name,
        "link": f"variants/{name}/report.html",
        "parameters": DASH if size is None else f"{size:,}",
        "changes": _changes(found["changes"]),
        "reference": name == told["reference"],
    }


def _changes(changes: Any) -> list[str]:
    """What the recipe says of a variant, an override a line."""
    if isinstance(changes, Mapping):
        return [key if key.startswith("~") else f"{key}: {_flow(value)}" for key, value in changes.items()]
    return [str(line) for line in changes or []]


def _flow(value: Any) -> str:
    """A value as recipes write it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _limits(table: Mapping[str, Any], name: str) -> float | None:
    """The limit where all variants share it; None where it is unknown or differs."""
    found = {row[name]["limit"] for row in table["rows"].values() if name in row}
    return next(iter(found)) if len(found) == 1 else None


def _cell(score: Mapping[str, Any] | None, measure: Measure, reference: bool, shared: float | None) -> dict[str, Any]:
    """What one cell shows: the score, and below it the difference to the reference."""
    if score is None:
        return {"score": {"mean": DASH, "std": ""}, "difference": "", "bold": False, "says": "", "limit": None}
    difference, says = "", ""
    if not reference and _known(score["difference"]):
        difference = _signed(score["difference"], measure)
        if score["p_holm"] is None:
            says = "a single seed cannot tell"
        else:
            ends = f"{_signed(score['low'], measure)} to {_signed(score['high'], measure)}"
            better = measure.improves(score["difference"], 0)
            verdict = ("better" if better else "worse") if score["significant"] else "could be luck"
            says = f"{verdict}; 95 % interval {ends}; p {_p(score['p'])}, after Holm {_p(score['p_holm'])}"
    own = score["limit"] is not None and score["limit"] != shared
    return {
        "score": _score(score, measure),
        "difference": difference,
        "bold": bool(score["significant"]),
        "sign": ("better" if measure.improves(score["difference"], 0) else "worse") if score["significant"] else "",
        "p": "" if score["p_holm"] is None or reference else _p(score["p_holm"]),
        "says": says,
        "limit": _value(score["limit"], measure) if own else None,
    }


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _signed(value: float, measure: Measure) -> str:
    text = _value(value, measure)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"


def _table(
    table: Mapping[str, Any], told: Mapping[str, Any], evaluations: Mapping[str, Any], measures: Mapping[str, Measure]
) -> dict[str, Any]:
    shared = {name: _limits(table, name) for name in measures}
    noise = None if table["where"] == "clean" else table["where"]
    rates = next((found["rates"] for found in evaluations.values() if noise in found["noises"]), [0, 1])
    return {
        "noise": noise,
        "csv": table_name(table["where"]),
        "compared": table["compared"],
        "notes": table["notes"],
        "heads": [_head(measure) for measure in measures.values()],
        "rows": [
            {
                **_variant(told, variant),
                "n": max((score["n"] for score in row.values()), default=0),
                "cells": [
                    _cell(row.get(name), measure, variant == told["reference"], shared[name])
                    for name, measure in measures.items()
                ],
            }
            for variant, row in table["rows"].items()
        ],
        "limits": [_value(shared[name], measure) for name, measure in measures.items()]
        if any(value is not None for value in shared.values())
        else None,
        "range": (_rate(rates[0]), _rate(rates[-1])),
        "hero": None,
        "others": [],
    }


def _draw(
    table: dict[str, Any],
    evaluations: Mapping[str, Mapping[str, Any]],
    measures: Mapping[str, Measure],
    primary: str,
    reference: str,
    figures: dict[str, str],
) -> None:
    """A figure of each measure against the rate of one noise, all variants in it."""
    noise = table["noise"]
    met = {name: found for name, found in evaluations.items() if noise in found["noises"] and len(found["rates"]) > 1}
    for name, measure in measures.items():
        curves, known = [], set()
        for variant, found in met.items():
            at = found["noises"][noise]["at"].get(name)
            if at is None:
                continue
            limit = (found["noises"][noise]["limit"] or {}).get("at", {}).get(name, {}).get("mean")
            known.add(None if limit is None else tuple(limit))
            each = [[_mean(draws) for draws in seed] for seed in at["each"]]
            curves.append((found["rates"], Curve(variant, at["mean"], each, limit)))
        if not curves:
            continue
        figure = f"rates-{_slug(noise)}-{_slug(name)}"
        figures[figure] = compared(measure, noise, curves, one_limit=len(known) == 1, large=name == primary)
        entry = (figure, measure.label)
        if name == primary:
            table["hero"] = entry
        else:
            table["others"].append(entry)
    table["limited"] = any(found["noises"][noise]["limit"] for found in met.values())
