"""Promise: what is handed out says what the page says, in full, and a stranger's text does nothing in it."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any
from urllib.parse import unquote

import pytest

from mmrobust.measures import describe
from mmrobust.reports.common import template
from mmrobust.reports.table import Cell, Column, Table, harmless, latex, slug


def sheet(table: Table) -> str:
    macros = template("macros.html")
    return str(macros.make_module({"inline": str}).sheet(table))  # type: ignore[attr-defined]


def example() -> Table:
    return Table(
        "clean",
        "Clean scores, 50 %",
        [Column("Variant"), Column.of(describe("acc2_has0")), Column.of(describe("mae"), "paper, MOSI", paper=True),
         Column("changes", words=True, aside=True)],
        [
            [Cell("nrgf_a", value="nrgf_a"), Cell("48.5", "0.2", 0.4851, {"std": 0.002, "n": 5}, bold=True),
             Cell("0.698", value=0.698), Cell("", lines=["a: 1"], value="a: 1")],
            [Cell("b", value="b"), Cell("−1.0", "", -0.01, {"std": None, "n": 1}), Cell(), Cell("", value="")],
        ],
        [[Cell("limit", value="limit"), Cell("81.0", value=0.81), Cell(""), Cell("")]],
        "study/2026",
        legend="Bold: so.",
    )  # fmt: skip


def test_csv_holds_the_numbers_in_full() -> None:
    rows = list(csv.reader(io.StringIO(example().csv())))
    assert rows[0] == ["Variant", "Acc-2 (neg/non-neg)", "Acc-2 (neg/non-neg) std", "Acc-2 (neg/non-neg) n",
                       "MAE (paper, MOSI)", "changes"]  # fmt: skip
    assert rows[1] == ["nrgf_a", "0.4851", "0.002", "5", "0.698", "a: 1"]
    assert rows[2] == ["b", "-0.01", "", "1", "", ""] and rows[3] == ["limit", "0.81", "", "", "", ""]


def test_latex_is_ready_for_a_paper() -> None:
    text = example().latex()
    assert text.startswith("% study/2026\n")
    assert (
        r"\shortstack{Acc{-}2 $\uparrow$\\(neg/non{-}neg), \%} & \shortstack{MAE $\downarrow$\\paper, MOSI} \\" in text
    )
    assert r"nrgf\_a & $\mathbf{48.5} \pm 0.2$ & $0.698$ \\" in text and r"b & $-1.0$ & -- \\" in text
    assert r"\midrule" + "\nlimit & $81.0$ &  " in text and "changes" not in text
    assert r"\caption{Clean scores, 50 \% Bold: so.}" in text and r"\begin{tabular}{lrr}" in text
    for command in ("toprule", "bottomrule", "end{tabular}", "end{table}"):
        assert text.count(f"\\{command}") == 1
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")


def test_the_page_offers_the_same_files() -> None:
    table = example()
    for (_, name, address), text in zip(table.links, (table.csv(), table.latex()), strict=True):
        assert unquote(address.partition(",")[2]) == text and name.startswith("clean.")
        assert not set(address) & set("\"'<>& \n")


def test_sorting_looks_at_the_numbers_themselves() -> None:
    assert 'data-key="0.4851"' in sheet(example()) and Cell("x", value=math.nan).key == ""


def test_hostile_strings_stay_text_everywhere(hostile: list[str], read: Any) -> None:
    """Every string in every place of a table: the page's structure, CSV and LaTeX stay what they are."""

    def made(text: str) -> Table:
        column = lambda **more: Column(text, "%", "higher", text, text, **more)
        full = Cell(text, "0.1", text, {text: text}, text, bold=True, difference=text, sign=text, p=text, limit=text,
                    interval=text, note=text)  # fmt: skip
        row = [Cell(value=text, head=column()), full, Cell("", lines=[text], value=text), Cell(text, link="x")]
        columns = [column(), column(paper=True), column(words=True), column()]
        return Table(slug(text), text, columns, [row, row], [row], text, legend=text)

    calm = read(sheet(made("harmless"))).elements
    lines = made("harmless").latex().count("\n")
    for text in hostile:
        table = made(text)
        found = read(sheet(table).replace("<wbr>", ""))
        assert found.elements == [element for element in calm if element[0] != "wbr"], text
        rows = list(csv.reader(io.StringIO(table.csv())))
        assert len(rows) == 4 and len({len(row) for row in rows}) == 1
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row), text
        told = table.latex()
        assert told.count("\n") == lines, text
        body = told.partition("\n")[2]  # the first line is a comment
        assert not re.search(r"\\(input|write|immediate)|\^\^|(?<!\\)#", body), text
        assert body.count(r"\end{table}") == 1
        assert all("\n" not in name and "/" not in name for _, name, _ in table.links)


@pytest.mark.parametrize(
    ("text", "told"),
    [("a_b 50% & #1", r"a\_b 50\% \& \#1"), ("\\", r"\textbackslash{}"), ("x\ny\x00", "x y\N{REPLACEMENT CHARACTER}"),
     ("~^{}$", r"\textasciitilde{}\textasciicircum{}\{\}\$"), ("−1 ± 2 ↑", r"$-$1 $\pm$ 2 $\uparrow$")],
)  # fmt: skip
def test_latex_escapes(text: str, told: str) -> None:
    assert latex(text) == told


def test_csv_escapes_formulas_but_not_numbers() -> None:
    assert [harmless(x) for x in ("=1", " +1", "-x", "@a", "a=1", -1.5, 3, None, math.inf)] == [
        "'=1", "' +1", "'-x", "'@a", "a=1", -1.5, 3, "", ""]  # fmt: skip


def test_slugs_name_files_and_tell_names_apart(hostile: list[str]) -> None:
    assert slug("frame_drop (modalities=text+audio)") == "frame_drop-modalities-text-audio"
    assert slug("a b") != slug("a-b") and slug("") and slug("..")
    names = [slug(text) for text in hostile]
    assert len(set(names)) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", name) and not name.startswith(".") for name in names)
