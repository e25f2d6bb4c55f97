"""How every figure is drawn: colours, style, and SVG text that is the same for the same numbers.

No dates, no random ids, no fonts of the machine.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "COLOURS", "DASHED", "DOTTED", "FAINT", "GRID", "INK", "PAPER", "QUIET", "SERIES", "Drawing", "inline", "numbers",
    "one_panel", "plain", "scaled", "style",
]  # fmt: skip

# Colours as files have them. On the page each becomes a CSS variable, so that figures follow dark mode and print.
INK, QUIET, FAINT, GRID, PAPER = "#22262b", "#666d76", "#b9bfc6", "#e3e6ea", "#fefeff"
SERIES = ("#0b6b94", "#bf5a13", "#55802c", "#7d4fa8", "#b0355f", "#8a6d1d")
_VARIABLES = {INK: "--ink", QUIET: "--quiet", FAINT: "--faint", GRID: "--grid", PAPER: "--figure"} | {
    colour: f"--series-{i + 1}" for i, colour in enumerate(SERIES)
}

COLOURS = {variable: colour for colour, variable in _VARIABLES.items()}

# A `matplotlibrc` in the current folder may be a stranger's, and could start LaTeX.
_DEFAULTS = {key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": PAPER,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
}

_LARGEST = 1.75  # pixels of a point on the page: letters of figures are no larger than those around them

DASHED: dict[str, Any] = {"linestyle": (0, (4, 2.5)), "linewidth": 1.2}
DOTTED: dict[str, Any] = {"linestyle": (0, (1, 1.6)), "linewidth": 1.2}


def inline(svg: str) -> str:
    """The figure as part of a page: no prologue, as wide as there is room, colours that follow the page's."""
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    head, _, rest = body.partition(">")
    width = re.search(r' width="([\d.]+)pt"', head)
    most = f' style="max-width: {float(width[1]) * _LARGEST:.0f}px"' if width else ""
    body = re.sub(r' (width|height)="[^"]*"', "", head) + most + ">" + rest
    body = re.sub(r' id="(?:curve|name)-(\d+)"', r' class="curve-\1"', body)  # what the page's script lets step forward
    # Most ids are the same in every figure, and a page may have each but once; those that nothing refers to go.
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda one: one[0] if one[1] in used else "", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return body


@contextmanager
def style(salt: str) -> Iterator[str]:
    """The style of every figure; `salt` keeps the ids of two figures of a page apart, and is handed back."""
    settings: Any = {**_DEFAULTS, **_STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(settings):
        yield salt


@dataclass(frozen=True)
class Drawing:
    """A finished figure, to be had as SVG and as PDF.

    Attributes:
        figure: As matplotlib drew it.
        salt: What its ids are made from.
    """

    figure: Figure
    salt: str

    @cached_property
    def svg(self) -> str:
        """The figure as SVG text."""
        buffer = io.StringIO()
        with style(self.salt):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        # A hundredth of a point is finer than any printer, and the files are half as large.
        short = lambda number: re.sub(r"(\.\d\d)\d+", r"\1", number[0])
        return re.sub(r' (?:d|x|y|x1|y1)="[^"]*"', short, buffer.getvalue())

    def pdf(self) -> bytes:
        """The figure as a PDF file, for a paper."""
        buffer = io.BytesIO()
        with style(self.salt):
            self.figure.savefig(
                buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
            )
        return buffer.getvalue()


def plain(text: str) -> str:
    """Text that XML can hold and a figure has room for; names come from strangers."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    text = text if len(text) <= 48 else f"{text[:47]}…"
    # A label that begins with '_' would be left out of the legend.
    return f" {text}" if text.startswith("_") else text


def scaled(values: Sequence[float | None], scale: float) -> list[float]:
    """Values times a factor; NaN, which leaves a gap in a line, where one is unknown."""
    return [float("nan") if x is None else x * scale for x in values]


def numbers(values: Sequence[float | None]) -> list[float]:
    """Values as they are; NaN, which leaves a gap in a line, where one is unknown."""
    return scaled(values, 1)


def one_panel(width: float, height: float, below: float = 0.0) -> tuple[Figure, Axes]:
    """A figure whose margins are the same whatever it shows, so that those beside each other are in line; inches."""
    figure = Figure(figsize=(width, height))
    left, right, bottom, top = 0.5, 0.12, 0.44 + below, 0.34
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return figure, figure.add_subplot()
