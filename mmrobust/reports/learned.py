"""Figures of what a model has learned: similar features, attention, probes, the gap to the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from mmrobust.measures import Measure
from mmrobust.reports.drawing import FAINT, INK, PAPER, QUIET, SERIES, Drawing, numbers, one_panel, plain, style

__all__ = ["attended", "gap", "looked", "probed", "similar"]

_LEVELS = 10  # shades of a picture of attention


def similar(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Drawing:
    """Densities of cosine similarities, a panel for each run (NORM-TR, figure 7).

    Args:
        runs: Title, and for `generic_generic` and `generic_specific` grid, density and mean.
    """
    kinds = (("generic_generic", "NRGF – NRGF", SERIES[0]), ("generic_specific", "NRGF – MF", SERIES[1]))
    with style("similar") as salt:
        width, height = 3.9 * len(runs) + 0.2, 2.75
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
        figure.subplots_adjust(0.5 / width, 0.46 / height, 1 - 0.12 / width, 1 - 0.34 / height, 0.12)
        for panel, (title, found) in zip(panels, runs, strict=True):
            top = max((max(found[key]["density"]) for key, *_ in kinds if key in found), default=1)
            for key, _, colour in kinds:
                if key not in found:
                    continue
                one = found[key]
                panel.fill_between(one["grid"], one["density"], color=colour, alpha=0.16, linewidth=0)
                panel.plot(one["grid"], one["density"], color=colour)
                panel.axvline(one["mean"], color=colour, linewidth=0.9, linestyle=(0, (2, 2)))
            for i, (key, name, colour) in enumerate(kinds):
                if key in found:
                    panel.text(0.02, 0.97 - 0.085 * i, f"{name}, mean {found[key]['mean']:.2f}".replace("-", "−"),
                               color=colour, transform=panel.transAxes, va="top", fontsize=8.2)  # fmt: skip
            panel.set(xlim=(-1, 1), xlabel="cosine similarity")
            panel.set_ylim(0, max(top * 1.08, panel.get_ylim()[1]))
            panel.set_title(plain(title))
        panels[0].set_ylabel("density")
        return Drawing(figure, salt)


def attended(seen: Mapping[str, Any], rate: float, noise: str) -> Drawing:
    """Attention of one sample without and with noise, as multiples of uniform attention (NORM-TR, figure 8).

    Args:
        seen: `queries` and `keys` as cells of each modality, `erased` share of each cell, pictures `clean`, `noisy`.
        rate: Of the noise.
        noise: Its name.
    """
    with style("attended") as salt:
        across, down = sum(seen["keys"].values()), sum(seen["queries"].values())
        side = 3.3
        width, height = 2 * side + 1.55, side * min(1.25, max(0.35, down / across)) + 0.95
        figure = Figure(figsize=(width, height))
        every = sorted(value for name in ("clean", "noisy") for row in seen[name] for value in row)
        least, most = every[int(0.01 * (len(every) - 1))], every[int(0.99 * (len(every) - 1))]
        span = (least, max(most, least + 1e-9))
        bottom, tall = 0.5 / height, 1 - 0.95 / height
        titles = {"clean": "without noise", "noisy": f"{plain(noise)} at rate {rate:g}"}
        for i, (name, title) in enumerate(titles.items()):
            axes = figure.add_axes(((0.75 + i * (side + 0.18)) / width, bottom, side / width, tall))
            _shade(axes, seen[name], span)
            axes.set(xlim=(0, across), ylim=(down, -0.055 * down - 0.4))
            axes.grid(False)
            axes.set_title(title)
            for spine in axes.spines.values():
                spine.set_visible(False)
            _borders(axes, seen["keys"], seen["queries"], across, down)
            axes.set_xticks(*_middles(seen["keys"]))
            axes.set_yticks(*(_middles(seen["queries"]) if i == 0 else ([], [])))
            axes.set_xlabel("keys: step that is looked at")
            if i == 0:
                axes.set_ylabel("queries")
            else:
                for j, share in enumerate(seen["erased"]):
                    axes.add_patch(Rectangle((j, -0.055 * down - 0.4), 1, 0.04 * down + 0.3, facecolor=SERIES[4],
                                             alpha=max(share, 0.001), linewidth=0))  # fmt: skip
        legend = figure.add_axes(((0.75 + 2 * side + 0.32) / width, bottom, 0.13 / width, tall * 0.7))
        _shade(legend, [[least + (most - least) * (k + 1) / _LEVELS] for k in range(_LEVELS)], span)
        legend.set(xlim=(0, 1), ylim=(0, _LEVELS), xticks=[])
        legend.set_yticks([0, _LEVELS], [f"{least:.2f}×", f"{most:.2f}×"])
        legend.yaxis.tick_right()
        legend.grid(False)
        legend.set_title("uniform", fontsize=7.5, fontweight="normal", color=QUIET)
        figure.text((0.75 + 2 * side + 0.32) / width, bottom + tall, "erased", color=SERIES[4], fontsize=8, va="center")
        return Drawing(figure, salt)


def _shade(axes: Any, picture: Sequence[Sequence[float]], span: tuple[float, float]) -> None:
    """Cells of a picture, those of one shade in one path, neighbours in a row as one piece."""
    least, most = span
    pieces: dict[int, list[tuple[float, float]]] = {}
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    for y, row in enumerate(picture):
        levels = [round(min(max((value - least) / (most - least), 0), 1) * _LEVELS) for value in row]
        start = 0
        for x in range(1, len(levels) + 1):
            if x == len(levels) or levels[x] != levels[start]:
                if levels[start]:
                    corners = [(start, y), (x, y), (x, y + 1), (start, y + 1), (start, y)]
                    pieces.setdefault(levels[start], []).extend(corners)
                start = x
    for level, points in sorted(pieces.items()):
        path = Path(points, codes * (len(points) // 5))
        axes.add_patch(PathPatch(path, facecolor=SERIES[0], alpha=level / _LEVELS, linewidth=0))


def _borders(axes: Any, keys: Mapping[str, int], queries: Mapping[str, int], across: int, down: int) -> None:
    place = 0
    for count in [*keys.values(), 0]:
        axes.plot([place, place], [0, down], color=FAINT, linewidth=0.6)
        place += count
    place = 0
    for count in [*queries.values(), 0]:
        axes.plot([0, across], [place, place], color=FAINT, linewidth=0.6)
        place += count


def _middles(cells: Mapping[str, int]) -> tuple[list[float], list[str]]:
    at, names, start = [], [], 0
    for name, count in cells.items():
        at.append(start + count / 2)
        names.append(plain(name))
        start += count
    return at, names


def looked(runs: Sequence[tuple[str, Mapping[str, Any]]], noise: str) -> Drawing:
    """Attention on erased steps against the rate, beside what uniform attention would give them.

    Args:
        runs: Title, and rates, mass and share.
        noise: Its name.
    """
    with style("looked") as salt:
        figure, axes = one_panel(5.8, 3.2)
        first = runs[0][1]
        axes.plot(first["rates"], _percent(first["share"]), color=QUIET, linestyle=(0, (4, 2.5)), linewidth=1.2,
                  label="uniform attention")  # fmt: skip
        for i, (title, found) in enumerate(runs):
            axes.plot(found["rates"], _percent(found["mass"]), color=SERIES[i], marker="os"[i % 2], markersize=3.2,
                      label=plain(title))  # fmt: skip
        axes.set_title("attention on erased steps, %")
        axes.set_ylim(0, 104)
        axes.set_xlabel(f"rate of {plain(noise)}")
        axes.legend(loc="upper left", handlelength=1.9, labelspacing=0.35)
        return Drawing(figure, salt)


def probed(rows: Sequence[tuple[str, Sequence[tuple[str, float]], float]]) -> Drawing:
    """What linear probes read, a line for each question and stage; the dashed line is chance.

    Args:
        rows: Question and stage, title and accuracy of each run, chance.
    """
    with style("probed") as salt:
        names = [plain(name) for name, *_ in rows]
        left = 0.35 + 0.062 * max(map(len, names))
        width, height = left + 3.6, 0.85 + 0.27 * len(rows)
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, 0.45 / height, 3.4 / width, 1 - 0.85 / height))
        for y, (_, found, chance) in enumerate(rows):
            axes.plot([chance * 100] * 2, [y - 0.38, y + 0.38], color=QUIET, linestyle=(0, (2, 1.5)), linewidth=1.2)
            for i, (title, accuracy) in enumerate(found):
                at = y + (i - (len(found) - 1) / 2) * 0.3
                axes.plot([chance * 100, accuracy * 100], [at, at], color=FAINT, linewidth=1, zorder=1)
                axes.plot([accuracy * 100], [at], color=SERIES[i], marker="os"[i % 2], markersize=5.5, linestyle="none",
                          label=plain(title) if y == 0 else None)  # fmt: skip
        axes.set_yticks(range(len(rows)), names, color=INK)
        axes.set(
            xlim=(-2, 102), ylim=(len(rows) - 0.5, -0.5), xlabel="test accuracy of a linear probe, %; dashes: chance"
        )
        axes.grid(False, axis="y")
        if len(rows[0][1]) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handletextpad=0.1)
        return Drawing(figure, salt)


def gap(measure: Measure, noises: Sequence[tuple[str, Sequence[float], Sequence[float | None]]]) -> Drawing:
    """How much better the best possible prediction would be, against the rate.

    Args:
        measure: What is drawn.
        noises: Name, rates and gap.
    """
    with style(f"gap {measure.name}") as salt:
        figure, axes = one_panel(5.8, 3.2)
        scale = 100 if measure.percent else 1
        axes.axhline(0, color=QUIET, linewidth=0.9)
        for i, (name, rates, values) in enumerate(noises):
            values = [None if value is None else value * scale for value in values]
            axes.fill_between(rates, numbers(values), color=SERIES[i % len(SERIES)], alpha=0.1, linewidth=0)
            axes.plot(rates, numbers(values), color=SERIES[i % len(SERIES)], marker="o", markersize=3.2,
                      markerfacecolor=PAPER, label=plain(name))  # fmt: skip
        axes.set_title(f"{plain(measure.label)} lost to the limit{', points' if measure.percent else ''}")
        axes.set_xlabel("noise rate")
        axes.margins(x=0)
        axes.legend(loc="best")
        return Drawing(figure, salt)


def _percent(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value * 100 for value in values]
