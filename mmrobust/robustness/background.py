"""What a reader of scores has to know besides: the constant prediction, the size of the model, how labels are spread.

`evaluation.json` holds, from here:

    constant        {prediction: [c], scores: {measure: x}}, or null: the same answer for every sample, from the labels
                    of the training split (see mmrobust.measures.constant)
    model           {parameters, macs, parts: [{slot, use, gives, parameters, macs}]}, or null; multiplications and
                    additions are one operation, for one sample without padding
    labels          {split: {n, classes: {name: count}}} of a classification or of several decisions,
                    {split: {n, edges: [k + 1], counts: [k]}} of a regression; several targets are counted together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrobust.contracts import Split, Task
from mmrobust.errors import MmrobustError
from mmrobust.measures import constant_prediction, constant_scores
from mmrobust.measures.sets import decisions_of
from mmrobust.model.assemble import Built
from mmrobust.model.summary import summarize

__all__ = ["background", "labels_of"]

BINS = 12  # of a regression's labels


def background(built: Built, label: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """The constant prediction, the model's size and the labels, as `evaluation.json` holds them.

    Args:
        built: The recipe, its data and its model.
        label: Labels of the split that is scored, `n` or `n k`.
        names: Which measures.
    """
    return {
        "constant": _constant(built, label, names),
        "model": _model(built),
        "labels": labels_of(built.context.task, built.dataset.splits),
    }


def _constant(built: Built, label: Tensor, names: Sequence[str]) -> dict[str, Any] | None:
    task, train = built.context.task, built.dataset.splits["train"].label
    if train is None:
        return None
    scores = constant_scores(task, train.cpu(), label.cpu(), names)
    return {"prediction": constant_prediction(task, train.cpu()).tolist(), "scores": scores}


def _model(built: Built) -> dict[str, Any] | None:
    try:
        summary = summarize(built)
    except MmrobustError:  # scores do not depend on whether one more training step can be tried
        return None
    parts = [
        {"slot": row.slot, "use": row.use, "gives": row.shapes, "parameters": row.parameters, "macs": row.flops // 2}
        for row in summary.model
    ]
    return {"parameters": summary.parameters, "macs": summary.flops // 2, "parts": parts}


def labels_of(task: Task, splits: Mapping[str, Split]) -> dict[str, Any]:
    """How the labels of each labelled split are spread: counts of each class, or of bins of equal width."""
    known = {name: split.label for name, split in splits.items() if split.label is not None and len(split)}
    if task.kind == "regression":
        values = {name: label.double().cpu() for name, label in known.items()}
        ends = (min(v.min().item() for v in values.values()), max(v.max().item() for v in values.values()))
        edges = torch.linspace(*ends, BINS + 1, dtype=torch.float64)
        return {
            name: {"n": value.numel(), "edges": edges.tolist(),
                   "counts": torch.histc(value, BINS, *ends).long().tolist()}
            for name, value in values.items()
        }  # fmt: skip
    if task.kind == "classification":
        names = task.names or tuple(map(str, range(task.outputs)))
        count = lambda label: torch.bincount(label.long().cpu(), minlength=task.outputs).tolist()
    else:
        names, count = decisions_of(task), lambda label: label.long().cpu().sum(0).tolist()
    return {
        name: {"n": len(label), "classes": dict(zip(names, count(label), strict=True))}
        for name, label in known.items()
    }  # fmt: skip
