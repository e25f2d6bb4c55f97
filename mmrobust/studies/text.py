"""A study's tables as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrobust.measures import describe, quoted
from mmrobust.robustness.sweep import CLEAN

__all__ = ["tables_text"]

_LEGEND = "* the best, and what cannot be told from it; † differs from {reference} (paired test, Holm, p < .05)"


def tables_text(record: Mapping[str, Any]) -> list[str]:
    """Lines of the tables in `study.json`: the measures that people quote, the primary one first."""
    lines: list[str] = []
    omitted: list[str] = []
    primary = record.get("primary")
    for table in record["tables"]:
        measures = list(next(iter(table["rows"].values()), {}))
        names = quoted(measures, primary)
        omitted = [describe(name).label for name in measures if name not in names]
        lines += ["", *_table(record, table, names)]
    if record["tables"]:
        lines += ["", _LEGEND.format(reference=record["reference"])]
        if primary:
            lines.append(f"{describe(primary).label} is the primary measure; all others are exploratory")
        lines += [f"in the report too: {', '.join(omitted)}"] if omitted else []
    return lines


def _table(record: Mapping[str, Any], table: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """One table, its columns aligned."""
    head = ["clean" if table["where"] == CLEAN else f"AUILC {table['where']}"]
    rows = [[record["variants"][variant].get("label") or variant] for variant in table["rows"]]
    for name in names:
        scores = [row.get(name) for row in table["rows"].values()]
        head.append(describe(name).title)
        for row, score in zip(rows, scores, strict=True):
            row.append(_cell(name, score))
        if cited := [score["paper"] for score in scores if score and score.get("paper")]:
            head.append(f"(paper, {', '.join(dict.fromkeys(one['dataset'] for one in cited))})")
            for row, score in zip(rows, scores, strict=True):
                row.append(_cited(name, score))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]


def _cell(name: str, score: Mapping[str, Any] | None) -> str:
    """Mean, standard deviation and marks of one score."""
    if score is None:
        return "-"
    show = describe(name).show
    spread = "" if score["std"] is None else f" ± {show(score['std'])}"
    marks = ("*" if score.get("best") else "") + ("†" if score["significant"] else "")
    return f"{show(score['mean'])}{spread}{f' {marks}' if marks else ''}"


def _cited(name: str, score: Mapping[str, Any] | None) -> str:
    return f"({describe(name).show(score['paper']['value'])})" if score and score.get("paper") else ""
