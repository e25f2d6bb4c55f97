"""The report of a study: its tables and every variant's curves on one page, from `study.json` and the runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrobust.errors import MmrobustError
from mmrobust.measures import Measure
from mmrobust.reports.common import (
    date_text,
    describe_any,
    environment_rows,
    listed,
    mean_of,
    p_text,
    rate_text,
    read_text,
    score_text,
    signed_text,
    source_of,
    value_text,
    write_page,
)
from mmrobust.reports.drawing import SERIES
from mmrobust.reports.figures import Curve, compared, multiples, ranked
from mmrobust.reports.table import DASH, Cell, Column, Table, slug
from mmrobust.training import RunFolder

__all__ = ["report_study", "table_name"]

MANY = 8  # more curves than can be told apart by colour


def table_name(where: str) -> str:
    """The name of a table's CSV file, without `.csv`."""
    return where if where == "clean" else f"auilc-{slug(where)}"


def report_study(path: Path) -> Path:
    """Writes `report.html` and `figures/` into a study's folder, from the variants that are finished.

    Args:
        path: The study's folder; its `study.json` holds the tables (see `mmrobust.studies`).

    Returns:
        The page.

    Raises:
        MmrobustError: A file of the study is damaged.
        WriteError: The page cannot be written.
    """
    try:
        told = json.loads(read_text(path / "study.json"))
    except ValueError as error:
        raise MmrobustError(f"{path / 'study.json'} is damaged; start the study anew") from error
    runs = {name: RunFolder(path / "variants" / name) for name in told["variants"]}
    evaluations = {name: found for name, run in runs.items() if (found := run.read_evaluation()) is not None}
    first = evaluations.get(told["reference"]) or next(iter(evaluations.values()))
    measures = {name: describe_any(name) for name in first["measures"]}
    primary = first["primary"] if first["primary"] in measures else next(iter(measures))
    figures: dict[str, str] = {}
    source = source_of(RunFolder(path))
    tables = [_section(table, told, evaluations, measures, primary, source) for table in told["tables"]]
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
        "overview": _overview(told, evaluations, primary, measures[primary], source),
        "intervals": any(
            score.get("interval")
            for table in told["tables"]
            for row in table["rows"].values()
            for score in row.values()
        ),
        "several": max(len(found["seeds"]) for found in evaluations.values()) > 1,
        "split": first["split"],
        "samples": f"{first['samples']:,}",
        "reference": told["reference"],
        "tables": tables,
        "definitions": [(measure.label, measure.name, measure.doc) for measure in measures.values()],
        "ranks": _ranks(told, measures, primary, source, figures),
        "sources": _sources(told, evaluations, source),
        "recipe": read_text(path / "recipe.yaml"),
        "environment": environment_rows({**env, "command": told["command"]}),
    }
    return write_page(path, "study.html", view, figures)


def _facts(
    told: Mapping[str, Any], first: Mapping[str, Any], evaluations: Mapping[str, Any], env: Mapping[str, Any]
) -> list[tuple[str, str]]:
    facts = [("Begun", date_text(env["date"]))] if env.get("date") else []
    facts.append(("Variants", f"{len(evaluations)} of {len(told['variants'])} finished"
                  if len(evaluations) < len(told["variants"]) else str(len(told["variants"]))))  # fmt: skip
    uses = list(dict.fromkeys(found["data"]["use"] for found in evaluations.values()))
    facts.append(("Data", listed(uses)))
    facts.append(("Test", f"{first['split']} split, {first['samples']:,} samples"))
    if first["noises"]:
        rates = first["rates"]
        facts.append(("Noise", f"{listed(first['noises'])}; rates {rate_text(rates[0])} to {rate_text(rates[-1])}, "
                               f"{first['draws']} draw{'s' if first['draws'] != 1 else ''}"))  # fmt: skip
    facts.append(("Seeds", listed(first["seeds"])))
    return facts


