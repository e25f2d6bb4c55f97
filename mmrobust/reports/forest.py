"""Forest plots: means with their intervals, a row each, so that what overlaps is seen at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmrobust.measures import Measure
from mmrobust.reports.drawing import FAINT, INK, PAPER, QUIET, SERIES, Drawing, plain, style

__all__ = ["Panel", "Point", "forest"]


@dataclass(frozen=True)
class Point:
    """One row of a panel.

    Attributes:
        mean: Over the seeds; None where undefined.
        low: Lower end of the interval of the mean; None where there is none.
        high: Upper end.
        each: The score of each seed.
        best: Whether it is the best, or cannot be told from it.
        dagger: Whether it differs from the reference by more than luck.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    each: Sequence[float | None] = ()
    best: bool = False
    dagger: bool = False


@dataclass(frozen=True)
class Panel:
    """One measure in one place.

    Attributes:
        title: What it shows.
        points: A point for each row.
        reference: Score of the reference, a vertical line; None where there is none.
        limit: Score of the best possible prediction, dashed; None where unknown, or where rows differ.
        limits: The same for each row, a short dashed stroke.
        constant: Score of the constant prediction, dotted; None where unknown.
    """

    title: str
    points: Sequence[Point | None]
    reference: float | None = None
    limit: float | None = None
    limits: Sequence[float | None] = ()
    constant: float | None = None


def forest(measure: Measure, rows: Sequence[str], panels: Sequence[Panel], strong: str | None = None) -> Drawing:
    """Means and intervals, rows from top to bottom, panels side by side.

    Args:
        measure: What is drawn.
        rows: What each row is called.
        panels: Each with a point for each row.
        strong: The row whose name is drawn stronger: the reference.
    """
    names = [plain(name) for name in rows]
    with style(f"forest {measure.name} {len(rows)} {len(panels)}") as salt:
        left, each, gap = 0.3 + 0.068 * max(map(len, names)), 3.0, 0.25
        width = left + each * len(panels) + gap * (len(panels) - 1) + 0.15
        tall = 0.27 * len(rows) + 0.1
        height = tall + 0.95
        figure = Figure(figsize=(width, height))
        for i, panel in enumerate(panels):
            box = ((left + i * (each + gap)) / width, 0.55 / height, each / width, tall / height)
            axes = figure.add_axes(box)
            _draw(axes, measure, panel, len(rows))
            axes.set_yticks(range(len(rows)), names if i == 0 else [""] * len(rows), color=INK)
            if i == 0 and strong is not None and strong in rows:
                axes.get_yticklabels()[list(rows).index(strong)].set_fontweight("bold")
        return Drawing(figure, salt)


def _draw(axes: Axes, measure: Measure, panel: Panel, count: int) -> None:
    """One panel."""
    scale = 100 if measure.percent else 1
    span = _span(panel, scale)
    for value, line, colour in ((panel.reference, "-", FAINT), (panel.limit, (0, (4, 2.5)), QUIET),
                                (panel.constant, (0, (1, 1.6)), QUIET)):  # fmt: skip
        if value is not None and span[0] <= value * scale <= span[1]:
            axes.axvline(value * scale, color=colour, linestyle=line, linewidth=1.1, zorder=1)
    for y, point in enumerate(panel.points):
        if point is None or point.mean is None:
            continue
        colour = SERIES[0] if point.best else QUIET
        seeds = [x * scale for x in point.each if x is not None]
        if len(seeds) > 1:
            axes.plot(seeds, [y + 0.24] * len(seeds), linestyle="none", marker="|", markersize=3, color=FAINT, zorder=2)
        if point.low is not None and point.high is not None:
            axes.plot([point.low * scale, point.high * scale], [y, y], color=colour, linewidth=1.8, zorder=3)
        axes.plot([point.mean * scale], [y], color=colour, marker="o", markersize=5.5, zorder=4,
                  markerfacecolor=colour if point.best else PAPER)  # fmt: skip
        if point.dagger:
            axes.text(1.01, y, "†", transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=INK)
    for y, value in enumerate(panel.limits):
        if value is not None:
            axes.plot([value * scale] * 2, [y - 0.36, y + 0.36], color=QUIET, linestyle=(0, (2, 1.2)), linewidth=1.3)
    axes.set(xlim=span, ylim=(count - 0.45, -0.55))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(False, axis="y")
    axes.set_title(plain(panel.title))
    axes.set_xlabel(plain(measure.title))


def _span(panel: Panel, scale: float) -> tuple[float, float]:
    """Ends of the axis: every point and most of every interval; lines far away from them are left out."""
    points = [point for point in panel.points if point is not None and point.mean is not None]
    means = [point.mean * scale for point in points if point.mean is not None]
    means += [panel.reference * scale] if panel.reference is not None else []
    if not means:
        return 0, 1
    ends = [x * scale for point in points for x in (point.low, point.high, *point.each) if x is not None]
    wide = max(max(means) - min(means), 1e-9)
    # Two seeds can have an interval of ten times what separates the variants; it is cut at the axis then.
    reach = max(3 * wide, 4 * max((abs(s * scale - p.mean * scale) for p in points for s in p.each
                                   if s is not None and p.mean is not None), default=0.0))  # fmt: skip
    low = max(min([*means, *ends]), min(means) - reach)
    high = min(max([*means, *ends]), max(means) + reach)
    lines = [x * scale for x in (panel.limit, *panel.limits, panel.constant) if x is not None]
    near = [x for x in lines if low - 1.5 * (high - low) <= x <= high + 1.5 * (high - low)]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * (high - low) if high > low else max(abs(high) * 0.05, 0.01)
    return low - margin, high + margin if math.isfinite(high) else 1
