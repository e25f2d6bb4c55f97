"""What the outputs of a model are called."""

from __future__ import annotations

from mmrobust.contracts import Task

__all__ = ["class_names"]


def class_names(task: Task) -> tuple[str, ...]:
    """The names of the classes, decisions or targets; their numbers where they have none."""
    count = task.outputs // 2 if task.kind == "multilabel" else task.outputs
    return task.names or tuple(str(k) for k in range(count))