def _warnings(told: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    said = []
    under_way = [
        name
        for name, found in told["variants"].items()
        if name not in evaluations and found["state"] != "failed" and not found["error"]
    ]
    if under_way:
        said.append(f"Not finished yet, and not in the tables: {listed(under_way)}.")
    for name, found in told["variants"].items():
        if name in evaluations and found["missing"]:
            said.append(f"{name} is without seed {listed(found['missing'])}, not trained to the end.")
    single = [name for name, found in evaluations.items() if len(found["seeds"]) < 2]
    if single:
        who = "A single seed" if len(single) == len(evaluations) else f"A single seed of {listed(single)}"
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
        (name, found["error"] or "it left no word")
        for name, found in told["variants"].items()
        if found["missing"] or (name not in evaluations and (found["error"] or found["state"] == "failed"))
    ]


def _overview(
    told: Mapping[str, Any], evaluations: Mapping[str, Any], name: str, measure: Measure, source: str
) -> dict[str, Any]:
    """The primary measure alone, clean and under each noise."""
    columns, cells = _measured(told, evaluations, [(table, name, measure) for table in told["tables"]])
    heads = [
        Column("Variant"),
        Column("parameters"),
        *columns,
        Column("what the recipe changes", words=True, aside=True),
    ]
    rows = []
    for variant in evaluations:
        found = told["variants"][variant]
        size, changes = found["parameters"], _changes(found["changes"])
        rows.append(
            [
                _variant(told, variant),
                Cell(DASH if size is None else f"{size:,}", value=size),
                *cells(variant),
                Cell("; ".join(changes), value="; ".join(changes), lines=changes),
            ]
        )
    limits = cells(None)
    known = any(cell.value is not None for cell in limits)
    foot = [[Cell("limit", value="limit"), Cell(""), *limits, Cell("")]] if known else []
    caption = f"{measure.label} of every variant, clean and as the area under its curve (AUILC) under noise"
    return {
        "table": Table("overview", caption, heads, rows, foot, source, legend=_legend(told)),
        "limits": known,
        "paper": any(column.paper for column in columns),
    }


def _legend(told: Mapping[str, Any]) -> str:
    return (
        f"Bold: differs from {told['reference']} by more than luck (paired test, Holm's correction over the table, "
        "p < .05)."
    )


def _variant(told: Mapping[str, Any], name: str) -> Cell:
    note = "reference" if name == told["reference"] else ""
    return Cell(name, value=name, link=f"variants/{name}/report.html", note=note)


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


def _measured(
    told: Mapping[str, Any],
    evaluations: Mapping[str, Any],
    wanted: Sequence[tuple[Mapping[str, Any], str, Measure]],
) -> tuple[list[Column], Callable[[str | None], list[Cell]]]:
    """Columns of scores, each followed by the paper's figures where there are any.

    Args:
        told: What stands in `study.json`.
        evaluations: Of each variant.
        wanted: The table, the name and the description of each measure.

    Returns:
        The columns, and what makes the cells of a variant, or those of the limit for None.
    """
    columns: list[Column] = []
    papers: list[bool] = []
    for table, name, measure in wanted:
        place = "" if len(wanted) > 1 and all(other is table for other, *_ in wanted) else _place(table)
        columns.append(Column.of(measure, place))
        found = [row[name]["paper"] for row in table["rows"].values() if row.get(name, {}).get("paper")]
        papers.append(bool(found))
        if found:
            whose = ", ".join(dict.fromkeys(str(one["dataset"]) for one in found))
            columns.append(Column.of(measure, f"paper, {whose}", paper=True))
    shared = [_limits(table, name) for table, name, _ in wanted]

    def cells(variant: str | None) -> list[Cell]:
        made = []
        for (table, name, measure), limit, paper in zip(wanted, shared, papers, strict=True):
            if variant is None:
                made.append(Cell(value_text(limit, measure), value=limit))
                made += [Cell("")] if paper else []
                continue
            score = table["rows"].get(variant, {}).get(name)
            each = _each(evaluations[variant], table["where"], name)
            made.append(_cell(score, measure, variant == told["reference"], limit, each))
            made += [_paper(score, measure)] if paper else []
        return made

    return columns, cells


def _place(table: Mapping[str, Any]) -> str:
    return "clean" if table["where"] == "clean" else f"AUILC, {table['where']}"


def _each(evaluation: Mapping[str, Any], where: str, name: str) -> dict[int, float | None]:
    """The score of each seed."""
    found = evaluation["clean"] if where == "clean" else (evaluation["noises"].get(where) or {}).get("auilc", {})
    return dict(zip(evaluation["seeds"], (found.get(name) or {}).get("each", []), strict=False))


