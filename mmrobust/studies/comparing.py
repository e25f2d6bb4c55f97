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
from mmrobust.reports.study_tables import table_name
from mmrobust.robustness.evaluation import summary
from mmrobust.robustness.multibench import effective_robustness, normalized, relative_robustness
from mmrobust.robustness.ranks import friedman
from mmrobust.robustness.resampling import Predicted, predicted
from mmrobust.robustness.significance import interval
from mmrobust.robustness.sweep import CLEAN
from mmrobust.studies.cells import evaluation
from mmrobust.studies.differences import Rows, compare_with_reference, correct, mark_at_chance, mark_best
from mmrobust.studies.folder import Study
from mmrobust.studies.paper import AREAS, figures_of
from mmrobust.training import Checkpoints, Meter, RunFolder

__all__ = ["conclude"]

_COLUMNS = (
    *("mean", "std", "n", "interval_low", "interval_high", "limit", "at_chance", "best", "difference", "low", "high"),
    *("p", "p_holm", "significant", "exploratory", "p_permutation", "seeds_needed", "relative", "relative_normalized"),
    *("effective", "effective_std", "effective_normalized", "paper", "paper_dataset", "paper_table", "paper_row"),
)
_COMPARED = (  # unknown until a variant is compared with the reference
    *("difference", "low", "high", "p", "p_holm", "p_permutation", "seeds_needed"),
    *("relative", "relative_normalized", "effective", "effective_std", "effective_normalized"),
)


def conclude(study: Study, quiet: bool, anew: bool = False, latex: bool = False) -> None:
    """Makes the tables and the report of a study, of the variants that are finished.

    Args:
        study: The study.
        quiet: Show no progress.
        anew: Make the variants' own pages again too.
        latex: Write the figures of the study's page as PDF too.

    Raises:
        WriteError: The disk is full, or the like.
    """
    variants = study.record["variants"]
    evaluations = {name: one for name in variants if (one := evaluation(study.run(name))) is not None}
    for name, one in evaluations.items():
        run = study.run(name)
        wanted = run.load_recipe().train.seeds
        size = one.get("model") or {}
        variants[name].update(
            state="finished",
            missing=[seed for seed in wanted if seed not in one["seeds"]],
            parameters=size.get("parameters") or _parameters(run, one) or variants[name]["parameters"],
            macs=size.get("macs"),
        )
        if anew or not run.report.is_file():
            report(run)
    if evaluations:
        study.record["primary"] = _primary(study, evaluations)
        study.record["tables"] = _tables(study, evaluations, quiet)
        study.record["compared"] = correct(study.record["tables"], study.record["primary"])
        study.record["ranks"] = _ranks(study, evaluations)
    study.save()
    if evaluations:
        _write_tables(study)
        report_study(study.path, latex=latex)


