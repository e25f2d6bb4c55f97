"""The tables of a study's report, from `study.json` and the evaluations of its variants."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrobust.measures import Measure, quoted
from mmrobust.reports.background import count_text
from mmrobust.reports.common import (
    label_of,
    listed,
    p_text,
    rate_text,
    score_text,
    signed_text,
    value_text,
)
from mmrobust.reports.table import DASH, Cell, Column, Table, slug
from mmrobust.training import RunFolder

__all__ = ["by_seed", "multibench", "overview", "ranks_table", "score_tables", "sources", "table_name"]

Record = Mapping[str, Any]  # what stands in study.json
Evaluations = Mapping[str, Mapping[str, Any]]  # of each variant
Measures = Mapping[str, Measure]


def table_name(where: str) -> str:
    """The name of a table's CSV file, without `.csv`."""
    return where if where == "clean" else f"auilc-{slug(where)}"


def overview(record: Record, evaluations: Evaluations, measures: Measures, source: str) -> dict[str, Any]:
    """The primary measure alone, clean and under each noise, with the size of each variant."""
    name = record["primary"]
    columns, cells = _score_columns(record, evaluations, [(table, name, measures[name]) for table in record["tables"]])
    heads = [
        Column("Variant"),
        *columns,
        Column("parameters"),
        Column("MACs", doc="multiplications and additions of one sample's forward pass"),
        Column("what the recipe changes", words=True, aside=True),
    ]
    rows = []
    for variant in evaluations:
        size, changes = record["variants"][variant], _changes(record["variants"][variant]["changes"])
        rows.append(
            [
                _variant(record, variant),
                *cells(variant),
                *(_size(size.get(key)) for key in ("parameters", "macs")),
                Cell("; ".join(changes), value="; ".join(changes), lines=changes),
            ]
        )
    limits = cells(None)
    known = any(cell.value is not None for cell in limits)
    foot = [[Cell("limit", value="limit"), *limits, Cell(""), Cell(""), Cell("")]] if known else []
    caption = f"{measures[name].label} of every variant, clean and as the area under its curve (AUILC) under noise"
    table = Table("overview", caption, heads, rows, foot, source, legend=_legend(record, [name]))
    return {"table": table, "limits": known, "paper": any(column.paper for column in columns)}


def _size(number: int | None) -> Cell:
    return Cell() if number is None else Cell(count_text(number), value=number, says=f"{number:,}")


def score_tables(
    table: Mapping[str, Any], record: Record, evaluations: Evaluations, measures: Measures, source: str
) -> tuple[Table, Table | None]:
    """One table of the study: the measures that papers quote, the primary one first; then all, if there are more."""
    some = quoted(list(measures), record["primary"])
    name = table_name(table["where"])
    first = _scores(name, table, record, evaluations, {key: measures[key] for key in some}, source)
    if len(some) == len(measures):
        return first, None
    return first, _scores(f"{name}-all", table, record, evaluations, measures, source)


def _scores(
    name: str, table: Mapping[str, Any], record: Record, evaluations: Evaluations, measures: Measures, source: str
) -> Table:
    """A row for each variant, a column for each measure."""
    noise = None if table["where"] == "clean" else table["where"]
    columns, cells = _score_columns(record, evaluations, [(table, key, one) for key, one in measures.items()])
    rows = []
    for variant, row in table["rows"].items():
        count = max((score["n"] for score in row.values()), default=0)
        rows.append([_variant(record, variant), *cells(variant), Cell(str(count), value=count, quiet=True)])
    limits = cells(None)
    known = any(cell.value is not None for cell in limits)
    rates = next((one["rates"] for one in evaluations.values() if noise in one["noises"]), [0, 1])
    span = f"over the rates from {rate_text(rates[0])} to {rate_text(rates[-1])}"
    return Table(
        name,
        f"Area under the curve (AUILC) {span}, {noise}" if noise else "Clean scores",
        [Column("Variant"), *columns, Column("n")],
        rows,
        [[Cell("limit", value="limit"), *limits, Cell("")]] if known else (),
        source,
        wide=True,
        legend=_legend(record, list(measures)),
    )