def _cell(
    score: Mapping[str, Any] | None, measure: Measure, reference: bool, shared: float | None, each: Mapping[int, Any]
) -> Cell:
    """What one cell shows: the score, and below it the difference to the reference."""
    if score is None:
        return Cell()
    said = [f"seed {seed}: {value_text(value, measure)}" for seed, value in each.items()] if len(each) > 1 else []
    difference = ""
    if not reference and _known(score["difference"]):
        difference = signed_text(score["difference"], measure)
        if score["p_holm"] is None:
            said.insert(0, "a single seed cannot tell")
        else:
            ends = f"{signed_text(score['low'], measure)} to {signed_text(score['high'], measure)}"
            better = measure.improves(score["difference"], 0)
            verdict = ("better" if better else "worse") if score["significant"] else "could be luck"
            said.insert(
                0, f"{verdict}; 95 % interval {ends}; p {p_text(score['p'])}, after Holm {p_text(score['p_holm'])}"
            )
            if score.get("p_permutation") is not None:
                said.insert(1, f"these trained models alone: p {p_text(score['p_permutation'])} (permutation)")
            if not score["significant"]:
                needed = score.get("seeds_needed")
                said.insert(1, "more than 1000 seeds would be needed to tell" if needed is None
                            else f"about {needed} seeds would be needed to tell")  # fmt: skip
    interval = score.get("interval")
    shown = score_text(score, measure)
    more: dict[str, Any] = {"std": score["std"], "n": score["n"]}
    if interval is not None:
        more |= {"interval low": interval[0], "interval high": interval[1]}
    tested = ("limit", "difference", "low", "high", "p", "p_holm", "p_permutation", "seeds_needed")
    more |= {key: score.get(key) for key in tested}
    more |= {"significant": int(score["significant"])} | {f"seed {seed}": value for seed, value in each.items()}
    own = score["limit"] is not None and score["limit"] != shared
    return Cell(
        shown["mean"],
        shown["std"],
        score["mean"],
        more,
        "; ".join(said),
        bold=bool(score["significant"]),
        difference=difference,
        sign=("better" if measure.improves(score["difference"], 0) else "worse") if score["significant"] else "",
        p="" if score["p_holm"] is None or reference else p_text(score["p_holm"]),
        interval="" if interval is None else f"{value_text(interval[0], measure)}, {value_text(interval[1], measure)}",
        limit=value_text(score["limit"], measure) if own else "",
    )


def _paper(score: Mapping[str, Any] | None, measure: Measure) -> Cell:
    """What the paper reports for the same cell, on its own data."""
    paper = (score or {}).get("paper")
    if not paper:
        return Cell()
    table = f"Table {paper['table']}" if str(paper["table"]).isdigit() else str(paper["table"])
    said = f"the paper's {table}, {paper['dataset']}, row {paper['row']}"
    return Cell(value_text(paper["value"], measure), value=paper["value"], says=said)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _section(
    table: Mapping[str, Any],
    told: Mapping[str, Any],
    evaluations: Mapping[str, Any],
    measures: Mapping[str, Measure],
    primary: str,
    source: str,
) -> dict[str, Any]:
    """One table of the study and what stands around it."""
    noise = None if table["where"] == "clean" else table["where"]
    rates = next((found["rates"] for found in evaluations.values() if noise in found["noises"]), [0, 1])
    columns, cells = _measured(told, evaluations, [(table, n, m) for n, m in measures.items()])
    rows = []
    for variant, row in table["rows"].items():
        count = max((score["n"] for score in row.values()), default=0)
        rows.append([_variant(told, variant), *cells(variant), Cell(str(count), value=count, quiet=True)])
    limits = cells(None)
    known = any(cell.value is not None for cell in limits)
    span = f"over the rates from {rate_text(rates[0])} to {rate_text(rates[-1])}"
    caption = f"Area under the curve (AUILC) {span}, {noise}" if noise else "Clean scores"
    return {
        "noise": noise,
        "csv": table_name(table["where"]),
        "compared": table["compared"],
        "notes": table["notes"],
        "table": Table(
            table_name(table["where"]),
            caption,
            [Column("Variant"), *columns, Column("n")],
            rows,
            [[Cell("limit", value="limit"), *limits, Cell("")]] if known else (),
            source,
            wide=True,
            legend=_legend(told),
        ),
        "seeds": _by_seed(table["where"], evaluations, measures, source),
        "multibench": _multibench(table, told, measures, primary, source),
        "levels": len(rates),
        "paper": any(column.paper for column in columns),
        "range": (rate_text(rates[0]), rate_text(rates[-1])),
        "hero": None,
        "hero_says": "",
        "each": None,
        "others": [],
    }


