"""The figures that the NORM-TR paper prints, and which of them stand beside a study's own.

`paper.csv`, among the shipped recipes, has a figure a line, as printed: `table,row,dataset,metric,value`. A table is
`1` to `8`, `figure 6a`, `figure 6b` or `section 4.7.4`; a row with a star was reproduced by the paper's authors;
metrics go by the names of `mmrobust.measures`, and percentages are percentages. Of the curves (Figures 5 and 6) only
those points are there whose value the text states.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from mmrobust.errors import Problem, RecipeError, nearest
from mmrobust.recipe import Cited, Recipe, shipped_folder

__all__ = ["AREAS", "Figure", "check_cited", "figures", "figures_of"]

AREAS = frozenset({"5"})  # tables of areas under the curve; all others are of clean scores


@dataclass(frozen=True)
class Figure:
    """One printed figure of the paper.

    Attributes:
        table: Which table, figure or section.
        row: Its row: a method.
        dataset: The data set that it was measured on.
        metric: The measure's name.
        value: As printed; percentages as percentages.
    """

    table: str
    row: str
    dataset: str
    metric: str
    value: str


@lru_cache(maxsize=1)
def figures() -> tuple[Figure, ...]:
    """Everything in `paper.csv`, in the paper's order."""
    with open(shipped_folder() / "paper.csv", encoding="utf-8", newline="") as file:
        return tuple(Figure(**row) for row in csv.DictReader(file))


def figures_of(cited: Cited, variant: str) -> tuple[Figure, ...]:
    """The paper's figures of one variant."""
    key = (cited.table, cited.dataset, cited.rows.get(variant))
    return tuple(one for one in figures() if (one.table, one.dataset, one.row) == key)


def check_cited(recipe: Recipe) -> None:
    """Checks that the paper has every table, data set and row that a study's section `paper` names.

    Raises:
        RecipeError: With everything that the paper does not have, each with file, line and column.
    """
    listed = recipe.tree is not None and (node := recipe.tree.get("paper")) is not None and isinstance(node.value, list)
    problems = []
    for i, cited in enumerate(recipe.paper):
        place = ("paper", i) if listed else ("paper",)
        problems += [Problem(text, recipe.where(*place, *keys)) for text, *keys in _mistakes(cited)]
    if problems:
        raise RecipeError(problems)


def _mistakes(cited: Cited) -> Iterable[tuple[str, ...]]:
    """What is wrong with one section: a message, then the keys that lead to the place."""
    tables = dict.fromkeys(one.table for one in figures())
    if cited.table not in tables:
        yield f"there is no table of the paper '{cited.table}'{nearest(cited.table, tables)}", "table"
        return
    datasets = dict.fromkeys(one.dataset for one in figures() if one.table == cited.table)
    if cited.dataset not in datasets:
        what = f"there is no dataset of table {cited.table} '{cited.dataset}'"
        yield f"{what}{nearest(cited.dataset, datasets)}", "dataset"
        return
    rows = dict.fromkeys(one.row for one in figures() if (one.table, one.dataset) == (cited.table, cited.dataset))
    for variant, row in cited.rows.items():
        if row not in rows:
            what = f"table {cited.table} of the paper has no row '{row}' for {cited.dataset}"
            yield f"{what}{nearest(row, rows)}", "rows", variant
