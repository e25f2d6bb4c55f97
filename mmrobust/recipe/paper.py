"""Section `paper` of a study: which tables of a paper stand beside its own scores.

Only the shape is checked here. What the figures are, and whether such a table, data set and row exist, is known to
`mmrobust.studies.paper`, which checks it before a study begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmrobust.errors import nearest
from mmrobust.recipe.document import Node

if TYPE_CHECKING:
    from mmrobust.recipe.checker import Checker

__all__ = ["Cited", "cited", "schema"]

_KEYS = ("table", "dataset", "rows")


@dataclass(frozen=True)
class Cited:
    """A table of a paper that stands beside a study's own scores.

    Attributes:
        table: Which table or figure, as text.
        dataset: Which data set of that table.
        rows: The table's row of each variant that has one.
    """

    table: str
    dataset: str
    rows: Mapping[str, str]


def cited(node: Node | None, variants: Sequence[str], checker: Checker) -> tuple[Cited, ...]:
    """Reads the section: one table, or a list of them.

    Args:
        node: The section.
        variants: Names of the study's variants.
        checker: Collects what is wrong.
    """
    if node is None or node.value is None:
        return ()
    listed = node.value if isinstance(node.value, list) else [node]
    return tuple(one for item in listed if (one := _table(item, variants, checker)) is not None)


def _table(node: Node, variants: Sequence[str], checker: Checker) -> Cited | None:
    """One table; None where its shape is wrong."""
    if not isinstance(node.value, dict):
        what = "a mapping of table, dataset and rows, or a list of such"
        checker.report(node.where, f"paper has to be {what}, not {node}")
        return None
    given = checker.keys(node, _KEYS, "paper")
    for key in _KEYS:
        if key not in given:
            checker.report(node.key, f"paper needs '{key}'")
    if len(given) < len(_KEYS):
        return None
    rows = given["rows"]
    if not isinstance(rows.value, dict):
        checker.report(rows.where, f"paper.rows has to be a mapping of variants to rows of the table, not {rows}")
        return None
    for variant, row in rows.value.items():
        if variant not in variants:
            checker.report(row.key, f"paper.rows: there is no variant '{variant}'{nearest(variant, variants)}")
    texts = {key: _text(given[key], f"paper.{key}", checker) for key in ("table", "dataset")}
    return Cited(**texts, rows={name: _text(row, f"paper.rows.{name}", checker) for name, row in rows.value.items()})


def _text(node: Node, label: str, checker: Checker) -> str:
    """A name: text, or a whole number as text."""
    if isinstance(node.value, (str, int)) and not isinstance(node.value, bool):
        return str(node.value)
    checker.report(node.where, f"{label} has to be text, not {node}")
    return ""


def schema() -> dict[str, Any]:
    """The section's JSON Schema."""
    text = {"type": ["string", "integer"]}
    one = {
        "type": "object",
        "description": "A table of a paper whose figures stand beside the study's own.",
        "properties": {
            "table": text,
            "dataset": text,
            "rows": {"type": "object", "description": "The table's row of each variant.", "additionalProperties": text},
        },
        "required": list(_KEYS),
        "additionalProperties": False,
    }
    return {"anyOf": [one, {"type": "array", "items": one}, {"type": "null"}]}