def _primary(study: Study, evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """The primary measure of the study: that of the reference, or of the first variant that is finished."""
    first = evaluations.get(study.record["reference"]) or next(iter(evaluations.values()))
    return first["primary"] if first["primary"] in first["measures"] else first["measures"][0]


def _parameters(run: RunFolder, one: Mapping[str, Any]) -> int | None:
    """Numbers in the first seed's best checkpoint, without reading them; for an evaluation that does not say it."""
    try:
        first = one["checkpoints"][0]
        path = Checkpoints(run.seed(first["seed"])).path(first["epoch"]) / "model.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except (OSError, KeyError, IndexError, TypeError, safetensors.SafetensorError):
        return None


def _tables(study: Study, evaluations: Mapping[str, Mapping[str, Any]], quiet: bool) -> list[dict[str, Any]]:
    """One table of the clean scores, and one of the areas under each noise."""
    reference = study.record["reference"]
    measures = next(iter(evaluations.values()))["measures"]
    known: dict[str, Predicted] = {}
    if reference in evaluations and len(evaluations) > 1:
        for name, one in evaluations.items():
            if all(measure in one["measures"] for measure in measures):
                known[name] = predicted(study.run(name))
    noises = list(dict.fromkeys(noise for one in evaluations.values() for noise in one["noises"]))
    tables: list[dict[str, Any]] = []
    with Meter("compare", (1 + len(noises)) * len(evaluations), quiet=quiet) as meter:
        for where in (CLEAN, *noises):
            rows: Rows = {name: _row(one, where, measures) for name, one in evaluations.items()}
            notes = []
            if where == CLEAN:
                mark_at_chance(rows, known, evaluations)
            if reference in known:
                others, notes = _comparable(where, reference, rows, known)
                if others:
                    names = [reference, *others]
                    samples = compare_with_reference(where, names, rows, known, meter)
                    mark_best(rows, samples, known[reference].size)
                    if where != CLEAN:
                        _multibench(where, _above_chance(names, tables[0]["rows"]), rows, evaluations)
            elif reference not in evaluations:
                notes.append(f"The reference, {reference}, is not finished, so nothing is compared with it.")
            _cite(study, evaluations, where, rows, first=noises[:1] == [where])
            tables.append({"where": where, "notes": notes, "rows": rows})
    return tables


def _above_chance(names: Sequence[str], clean: Rows) -> dict[str, list[str]]:
    """The variants of which effective robustness means something, for each measure; none without the reference.

    A model at chance has nothing to lose, so its curve stays above every other one.
    """
    above = lambda name, measure: not clean[name].get(measure, {}).get("at_chance")
    return {
        measure: [name for name in names if above(name, measure)] if above(names[0], measure) else []
        for measure in clean[names[0]]
    }


def _row(one: Mapping[str, Any], where: str, measures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A variant's own scores in one table."""
    if where == CLEAN:
        scores, limit = one["clean"], one["limit"] or {}
    else:
        noise = one["noises"].get(where) or {}
        scores, limit = noise.get("auilc") or {}, (noise.get("limit") or {}).get("auilc", {})
    return {
        m: {
            **{key: scores[m][key] for key in ("mean", "std", "n")},
            "interval": interval([math.nan if x is None else x for x in scores[m]["each"]]),
            "limit": limit.get(m),
            "paper": None,
            **dict.fromkeys(_COMPARED),
            "at_chance": None,
            "best": False,
            "significant": False,
        }
        for m in measures
        if m in scores
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


def _multibench(
    where: str, names: Mapping[str, Sequence[str]], rows: Rows, evaluations: Mapping[str, Mapping[str, Any]]
) -> None:
    """Fills in MultiBench's robustness under one noise.

    Nothing is filled in where the rates leave the clean data out: both measures are about what is lost from there.

    Args:
        where: The noise.
        names: For each measure the variants, the baseline first: the reference.
        rows: The table.
        evaluations: Of each variant.
    """
    for measure, some in names.items():
        if not some or (rates := evaluations[some[0]]["rates"])[0] != 0 or len(rates) < 2:
            continue
        curves = [_curves(evaluations[name], where, measure) for name in some]
        areas = torch.stack([relative_robustness(rates, curve).mean() for curve in curves])
        mean, higher = curves[0].mean(0), describe(measure).better == "higher"
        # Of the mean curve, not the mean of each seed's: the same number, and the reference's is 0 to the last digit.
        above = torch.stack([effective_robustness(rates, curve.mean(0), mean) for curve in curves])
        spread = [summary(effective_robustness(rates, curve, mean))["std"] for curve in curves]
        values = (areas, normalized(areas, higher=higher), above, normalized(above, higher=higher))
        for name, std, *four in zip(some, spread, *(value.tolist() for value in values), strict=True):
            keys = ("relative", "relative_normalized", "effective", "effective_normalized")
            rows[name][measure].update(effective_std=std, **dict(zip(keys, four, strict=True)))


def _curves(one: Mapping[str, Any], where: str, measure: str) -> torch.Tensor:
    """A variant's curve under one noise, the mean over the draws: `s r`, float64; NaN where a score is undefined."""
    known = lambda draws: torch.tensor([math.nan if x is None else x for x in draws], dtype=torch.float64)
    each = one["noises"][where]["at"][measure]["each"]
    return torch.stack([torch.stack([known(draws).mean() for draws in seed]) for seed in each])


def _cite(study: Study, evaluations: Mapping[str, Mapping[str, Any]], where: str, rows: Rows, first: bool) -> None:
    """Puts the paper's figures beside ours: clean scores, or areas beside those under the first noise.

    An area stands there only if ours is over the paper's rates, 0 to 1. Where two tables have a figure for a cell, it
    is the first one's.
    """
    for section in study.record.get("paper") or ():
        cited = Cited(**section)
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


def _ranks(study: Study, evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean ranks of the variants over the noises that all of them met, for each measure."""
    reference = study.record["reference"]
    tables = [t for t in study.record["tables"] if t["where"] != CLEAN and all(t["rows"].values())]
    if len(tables) < 2 or len(evaluations) < 2 or reference not in evaluations:
        return {}
    ranks = {}
    for measure in tables[0]["rows"][reference]:
        scores = torch.tensor(
            [[row.get(measure, {}).get("mean", math.nan) for row in table["rows"].values()] for table in tables]
        )
        if scores.isfinite().all():
            result = friedman(scores, higher=describe(measure).better == "higher")
            ranks[measure] = {
                "over": [table["where"] for table in tables],
                "mean": dict(zip(evaluations, result.mean, strict=True)),
                "p": result.p,
                "critical_difference": result.critical,
            }
    return ranks


def _write_tables(study: Study) -> None:
    """The tables as CSV, one line for each variant and measure."""
    folder = study.path / "tables"
    with files.explained(folder):
        folder.mkdir(exist_ok=True)
    for table in study.record["tables"]:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["variant", "parameters", "macs", "measure", *_COLUMNS])
        for name, row in table["rows"].items():
            size = [study.record["variants"][name].get(key) for key in ("parameters", "macs")]
            for measure, score in row.items():
                low, high = score["interval"] or (None, None)
                paper = {f"paper_{key}": value for key, value in (score["paper"] or {}).items()}
                line = {**score, "interval_low": low, "interval_high": high, **paper, "paper": paper.get("paper_value"),
                        "exploratory": measure != study.record["primary"]}  # fmt: skip
                writer.writerow([name, *map(_plain, size), measure, *(_plain(line.get(key)) for key in _COLUMNS)])
        files.write_atomic(folder / f"{table_name(table['where'])}.csv", text.getvalue())


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
