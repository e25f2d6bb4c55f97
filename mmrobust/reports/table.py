"""Tables: put together once, then shown on the page and handed out as CSV and as LaTeX.

A cell keeps the number itself beside what is shown of it: the page sorts by it and CSV files give it in full. What
stands in a cell may come from a stranger. The page's template escapes it for HTML; here it is escaped for the rest.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

from mmrobust.measures import Measure

__all__ = ["DASH", "Cell", "Column", "Table", "slug"]

DASH = "–"

_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}", "-": "{-}",
    "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$", "†": r"$\dagger$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """The head of a column, or of a row where rows are measures.

    Attributes:
        label: What it is called.
        unit: `%`, or nothing.
        better: `higher`, `lower`, or nothing where neither is.
        doc: Its definition.
        under: A second line: where it was measured.
        paper: True for figures that are not ours but the paper's.
        words: True where it holds text and not numbers.
        aside: True for what a paper's table has no room for; left out of LaTeX.
        role: `primary` or `exploratory` for the measures of a comparison, nothing elsewhere.
    """

    label: str
    unit: str = ""
    better: str = ""
    doc: str = ""
    under: str = ""
    paper: bool = False
    words: bool = False
    aside: bool = False
    role: str = ""

    arrow = property(lambda self: {"higher": "↑", "lower": "↓"}.get(self.better, ""))

    @staticmethod
    def of(measure: Measure, under: str = "", paper: bool = False, role: str = "") -> Column:
        """The head of a measure."""
        unit = "%" if measure.percent else ""
        return Column(measure.label, unit, measure.better, measure.doc, under, paper, role=role)

    @property
    def key(self) -> str:
        """What the CSV file calls it."""
        return " ".join(part for part in (self.label, f"({self.under})" if self.under else "") if part)

    def latex(self) -> str:
        """The head in LaTeX, on several lines where it is long."""
        first, opened, rest = self.label.partition(" (")
        lines = [first, *([f"({rest}"] if opened else [])]
        lines[-1] += f", {self.unit}" if self.unit else ""
        lines = [latex(line) for line in (*lines, self.under, self.role) if line]
        lines[0] += f" {latex(self.arrow)}" if self.arrow else ""
        return lines[0] if len(lines) == 1 else r"\shortstack{" + r"\\".join(lines) + "}"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        spread: Standard deviation as shown, after a ±.
        value: The number (or text) itself: what the page sorts by, and the CSV file holds. Fractions where percent are
            shown.
        more: Further columns of the CSV file: `{"std": 0.01, "n": 5}`.
        says: What pointing at it shows.
        link: Where it leads, relative to the page.
        head: For the first cell of a row that is a measure.
        bold: True for the best of its column, and for what cannot be told from it.
        dagger: True where it differs from the reference by more than luck.
        difference: To the reference, shown below.
        sign: `better` or `worse`, of a difference that is more than luck.
        p: Of the difference, as shown.
        limit: Of this row alone, as shown.
        interval: Of the mean, as shown.
        note: A quiet line below.
        lines: Lines of code, instead of text.
        quiet: True where it only accompanies.
    """

    text: str = DASH
    spread: str = ""
    value: Any = None
    more: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""
    link: str = ""
    head: Column | None = None
    bold: bool = False
    dagger: bool = False
    difference: str = ""
    sign: str = ""
    p: str = ""
    limit: str = ""
    interval: str = ""
    note: str = ""
    lines: Sequence[str] | None = None
    quiet: bool = False

    @property
    def key(self) -> str:
        """What the page sorts by."""
        if isinstance(self.value, float):
            return f"{self.value:.9g}" if math.isfinite(self.value) else ""
        return "" if self.value is None else str(self.value)

    def latex(self) -> str:
        """The cell in LaTeX: the number with its spread; bold, and with a dagger, where the page has it so."""
        if self.head is not None:
            return self.head.latex()
        if not isinstance(self.value, (int, float)):
            return rf"\textbf{{{latex(self.text)}}}" if self.bold else latex(self.text)
        if self.text == DASH:
            return "--"
        number = self.text.replace("−", "-").replace("%", r"\%").replace(",", "{,}")
        number = rf"\mathbf{{{number}}}" if self.bold else number
        spread = f" \\pm {self.spread}" if self.spread else ""
        dagger = r"^{\dagger}" if self.dagger else ""
        return f"${number}{spread}{dagger}$"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Of its files, without ending, and unique on the page.
        caption: What it shows, in a line.
        columns: Heads, that of the rows first.
        rows: Cells, as many as columns.
        foot: Rows that stay at the end however the others are sorted.
        source: The folder its numbers come from.
        wide: True for many columns: smaller letters.
        legend: What the LaTeX caption adds, such as the meaning of bold.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()
    source: str = ""
    wide: bool = False
    legend: str = ""

    def csv(self) -> str:
        """The numbers in full, a line for each row; fractions stay fractions."""
        every = [*self.rows, *self.foot]
        more = [list(dict.fromkeys(key for row in every for key in row[i].more)) for i in range(len(self.columns))]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            [
                harmless(name)
                for column, keys in zip(self.columns, more, strict=True)
                for name in (column.key, *(f"{column.key} {key}" for key in keys))
            ]
        )
        for row in every:
            writer.writerow(
                [
                    harmless(value)
                    for cell, keys in zip(row, more, strict=True)
                    for value in (
                        cell.text if cell.value is None and cell.text != DASH else cell.value,
                        *map(cell.more.get, keys),
                    )
                ]
            )
        return text.getvalue()

    def latex(self) -> str:
        """A `table` with `booktabs`, to be pasted into a paper."""
        kept = [i for i, column in enumerate(self.columns) if not column.aside]
        line = lambda cells: " & ".join(cells) + r" \\"
        rows = [line(row[i].latex() for i in kept) for row in self.rows]
        if self.foot:
            rows += [r"\midrule", *(line(row[i].latex() for i in kept) for row in self.foot)]
        align = "".join("l" if self.columns[i].words or not i else "r" for i in kept)
        caption = " ".join(latex(text) for text in (self.caption, self.legend) if text)
        return "\n".join(
            [
                f"% {_line(self.source)}" if self.source else "% written by mmrobust",
                "% needs: \\usepackage{booktabs,textcomp}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{caption}}}",
                rf"\label{{tab:{self.name}}}",
                rf"\begin{{tabular}}{{{align}}}",
                r"\toprule",
                line(self.columns[i].latex() for i in kept),
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    @property
    def links(self) -> list[tuple[str, str, str]]:
        """What the page offers: kind, file name, and the file itself as an address."""
        return [
            ("CSV", f"{self.name}.csv", _address("text/csv", self.csv())),
            ("LaTeX", f"{self.name}.tex", _address("application/x-tex", self.latex())),
        ]


def latex(text: str) -> str:
    """Text with everything escaped that LaTeX would take for a command."""
    return "".join(_TEX.get(c, c) for c in _line(text))


def harmless(value: Any) -> Any:
    """A value for a CSV file: numbers as they are, text such that no spreadsheet takes it for a formula."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, (int, float)):
        return value
    text = _line(str(value))
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "'")) else text


def slug(name: str) -> str:
    """The name of a file or an id, whatever the name holds; two names that look alike do not get the same."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")[:80]
    if plain and re.fullmatch(r"[A-Za-z0-9_.+-]+( \([A-Za-z0-9_.+=, -]*\))?", name) and len(name) <= 80:
        return plain
    return f"{plain[:60] or 'x'}-{blake2b(name.encode('utf-8', 'replace'), digest_size=3).hexdigest()}"


def _line(text: str) -> str:
    """Text on one line, without what cannot be seen."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _address(kind: str, text: str) -> str:
    return f"data:{kind};charset=utf-8,{quote(text, safe=',:;/()=')}"
