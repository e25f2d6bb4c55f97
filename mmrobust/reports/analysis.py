"""The part of a run's report that shows `analysis.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrobust.errors import MmrobustError
from mmrobust.measures import describe
from mmrobust.reports.common import Figures
from mmrobust.reports.learned import attended, gap, looked, probed, similar
from mmrobust.reports.table import DASH, Cell, Column, Table, slug
from mmrobust.training import RunFolder

__all__ = ["section"]

_STAGES = {"encoded": "encoded", "generic": "NRGF", "specific": "MF"}
_ASKED = {"modality": "which modality", "noise": "noise added"}
_PAIRS = {"generic_generic": "NRGF – NRGF", "generic_specific": "NRGF – MF"}


def section(folder: RunFolder, figures: Figures, source: str) -> dict[str, Any] | None:
    """What the page says of a run's analysis, with its figures; None where there is none.

    Args:
        folder: The run.
        figures: Gets the figures.
        source: The run, as tables name it.

    Raises:
        MmrobustError: `analysis.json` is damaged.
    """
    path = folder.analysis
    results = folder.read_json(path)
    if results is None:
        return None
    try:
        if results["format"] != 1:
            raise MmrobustError(f"{path} has format {results['format']}; this version reads format 1")
        return _section(results, figures, source)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MmrobustError(f"{path} is damaged; run mmrobust analyze {folder.path}") from error


def _section(results: Mapping[str, Any], figures: Figures, source: str) -> dict[str, Any]:
    runs = results["runs"]
    titles = _titles(runs)
    noise = results["noise"]
    missing: list[str] = []

    def known(name: str) -> list[tuple[str, Any]]:
        found = []
        for title, run in zip(titles, runs, strict=True):
            if "missing" in run[name]:
                missing.append(f"{title}: {run[name]['missing']}")
            else:
                found.append((title, run[name]))
        return found

    view: dict[str, Any] = {
        "facts": [(title, f"{run['run']}, seed {run['seed']}, epoch {run['epoch']}")
                  for title, run in zip(titles, runs, strict=True)],
        "split": results["split"], "samples": f"{results['samples']:,}",
        "noise": noise["name"], "rate": f"{noise['rate']:g}",
        "similar": None, "probes": None, "looked": None, "map": None, "worst": None, "gap": None, "missing": missing,
    }  # fmt: skip
    if alike := known("similarity"):
        figures["similarity"] = similar(alike)
        view["similar"] = _similarities(alike, source)
    if probes := known("probes"):
        figures["probes"] = probed(_questions(probes))
        view["probes"] = _probes(probes, source)
    if seen := known("attention"):
        figures["attention-on-erased"] = looked(seen, noise["name"])
        view["looked"] = _looked(seen, noise["name"], source)
    for name in ("map", "worst", "limit"):
        if "missing" in results[name] and results[name]["missing"] not in {text.partition(": ")[2] for text in missing}:
            missing.append(results[name]["missing"])
    if "missing" not in results["map"]:
        figures["attention"] = attended(results["map"], noise["rate"], noise["name"])
        view["map"] = {"id": results["map"]["id"], "label": results["map"]["label"]}
    if "missing" not in results["worst"]:
        view["worst"] = _worst(results["worst"], source)
    if "missing" not in results["limit"]:
        noises = [(name, found["rates"], found["gap"]) for name, found in results["limit"].items()]
        first = next(iter(noises[0][2]))
        figures["gap"] = gap(describe(first), [(name, rates, found[first]) for name, rates, found in noises])
        view["gap"] = {"label": describe(first).label, "tables": [_gap(*one, source) for one in noises]}
    return view


def _titles(runs: list[Mapping[str, Any]]) -> list[str]:
    """Short names that tell the runs apart."""
    for key in ("recipe", "run"):
        names = [str(run[key]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{run['run']}, seed {run['seed']}" for run in runs]


def _similarities(runs: list[tuple[str, Any]], source: str) -> Table:
    rows = []
    for title, found in runs:
        for key, one in found.items():
            rows.append(
                [Cell(title, value=title), Cell(_PAIRS[key], value=_PAIRS[key]),
                 Cell(f"{one['mean']:.3f}".replace("-", "−"), "" if one["std"] is None else f"{one['std']:.3f}",
                      one["mean"], {"std": one["std"]}),
                 Cell(f"{one['pairs']:,}", value=one["pairs"]),
                 Cell(f"{one['bandwidth']:.3f}", value=one["bandwidth"])]
            )  # fmt: skip
    columns = [Column("Model"), Column("pairs", words=True), Column("cosine similarity"), Column("number"),
               Column("bandwidth")]  # fmt: skip
    return Table("similarity", "Cosine similarities of generic and specific features", columns, rows, source=source)


def _questions(runs: list[tuple[str, Any]]) -> list[tuple[str, list[tuple[str, float]], float]]:
    rows = []
    for asks in ("modality", "noise"):
        for stage, name in _STAGES.items():
            same = lambda one, asks=asks, stage=stage: one["asks"] == asks and one["reads"] == stage
            found = [(title, one) for title, probes in runs for one in probes if same(one)]
            if found:
                rows.append((f"{_ASKED[asks]}, from {name}",
                             [(title, one["accuracy"]) for title, one in found], found[0][1]["chance"]))  # fmt: skip
    return rows


def _probes(runs: list[tuple[str, Any]], source: str) -> Table:
    share = lambda value: Cell(f"{value * 100:.1f}", value=value)
    rows = [
        [Cell(title, value=title), Cell(_ASKED[one["asks"]], value=one["asks"]),
         Cell(_STAGES[one["reads"]], value=one["reads"]), share(one["accuracy"]), share(one["chance"]),
         share(one["train"]), Cell(f"{one['samples']:,}", value=one["samples"])]
        for title, probes in runs for one in probes
    ]  # fmt: skip
    columns = [Column("Model"), Column("asks", words=True), Column("from", words=True), Column("accuracy", "%"),
               Column("chance", "%"), Column("on the training split", "%"), Column("rows")]  # fmt: skip
    return Table("probes", "What fresh linear probes read from frozen features", columns, rows, source=source)


def _looked(runs: list[tuple[str, Any]], noise: str, source: str) -> Table:
    columns = [Column("Rate"), Column("erased, of all steps", "%")]
    columns += [Column(f"attention on them, {title}", "%") for title, _ in runs]
    first = runs[0][1]
    share = lambda value: Cell(DASH if value is None else f"{value * 100:.1f}", value=value)
    rows = [
        [Cell(f"{rate:g}", value=rate), share(first["share"][i]),
         *(share(found["mass"][found["rates"].index(rate)]) if rate in found["rates"] else Cell() for _, found in runs)]
        for i, rate in enumerate(first["rates"])
    ]  # fmt: skip
    return Table("attention", f"The fusion's attention on steps erased by {noise}", columns, rows, source=source)


def _worst(rows: list[Mapping[str, Any]], source: str) -> Table:
    number = lambda value: Cell(f"{value:.3f}", value=value)
    modalities = list(rows[0]["erased"]) if rows else []
    word = lambda text: Cell(_minus(text), value=text)
    cells = [
        [Cell(row["id"], value=row["id"]), word(row["label"]), word(row["clean"]), word(row["noisy"]),
         number(row["error"]), number(row["error_clean"]),
         *(Cell(f"{gone} of {of}", value=gone / of if of else 0.0) for gone, of in row["erased"].values())]
        for row in rows
    ]  # fmt: skip
    columns = [Column("Sample"), Column("label"), Column("prediction, clean"), Column("under noise"),
               Column("error under noise"), Column("error, clean"),
               *(Column(f"{m} erased") for m in modalities)]  # fmt: skip
    return Table("worst", "The samples whose prediction is furthest off under noise", columns, cells, source=source)


def _minus(text: str) -> str:
    return f"−{text[1:]}" if text.startswith("-") and text[1:2].isdigit() else text


def _gap(noise: str, rates: list[float], found: Mapping[str, list[float | None]], source: str) -> Table:
    measures = {name: describe(name) for name in found}
    rows = [
        [Cell(f"{rate:g}", value=rate),
         *(Cell(measures[name].show(values[i]).replace("-", "−"), value=values[i]) for name, values in found.items())]
        for i, rate in enumerate(rates)
    ]  # fmt: skip
    columns = [Column("Rate"), *(Column(one.label, "points" if one.percent else "", doc=one.doc)
                                 for one in measures.values())]  # fmt: skip
    caption = f"What the best possible prediction would be better by, under {noise}"
    return Table(f"gap-{slug(noise)}", caption, columns, rows, source=source, wide=True)
