"""Single samples: which one is shown, and which predictions are furthest off under noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmrobust.analysis.trained import Trained
from mmrobust.contracts import Batch, Split, Task
from mmrobust.contracts.randomness import generator
from mmrobust.errors import UsageError, nearest
from mmrobust.robustness.sweep import BLOCK, blocks_of

__all__ = ["errors_of", "sample_number", "worst_samples"]

WORST = 10


def sample_number(split: Split, name: str | None) -> int:
    """The place of a sample in its split; one drawn at random, always the same, where no id is given.

    Raises:
        UsageError: The split has no such sample.
    """
    ids = list(map(str, split.ids))
    if name is None:
        return int(torch.randint(len(ids), (1,), generator=generator(0, "analysis", "sample")))
    if name not in ids:
        raise UsageError(f"the split has no sample '{name}'{nearest(name, ids)}")
    return ids.index(name)


def worst_samples(trained: Trained, rate: float) -> list[dict[str, Any]] | dict[str, str]:
    """The samples whose prediction is furthest off under noise, the worst one first."""
    label = trained.split.label
    if label is None:
        return {"missing": "the split has no labels"}
    task = trained.built.context.task
    blocks = list(blocks_of(trained.split))
    noisy = list(trained.noisy(rate, blocks))
    before, after = _predict(trained, blocks), _predict(trained, noisy)
    errors, errors_clean = errors_of(task, after, label), errors_of(task, before, label)
    rows = []
    for i in errors.argsort(descending=True, stable=True)[:WORST].tolist():
        block = noisy[i // BLOCK]
        erased = {m: [int(e[i % BLOCK].sum()), int(block.features[m].mask[i % BLOCK].sum())]
                  for m, e in block.erased.items()}  # fmt: skip
        rows.append(
            {
                "id": str(trained.split.ids[i]),
                "label": _in_words(task, label[i]),
                "clean": _in_words(task, _decision(task, before[i])),
                "noisy": _in_words(task, _decision(task, after[i])),
                "error": errors[i].item(),
                "error_clean": errors_clean[i].item(),
                "erased": erased,
            }
        )
    return rows


def errors_of(task: Task, prediction: Tensor, label: Tensor) -> Tensor:
    """How far off each prediction is, `n`, float64.

    Args:
        task: A regression's error is the absolute difference (its mean over several targets); that of a classification
            one minus the probability of the true class; that of several decisions the mean of the same over them.
        prediction: `n c`.
        label: `n`, or `n k`.
    """
    if task.kind == "regression":
        return (prediction.double() - label.double().cpu().reshape(prediction.shape)).abs().mean(-1)
    if task.kind == "classification":
        chosen = prediction.double().softmax(-1).gather(-1, label.long().cpu().unsqueeze(-1))
        return 1 - chosen.squeeze(-1)
    chances = prediction.double().unflatten(-1, (-1, 2)).softmax(-1)
    return 1 - chances.gather(-1, label.long().cpu().unsqueeze(-1)).squeeze(-1).mean(-1)


def _predict(trained: Trained, blocks: list[Batch]) -> Tensor:
    """Predictions of whole blocks, `n c`, float64."""
    return torch.cat([out.prediction.double().cpu() for block in blocks for _, out, _ in trained.forward(block)])


def _decision(task: Task, prediction: Tensor) -> Tensor:
    if task.kind == "regression":
        return prediction
    return prediction.argmax(-1) if task.kind == "classification" else prediction.unflatten(-1, (-1, 2)).argmax(-1)


def _in_words(task: Task, value: Tensor) -> str:
    """A label or a decision as text."""
    if task.kind == "regression":
        return ", ".join(f"{x:.3f}" for x in value.reshape(-1).tolist())
    if task.kind == "classification":
        number = int(value)
        return task.names[number] if number < len(task.names) else str(number)
    yes = [i for i, one in enumerate(value.tolist()) if one]
    return ", ".join(task.names[i] if i < len(task.names) else str(i) for i in yes) or "none"
