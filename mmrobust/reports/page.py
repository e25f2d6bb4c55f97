"""The page of a run, from the files that it left: nothing is opened but its folder, nothing is computed anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmrobust.errors import MmrobustError
from mmrobust.measures import Measure
from mmrobust.reports.analysis import section
from mmrobust.reports.common import (
    date_text,
    describe_any,
    environment_rows,
    listed,
    mean_of,
    rate_text,
    read_sealed,
    score_text,
    source_of,
    value_text,
    write_page,
)
from mmrobust.reports.figures import Curve, against_rate, over_epochs
from mmrobust.reports.table import DASH, Cell, Column, Table, slug
from mmrobust.robustness.grids import said
from mmrobust.training import Checkpoints, RunFolder

__all__ = ["report"]


def report(run: str | Path | RunFolder) -> Path:
    """Writes `report.html` and `figures/` into a run's folder, from what is there so far.

    Args:
        run: The run's folder, or a recipe's name for its latest run.

    Returns:
        The page.

    Raises:
        UsageError: There is no such run.
        MmrobustError: A file of the run is damaged.
        WriteError: The page cannot be written.
    """
    folder = RunFolder.open(run)
    resolved = _recipe(folder)
    lines = folder.read_metrics()
    told = folder.read_evaluation()
    figures: dict[str, str] = {}
    view = {
        "name": str(resolved.get("name", folder.path.parent.name)),
        "summary": resolved.get("summary") or "",
        "facts": _facts(resolved, folder, told, lines),
        "command": f"mmrobust evaluate {folder.path}",
        "notes": told["data"]["notes"] if told else [],
        "warnings": _warnings(resolved, told),
        "training": _training(lines, told, figures, source_of(folder)),
        "evaluation": _results(told, figures, source_of(folder)) if told else None,
        "analysis": section(folder, figures, source_of(folder)),
        "recipe": read_sealed(folder, folder.recipe),
        "resolved": read_sealed(folder, folder.resolved),
        "environment": environment_rows(folder.read_env()),
    }
    return write_page(folder.path, "report.html", view, figures)


def _recipe(folder: RunFolder) -> dict[str, Any]:
    try:
        resolved = yaml.safe_load(read_sealed(folder, folder.resolved))
    except yaml.YAMLError as error:
        raise MmrobustError(f"{folder.resolved} is damaged ({' '.join(str(error).split())})") from error
    if not isinstance(resolved, dict):
        raise MmrobustError(f"{folder.resolved} is damaged: it holds no recipe")
    return resolved


# What is said at the top -----------------------------------------------------------------------------------------


def _facts(
    resolved: Mapping[str, Any], folder: RunFolder, told: Mapping[str, Any] | None, lines: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    env, data = folder.read_env(), resolved.get("data") or {}
    use = data.get("use", "?") if isinstance(data, Mapping) else str(data)
    facts = [("Run", date_text(env["date"]))] if env.get("date") else []
    if told:
        sizes = " / ".join(f"{count:,}" for count in told["data"]["splits"].values())
        facts.append(("Data", f"{use}, {sizes} samples ({' / '.join(told['data']['splits'])})"))
        shapes = ", ".join(f"{m} {steps}×{width}" for m, (steps, width) in told["data"]["modalities"].items())
        facts.append(("Modalities", shapes))
        task = told["task"]
        what = str(task["kind"])
        if what != "regression":
            count = task["outputs"] if what == "classification" else task["outputs"] // 2
            what += f", {count} {'classes' if what == 'classification' else 'decisions'}"
        facts.append(("Task", what))
    else:
        facts.append(("Data", str(use)))
    seeds = told["seeds"] if told else sorted({line["seed"] for line in lines})
    facts.append(("Seeds", listed(seeds) if seeds else "none yet"))
    return facts


def _warnings(resolved: Mapping[str, Any], told: Mapping[str, Any] | None) -> list[str]:
    if not told:
        return []
    wanted = (resolved.get("train") or {}).get("seeds") or []
    wanted = list(range(1, wanted + 1)) if isinstance(wanted, int) else list(wanted)
    missing = [seed for seed in wanted if seed not in told["seeds"]]
    said = []
    if missing:
        said.append(f"Not in these numbers, because not trained to the end: seed {listed(missing)}.")
    if len(told["seeds"]) == 1:
        said.append(
            "A single seed: how much the scores change from one training to the next is not known, so this run cannot "
            "be called better or worse than another."
        )
    return said


# Training --------------------------------------------------------------------------------------------------------


def _training(
    lines: Sequence[Mapping[str, Any]], told: Mapping[str, Any] | None, figures: dict[str, str], source: str
) -> dict[str, Any]:
    """Curves of the losses and the validation measures, and a row for each seed."""
    chosen = {row["seed"]: row["epoch"] for row in told["checkpoints"]} if told else {}
    seeds = sorted({line["seed"] for line in lines})
    drawn = []

    def draw(name: str, title: str, read: Any, caption: str) -> None:
        series = {}
        for seed in seeds:
            points = [(line["epoch"], read(line)) for line in lines if line["seed"] == seed]
            if any(value is not None for _, value in points):
                series[seed] = ([epoch for epoch, _ in points], [value for _, value in points])
        if series:
            figures[name] = over_epochs(title, series, chosen)
            drawn.append((name, caption))

    if lines:
        draw("training-loss", "training loss", lambda line: (line.get("loss") or {}).get("total"),
             "Sum of all losses over the epochs")  # fmt: skip
        measured = list(dict.fromkeys(name for line in lines for name in line.get("valid") or {}))
        primary = told["primary"] if told else None
        first = [name for name in measured if name == primary] or measured
        for name in first[:1]:
            measure = describe_any(name)
            draw(
                f"training-{slug(name)}",
                f"validation {measure.label}{', %' if measure.percent else ''}",
                lambda line, n=name, m=measure: _percent((line.get("valid") or {}).get(n), m),
                f"Validation {measure.label} over the epochs; it chooses the checkpoint",
            )
    parts = list(dict.fromkeys(name for line in lines for name in line.get("loss") or {} if name != "total"))
    for name in parts if len(parts) > 1 else []:
        draw(f"loss-{slug(name)}", name, lambda line, n=name: (line.get("loss") or {}).get(n), f"Loss {name}")
    main = [pair for pair in drawn if not pair[0].startswith("loss-")]
    return {
        "figures": main,
        "losses": [pair for pair in drawn if pair not in main],
        "rows": seeds,
        "table": _trained(lines, seeds, told, source),
    }


def _trained(
    lines: Sequence[Mapping[str, Any]], seeds: Sequence[int], told: Mapping[str, Any] | None, source: str
) -> Table:
    """A row for each seed: how it was trained, and where what it left is."""
    best = {row["seed"]: row for row in told["checkpoints"]} if told else {}
    name = next((row["measure"] for row in best.values() if row.get("measure")), None)
    measure = describe_any(name) if name else None
    rows = []
    for seed in seeds:
        mine = [line for line in lines if line["seed"] == seed]
        epochs = max(line["epoch"] for line in mine)
        seconds = sum(line["seconds"] for line in mine if line.get("seconds") is not None)
        row = [Cell(str(seed), value=seed), Cell(str(epochs), value=epochs)]
        if told:
            chosen = best.get(seed, {})
            row += [
                Cell(str(chosen.get("epoch", DASH)), value=chosen.get("epoch"),
                     link=_checkpoint(seed, chosen["epoch"]) if chosen.get("epoch") else ""),
                Cell(value_text(chosen.get("value"), measure), value=chosen.get("value")),
            ]  # fmt: skip
        row.append(Cell(_duration(seconds), value=round(seconds, 1)))
        if told:
            file = RunFolder(Path()).predictions_of(told, seed).as_posix()
            row.append(Cell(file, value=file, link=file) if seed in best else Cell())
        rows.append(row)
    columns = [Column("Seed"), Column("epochs")]
    if told:
        columns += [Column("chosen epoch"), Column.of(measure, "validation") if measure else Column("validation")]
    columns.append(Column("time"))
    if told:
        columns.append(Column("predictions", words=True, aside=True))
    return Table("training", "Training of each seed", columns, rows, source=source)


def _checkpoint(seed: int, epoch: int) -> str:
    """Where a checkpoint is, from the page."""
    folder = RunFolder(Path())
    return f"{Checkpoints(folder.seed(seed)).path(epoch).as_posix()}/"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# Evaluation ------------------------------------------------------------------------------------------------------


def _results(told: Mapping[str, Any], figures: dict[str, str], source: str) -> dict[str, Any]:
    names, rates, noises = told["measures"], told["rates"], told["noises"]
    measures = {name: describe_any(name) for name in names}
    primary = told["primary"] if told["primary"] in names else names[0]
    for name, measure in measures.items():
        curves = [
            Curve(
                noise,
                found["at"][name]["mean"],
                [[mean_of(draws) for draws in seed] for seed in found["at"][name]["each"]],
                found["limit"]["at"][name]["mean"] if found["limit"] else None,
            )
            for noise, found in noises.items()
        ]
        if curves and len(rates) > 1:
            figures[f"rates-{slug(name)}"] = against_rate(measure, rates, curves, large=name == primary)
    swept = bool(noises) and len(rates) > 1
    return {
        "split": told["split"],
        "samples": f"{told['samples']:,}",
        "seeds": len(told["seeds"]),
        "draws": told["draws"],
        "limited": bool(told["limit"]) or any(found["limit"] for found in noises.values()),
        "tiles": _tiles(told, primary),
        "clean": _clean(told, measures, source),
        "hero": (f"rates-{slug(primary)}", measures[primary].label) if swept else None,
        "others": [(f"rates-{slug(name)}", measures[name].label) for name in names if name != primary]
        if swept
        else [],
        "range": (rate_text(rates[0]), rate_text(rates[-1])),
        "unit_range": rates[0] == 0 and rates[-1] == 1,
        "auilc": _areas(told, measures, source) if swept else None,
        "noises": [
            {
                "name": noise,
                "options": said(found["options"]),
                "table": _at_rates(f"rates-{slug(noise)}", f"Scores under {noise} at each rate", told, measures,
                                   found["at"], source),
                "limits": _at_rates(f"limit-{slug(noise)}", f"The limit under {noise} at each rate", told, measures,
                                    found["limit"]["at"], source) if found["limit"] else None,
            }
            for noise, found in noises.items()
        ],
        "definitions": [(measure.label, measure.name, measure.doc) for measure in measures.values()],
    }  # fmt: skip


def _measured(found: Mapping[str, Any], measure: Measure, seeds: Sequence[int]) -> Cell:
    """A mean over seeds; the CSV file and pointing at it give those of each seed."""
    each = dict(zip(seeds, found.get("each") or [], strict=False))
    told = score_text(found, measure)
    more: dict[str, Any] = {"std": found.get("std"), "n": found["n"]} if "n" in found else {"std": found.get("std")}
    return Cell(
        told["mean"], told["std"], found["mean"],
        more | {f"seed {seed}": value for seed, value in each.items()},
        "; ".join(f"seed {seed}: {value_text(value, measure)}" for seed, value in each.items() if len(each) > 1),
    )  # fmt: skip


def _clean(told: Mapping[str, Any], measures: Mapping[str, Measure], source: str) -> Table:
    seeds, rows = told["seeds"], []
    several = len(seeds) > 1
    for name, measure in measures.items():
        found = told["clean"][name]
        row = [Cell(value=name, head=Column.of(measure)), _measured({**found, "each": None}, measure, seeds)]
        if told["limit"]:
            row.append(_limit(told["limit"].get(name), measure))
        row.append(Cell(str(found["n"]), value=found["n"], quiet=True))
        if several:
            row += [Cell(value_text(x, measure), value=x, quiet=True) for x in found["each"]]
        rows.append(row)
    columns = [Column("Measure"), Column("mean ± std" if several else "score")]
    columns += [Column("limit")] if told["limit"] else []
    columns += [Column("n"), *(Column(f"seed {seed}") for seed in seeds if several)]
    return Table("clean", f"Clean scores on the {told['split']} split", columns, rows, source=source)


def _limit(value: float | None, measure: Measure) -> Cell:
    return Cell(value_text(value, measure), value=value, quiet=True)


def _at_rates(
    name: str,
    caption: str,
    told: Mapping[str, Any],
    measures: Mapping[str, Measure],
    at: Mapping[str, Any],
    source: str,
) -> Table:
    """A row for each rate, a column for each measure."""

    def cell(measure: str, i: int) -> Cell:
        found = {key: values[i] for key, values in at[measure].items() if key in ("mean", "std")}
        each = [mean_of(seed[i]) for seed in at[measure]["each"]] if "std" in at[measure] else None
        return _measured({**found, "each": each}, measures[measure], told["seeds"])

    rows = [
        [Cell(rate_text(rate), value=rate), *(cell(measure, i) for measure in measures)]
        for i, rate in enumerate(told["rates"])
    ]
    return Table(name, caption, [Column("Rate"), *map(Column.of, measures.values())], rows, source=source, wide=True)


def _tiles(told: Mapping[str, Any], primary: str) -> list[dict[str, Any]]:
    """What should be seen first: the primary measure clean, over all rates, and at the end of the curve."""
    measure = describe_any(primary)
    limit = told["limit"] or {}
    tiles = [
        {
            "name": f"{measure.label}, clean",
            "score": score_text(told["clean"][primary], measure),
            "limit": value_text(limit.get(primary), measure) if told["limit"] else None,
        }
    ]
    for noise, found in list(told["noises"].items())[:2]:
        if len(told["rates"]) < 2:
            continue
        tiles.append(
            {
                "name": f"{measure.label}, mean over all rates of {noise}",
                "score": score_text(found["auilc_mean"][primary], measure),
                "limit": value_text(found["limit"]["auilc_mean"][primary], measure) if found["limit"] else None,
            }
        )
    if told["noises"]:
        noise, found = next(iter(told["noises"].items()))
        half = min(range(len(told["rates"])), key=lambda i: abs(told["rates"][i] - 0.5))
        at = found["at"][primary]
        tiles.append(
            {
                "name": f"{measure.label}, {noise} at rate {rate_text(told['rates'][half])}",
                "score": score_text({"mean": at["mean"][half], "std": at["std"][half]}, measure),
                "limit": value_text(found["limit"]["at"][primary]["mean"][half], measure) if found["limit"] else None,
            }
        )
    return tiles


def _areas(told: Mapping[str, Any], measures: Mapping[str, Measure], source: str) -> Table:
    noises, rates, seeds = told["noises"], told["rates"], told["seeds"]
    unit = rates[0] == 0 and rates[-1] == 1
    columns = [Column("Measure")]
    for noise, found in noises.items():
        columns.append(Column(noise))
        columns += [] if unit else [Column(f"{noise}, per unit of rate")]
        columns += [Column("limit")] if found["limit"] else []
    rows = []
    for name, measure in measures.items():
        row = [Cell(value=name, head=Column.of(measure))]
        for found in noises.values():
            row.append(_measured(found["auilc"][name], measure, seeds))
            row += [] if unit else [_measured(found["auilc_mean"][name], measure, seeds)]
            row += [_limit(found["limit"]["auilc"][name], measure)] if found["limit"] else []
        rows.append([*row, Cell(str(len(seeds)), value=len(seeds), quiet=True)])
    caption = f"Area under the curve (AUILC) over the rates from {rate_text(rates[0])} to {rate_text(rates[-1])}"
    return Table("auilc", caption, [*columns, Column("n")], rows, source=source)


def _percent(value: float | None, measure: Measure) -> float | None:
    """A score in the unit that figures have: percentages times 100."""
    return value * 100 if value is not None and measure.percent else value
