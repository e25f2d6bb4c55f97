"""What sets the variants of a study apart: its tables and its pages, from what the variants predicted."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors
import torch

from mmrobust import files
from mmrobust.measures import describe
from mmrobust.recipe import Cited
from mmrobust.reports import report, report_study
from mmrobust.reports.study import table_name
from mmrobust.robustness.evaluation import summary
from mmrobust.robustness.multibench import effective_robustness, normalized, relative_robustness
from mmrobust.robustness.ranks import friedman
from mmrobust.robustness.resampling import Predicted, permute, predicted, resample
from mmrobust.robustness.significance import Difference, holm, interval, paired, seeds_needed
from mmrobust.robustness.sweep import CLEAN
from mmrobust.studies.cells import evaluation
from mmrobust.studies.folder import Study
from mmrobust.studies.paper import AREAS, figures_of
from mmrobust.training import Checkpoints, Meter, RunFolder

__all__ = ["conclude"]

_COLUMNS = (
    *("mean", "std", "n", "interval_low", "interval_high", "limit", "difference", "low", "high", "p", "p_holm"),
    *("significant", "p_permutation", "seeds_needed", "relative", "relative_normalized"),
    *("effective", "effective_std", "effective_normalized", "paper", "paper_dataset", "paper_table", "paper_row"),
)
_COMPARED = (  # unknown until a variant is compared with the reference
    *("difference", "low", "high", "p", "p_holm", "p_permutation", "seeds_needed"),
    *("relative", "relative_normalized", "effective", "effective_std", "effective_normalized"),
)

Rows = dict[str, dict[str, dict[str, Any]]]


def conclude(made: Study, quiet: bool, anew: bool = False) -> None:
    """Makes the tables and the report, of what is finished.

    Args:
        made: The study.
        quiet: Show no progress.
        anew: Make the variants' own pages again too.

    Raises:
        WriteError: The disk is full, or the like.
    """
    variants = made.told["variants"]
    evaluations = {name: told for name in variants if (told := evaluation(made.run(name))) is not None}
    for name, told in evaluations.items():
        run = made.run(name)
        wanted = run.load_recipe().train.seeds
        variants[name].update(
            state="finished",
            missing=[seed for seed in wanted if seed not in told["seeds"]],
            parameters=_parameters(run, told) or variants[name]["parameters"],
        )
        if anew or not run.report.is_file():
            report(run)
    if evaluations:
        made.told["tables"] = _tables(made, evaluations, quiet)
        made.told["ranks"] = _ranks(made, evaluations)
    made.save()
    if evaluations:
        _write_tables(made)
        report_study(made.path)


def _parameters(run: RunFolder, told: dict[str, Any]) -> int | None:
    """Numbers in the first seed's best checkpoint, without reading them."""
    try:
        first = told["checkpoints"][0]
        path = Checkpoints(run.seed(first["seed"])).path(first["epoch"]) / "model.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except (OSError, KeyError, IndexError, TypeError, safetensors.SafetensorError):
        return None


def _tables(made: Study, evaluations: Mapping[str, Mapping[str, Any]], quiet: bool) -> list[dict[str, Any]]:
    reference = made.told["reference"]
    measures = next(iter(evaluations.values()))["measures"]
    known: dict[str, Predicted] = {}
    if reference in evaluations and len(evaluations) > 1:
        for name, told in evaluations.items():
            if all(measure in told["measures"] for measure in measures):
                known[name] = predicted(made.run(name))
    noises = list(dict.fromkeys(noise for told in evaluations.values() for noise in told["noises"]))
    tables = []
    with Meter("compare", (1 + len(noises)) * len(evaluations), quiet=quiet) as meter:
        for where in (CLEAN, *noises):
            rows: Rows = {name: _row(told, where, measures) for name, told in evaluations.items()}
            notes = []
            if reference in known:
                others, notes = _comparable(where, reference, rows, known)
                if others:
                    _test(where, reference, others, rows, known, meter)
                if others and where != CLEAN:
                    _multibench(where, [reference, *others], rows, evaluations)
            elif reference not in evaluations:
                notes.append(f"The reference, {reference}, is not finished, so nothing is compared with it.")
            _cite(made, evaluations, where, rows, first=noises[:1] == [where])
            count = sum(score["p"] is not None for row in rows.values() for score in row.values())
            tables.append({"where": where, "compared": count, "notes": notes, "rows": rows})
    return tables


