"""The figures that the NORM-TR paper prints, and how a study says which of them stand beside its own.

`paper.csv`, among the shipped recipes, has a figure a line, as printed: `table,row,dataset,metric,value`. A table is
`1` to `8`, `figure 6a`, `figure 6b` or `section 4.7.4`; a row with a star was reproduced by the paper's authors;
metrics go by the names of `mmrobust.measures`, and percentages are percentages. Of the curves (Figures 5 and 6) only
those points are there whose value the text states.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmrobust.errors import nearest
from mmrobust.recipe.compose import shipped_folder
from mmrobust.recipe.document import Node

if TYPE_CHECKING:
    from mmrobust.recipe.check import Checker

__all__ = ["AREAS", "Cited", "Figure", "cited", "figures"]

AREAS = frozenset({"5"})  # tables of areas under the curve; all others are of clean scores


@dataclass(frozen=True)
class Figure:
    """One figure of the paper.

    Attributes:
        table: Which table, figure or section.
        row: Its row: a method.
        dataset: Of which it tells.
        metric: The measure's name.
        value: As printed; percentages as percentages.
    """

    table: str
    row: str
    dataset: str
    metric: str
    value: str


@dataclass(frozen=True)
class Cited:
    """A table of the paper that stands beside a study's own figures: section `paper`.

    Attributes:
        table: `1` to `8`, `figure 6a`, ...
        dataset: Of those that the table has.
        rows: The table's row of each variant that has one.
    """

    table: str
    dataset: str
    rows: Mapping[str, str]

    def of(self, variant: str) -> tuple[Figure, ...]:
        """What the paper says of a variant."""
        key = (self.table, self.dataset, self.rows.get(variant))
        return tuple(one for one in figures() if (one.table, one.dataset, one.row) == key)


@lru_cache(maxsize=1)
def figures() -> tuple[Figure, ...]:
    """Everything in `paper.csv`, in the paper's order."""
    with open(shipped_folder() / "paper.csv", encoding="utf-8", newline="") as file:
        return tuple(Figure(**row) for row in csv.DictReader(file))


def cited(node: Node | None, variants: Sequence[str], checker: Checker) -> tuple[Cited, ...]:
    """Section `paper`: one table, or a list of them; what is wrong is told to the checker.

    Args:
        node: The section.
        variants: Names of the study's variants.
        checker: Hears what is wrong.
    """
    if node is None or node.value is None:
        return ()
    listed = node.value if isinstance(node.value, list) else [node]
    return tuple(one for item in listed if (one := _table(item, variants, checker)) is not None)


def _table(node: Node, variants: Sequence[str], checker: Checker) -> Cited | None:
    if not isinstance(node.value, dict):
        checker.tell(node.where, f"paper has to be a mapping of table, dataset and rows, or a list of such, not {node}")
        return None
    given = checker.keys(node, ("table", "dataset", "rows"), "paper")
    for key in ("table", "dataset", "rows"):
        if key not in given:
            checker.tell(node.key, f"paper needs '{key}'")
    if len(given) < 3:
        return None
    there = list(figures())
    chosen: dict[str, Any] = {}
    for key in ("table", "dataset"):
        value, known = _word(given[key]), dict.fromkeys(getattr(one, key) for one in there)
        if value not in known:
            what = "table of the paper" if key == "table" else f"dataset of table {chosen['table']}"
            checker.tell(given[key].where, f"there is no {what} '{value}'{nearest(value, known)}")
            return None
        chosen[key] = value
        there = [one for one in there if getattr(one, key) == value]
    rows = given["rows"]
    if not isinstance(rows.value, dict):
        checker.tell(rows.where, f"paper.rows has to be a mapping of variants to rows of the table, not {rows}")
        return None
    known = dict.fromkeys(one.row for one in there)
    for variant, row in rows.value.items():
        if variant not in variants:
            checker.tell(row.key, f"paper.rows: there is no variant '{variant}'{nearest(variant, variants)}")
        if _word(row) not in known:
            checker.tell(
                row.where,
                f"table {chosen['table']} of the paper has no row '{_word(row)}' for {chosen['dataset']}"
                f"{nearest(_word(row), known)}",
            )
    return Cited(**chosen, rows={variant: _word(row) for variant, row in rows.value.items()})


def _word(node: Node) -> str:
    return node.value if isinstance(node.value, str) else str(node)


def schema() -> dict[str, Any]:
    """The section's JSON Schema."""
    tables = list(dict.fromkeys(one.table for one in figures()))
    one = {
        "type": "object",
        "description": "A table of the NORM-TR paper whose figures stand beside the study's own.",
        "properties": {
            "table": {"enum": [*tables, *(int(name) for name in tables if name.isdigit())]},
            "dataset": {"enum": list(dict.fromkeys(one.dataset for one in figures()))},
            "rows": {
                "type": "object",
                "description": "The table's row of each variant.",
                "additionalProperties": {"enum": list(dict.fromkeys(one.row for one in figures()))},
            },
        },
        "required": ["table", "dataset", "rows"],
        "additionalProperties": False,
    }
    return {"anyOf": [one, {"type": "array", "items": one}, {"type": "null"}]}