def _multibench(
    table: Mapping[str, Any], told: Mapping[str, Any], measures: Mapping[str, Measure], primary: str, source: str
) -> list[Table]:
    """MultiBench's robustness under one noise: of the primary measure in full, then the effective one of all others."""
    noise, rows = table["where"], table["rows"]
    known: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in measures:
        found = {variant: row[name] for variant, row in rows.items() if name in row}
        found = {variant: score for variant, score in found.items() if _known(score.get("effective"))}
        if found:
            known[name] = found
    if not known:
        return []
    first = primary if primary in known else next(iter(known))
    label = measures[first].label
    share = lambda value: Cell(DASH if value is None else f"{value:.2f}", value=value)
    lines = [
        [
            _variant(told, variant),
            Cell(value_text(score["relative"], measures[first]), value=score["relative"]),
            share(score["relative_normalized"]),
            _effective(score, measures[first]),
            share(score["effective_normalized"]),
        ]
        for variant, score in known[first].items()
    ]
    own = Column.of(measures[first])
    heads = [
        Column("Variant"),
        replace(own, label="relative", under=label),
        Column("relative, 0 to 1", better="higher", under="of these variants"),
        replace(own, label="effective", under=label),
        Column("effective, 0 to 1", better="higher", under="of these variants"),
    ]
    caption = f"MultiBench's relative and effective robustness under {noise}, {label}; baseline: {told['reference']}"
    made = [Table(f"robustness-{slug(noise)}", caption, heads, lines, source=source)]
    if len(known) > 1:
        lines = []
        for variant in dict.fromkeys(variant for found in known.values() for variant in found):
            cells = [_effective(found.get(variant), measures[name]) for name, found in known.items()]
            lines.append([_variant(told, variant), *cells])
        caption = f"Effective robustness (MultiBench) under {noise}; baseline: {told['reference']}"
        heads = [Column("Variant"), *(Column.of(measures[name]) for name in known)]
        made.append(Table(f"effective-{slug(noise)}", caption, heads, lines, source=source, wide=True))
    return made


def _effective(score: Mapping[str, Any] | None, measure: Measure) -> Cell:
    """Effective robustness; the CSV file has MultiBench's other numbers beside it."""
    if score is None:
        return Cell()
    value, std = score["effective"], score["effective_std"]
    others = ("relative", "relative_normalized", "effective_normalized")
    more = {"std": std, **{name.replace("_", " "): score[name] for name in others}}
    return Cell(signed_text(value, measure), "" if std is None else value_text(std, measure), value, more)


def _by_seed(where: str, evaluations: Mapping[str, Any], measures: Mapping[str, Measure], source: str) -> Table:
    """A row for each seed of each variant."""
    rows = []
    for variant, found in evaluations.items():
        scores = {name: _each(found, where, name) for name in measures}
        for seed in found["seeds"]:
            file = RunFolder(Path("variants", variant)).predictions_of(found, seed).as_posix()
            row = [Cell(variant, value=variant, link=f"variants/{variant}/report.html")]
            row.append(Cell(str(seed), value=seed, link=file))
            for name, measure in measures.items():
                value = scores[name].get(seed)
                row.append(Cell(value_text(value, measure), value=value))
            rows.append(row)
    columns = [Column("Variant"), Column("seed"), *map(Column.of, measures.values())]
    place = "Clean scores" if where == "clean" else f"Area under the curve (AUILC) under {where}"
    return Table(f"{table_name(where)}-seeds", f"{place} of each seed", columns, rows, source=source, wide=True)


