"""Figures as SVG text. The same numbers give the same bytes: no dates, no random ids, no fonts of the machine."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mmrobust.measures import Measure

__all__ = ["Curve", "against_rate", "compared", "inline", "over_epochs"]

# Colours as files have them. On the page each becomes a CSS variable, so that figures follow dark mode and print.
INK, QUIET, GRID, PAPER = "#22262b", "#666d76", "#e3e6ea", "#fefeff"
SERIES = ("#0b6b94", "#bf5a13", "#55802c", "#7d4fa8", "#b0355f", "#8a6d1d")
_VARIABLES = {INK: "--ink", QUIET: "--quiet", GRID: "--grid", PAPER: "--figure"} | {
    colour: f"--series-{i + 1}" for i, colour in enumerate(SERIES)
}

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

_DASHED: dict[str, Any] = {"linestyle": (0, (4, 2.5)), "linewidth": 1.2}


@dataclass(frozen=True)
class Curve:
    """A measure against the rates.

    Attributes:
        name: Of the noise.
        mean: Over the seeds; None where undefined.
        each: The curve of each seed.
        limit: What no model can pass; None where unknown.
    """

    name: str
    mean: Sequence[float | None]
    each: Sequence[Sequence[float | None]]
    limit: Sequence[float | None] | None = None


def against_rate(measure: Measure, rates: Sequence[float], curves: Sequence[Curve], *, large: bool = False) -> str:
    """A measure against the rate of each noise, with every seed, their spread and the limit.

    Args:
        measure: What is drawn.
        rates: Of the sweep.
        curves: One for each noise.
        large: The figure that stands alone, with a legend.
    """
    with _style(f"rate {measure.name} {large}"):
        limited = any(curve.limit is not None for curve in curves)
        below = large and len(curves) > 1  # names of several noises need a line each
        room = 0.2 * (len(curves) + limited) if below else 0.0
        figure, axes = _figure(5.8 if large else 3.45, (3.2 if large else 2.35) + room, room)
        scale = 100 if measure.percent else 1
        for i, curve in enumerate(curves):
            colour = SERIES[i % len(SERIES)]
            if curve.limit is not None:
                axes.plot(rates, _scaled(curve.limit, scale), color=colour if below else QUIET, **_DASHED)
            if len(curve.each) > 1:
                columns = [[x for x in column if x is not None] for column in zip(*curve.each, strict=True)]
                low = [min(column) * scale if column else None for column in columns]
                high = [max(column) * scale if column else None for column in columns]
                axes.fill_between(rates, _number(low), _number(high), color=colour, alpha=0.18, linewidth=0)
            axes.plot(rates, _scaled(curve.mean, scale), color=colour, marker="o", markersize=3.2 if large else 2.4)
        axes.set_title(_plain(measure.title))
        axes.set_xlabel("noise rate")
        axes.set_xlim(min(rates), max(rates) if max(rates) > min(rates) else min(rates) + 1)
        axes.margins(y=0.08)
        if large:
            lines = [
                Line2D([], [], color=SERIES[i % len(SERIES)], marker="o", markersize=3.2, label=_plain(curve.name))
                for i, curve in enumerate(curves)
            ]
            if limited:
                lines.append(Line2D([], [], color=QUIET, label="limit", **_DASHED))
            place: dict[str, Any] = (
                {"loc": "upper left", "bbox_to_anchor": (0, -0.44 / 2.42), "ncols": 1}
                if below
                else {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
            )
            axes.legend(handles=lines, borderaxespad=0.2, handlelength=1.8, labelspacing=0.3, **place)
        return _svg(figure)


def compared(
    measure: Measure,
    noise: str,
    curves: Sequence[tuple[Sequence[float], Curve]],
    *,
    one_limit: bool,
    large: bool = False,
) -> str:
    """A measure against the rate of one noise, for several models.

    Args:
        measure: What is drawn.
        noise: Its name.
        curves: Rates and curve of each model, the reference first.
        one_limit: The limit is the same for all, and drawn once; otherwise each has its own, in its colour.
        large: The figure that stands alone, with a legend.
    """
    with _style(f"compared {measure.name} {noise} {large}"):
        beside = 0.6 + 0.066 * max(len(_plain(curve.name)) for _, curve in curves)  # inches for the legend
        width = 6 + beside if large else 3.45
        figure, axes = _figure(width, 3.5 if large else 2.35)
        scale = 100 if measure.percent else 1
        for i, (rates, curve) in enumerate(curves):
            colour, turn = SERIES[i % len(SERIES)], i // len(SERIES)
            if curve.limit is not None and not (one_limit and i):
                shade, said = (QUIET, "limit") if one_limit else (colour, None)
                axes.plot(rates, _scaled(curve.limit, scale), color=shade, linestyle=(0, (4, 2.5)), linewidth=1.1,
                          alpha=0.8, label=said)  # fmt: skip
            axes.plot(rates, _scaled(curve.mean, scale), color=colour, label=_plain(curve.name),
                      linestyle=("-", (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))[turn % 3], linewidth=1.5,
                      marker="osD^v"[i % 5], markersize=3.6 if large else 2.4)  # fmt: skip
            if large and len(curve.each) > 1 and len(curves) <= 4:
                columns = [[x for x in column if x is not None] for column in zip(*curve.each, strict=True)]
                low = [min(column) * scale if column else None for column in columns]
                high = [max(column) * scale if column else None for column in columns]
                axes.fill_between(rates, _number(low), _number(high), color=colour, alpha=0.12, linewidth=0)
        axes.set_title(_plain(measure.title))
        axes.set_xlabel("noise rate")
        every = [rate for rates, _ in curves for rate in rates]
        axes.set_xlim(min(every), max(every) if max(every) > min(every) else min(every) + 1)
        axes.margins(y=0.08)
        if large:
            figure.subplots_adjust(right=1 - beside / width)
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), handlelength=2.2, labelspacing=0.7)
        return _svg(figure)


def over_epochs(
    title: str, series: Mapping[int, tuple[Sequence[int], Sequence[float | None]]], chosen: Mapping[int, int]
) -> str:
    """A value over the epochs of each seed; the chosen epoch of each is marked.

    Args:
        title: What is drawn.
        series: Epochs and values of each seed.
        chosen: The epoch of the best checkpoint of each seed.
    """
    with _style(f"epochs {title}"):
        figure, axes = _figure(3.45, 2.35)
        many = len(series) > len(SERIES)
        for i, (seed, (epochs, values)) in enumerate(series.items()):
            colour = SERIES[0 if many else i]
            found = _number(values)
            axes.plot(epochs, found, color=colour, linewidth=1.2, alpha=0.5 if many else 1, label=f"seed {seed}",
                      marker="o" if len(epochs) == 1 else None, markersize=3)  # fmt: skip
            if seed in chosen and chosen[seed] in epochs:
                at = list(epochs).index(chosen[seed])
                axes.plot([epochs[at]], [found[at]], color=colour, marker="o", markersize=5, markerfacecolor=PAPER)
        axes.set_title(_plain(title))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.margins(x=0.02, y=0.08)
        if 1 < len(series) <= len(SERIES):
            axes.legend(loc="best", handlelength=1.2, labelspacing=0.3)
        return _svg(figure)


def inline(svg: str) -> str:
    """The figure as part of a page: no prologue, no fixed size, colours that follow the page's."""
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    head, _, rest = body.partition(">")
    body = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
    # Most ids are the same in every figure, and a page may have each but once; those that nothing refers to go.
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return body


def _style(salt: str) -> AbstractContextManager[None]:
    """The house's style; `salt` keeps the ids of two figures of a page apart."""
    settings: Any = {**_STYLE, "svg.hashsalt": salt}
    return mpl.rc_context(settings)


def _plain(text: str) -> str:
    """Text that XML can hold and a figure has room for; names come from strangers."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    text = text if len(text) <= 48 else f"{text[:47]}…"
    # A label that begins with '_' would be left out of the legend.
    return f" {text}" if text.startswith("_") else text


def _scaled(values: Sequence[float | None], scale: float) -> list[float]:
    return [float("nan") if x is None else x * scale for x in values]


def _number(values: Sequence[float | None]) -> list[float]:
    return _scaled(values, 1)


def _figure(width: float, height: float, below: float = 0.0) -> tuple[Figure, Axes]:
    """A figure whose margins are the same whatever it shows, so that those beside each other are in line; inches."""
    figure = Figure(figsize=(width, height))
    left, right, bottom, top = 0.5, 0.12, 0.44 + below, 0.34
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