def _legend(record: Record, names: Sequence[str]) -> str:
    """What bold and the dagger mean, for the caption of a LaTeX table."""
    text = "Bold: the best of the column, and what cannot be told from it."
    if record["primary"] in names:
        text += (
            f" †: differs from {label_of(record, record['reference'])} in the primary measure (paired test, Holm's "
            f"correction over {record.get('compared', 0)} comparisons, p < .05)."
        )
    return text + (" The other measures are exploratory." if len(names) > 1 else "")


def _variant(record: Record, name: str) -> Cell:
    note = "reference" if name == record["reference"] else ""
    return Cell(label_of(record, name), value=name, link=f"variants/{name}/report.html", note=note)


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


def _shared_limit(table: Mapping[str, Any], name: str) -> float | None:
    """The limit where all variants share it; None where it is unknown or differs."""
    limits = {row[name]["limit"] for row in table["rows"].values() if name in row}
    return next(iter(limits)) if len(limits) == 1 else None


def _score_columns(
    record: Record, evaluations: Evaluations, wanted: Sequence[tuple[Mapping[str, Any], str, Measure]]
) -> tuple[list[Column], Callable[[str | None], list[Cell]]]:
    """Columns of scores, each followed by the paper's figures where there are any.

    Args:
        record: What stands in `study.json`.
        evaluations: Of each variant.
        wanted: The table, the name and the description of each measure.

    Returns:
        The columns, and what makes the cells of a variant, or those of the limit for None.
    """
    columns: list[Column] = []
    papers: list[bool] = []
    one_table = len(wanted) > 1 and all(table is wanted[0][0] for table, *_ in wanted)
    for table, name, measure in wanted:
        role = ("primary" if name == record["primary"] else "exploratory") if one_table else ""
        columns.append(Column.of(measure, "" if one_table else _place(table), role=role))
        cited = [row[name]["paper"] for row in table["rows"].values() if row.get(name, {}).get("paper")]
        papers.append(bool(cited))
        if cited:
            whose = ", ".join(dict.fromkeys(str(one["dataset"]) for one in cited))
            columns.append(Column.of(measure, f"paper, {whose}", paper=True))
    shared = [_shared_limit(table, name) for table, name, _ in wanted]

    def cells(variant: str | None) -> list[Cell]:
        row = []
        for (table, name, measure), limit, paper in zip(wanted, shared, papers, strict=True):
            if variant is None:
                row.append(Cell(value_text(limit, measure), value=limit))
                row += [Cell("")] if paper else []
                continue
            score = table["rows"].get(variant, {}).get(name)
            each = _each(evaluations[variant], table["where"], name)
            row.append(_cell(score, measure, variant == record["reference"], limit, each))
            row += [_paper(score, measure)] if paper else []
        return row

    return columns, cells


def _place(table: Mapping[str, Any]) -> str:
    return "clean" if table["where"] == "clean" else f"AUILC, {table['where']}"


def _each(evaluation: Mapping[str, Any], where: str, name: str) -> dict[int, float | None]:
    """The score of each seed."""
    scores = evaluation["clean"] if where == "clean" else (evaluation["noises"].get(where) or {}).get("auilc", {})
    return dict(zip(evaluation["seeds"], (scores.get(name) or {}).get("each", []), strict=False))


