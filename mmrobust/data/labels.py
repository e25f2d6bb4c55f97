"""What labels are for: from numbers, words or one-hot rows to a task and the labels it learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmrobust.contracts import Task
from mmrobust.data.tables import Array, place, text, what
from mmrobust.errors import DataError, OptionError, nearest

KINDS = ("regression", "classification", "multilabel")
RANGES = {"mosi": (-3.0, 3.0), "mosei": (-3.0, 3.0), "sims": (-1.0, 1.0)}
MOST_CLASSES = 10_000
_MOST_GUESSED = 100  # classes that whole numbers in floats are taken for


@dataclass(frozen=True)
class Wanted:
    """What a recipe asks of labels.

    Attributes:
        kind: `regression`, `classification`, `multilabel`, or `auto` for what the file says.
        measures: Which scores, or `auto`.
        target: Name or number of the one column that is wanted of several; None for all.
        clip: Whether labels beyond the range of the task become the end of the range.
    """

    kind: str = "auto"
    measures: str = "auto"
    target: str | int | None = None
    clip: bool = False


@dataclass(frozen=True)
class Labels:
    """Labels as the task has them.

    Attributes:
        values: `n` or `n k` for each split.
        task: What they are for.
        notes: What was done to them.
    """

    values: dict[str, Array]
    task: Task
    notes: list[str] = field(default_factory=list)


def read_labels(path: Path, raw: Mapping[str, Any], said: Mapping[str, Any], wanted: Wanted, key: str) -> Labels:
    """Understands the labels of a file.

    Args:
        path: Of the file, for messages.
        raw: The labels of each split as the file has them: `n`, `n 1`, or `n k` numbers, or `n` words.
        said: What the file says of the task: `kind`, `outputs`, `measures`, `low`, `high`, `names`.
        wanted: What the recipe asks for; it goes before what the file says.
        key: What messages call them.

    Raises:
        DataError: They are no labels of any task, or not of the one that is asked for.
        OptionError: There is no such target.
    """
    reading = _Reading(path, said, wanted, key)
    values = {split: reading.values(place(path, split, key), value) for split, value in raw.items()}
    if len({x.shape[1:] for x in values.values()}) > 1 or len({_form(x) for x in values.values()}) > 1:
        shapes = ", ".join(f"{split}: {x.shape} {_form(x)}" for split, x in values.items())
        raise DataError(f"{path}: the labels are not of one form in all splits ({shapes})")
    values = reading.chosen(values)
    first = next(iter(values.values()))
    if first.dtype.kind == "U":
        values = reading.words(values)
    elif first.ndim == 2:
        values = reading.columns(values)
    else:
        values = reading.numbers(values)
    task = reading.task(values)
    if wanted.clip:
        values = reading.clipped(values, task)
    return Labels(values, task, reading.notes)


def _form(x: Array) -> str:
    return "text" if x.dtype.kind == "U" else "numbers"


class _Reading:
    """The labels of one file on their way to a task; `kind` and `names` become known as they are looked at."""

    def __init__(self, path: Path, said: Mapping[str, Any], wanted: Wanted, key: str) -> None:
        self.path, self.said, self.wanted, self.key = path, said, wanted, key
        self.notes: list[str] = []
        self.names = self._names(said.get("names"))
        kind = said.get("kind") if wanted.kind == "auto" else wanted.kind
        self.kind: str | None = None if kind in (None, "auto") else str(kind)
        if self.kind is not None and self.kind not in KINDS:
            raise DataError(f"{path}: there is no kind of task '{self.kind}'{nearest(self.kind, KINDS)}")

    def _names(self, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)) or len(value) > MOST_CLASSES:
            raise DataError(f"{self.path}: 'names' of the task has to be a list of at most {MOST_CLASSES} names")
        return tuple(text(f"{self.path}: 'names' of the task", name) for name in value)

    # ------------------------------------------------------------------ what is in the file

    def values(self, where: str, value: Any) -> Array:
        """Labels of a split as an array `n` or `n k` of numbers, or `n` of text."""
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            value = value.tolist()
        try:
            x = np.asarray(value)
        except ValueError:
            x = np.asarray(None)
        if x.dtype.kind == "S" or (x.dtype.kind == "O" and x.ndim == 1 and all(isinstance(v, (str, bytes)) for v in x)):
            x = np.array([text(where, v) for v in x.reshape(-1).tolist()], dtype=str).reshape(x.shape)
        if x.dtype.kind not in "fiubU" or x.ndim == 0:
            raise DataError(f"{where}: a number or a word for each sample is needed, not {what(value)}")
        while x.ndim > 1 and x.shape[x.ndim - 1] == 1:
            x = x.reshape(x.shape[: x.ndim - 1])
        if x.ndim > 2 or (x.ndim == 2 and x.dtype.kind == "U"):
            raise DataError(f"{where}: the shape is {x.shape}; (samples) or (samples, targets) is needed")
        if x.dtype.kind == "U":
            for word in set(x.tolist()):
                text(where, word)
        return x

    def chosen(self, values: dict[str, Array]) -> dict[str, Array]:
        """The one column that the recipe wants."""
        target = self.wanted.target
        if target is None:
            return values
        first = next(iter(values.values()))
        count = first.shape[1] if first.ndim == 2 else 1
        names = self.names if len(self.names) == count else ()
        if isinstance(target, int) and not 0 <= target < count:
            raise OptionError("target", f"there is no column {target}; the labels have {count}, from 0")
        if isinstance(target, str) and target not in names:
            known = (
                nearest(target, names) if names else f"; the file names none, give the number of one of {count} columns"
            )
            raise OptionError("target", f"there is no target '{target}'{known}")
        k = target if isinstance(target, int) else names.index(target)
        self.notes.append(f"of {count} targets, {names[k] if names else f'column {k}'} is predicted")
        self.names = ()
        if self.kind == "multilabel":
            self.kind = "classification"
        return {split: x[:, k] if x.ndim == 2 else x for split, x in values.items()}

    # ------------------------------------------------------------------ the three forms

    def words(self, values: dict[str, Array]) -> dict[str, Array]:
        """Words become classes in the order of `names`, or of the alphabet."""
        there = sorted(set().union(*(x.tolist() for x in values.values())))
        try:
            numbers = {split: x.astype(np.float64) for split, x in values.items()}
            if not self.names:
                self.notes.append(f"labels: text such as '{there[0]}' is read as numbers")
                return self.numbers(numbers)
        except ValueError:
            pass
        self._need("classification", "words", "classes")
        names = self.names or tuple(there)
        if len(names) > MOST_CLASSES:
            raise DataError(
                f"{self.path}: the labels are {len(names)} different words; there may be {MOST_CLASSES} classes"
            )
        unknown = [word for word in there if word not in names]
        if unknown:
            raise DataError(
                f"{self.path}: the label '{unknown[0]}' is none of the task's names{nearest(unknown[0], names)}"
            )
        if not self.names:
            shown = ", ".join(f"{i} {name}" for i, name in enumerate(names[:12]))
            self.notes.append(f"labels: words are classes, in the order of the alphabet: {shown}")
        self.names = names
        number = {name: i for i, name in enumerate(names)}
        return {split: np.array([number[word] for word in x.tolist()]) for split, x in values.items()}

    def columns(self, values: dict[str, Array]) -> dict[str, Array]:
        """Several columns are one-hot classes, independent decisions, or several targets."""
        count = next(iter(values.values())).shape[1]
        if count > MOST_CLASSES:
            raise DataError(f"{self.path}: the labels have {count} columns; there may be {MOST_CLASSES}")
        binary = all(((x == 0) | (x == 1)).all() for x in values.values())
        one_hot = binary and all((x.sum(1) == 1).all() for x in values.values())
        if self.kind == "classification" or (self.kind is None and one_hot):
            if not one_hot:
                raise DataError(
                    f"{self.path}: the labels have {count} columns that are not one-hot, which does not suit the task "
                    "'classification'; say task: multilabel or regression, or choose one column with target"
                )
            self.kind = "classification"
            self.notes.append(
                f"labels: {count} columns, of which exactly one is 1, are {count} classes "
                "(for independent decisions say task: multilabel)"
            )
            self.names = self.names if len(self.names) == count else tuple(map(str, range(count)))
            return {split: x.argmax(1) for split, x in values.items()}
        if self.kind is None:
            self.kind = "multilabel" if binary else "regression"
            if self.kind == "regression":
                self.notes.append(f"labels: {count} columns of numbers are {count} targets of a regression")
        return values

    def numbers(self, values: dict[str, Array]) -> dict[str, Array]:
        """One number for each sample: classes, or a regression."""
        there = np.unique(np.concatenate([x.astype(np.float64) for x in values.values()]))
        whole = bool(np.isfinite(there).all() and (there == np.floor(there)).all())
        if self.kind == "multilabel":
            raise DataError(
                f"{self.path}: the labels have 1 column, which does not suit the task 'multilabel'; "
                "it needs (samples, decisions) of 0 and 1"
            )
        if self.kind is None:
            floats = any(x.dtype.kind == "f" for x in values.values())
            self.kind = "classification" if whole and (not floats or _counts(there)) else "regression"
            if whole and floats and self.kind == "classification":
                self.notes.append(
                    f"labels: the whole numbers {_shown(there)} are taken as classes (for amounts say task: regression)"
                )
            elif whole and floats:
                self.notes.append(
                    f"labels: the whole numbers {_shown(there)} are taken as amounts "
                    "(for classes say task: classification)"
                )
        return self._classes(values, there) if self.kind == "classification" and whole else values

    def _classes(self, values: dict[str, Array], there: Array) -> dict[str, Array]:
        """Class numbers from 0; others are mapped where it is plain what is meant."""
        stated = self.said.get("outputs") is not None or bool(self.names)
        low, high = int(there[0]), int(there[-1])
        if low == 0 or (low > 0 and stated and high < self._outputs(high)):
            if not stated and high >= 2 * len(there) + 2:
                raise self._unclear(there)
            return {split: x.astype(np.int64) for split, x in values.items()}
        if there.tolist() in ([-1, 1], [-1, 0, 1]) or (low == 1 and high <= 2 * len(there)):
            mapped = np.arange(1, high + 1) if low == 1 else there
            self.names = self.names if len(self.names) == len(mapped) else tuple(f"{v:g}" for v in mapped)
            self.notes.append(f"labels: {_shown(mapped)} are the classes 0 to {len(mapped) - 1}, in this order")
            return {split: np.searchsorted(mapped, x).astype(np.int64) for split, x in values.items()}
        raise self._unclear(there)

    def _unclear(self, there: Array) -> DataError:
        mapping = ", ".join(f"{v:g}: {i}" for i, v in enumerate(there[:12].tolist()))
        more = ", ..." if len(there) > 12 else ""
        return DataError(
            f"{self.path}: the labels are the whole numbers {_shown(there)}, but classes are numbered from 0; number "
            f"them so ({{{mapping}{more}}}), or say task: regression if they are amounts"
        )

    def _need(self, kind: str, what: str, means: str) -> None:
        if self.kind not in (None, kind):
            raise DataError(
                f"{self.path}: the labels are {what}, which are {means} and do not suit the task '{self.kind}'; "
                f"say task: {kind}"
            )
        self.kind = kind

    # ------------------------------------------------------------------ the task

    def _outputs(self, most: int) -> int:
        """How many classes the file says there are; what its labels say where it says nothing."""
        stated = self.said.get("outputs")
        if stated is not None and (type(stated) is not int or not 1 <= stated <= MOST_CLASSES):
            raise DataError(
                f"{self.path}: 'outputs' of the task has to be a whole number from 1 to {MOST_CLASSES}, "
                f"not {stated!r:.40}"
            )
        return stated or len(self.names) or most + 1

    def task(self, values: dict[str, Array]) -> Task:
        """The task, from what is known of the labels."""
        assert self.kind is not None
        first = next(iter(values.values()))
        columns = first.shape[1] if first.ndim == 2 else 1
        if (columns > 1) != (self.kind == "multilabel") and self.kind != "regression":
            raise DataError(
                f"{self.path}: the labels have {columns} columns, which does not suit the task '{self.kind}'"
            )
        same = self.kind == self.said.get("kind", self.kind) and self.wanted.target is None
        stated = self.said.get("measures") if same else None
        default = "iemocap" if self.kind == "multilabel" else self.kind
        measures = str(stated or default) if self.wanted.measures == "auto" else self.wanted.measures
        if self.kind == "regression":
            return self._regression(columns, measures, same)
        if self.kind == "multilabel":
            names = self.names if len(self.names) == columns else tuple(f"label {i}" for i in range(columns))
            return Task("multilabel", 2 * columns, measures, names=names)
        whole = np.concatenate(list(values.values()))
        most = int(whole.max()) if np.isfinite(whole).all() and whole.max() < MOST_CLASSES else 1
        outputs = max(self._outputs(most) if same else most + 1, len(self.names), 2)
        return Task("classification", outputs, measures, names=self.names if len(self.names) == outputs else ())

    def _regression(self, columns: int, measures: str, same: bool) -> Task:
        edges = RANGES.get(measures, (None, None))
        ends = [self.said.get(key, edge) if same else edge for key, edge in zip(("low", "high"), edges, strict=True)]
        low, high = (_number(self.path, key, end) for key, end in zip(("low", "high"), ends, strict=True))
        if low is not None and high is not None and low >= high:
            raise DataError(f"{self.path}: 'low' of the task in 'meta' is {low:g}, which is not below 'high', {high:g}")
        if columns == 1:
            return Task("regression", 1, measures, low, high)
        if measures != "regression":
            raise DataError(
                f"{self.path}: the measures of '{measures}' are for one target, but the labels have {columns}; choose "
                "one with target, or say measures: regression"
            )
        names = self.names if len(self.names) == columns else tuple(f"target {i}" for i in range(columns))
        return Task("regression", columns, measures, low, high, names=names)

    def clipped(self, values: dict[str, Array], task: Task) -> dict[str, Array]:
        """Labels beyond the range set to its nearest end, and counted."""
        if task.kind != "regression" or task.low is None or task.high is None:
            raise OptionError(
                "clip_labels", "the task has no range; only a regression with a lowest and highest label has"
            )
        for split, x in values.items():
            beyond = int(((x < task.low) | (x > task.high)).sum())
            if beyond:
                self.notes.append(
                    f"{split}: {beyond} labels beyond {task.low:g} to {task.high:g} are set to the nearest end"
                )
        return {split: np.clip(x, task.low, task.high) for split, x in values.items()}


def _counts(there: Array) -> bool:
    """Whether sorted values are 0, 1, 2, ..., or 1, 2, ..., or -1, 1, or -1, 0, 1, and not too many."""
    if not 2 <= len(there) <= _MOST_GUESSED:
        return False
    steps = bool((np.diff(there) == 1).all())
    return (steps and there[0] in (0, 1)) or there.tolist() in ([-1, 1], [-1, 0, 1])


def _shown(there: Sequence[float] | Array) -> str:
    values = [f"{v:g}" for v in np.asarray(there).tolist()]
    return ", ".join(values) if len(values) <= 8 else f"{values[0]}, {values[1]}, ..., {values[-1]}"


def _number(path: Path, key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
        raise DataError(f"{path}: '{key}' of the task in 'meta' has to be a number, not {value!r:.40}")
    return float(value)