def _row(told: Mapping[str, Any], where: str, measures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A variant's own figures."""
    if where == CLEAN:
        found, limit = told["clean"], told["limit"] or {}
    else:
        noise = told["noises"].get(where) or {}
        found, limit = noise.get("auilc") or {}, (noise.get("limit") or {}).get("auilc", {})
    return {
        m: {
            **{key: found[m][key] for key in ("mean", "std", "n")},
            "interval": interval([math.nan if x is None else x for x in found[m]["each"]]),
            "limit": limit.get(m),
            "paper": None,
            **dict.fromkeys(_COMPARED),
            "significant": False,
        }
        for m in measures
        if m in found
    }


def _comparable(where: str, reference: str, rows: Rows, known: Mapping[str, Predicted]) -> tuple[list[str], list[str]]:
    """The variants that met what the reference met, and why the others are not compared with it."""
    first, notes, others = known[reference], [], []
    for name in rows:
        if name == reference:
            continue
        if name not in known:
            notes.append(f"{name} is not compared: it has other measures than {reference}.")
        elif known[name].met != first.met:
            notes.append(f"{name} is not compared: it was tested on other samples than {reference}.")
        elif known[name].noises.get(where) != first.noises.get(where):
            notes.append(f"{name} is not compared: it met another noise, other rates or other draws than {reference}.")
        elif where in first.first.predictions and where in known[name].first.predictions:
            others.append(name)
    return others, notes


def _test(
    where: str, reference: str, others: Sequence[str], rows: Rows, known: Mapping[str, Predicted], meter: Meter
) -> None:
    """Fills in the differences of one table, and whether they are more than luck."""
    first, measures = known[reference], list(rows[reference])
    tested: list[tuple[dict[str, Any], Difference]] = []
    whole = resample(first, where, measures)
    meter.update(meter.done + 1, label=f"compare {reference}")
    for name in others:
        meter.update(meter.done, label=f"compare {name}")
        again, exchanged = resample(known[name], where, measures), permute(first, known[name], where, measures)
        for measure in measures:
            score = rows[name][measure]
            score["p_permutation"] = exchanged[measure]
            tested.append((score, paired(whole[measure], again[measure], first.size)))
        meter.update(meter.done + 1)
    corrected = holm([math.nan if one.p is None else one.p for _, one in tested])
    for (score, one), p in zip(tested, corrected, strict=True):
        score.update(
            difference=one.value, low=one.low, high=one.high, p=one.p, p_holm=None if one.p is None else p,
            significant=one.p is not None and p < 0.05, seeds_needed=seeds_needed(one),
        )  # fmt: skip


def _multibench(where: str, names: Sequence[str], rows: Rows, evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """Fills in MultiBench's robustness under one noise; the baseline is the first of the names, the reference.

    Nothing is filled in where the rates leave the clean data out: both measures are about what is lost from there.
    """
    rates = evaluations[names[0]]["rates"]
    if rates[0] != 0 or len(rates) < 2:
        return
    for measure in rows[names[0]]:
        curves = [_curves(evaluations[name], where, measure) for name in names]
        areas = torch.stack([relative_robustness(rates, curve).mean() for curve in curves])
        mean, higher = curves[0].mean(0), describe(measure).better == "higher"
        # Of the mean curve, not the mean of each seed's: the same number, and the reference's is 0 to the last digit.
        above = torch.stack([effective_robustness(rates, curve.mean(0), mean) for curve in curves])
        spread = [summary(effective_robustness(rates, curve, mean))["std"] for curve in curves]
        found = (areas, normalized(areas, higher=higher), above, normalized(above, higher=higher))
        for name, std, *values in zip(names, spread, *(value.tolist() for value in found), strict=True):
            keys = ("relative", "relative_normalized", "effective", "effective_normalized")
            rows[name][measure].update(effective_std=std, **dict(zip(keys, values, strict=True)))


def _curves(told: Mapping[str, Any], where: str, measure: str) -> torch.Tensor:
    """A variant's curve under one noise, the mean over the draws: `s r`, float64; NaN where a score is undefined."""
    known = lambda draws: torch.tensor([math.nan if x is None else x for x in draws], dtype=torch.float64)
    each = told["noises"][where]["at"][measure]["each"]
    return torch.stack([torch.stack([known(draws).mean() for draws in seed]) for seed in each])


def _cite(made: Study, evaluations: Mapping[str, Mapping[str, Any]], where: str, rows: Rows, first: bool) -> None:
    """Puts the paper's figures beside ours: clean scores, or areas beside those under the first noise.

    An area stands there only if ours is over the paper's rates, 0 to 1. Where two tables have a figure for a cell, it
    is the first one's.
    """
    for told in made.told.get("paper") or ():
        cited = Cited(**told)
        if (where == CLEAN) == (cited.table in AREAS) or (where != CLEAN and not first):
            continue
        for name, row in rows.items():
            if where != CLEAN and (evaluations[name]["rates"][0], evaluations[name]["rates"][-1]) != (0, 1):
                continue
            for one in figures_of(cited, name):
                if one.metric in row and row[one.metric]["paper"] is None:
                    value = float(one.value) / (100 if describe(one.metric).percent else 1)
                    row[one.metric]["paper"] = {
                        "value": round(value, 6), "dataset": one.dataset, "table": one.table, "row": one.row,
                    }  # fmt: skip


def _ranks(made: Study, evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean ranks of the variants over the noises that all of them met, for each measure."""
    tables = [t["rows"] for t in made.told["tables"] if t["where"] != CLEAN and all(t["rows"].values())]
    noises = [t["where"] for t in made.told["tables"] if t["where"] != CLEAN and all(t["rows"].values())]
    if len(noises) < 2 or len(evaluations) < 2:
        return {}
    ranks = {}
    for measure in tables[0][made.told["reference"]] if made.told["reference"] in evaluations else ():
        scores = torch.tensor(
            [[row.get(measure, {}).get("mean", math.nan) for row in rows.values()] for rows in tables]
        )
        if scores.isfinite().all():
            found = friedman(scores, higher=describe(measure).better == "higher")
            ranks[measure] = {
                "over": noises,
                "mean": dict(zip(evaluations, found.mean, strict=True)),
                "p": found.p,
                "critical_difference": found.critical,
            }
    return ranks


def _write_tables(made: Study) -> None:
    """The tables as CSV, one line for each variant and measure."""
    folder = made.path / "tables"
    with files.explained(folder):
        folder.mkdir(exist_ok=True)
    for table in made.told["tables"]:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["variant", "parameters", "measure", *_COLUMNS])
        for name, row in table["rows"].items():
            size = made.told["variants"][name]["parameters"]
            for measure, score in row.items():
                low, high = score["interval"] or (None, None)
                paper = {f"paper_{key}": value for key, value in (score["paper"] or {}).items()}
                line = {**score, "interval_low": low, "interval_high": high, **paper, "paper": paper.get("paper_value")}
                writer.writerow([name, size, measure, *(_plain(line.get(key)) for key in _COLUMNS)])
        files.write_atomic(folder / f"{table_name(table['where'])}.csv", text.getvalue())


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