def _cell(
    score: Mapping[str, Any] | None, measure: Measure, reference: bool, shared: float | None, each: Mapping[int, Any]
) -> Cell:
    """What one cell shows: the score, and below it the difference to the reference."""
    if score is None:
        return Cell()
    interval, text = score.get("interval"), score_text(score, measure)
    more: dict[str, Any] = {"std": score["std"], "n": score["n"]}
    if interval is not None:
        more |= {"interval low": interval[0], "interval high": interval[1]}
    tested = ("limit", "difference", "low", "high", "p", "p_holm", "p_permutation", "seeds_needed")
    more |= {key: score.get(key) for key in tested} | {"best": int(bool(score.get("best")))}
    more |= {"significant": int(score["significant"])} | {f"seed {seed}": value for seed, value in each.items()}
    says = [f"seed {seed}: {value_text(value, measure)}" for seed, value in each.items() if len(each) > 1]
    compared = not reference and _known(score["difference"])
    own = score["limit"] is not None and score["limit"] != shared
    return Cell(
        text["mean"],
        text["std"],
        score["mean"],
        more,
        "; ".join([*(_verdict(score, measure) if compared else []), *says]),
        bold=bool(score.get("best")),
        dagger=bool(score["significant"]),
        difference=signed_text(score["difference"], measure) if compared else "",
        sign=("better" if measure.improves(score["difference"], 0) else "worse") if score["significant"] else "",
        p="" if score["p_holm"] is None or reference else p_text(score["p_holm"]),
        interval="" if interval is None else f"{value_text(interval[0], measure)}, {value_text(interval[1], measure)}",
        limit=value_text(score["limit"], measure) if own else "",
    )


def _verdict(score: Mapping[str, Any], measure: Measure) -> list[str]:
    """What the tests say of a difference to the reference."""
    if score["p"] is None:
        return ["a single seed cannot show a difference"]
    ends = f"{signed_text(score['low'], measure)} to {signed_text(score['high'], measure)}"
    if score["p_holm"] is None:
        verdict, p = "exploratory", f"p {p_text(score['p'])}, not corrected"
    else:
        better = "better" if measure.improves(score["difference"], 0) else "worse"
        verdict = better if score["significant"] else "could be luck"
        p = f"p {p_text(score['p'])}, after Holm {p_text(score['p_holm'])}"
    texts = [f"{verdict}; 95 % interval {ends}; {p}"]
    if not score["significant"]:
        needed = score.get("seeds_needed")
        texts.append("more than 1000 seeds would be needed to show it" if needed is None
                     else f"about {needed} seeds would be needed to show it")  # fmt: skip
    if score.get("p_permutation") is not None:
        texts.append(f"these trained models alone: p {p_text(score['p_permutation'])} (permutation)")
    return texts


def _paper(score: Mapping[str, Any] | None, measure: Measure) -> Cell:
    """What the paper reports for the same cell, on its own data."""
    paper = (score or {}).get("paper")
    if not paper:
        return Cell()
    table = f"Table {paper['table']}" if str(paper["table"]).isdigit() else str(paper["table"])
    says = f"the paper's {table}, {paper['dataset']}, row {paper['row']}"
    return Cell(value_text(paper["value"], measure), value=paper["value"], says=says)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def multibench(table: Mapping[str, Any], record: Record, measures: Measures, source: str) -> list[Table]:
    """MultiBench's robustness under one noise: of the primary measure in full, then the effective one of all others."""
    noise, rows, primary = table["where"], table["rows"], record["primary"]
    known: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in measures:
        scores = {v: row[name] for v, row in rows.items() if name in row and _known(row[name].get("effective"))}
        if len(scores) > 1:
            known[name] = scores
    if not known:
        return []
    first = primary if primary in known else next(iter(known))
    baseline = label_of(record, record["reference"])
    tables = [_relative_and_effective(record, measures[first], known[first], noise, baseline, source)]
    if len(known) > 1:
        variants = dict.fromkeys(variant for scores in known.values() for variant in scores)
        lines = [
            [_variant(record, v), *(_effective(scores.get(v), measures[name]) for name, scores in known.items())]
            for v in variants
        ]
        heads = [Column("Variant"), *(Column.of(measures[name]) for name in known)]
        caption = f"Effective robustness (MultiBench) under {noise}; baseline: {baseline}"
        tables.append(Table(f"effective-{slug(noise)}", caption, heads, lines, source=source, wide=True))
    return tables