def _ranks(
    told: Mapping[str, Any], measures: Mapping[str, Measure], primary: str, source: str, figures: dict[str, str]
) -> dict[str, Any] | None:
    """Mean ranks over several noises, and a picture of those of the primary measure."""
    ranks = {name: found for name, found in (told.get("ranks") or {}).items() if name in measures}
    if not ranks:
        return None
    name = primary if primary in ranks else next(iter(ranks))
    found = ranks[name]
    figures["ranks"] = ranked(found["mean"], found["critical_difference"], told["reference"])
    cell = lambda value: Cell(f"{value:.2f}", value=value)
    rows = [
        [_variant(told, variant), *(cell(one["mean"][variant]) for one in ranks.values())] for variant in found["mean"]
    ]
    heads = [Column(measures[key].label, doc=measures[key].doc) for key in ranks]
    foot = [
        [Cell("critical difference", value="critical difference"),
         *(cell(one["critical_difference"]) for one in ranks.values())],
        [Cell("Friedman's p", value="Friedman's p"),
         *(Cell(p_text(one["p"]), value=one["p"]) for one in ranks.values())],
    ]  # fmt: skip
    caption = f"Mean ranks of the areas under {listed(found['over'])}; 1 is best"
    return {
        "label": measures[name].label,
        "over": listed(found["over"]),
        "count": len(found["over"]),
        "p": p_text(found["p"]),
        "table": Table("ranks", caption, [Column("Variant"), *heads], rows, foot, source, wide=True),
    }


def _sources(told: Mapping[str, Any], evaluations: Mapping[str, Any], source: str) -> Table:
    """Where the numbers of each variant come from."""
    rows = []
    for variant, found in evaluations.items():
        folder = f"variants/{variant}"
        epochs = "; ".join(f"seed {row['seed']}: epoch {row['epoch']}" for row in found["checkpoints"])
        rows.append(
            [
                _variant(told, variant),
                *(Cell(name, value=f"{folder}/{name}", link=f"{folder}/{name}")
                  for name in ("evaluation.json", "predictions/", "resolved.yaml")),
                Cell(epochs, value=epochs),
            ]
        )  # fmt: skip
    heads = ["scores", "predictions", "recipe", "seeds and the epochs that the validation split chose"]
    columns = [Column("Variant"), *(Column(head, words=True) for head in heads)]
    return Table("sources", "Where the numbers come from", columns, rows, source=source)


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
    best = _best(met, noise, primary, measures[primary], reference) if len(met) > MANY else None
    for name, measure in measures.items():
        curves, known, shown, areas = [], set(), {}, []
        for variant, found in met.items():
            at = found["noises"][noise]["at"].get(name)
            if at is None:
                continue
            limit = (found["noises"][noise]["limit"] or {}).get("at", {}).get(name, {}).get("mean")
            known.add(None if limit is None else tuple(limit))
            each = [[mean_of(draws) for draws in seed] for seed in at["each"]]
            if best is not None and variant in best:
                shown[len(curves)] = best.index(variant)
            areas.append(found["noises"][noise]["auilc"][name]["mean"])
            curves.append((found["rates"], Curve(variant, at["mean"], each, limit)))
        if not curves:
            continue
        figure = f"rates-{slug(noise)}-{slug(name)}"
        figures[figure] = compared(
            measure, noise, curves, one_limit=len(known) == 1, large=name == primary,
            shown=None if best is None else shown, areas=areas,
        )  # fmt: skip
        entry = (figure, measure.label)
        if name == primary:
            table["hero"] = entry
            if best is not None:
                table["each"] = f"each-{slug(noise)}-{slug(name)}"
                figures[table["each"]] = multiples(measure, noise, curves)
        else:
            table["others"].append(entry)
    table["limited"] = any(found["noises"][noise]["limit"] for found in met.values())
    if best is not None:
        others = len(best) - (reference in best)
        table["hero_says"] = f"In colour: {reference} and the {others} others of the best areas; all in their order."


def _best(met: Mapping[str, Mapping[str, Any]], noise: str, name: str, measure: Measure, reference: str) -> list[str]:
    """Whom colours are for where there are too few: the reference, and the best by the area under their curves."""
    areas = {variant: found["noises"][noise]["auilc"].get(name, {}).get("mean") for variant, found in met.items()}
    known = {variant: area for variant, area in areas.items() if area is not None and variant != reference}
    order = sorted(known, key=known.__getitem__, reverse=measure.better == "higher")
    return [*([reference] if reference in met else []), *order[: len(SERIES) - 1]]
