"""What a user should think about before believing scores on a file: nothing that stops a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmrobust.contracts import Task
from mmrobust.data.tables import Contents

_RARE = 20  # the most frequent class is so many times as frequent as the rarest


def concerns(contents: Contents) -> list[str]:
    """Notes on ids and groups that are in two splits, and on classes that are missing or rare."""
    tables = contents.tables
    notes = list(_shared("ids", {split: table.ids for split, table in tables.items()}))
    for split, table in tables.items():
        repeated = len(table.ids) - len(set(table.ids))
        if repeated:
            notes.append(f"{split}: {repeated} of {len(table.ids)} ids are repeated")
    groups = {split: table.groups for split, table in tables.items() if table.groups is not None}
    notes += [f"{note}: scores may show how well it knows them" for note in _shared("groups", groups)]
    task = contents.task
    if task is not None and task.kind == "classification":
        labels = {split: table.label for split, table in tables.items() if table.label is not None}
        notes += _classes(task, labels)
    return notes


def _shared(what: str, names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The names that two splits have in common."""
    splits = list(names)
    for i, a in enumerate(splits):
        for b in splits[i + 1 :]:
            both = sorted(set(names[a]) & set(names[b]))
            if both:
                shown = ", ".join(both[:3]) + (", ..." if len(both) > 3 else "")
                count = f"{len(both)} {what} are" if len(both) > 1 else f"1 {what[:-1]} is"
                yield f"{count} in both '{a}' and '{b}' ({shown})"


def _classes(task: Task, labels: Mapping[str, np.ndarray]) -> Iterator[str]:
    names = task.names or tuple(map(str, range(task.outputs)))
    for split, label in labels.items():
        fine = label[(label >= 0) & (label < task.outputs)].astype(int)
        counts = np.bincount(fine, minlength=task.outputs)
        missing = [names[k] for k in np.flatnonzero(counts == 0)]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            yield f"{split}: {len(missing)} of {task.outputs} classes have no sample ({shown})"
        present = counts[counts > 0]
        if split == "train" and len(present) and present.max() >= _RARE * present.min():
            often, rare = names[int(counts.argmax())], names[int(np.where(counts > 0, counts, counts.max()).argmin())]
            yield f"{split}: classes are unbalanced: {present.max()} samples of {often}, {present.min()} of {rare}"
