"""Which measures belong to a task, and which of them is the primary one."""

from __future__ import annotations

from collections.abc import Sequence

from mmrobust.contracts import Task
from mmrobust.errors import UsageError, nearest
from mmrobust.measures.catalogue import describe
from mmrobust.measures.classification import OF_TABLE
from mmrobust.measures.regression import OF_NUMBERS

__all__ = ["check", "decisions_of", "measures_of", "primary", "quoted", "targets_of"]

_MOSI = (
    "mae",
    "corr",
    "acc7",
    "acc5",
    "acc3",
    "acc2_has0",
    "f1_has0",
    "acc2_non0",
    "f1_non0",
)
_SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mosi": ("regression", _MOSI),
    "mosei": ("regression", _MOSI),
    "sims": (
        "regression",
        ("sims_mae", "sims_corr", "sims_acc5", "sims_acc3", "sims_acc2", "sims_f1"),
    ),
    "regression": ("regression", ("mae", "rmse", "corr")),
    "classification": ("classification", ("accuracy", "balanced_accuracy", "f1", "f1_macro")),
    "iemocap": ("multilabel", ("accuracy_mean", "f1_mean")),
}


_QUOTED = frozenset(
    {"mae", "corr", "acc7", "acc2_non0", "f1_non0", "sims_mae", "sims_corr", "sims_acc2", "sims_f1"}
    | {"accuracy", "balanced_accuracy", "f1", "accuracy_mean", "f1_mean"}
)


def measures_of(task: Task) -> list[str]:
    """Names of the measures that the field reports for this task, in the order of its tables.

    Raises:
        UsageError: The task names a set that does not exist or is for another kind of task.
    """
    if task.measures not in _SETS:
        raise UsageError(f"unknown set of measures '{task.measures}'{nearest(task.measures, _SETS)}")
    kind, names = _SETS[task.measures]
    if kind != task.kind:
        raise UsageError(f"the measures of '{task.measures}' are for {kind}, but the data is for {task.kind}")
    if kind == "multilabel":
        decisions = decisions_of(task)
        return [f"{base}.{decision}" for decision in decisions for base in ("accuracy", "f1")] + list(names)
    if kind == "regression" and task.outputs > 1:
        if task.measures != "regression":
            raise UsageError(f"the measures of '{task.measures}' are for one target, but the data has {task.outputs}")
        each = [f"{base}.{target}" for target in targets_of(task) for base in names]
        return each + [f"{base}_mean" for base in names]
    return list(names)


def primary(task: Task) -> str:
    """The measure that is the primary one where the recipe names none; it chooses checkpoints too."""
    names = measures_of(task)
    if task.kind == "regression" and task.outputs > 1:
        return "mae_mean"
    return "f1_mean" if task.kind == "multilabel" else names[0]


def quoted(names: Sequence[str], primary: str | None = None) -> list[str]:
    """The measures that papers quote, the primary one first; all where there are few.

    Args:
        names: The measures of an evaluation.
        primary: Its primary measure.
    """
    some = [name for name in names if name in _QUOTED] if len(names) > 4 else list(names)
    some = some or list(names[:4])
    return [name for name in names if name == primary] + [name for name in some if name != primary]


def check(task: Task, names: Sequence[str]) -> list[str]:
    """The same names, known to be measurable on this task.

    Raises:
        UsageError: A name is unknown, or is for another kind of task.
    """
    for name in names:
        describe(name)
        if name not in (known := _available(task)):
            raise UsageError(f"the measure '{name}' cannot be taken on a {task.kind} task{nearest(name, known)}")
    return list(names)


def decisions_of(task: Task) -> tuple[str, ...]:
    """The names of a multilabel task's decisions; their numbers where it names none."""
    return task.names or tuple(str(k) for k in range(task.outputs // 2))


def targets_of(task: Task) -> tuple[str, ...]:
    """The names of the targets of a regression of several outputs; their numbers where it names none."""
    return task.names or tuple(str(k) for k in range(task.outputs))


def _available(task: Task) -> list[str]:
    if task.kind == "regression" and task.outputs == 1:
        return list(OF_NUMBERS)
    return list(OF_TABLE) if task.kind == "classification" else measures_of(task)