def _relative_and_effective(
    record: Record, measure: Measure, scores: Mapping[str, Mapping[str, Any]], noise: str, baseline: str, source: str
) -> Table:
    """Both of MultiBench's measures for one score, a row for each variant."""
    share = lambda value: Cell(DASH if value is None else f"{value:.2f}", value=value)
    lines = [
        [
            _variant(record, variant),
            Cell(value_text(score["relative"], measure), value=score["relative"]),
            share(score["relative_normalized"]),
            _effective(score, measure),
            share(score["effective_normalized"]),
        ]
        for variant, score in scores.items()
    ]
    own = Column.of(measure)
    heads = [
        Column("Variant"),
        replace(own, label="relative", under=measure.label),
        Column("relative, 0 to 1", better="higher", under="of these variants"),
        replace(own, label="effective", under=measure.label),
        Column("effective, 0 to 1", better="higher", under="of these variants"),
    ]
    caption = f"MultiBench's relative and effective robustness under {noise}, {measure.label}; baseline: {baseline}"
    return Table(f"robustness-{slug(noise)}", caption, heads, lines, source=source)


def _effective(score: Mapping[str, Any] | None, measure: Measure) -> Cell:
    """Effective robustness; the CSV file has MultiBench's other numbers beside it."""
    if score is None:
        return Cell()
    value, std = score["effective"], score["effective_std"]
    others = ("relative", "relative_normalized", "effective_normalized")
    more = {"std": std, **{name.replace("_", " "): score[name] for name in others}}
    return Cell(signed_text(value, measure), "" if std is None else value_text(std, measure), value, more)


def by_seed(record: Record, where: str, evaluations: Evaluations, measures: Measures, source: str) -> Table:
    """A row for each seed of each variant."""
    rows = []
    for variant, evaluation in evaluations.items():
        scores = {name: _each(evaluation, where, name) for name in measures}
        for seed in evaluation["seeds"]:
            file = RunFolder(Path("variants", variant)).predictions_of(evaluation, seed).as_posix()
            row = [replace(_variant(record, variant), note=""), Cell(str(seed), value=seed, link=file)]
            for name, measure in measures.items():
                value = scores[name].get(seed)
                row.append(Cell(value_text(value, measure), value=value))
            rows.append(row)
    columns = [Column("Variant"), Column("seed"), *map(Column.of, measures.values())]
    place = "Clean scores" if where == "clean" else f"Area under the curve (AUILC) under {where}"
    return Table(f"{table_name(where)}-seeds", f"{place} of each seed", columns, rows, source=source, wide=True)


def ranks_table(record: Record, ranks: Mapping[str, Any], measures: Measures, source: str) -> Table:
    """Mean ranks over several noises, a column for each measure."""
    first = next(iter(ranks.values()))
    cell = lambda value: Cell(f"{value:.2f}", value=value)
    rows = [
        [_variant(record, variant), *(cell(one["mean"][variant]) for one in ranks.values())]
        for variant in first["mean"]
    ]  # fmt: skip
    heads = [Column(measures[key].label, doc=measures[key].doc) for key in ranks]
    foot = [
        [Cell("critical difference", value="critical difference"),
         *(cell(one["critical_difference"]) for one in ranks.values())],
        [Cell("Friedman's p", value="Friedman's p"),
         *(Cell(p_text(one["p"]), value=one["p"]) for one in ranks.values())],
    ]  # fmt: skip
    caption = f"Mean ranks of the areas under {listed(first['over'])}; 1 is best"
    return Table("ranks", caption, [Column("Variant"), *heads], rows, foot, source, wide=True)


def sources(record: Record, evaluations: Evaluations, source: str) -> Table:
    """Where the numbers of each variant come from."""
    rows = []
    for variant, evaluation in evaluations.items():
        folder = f"variants/{variant}"
        epochs = "; ".join(f"seed {row['seed']}: epoch {row['epoch']}" for row in evaluation["checkpoints"])
        files = ("evaluation.json", "predictions/", "resolved.yaml")
        links = [Cell(name, value=f"{folder}/{name}", link=f"{folder}/{name}") for name in files]
        rows.append([_variant(record, variant), *links, Cell(epochs, value=epochs)])
    heads = ["scores", "predictions", "recipe", "seeds and the epochs that the validation split chose"]
    columns = [Column("Variant"), *(Column(head, words=True) for head in heads)]
    return Table("sources", "Where the numbers come from", columns, rows, source=source)
