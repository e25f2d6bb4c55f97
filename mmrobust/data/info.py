"""What is in a data file: how much, how long, how balanced, what is missing, and a recipe that runs on it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmrobust.contracts import Task
from mmrobust.data import tables
from mmrobust.data.arrays import arrays_contents, arrays_keys, save_arrays
from mmrobust.data.concerns import concerns
from mmrobust.data.labels import Wanted
from mmrobust.data.mmsa import MODALITIES, SPLITS, Kind, as_splits, mmsa_contents
from mmrobust.data.mult import mult_contents
from mmrobust.data.reading import read_file
from mmrobust.data.tables import Array, Contents, Table
from mmrobust.errors import DataError


def open_contents(path: str | Path, task: Kind = "regression") -> Contents:
    """Reads a file of any known layout, as it is.

    Args:
        path: `.npz` and `.safetensors` are taken as arrays, anything else as a pickle of MMSA or MulT.
        task: MMSA: which of its labels.

    Raises:
        DataError: It is missing, damaged, hostile, or of no known layout.
    """
    path = Path(path)
    content = read_file(path)
    if content.form != "pickle":
        return arrays_contents(path, arrays_keys(path, content), Wanted(), labels=False)
    notes = list(content.notes)
    splits = as_splits(path, content.value, MODALITIES, False, notes)
    first = next(iter(splits.values()), {})
    wanted = tuple(m for m in MODALITIES if m in first)
    if not wanted:
        raise DataError(
            f"{path}: neither MMSA's nor MulT's layout: a split needs text, audio or vision; it has "
            f"{', '.join(map(str, first)) or 'nothing'}"
        )
    if "labels" in first and "regression_labels" not in first:
        contents = mult_contents(path, splits, wanted, Wanted(), labels=False)
    else:
        kind: Kind = "classification" if "regression_labels" not in first and "classification_labels" in first else task
        contents = mmsa_contents(path, splits, wanted, Wanted(kind), "M", labels=False)
    contents.notes[:0] = notes
    return contents


def info(path: str | Path) -> dict[str, Any]:
    """What is in a file, plain enough for JSON.

    Returns:
        `path`, `layout`, `bytes`, `task`, `splits` (for each: `samples`, `modalities` and `label`), `problems` (why it
        cannot be used as it is), `notes`, and `recipe`, the text of one that would run on it (None with problems).

    Raises:
        DataError: It cannot be read, or is of no known layout.
    """
    contents = open_contents(path)
    task = contents.task
    problems = []
    for check in (tables.check_widths, tables.check_labels):
        try:
            check(contents)
        except DataError as error:
            problems.append(str(error))
    folds = _folds(contents)
    for split in SPLITS if folds is None else ():
        if split not in contents.tables:
            problems.append(f"{path}: there is no split '{split}'")
    if task is None:
        problems.append(f"{path}: there are no labels; it can be predicted, but not trained on")
    splits = {split: _split(table, task) for split, table in contents.tables.items()}
    for split, part in splits.items():
        problems += [
            f"{tables.place(contents.path, split, m)}: no value is finite"
            for m, s in part["modalities"].items()
            if s["values"] and s["nan"] + s["infinite"] == s["values"]
        ]
    notes = [*contents.notes, *concerns(contents)]
    if folds is not None:
        notes.append(f"the file has no splits; its groups can be divided into {folds} folds")
    return {
        "path": str(path),
        "layout": contents.layout,
        "bytes": contents.path.stat().st_size,
        "task": None if task is None else asdict(task),
        "splits": splits,
        "problems": problems,
        "notes": notes,
        "recipe": None if problems else recipe(contents, splits),
    }


def _folds(contents: Contents) -> int | None:
    """How many folds a file without splits can be divided into by its groups, 5 at most; None where it cannot."""
    only = contents.tables.get("new")
    groups = 0 if only is None or only.label is None or only.groups is None else len(set(only.groups))
    return min(groups - 1, 5) if groups >= 3 else None


def _split(table: Table, task: Task | None) -> dict[str, Any]:
    modalities = {m: _modality(x, table.masks[m]) for m, x in table.features.items()}
    label = None if table.label is None or task is None else _label(table.label, task)
    groups = None if table.groups is None else len(set(table.groups))
    return {"samples": len(table.ids), "groups": groups, "modalities": modalities, "label": label}


def _modality(x: Array, mask: Array) -> dict[str, Any]:
    lengths = mask.sum(1)
    nan = infinite = touched = silent = 0
    for i in range(0, len(x), 512):
        part, real = x[i : i + 512], mask[i : i + 512]
        wrong = ~np.isfinite(part) & real[:, :, None]
        nan += int((np.isnan(part) & wrong).sum())
        infinite += int((np.isinf(part) & wrong).sum())
        touched += int(wrong.any((1, 2)).sum())
        silent += int((~(part != 0).any(-1) & real).sum())
    return {
        "steps": x.shape[1],
        "width": x.shape[2],
        "type": str(x.dtype),
        "length": {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())},
        "without_steps": int((lengths == 0).sum()),
        "real_steps": int(lengths.sum()),
        "zero_steps": silent,
        "values": int(lengths.sum()) * x.shape[2],
        "nan": nan,
        "infinite": infinite,
        "samples_not_finite": touched,
    }


def _label(label: Array, task: Task) -> dict[str, Any]:
    if task.kind == "multilabel":
        counts = (label == 1).sum(0).tolist()
        return {"counts": dict(zip(task.names, map(int, counts), strict=True))}
    if task.kind == "classification":
        names = task.names or tuple(map(str, range(task.outputs)))
        counts = np.bincount(label[(label >= 0) & (label < task.outputs)].astype(int), minlength=task.outputs)
        return {"counts": dict(zip(names, counts.tolist(), strict=True))}
    if label.ndim == 2:
        each = Task("regression", 1, task.measures, task.low, task.high)
        return {"targets": {name: _label(label[:, k], each) for k, name in enumerate(task.names)}}
    fine = label[np.isfinite(label)].astype(float)
    if not len(fine):
        return {"not_finite": len(label)}
    low, high = (fine.min(), fine.max()) if task.low is None or task.high is None else (task.low, task.high)
    # Seven bins about the whole numbers of [-3, 3], or seven equal ones.
    edges = np.arange(-3.5, 4) if (low, high) == (-3, 3) else np.linspace(low, high if high > low else low + 1, 8)
    counts, _ = np.histogram(np.clip(fine, edges[0], edges[-1]), edges)
    bins = {f"{a:g} to {b:g}": int(n) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)}
    return {
        "min": float(fine.min()),
        "mean": float(fine.mean()),
        "std": float(fine.std()),
        "max": float(fine.max()),
        "not_finite": len(label) - len(fine),
        "histogram": bins,
    }


def recipe(contents: Contents, splits: dict[str, Any]) -> str:
    """A recipe that runs on a file: NORM-TR at a modest size."""
    options = [f"use: {contents.layout}", f"path: {json.dumps(str(contents.path))}"]
    there = list(next(iter(contents.tables.values())).features)
    if contents.layout != "arrays" and tuple(there) != MODALITIES:
        options.append(f"modalities: [{', '.join(there)}]")
    if contents.layout == "mmsa" and contents.task is not None and contents.task.kind == "classification":
        options.append("task: classification")
    folds = _folds(contents)
    if folds is not None:
        options.append(f"folds: {{by: group, count: {folds}}}")
    parts = [s for split in splits.values() for s in split["modalities"].values()]
    if any(s["nan"] + s["infinite"] for s in parts):
        options.append("replace_nonfinite: zero")
    long = {m: 50 for m in there if max(s["modalities"][m]["steps"] for s in splits.values()) > 100}
    if long:
        options.append("length: {" + ", ".join(f"{m}: {n}" for m, n in long.items()) + "}")
        options.append("reduce: {" + ", ".join(f"{m}: segments" for m in long) + "}")
    name = re.sub(r"\W+", "_", contents.path.stem).strip("_") or "mine"
    return "\n".join(
        [
            "recipe: 1",
            f"name: {name if name[0].isalpha() else 'data_' + name}",
            f"summary: {json.dumps(f'NORM-TR on {contents.path.name}', ensure_ascii=False)}",
            "extends: normtr",
            "data:",
            *(f"  {option}" for option in options),
            "",
        ]
    )


def show(summary: dict[str, Any]) -> str:
    """`info`'s answer for people."""
    task = summary["task"]
    lines = [
        f"{summary['path']}: layout '{summary['layout']}', {summary['bytes'] / 2**20:.1f} MiB",
        "labels: "
        + ("none" if task is None else f"{task['kind']}, measures '{task['measures']}'")
        + (f", {', '.join(task['names'])}" if task and task["names"] else ""),
        "",
    ]
    rows = [("split", "samples", "modality", "steps x width", "type", "lengths (min, median, max)", "missing")]
    for split, part in summary["splits"].items():
        for i, (m, s) in enumerate(part["modalities"].items()):
            length = s["length"]
            rows.append(
                (
                    "" if i else split,
                    "" if i else str(part["samples"]) + (f" ({part['groups']} groups)" if part["groups"] else ""),
                    m,
                    f"{s['steps']}x{s['width']}",
                    s["type"],
                    f"{length['min']}, {length['median']:g}, {length['max']}",
                    _missing(s),
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *(line for split, part in summary["splits"].items() for line in _balance(split, part["label"]))]
    lines += [f"note: {note}" for note in summary["notes"]]
    lines += [f"problem: {problem}" for problem in summary["problems"]]
    if summary["recipe"]:
        lines += ["", "A recipe that runs on it (save it as mine.yaml, then: mmrobust run mine.yaml):", ""]
        lines += summary["recipe"].splitlines()
    return "\n".join(lines)


def _missing(s: dict[str, Any]) -> str:
    parts = []
    if s["nan"] + s["infinite"]:
        parts.append(f"{s['nan']} NaN and {s['infinite']} infinite in {s['samples_not_finite']} samples")
    if s["zero_steps"]:
        parts.append(f"{s['zero_steps'] / max(s['real_steps'], 1):.1%} of steps all zero")
    if s["without_steps"]:
        parts.append(f"{s['without_steps']} samples without a step")
    return "; ".join(parts) or "nothing"


def _balance(split: str, label: dict[str, Any] | None) -> list[str]:
    if label is None:
        return []
    head = f"{split}: "
    if "targets" in label:
        return [line for name, one in label["targets"].items() for line in _balance(f"{split}, {name}", one)]
    if "mean" in label:
        head += f"labels {label['min']:.3g} to {label['max']:.3g}, mean {label['mean']:.3f}, std {label['std']:.3f}"
    else:
        head += "labels"
    counts: dict[str, int] = label.get("histogram") or label.get("counts") or {}
    lines = [head]
    most, wide = max(counts.values(), default=0), max(map(len, counts), default=0)
    for name, n in counts.items():
        lines.append(f"  {name.rjust(wide)}  {n:>6}  {'#' * round(30 * n / max(most, 1))}".rstrip())
    return lines


def convert(source: str | Path, out: str | Path, task: Kind = "regression") -> Path:
    """Writes any file that can be read in the arrays layout; values stay what they are.

    Args:
        source: The file.
        out: `.npz` or `.safetensors`.
        task: MMSA: which of its labels.

    Raises:
        DataError: The source cannot be read, or has no labels or no training split.
        WriteError: The file cannot be written.
    """
    contents = open_contents(source, task)
    if contents.task is None:
        raise DataError(f"{source}: there are no labels, which the arrays layout needs")
    splits = {}
    for split, table in contents.tables.items():
        keys: dict[str, Any] = {}
        for m, x in table.features.items():
            mask = table.masks[m]
            lengths = mask.sum(1)
            keys[m] = x
            if (mask == (np.arange(x.shape[1]) < lengths[:, None])).all():
                keys[f"{m}_length"] = lengths
            else:
                keys[f"{m}_mask"] = mask
            if m in table.times:
                keys[f"{m}_times"] = table.times[m]
        if table.groups is not None:
            keys["group"] = np.asarray(table.groups)
        splits[split] = keys | {"label": table.label, "id": np.asarray(table.ids)}
    return save_arrays(out, splits, task=contents.task, modalities=list(next(iter(contents.tables.values())).features))
