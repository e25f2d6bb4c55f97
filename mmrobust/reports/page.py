"""The page of a run, from the files that it left: nothing is opened but its folder, nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmrobust.errors import MmrobustError
from mmrobust.reports.analysis import section
from mmrobust.reports.background import count_text, labels_section, model_table
from mmrobust.reports.classes import classes_section
from mmrobust.reports.common import (
    Figures,
    date_text,
    environment_rows,
    listed,
    read_sealed,
    source_of,
    write_page,
)
from mmrobust.reports.confidence import confidence_section
from mmrobust.reports.headline import run_headline
from mmrobust.reports.scores import scores_section
from mmrobust.reports.training import duration_text, training_section
from mmrobust.training import RunFolder

__all__ = ["report"]


def report(run: str | Path | RunFolder, *, latex: bool = False) -> Path:
    """Writes `report.html`, `figures/` and `tables/` into a run's folder, from what is there so far.

    Args:
        run: The run's folder, or a recipe's name for its latest run.
        latex: Write the figures as PDF too, for a paper; the tables are there as LaTeX in any case.

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
    evaluation = folder.read_evaluation()
    figures: Figures = {}
    source = source_of(folder)
    view = {
        "name": str(resolved.get("name", folder.path.parent.name)),
        "summary": resolved.get("summary") or "",
        "kind": "report",
        "headline": run_headline(evaluation) if evaluation else "",
        "facts": _facts(resolved, folder, evaluation, lines),
        "command": f"mmrobust evaluate {folder.path}",
        "notes": evaluation["data"]["notes"] if evaluation else [],
        "warnings": _warnings(resolved, evaluation),
        "training": training_section(lines, evaluation, figures, source),
        "evaluation": scores_section(evaluation, figures, source) if evaluation else None,
        "classes": classes_section(folder, evaluation, figures, source) if evaluation else None,
        "confidence": confidence_section(evaluation, figures, source) if evaluation else None,
        "model": model_table(evaluation, source) if evaluation else None,
        "labels": labels_section(evaluation, figures, source) if evaluation else None,
        "analysis": section(folder, figures, source),
        "recipe": read_sealed(folder, folder.recipe),
        "resolved": read_sealed(folder, folder.resolved),
        "environment": environment_rows(folder.read_env()),
    }
    return write_page(folder.path, "report.html", view, figures, latex)


def _recipe(folder: RunFolder) -> dict[str, Any]:
    try:
        resolved = yaml.safe_load(read_sealed(folder, folder.resolved))
    except yaml.YAMLError as error:
        raise MmrobustError(f"{folder.resolved} is damaged ({' '.join(str(error).split())})") from error
    if not isinstance(resolved, dict):
        raise MmrobustError(f"{folder.resolved} is damaged: it holds no recipe")
    return resolved


def _facts(
    resolved: Mapping[str, Any],
    folder: RunFolder,
    evaluation: Mapping[str, Any] | None,
    lines: Sequence[Mapping[str, Any]],
) -> list[tuple[str, str]]:
    """What stands below the title: term and text."""
    env, data = folder.read_env(), resolved.get("data") or {}
    use = data.get("use", "?") if isinstance(data, Mapping) else str(data)
    facts = [("Run", date_text(env["date"]))] if env.get("date") else []
    if evaluation:
        sizes = " / ".join(f"{count:,}" for count in evaluation["data"]["splits"].values())
        facts.append(("Data", f"{use}, {sizes} samples ({' / '.join(evaluation['data']['splits'])})"))
        shapes = evaluation["data"]["modalities"].items()
        facts.append(("Modalities", ", ".join(f"{m} {steps}×{width}" for m, (steps, width) in shapes)))
        facts.append(("Task", _task(evaluation["task"])))
        if model := evaluation.get("model"):
            facts.append(("Model", f"{count_text(model['parameters'])} parameters, {count_text(model['macs'])} MACs"))
    else:
        facts.append(("Data", str(use)))
    seconds = sum(line["seconds"] for line in lines if line.get("seconds") is not None)
    if seconds:
        where = env.get("gpu") or env.get("processor") or ""
        facts.append(("Training", f"{duration_text(seconds)} for all seeds{f', {where}' if where else ''}"))
    seeds = evaluation["seeds"] if evaluation else sorted({line["seed"] for line in lines})
    facts.append(("Seeds", listed(seeds) if seeds else "none yet"))
    return facts


def _task(task: Mapping[str, Any]) -> str:
    kind = str(task["kind"])
    if kind == "regression":
        return kind
    count = task["outputs"] if kind == "classification" else task["outputs"] // 2
    return f"{kind}, {count} {'classes' if kind == 'classification' else 'decisions'}"


def _warnings(resolved: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[str]:
    if not evaluation:
        return []
    wanted = (resolved.get("train") or {}).get("seeds") or []
    wanted = list(range(1, wanted + 1)) if isinstance(wanted, int) else list(wanted)
    missing = [seed for seed in wanted if seed not in evaluation["seeds"]]
    texts = []
    if missing:
        texts.append(f"Not in these numbers, because not trained to the end: seed {listed(missing)}.")
    if len(evaluation["seeds"]) == 1:
        texts.append(
            "A single seed: how much the scores change from one training to the next is not known, so this run cannot "
            "be called better or worse than another."
        )
    return texts
