"""Figures of scores as SVG text: against the rate of noise, over the epochs, and mean ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmrobust.measures import Measure
from mmrobust.reports.drawing import (
    DASHED,
    DOTTED,
    FAINT,
    INK,
    PAPER,
    QUIET,
    SERIES,
    Drawing,
    numbers,
    one_panel,
    plain,
    scaled,
    style,
)

__all__ = ["Curve", "against_rate", "cliques", "compared", "multiples", "over_epochs", "ranked"]


@dataclass(frozen=True)
class Curve:
    """A measure against the rates.

    Attributes:
        name: Of the noise, or of the variant where several share a figure.
        mean: Over the seeds; None where undefined.
        each: The curve of each seed.
        limit: What no model can pass; None where unknown.
    """

    name: str
    mean: Sequence[float | None]
    each: Sequence[Sequence[float | None]]
    limit: Sequence[float | None] | None = None


def against_rate(
    measure: Measure,
    rates: Sequence[float],
    curves: Sequence[Curve],
    *,
    large: bool = False,
    constant: float | None = None,
) -> Drawing:
    """A measure against the rate of each noise, with every seed, their spread and the limit.

    Args:
        measure: What is drawn.
        rates: Of the sweep.
        curves: One for each noise.
        large: The figure that stands alone, with a legend.
        constant: Score of the constant prediction, a dotted line; None where it is unknown.
    """
    with style(f"rate {measure.name} {large}") as salt:
        limited = any(curve.limit is not None for curve in curves)
        below = large and len(curves) > 1  # names of several noises need a line each
        room = 0.2 * (len(curves) + limited + (constant is not None)) if below else 0.0
        figure, axes = one_panel(5.8 if large else 3.45, (3.2 if large else 2.35) + room, room)
        scale = 100 if measure.percent else 1
        for i, curve in enumerate(curves):
            colour = SERIES[i % len(SERIES)]
            if curve.limit is not None:
                axes.plot(rates, scaled(curve.limit, scale), color=colour if below else QUIET, **DASHED)
            if len(curve.each) > 1:
                columns = [[x for x in column if x is not None] for column in zip(*curve.each, strict=True)]
                low = [min(column) * scale if column else None for column in columns]
                high = [max(column) * scale if column else None for column in columns]
                axes.fill_between(rates, numbers(low), numbers(high), color=colour, alpha=0.18, linewidth=0)
            axes.plot(rates, scaled(curve.mean, scale), color=colour, marker="o", markersize=3.2 if large else 2.4)
        if constant is not None:
            axes.axhline(constant * scale, color=QUIET, **DOTTED)
        axes.set_title(plain(measure.title))
        axes.set_xlabel("noise rate")
        axes.set_xlim(min(rates), max(rates) if max(rates) > min(rates) else min(rates) + 1)
        axes.margins(y=0.08)
        if large:
            lines = [
                Line2D([], [], color=SERIES[i % len(SERIES)], marker="o", markersize=3.2, label=plain(curve.name))
                for i, curve in enumerate(curves)
            ]
            if limited:
                lines.append(Line2D([], [], color=QUIET, label="limit", **DASHED))
            if constant is not None:
                lines.append(Line2D([], [], color=QUIET, label="constant prediction", **DOTTED))
            place: dict[str, Any] = (
                {"loc": "upper left", "bbox_to_anchor": (0, -0.44 / 2.42), "ncols": 1}
                if below
                else {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3}
            )
            axes.legend(handles=lines, borderaxespad=0.2, handlelength=1.8, labelspacing=0.3, **place)
        return Drawing(figure, salt)


def compared(
    measure: Measure,
    noise: str,
    curves: Sequence[tuple[Sequence[float], Curve]],
    *,
    one_limit: bool,
    large: bool = False,
    shown: Mapping[int, int] | None = None,
    areas: Sequence[float | None] | None = None,
) -> Drawing:
    """A measure against the rate of one noise, for several models.

    Args:
        measure: What is drawn.
        noise: Its name.
        curves: Rates and curve of each model, the reference first.
        one_limit: The limit is the same for all, and drawn once; otherwise each has its own, in its colour.
        large: The figure that stands alone, with a legend.
        shown: Where there are too many for a colour each: which of them has which colour; the others stay grey.
        areas: Under each curve, beside its name in the legend, which is then in their order, the best first.
    """
    with style(f"compared {measure.name} {noise} {large}") as salt:
        names = [plain(curve.name) for _, curve in curves]
        beside = 0.95 + 0.066 * max(map(len, names))  # inches for the legend
        width, height = (6 + beside, max(3.5, 0.9 + 0.19 * (len(curves) + 1))) if large else (3.45, 2.35)
        figure, axes = one_panel(width, height)
        scale = 100 if measure.percent else 1
        looks = [_look(i, shown) for i in range(len(curves))]
        for i, (rates, curve) in enumerate(curves):
            colour, dashes, marker = looks[i]
            front = 3 if colour != FAINT else 2
            if curve.limit is not None and not (one_limit and i) and (one_limit or colour != FAINT):
                axes.plot(rates, scaled(curve.limit, scale), color=QUIET if one_limit else colour,
                          linestyle=(0, (4, 2.5)), linewidth=1.1, alpha=0.8)  # fmt: skip
            axes.plot(rates, scaled(curve.mean, scale), color=colour, linestyle=dashes, zorder=front,
                      linewidth=1.6 if front == 3 else 1, marker=marker, gid=f"curve-{i}",
                      markersize=3.6 if large else 2.4)  # fmt: skip
            if large and len(curve.each) > 1 and len(curves) <= 4:
                columns = [[x for x in column if x is not None] for column in zip(*curve.each, strict=True)]
                low = [min(column) * scale if column else None for column in columns]
                high = [max(column) * scale if column else None for column in columns]
                axes.fill_between(rates, numbers(low), numbers(high), color=colour, alpha=0.12, linewidth=0)
        axes.set_title(plain(measure.title))
        axes.set_xlabel("noise rate")
        every = [rate for rates, _ in curves for rate in rates]
        axes.set_xlim(min(every), max(every) if max(every) > min(every) else min(every) + 1)
        axes.margins(y=0.08)
        if large:
            figure.subplots_adjust(right=1 - beside / width)
            _name(axes, measure, names, looks, areas, one_limit and curves[0][1].limit is not None, height)
        return Drawing(figure, salt)


def _look(i: int, shown: Mapping[int, int] | None) -> tuple[str, Any, str | None]:
    """Colour, dashes and marker of a curve."""
    if shown is None:
        turn = i // len(SERIES)
        return SERIES[i % len(SERIES)], ("-", (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))[turn % 3], "osD^v"[i % 5]
    if i not in shown:
        return FAINT, "-", None
    return SERIES[shown[i] % len(SERIES)], "-", "osD^vP"[shown[i] % 6]


def _name(
    axes: Axes,
    measure: Measure,
    names: Sequence[str],
    looks: Sequence[tuple[str, Any, str | None]],
    areas: Sequence[float | None] | None,
    limit: bool,
    height: float,
) -> None:
    """The legend beside a figure: a line for each curve, in the order of the areas, which stand before the names."""
    order = list(range(len(names)))
    if areas is not None:
        sign = -1 if measure.better == "higher" else 1
        order.sort(key=lambda i: math.inf if areas[i] is None else sign * (areas[i] or 0.0))
    step = 0.19 / (height - 0.78)  # of the axes' height
    y = 1.0
    if areas is not None:
        axes.text(1.105, y + 0.4 * step, "AUILC", transform=axes.transAxes, fontsize=7.2, color=QUIET, va="center")
        y -= 0.7 * step
    for i in [*order, *([-1] if limit else [])]:
        colour, dashes, marker = (QUIET, (0, (4, 2.5)), None) if i < 0 else looks[i]
        gid = None if i < 0 else f"name-{i}"
        line = Line2D([1.025, 1.085], [y, y], transform=axes.transAxes, color=colour, linestyle=dashes, gid=gid,
                      linewidth=1.5, clip_on=False, marker=marker, markersize=3.6, markevery=[1])  # fmt: skip
        axes.add_line(line)
        faint = i >= 0 and colour == FAINT
        value = "" if i < 0 or areas is None or areas[i] is None else f"{measure.show(areas[i])}  "
        text = f"{value}{'limit' if i < 0 else names[i]}".replace("-", "−", value.startswith("-"))
        axes.text(1.105, y, text, transform=axes.transAxes, fontsize=8, va="center", gid=gid,
                  color=QUIET if faint or i < 0 else INK)  # fmt: skip
        y -= step


def multiples(measure: Measure, noise: str, curves: Sequence[tuple[Sequence[float], Curve]]) -> Drawing:
    """A small picture of each model's curve, before all the others' in grey; the reference is dashed.

    Args:
        measure: What is drawn.
        noise: Its name.
        curves: Rates and curve of each model, the reference first.
    """
    with style(f"multiples {measure.name} {noise}") as salt:
        columns = min(5, len(curves))
        rows = -(-len(curves) // columns)
        width, height = 2.05 * columns + 0.3, 1.5 * rows + 0.55
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(0.5 / width, 0.45 / height, 1 - 0.08 / width, 1 - 0.45 / height, 0.1, 0.36)
        scale = 100 if measure.percent else 1
        behind = [(x, y) for rates, curve in curves
                  for x, y in [*zip(rates, scaled(curve.mean, scale), strict=True), (math.nan, math.nan)]]  # fmt: skip
        for i, panel in enumerate(panels.flat):
            if i >= len(curves):
                panel.set_axis_off()
                continue
            rates, curve = curves[i]
            panel.plot(*zip(*behind, strict=True), color=FAINT, linewidth=0.5)
            panel.plot(curves[0][0], scaled(curves[0][1].mean, scale), color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
            panel.plot(rates, scaled(curve.mean, scale), color=SERIES[0], linewidth=1.8)
            name = plain(curve.name)
            panel.set_title(name if len(name) <= 24 else f"{name[:23]}…", fontsize=8.2, pad=4)
            panel.tick_params(labelsize=7)
        figure.suptitle(f"{plain(measure.title)}", x=0.5 / width, y=1 - 0.06 / height, ha="left", va="top",
                        fontsize=9.5, fontweight="bold")  # fmt: skip
        figure.supxlabel(f"rate of {plain(noise)}", fontsize=8, color=QUIET, y=0.06 / height)
        return Drawing(figure, salt)


def ranked(ranks: Mapping[str, float], difference: float | None, reference: str) -> Drawing:
    """Mean ranks on a line, those that cannot be told apart joined by a bar (Demšar, 2006, figure 1).

    Args:
        ranks: Mean rank of each model over the noises; 1 is best.
        difference: How far two ranks must lie apart to be told apart; None where it is not known.
        reference: Drawn stronger than the others.
    """
    order = sorted(ranks, key=lambda name: (ranks[name], name))
    values = [ranks[name] for name in order]
    bars = cliques(values, difference) if difference is not None else []
    with style("ranked") as salt:
        half = -(-len(order) // 2)
        first = 0.42 + 0.13 * len(bars)  # below the line, inches
        width, height = 7.2, 0.85 + first + 0.21 * half
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(-height + 0.75, 0.75))
        axes.set_axis_off()
        low, high = 1, max(len(order), 2)
        left, right = 2.1, width - 2.1
        at = lambda rank: left + (rank - low) / (high - low) * (right - left)
        axes.plot([left, right], [0, 0], color=QUIET, linewidth=0.9)
        every = max(1, round((high - low) / 10))
        for rank in range(low, high + 1, every):
            axes.plot([at(rank)] * 2, [0, 0.07], color=QUIET, linewidth=0.9)
            axes.text(at(rank), 0.11, str(rank), ha="center", va="bottom", fontsize=8, color=QUIET)
        axes.text(left - 0.15, 0, "best", ha="right", va="center", fontsize=8, color=QUIET)
        axes.text(right + 0.15, 0, "worst", ha="left", va="center", fontsize=8, color=QUIET)
        if difference is not None:
            reach = min(at(low + difference), right)
            axes.plot([left, reach], [0.42, 0.42], color=INK, linewidth=1.2, marker="|", markersize=5)
            axes.text(reach + 0.08, 0.42, f"critical difference {difference:.2f}", ha="left", va="center", fontsize=8)
        for i, (start, end) in enumerate(bars):
            y = -0.14 - 0.13 * i
            axes.plot([at(values[start]) - 0.05, at(values[end]) + 0.05], [y, y], color=INK, linewidth=2.6)
        for i, name in enumerate(order):
            side = i < half
            y = -first - 0.21 * (i if side else len(order) - 1 - i)
            edge = left - 0.1 if side else right + 0.1
            strong = name == reference
            colour = SERIES[0] if strong else INK
            axes.plot([at(values[i]), at(values[i]), edge], [0, y, y], color=SERIES[0] if strong else FAINT,
                      linewidth=1.3 if strong else 0.8, zorder=1)  # fmt: skip
            axes.plot([at(values[i])], [0], color=colour, marker="o", markersize=3.6)
            shown = f"{plain(name)}  {values[i]:.2f}" if side else f"{values[i]:.2f}  {plain(name)}"
            axes.text(edge + (-0.06 if side else 0.06), y, shown, ha="right" if side else "left", va="center",
                      fontsize=8.2, color=colour, fontweight="bold" if strong else "normal")  # fmt: skip
        return Drawing(figure, salt)


def cliques(values: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Longest runs of rising values that lie within a difference, first and last position, of two at least."""
    found: list[tuple[int, int]] = []
    for i, value in enumerate(values):
        last = max(j for j in range(i, len(values)) if values[j] - value <= difference)
        if last > i and not (found and found[-1][1] >= last):
            found.append((i, last))
    return found


def _whole_ticks(axes: Axes, epochs: Sequence[int]) -> None:
    """Ticks at whole epochs, few enough to be read, and room for a single epoch."""
    first, last = min(epochs), max(epochs)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**6) if (last - first) / s <= 8)
    ticks = [first, *(x for x in range(0, last + 1, step) if x > first)]
    axes.set_xticks(ticks if len(ticks) < 2 or ticks[1] - ticks[0] >= step / 2 else ticks[1:])
    margin = max(0.02 * (last - first), 0.05 if last > first else 0.5)
    axes.set_xlim(first - margin, last + margin)


def over_epochs(
    title: str, series: Mapping[int, tuple[Sequence[int], Sequence[float | None]]], chosen: Mapping[int, int]
) -> Drawing:
    """A value over the epochs of each seed; the chosen epoch of each is marked.

    Args:
        title: What is drawn.
        series: Epochs and values of each seed.
        chosen: The epoch of the best checkpoint of each seed.
    """
    with style(f"epochs {title}") as salt:
        figure, axes = one_panel(3.45, 2.35)
        many = len(series) > len(SERIES)
        for i, (seed, (epochs, values)) in enumerate(series.items()):
            colour = SERIES[0 if many else i]
            found = numbers(values)
            axes.plot(epochs, found, color=colour, linewidth=1.2, alpha=0.5 if many else 1, label=f"seed {seed}",
                      marker="o" if len(epochs) == 1 else None, markersize=3)  # fmt: skip
            if seed in chosen and chosen[seed] in epochs:
                at = list(epochs).index(chosen[seed])
                axes.plot([epochs[at]], [found[at]], color=colour, marker="o", markersize=5, markerfacecolor=PAPER)
        axes.set_title(plain(title))
        axes.set_xlabel("epoch")
        _whole_ticks(axes, [epoch for epochs, _ in series.values() for epoch in epochs])
        axes.margins(y=0.08)
        if 1 < len(series) <= len(SERIES):
            axes.legend(loc="best", handlelength=1.2, labelspacing=0.3)
        return Drawing(figure, salt)
