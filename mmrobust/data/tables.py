"""What every file format comes to: tables of padded sequences, checked, and made ready for a model.

A format's reader gives `Contents`, as the file has them; `FileDataset` selects, shortens, checks, standardises and
makes tensors of them in one way for all formats.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from mmrobust.contracts import Dataset, Shape, Split, Stream, Task
from mmrobust.data.preparation import Preparation
from mmrobust.errors import DataError, OptionError, nearest

Array = np.ndarray[Any, np.dtype[Any]]
Reduce = Literal["truncate", "segments"]
Replace = Literal["zero", "mean"]
Scale = Literal["feature", "modality"]

_CHUNK = 512  # samples handled at once, so that large files need no second copy of themselves


@dataclass
class Table:
    """One split as a file has it.

    Attributes:
        features: `{m: n t w}`, any numeric type.
        masks: True where a step is real, `{m: n t}`.
        label: `n`, or `n k` for multilabel; None where the file has none.
        ids: A name for each sample.
        times: Start and end of each step in seconds, `{m: n t 2}`, where the file has them.
    """

    features: dict[str, Array]
    masks: dict[str, Array]
    label: Array | None
    ids: tuple[str, ...]
    times: dict[str, Array] = field(default_factory=dict)


@dataclass
class Contents:
    """A file as it is.

    Attributes:
        path: Where it lies.
        layout: Name of the dataset that reads it.
        tables: Its splits by name.
        task: What its labels are for; None where it has none.
        notes: What a reader of the report should know.
    """

    path: Path
    layout: str
    tables: dict[str, Table]
    task: Task | None
    notes: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------- reading


def place(path: Path, split: str, key: str | None = None) -> str:
    """Where something is wrong, for messages."""
    return f"{path}: split '{split}'" + (f", key '{key}'" if key is not None else "")


def features(where: str, value: Any) -> Array:
    """A modality's features as `n t w`; `n w` is taken as one step each.

    Raises:
        DataError: It is no numeric array, or has another number of dimensions.
    """
    x = np.asarray(value) if isinstance(value, list) and _numbers(value) else value
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
        raise DataError(f"{where}: features have to be an array of numbers, not {_what(value)}")
    x = x[:, None, :] if x.ndim == 2 else x
    if x.ndim != 3 or 0 in x.shape[1:]:
        raise DataError(f"{where}: the shape is {x.shape}; features need (samples, steps, width)")
    return x


def _numbers(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, (int, float))


def _what(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of the type {value.dtype}"
    return {"NoneType": "nothing", "str": "text"}.get(type(value).__name__, f"a {type(value).__name__}")


def column(where: str, value: Any, count: int | None = None) -> Array:
    """Numbers, one for each sample (`n`, `n 1`, `n 1 1`, or a list), as `n`.

    Raises:
        DataError: They are no numbers, or not one for each sample.
    """
    try:
        x = np.asarray(value)
    except ValueError:
        x = np.asarray(None)
    if x.dtype.kind not in "fiub" or x.ndim == 0:
        raise DataError(f"{where}: one number for each sample is needed, not {_what(value)}")
    if x.size != len(x):
        raise DataError(f"{where}: the shape is {x.shape}; one number for each sample is needed")
    x = x.reshape(-1)
    if count is not None and len(x) != count:
        raise DataError(f"{where}: there are {len(x)}, but {count} samples; one for each is needed")
    return x


def mask_of_lengths(where: str, value: Any, x: Array, notes: list[str]) -> Array:
    """The mask that lengths make; lengths beyond the steps that there are count as all of them, with a note."""
    lengths = column(where, value, len(x))
    if not np.isfinite(lengths).all() or (lengths != np.floor(lengths)).any() or (lengths < 0).any():
        raise DataError(f"{where}: lengths have to be whole numbers from 0 to {x.shape[1]}")
    long = int((lengths > x.shape[1]).sum())
    if long:
        notes.append(f"{where}: {long} lengths exceed the {x.shape[1]} steps that there are, and count as {x.shape[1]}")
    return np.arange(x.shape[1]) < lengths[:, None]


def mask_of_values(x: Array) -> Array:
    """The mask where a file says nothing: all-zero steps before the first and after the last other step are padding."""
    filled = np.concatenate([(x[i : i + _CHUNK] != 0).any(-1) for i in range(0, max(len(x), 1), _CHUNK)])
    after = np.maximum.accumulate(filled, 1)
    before = np.maximum.accumulate(filled[:, ::-1], 1)[:, ::-1]
    return after & before


def names(where: str, value: Any, split: str, count: int) -> tuple[str, ...]:
    """Ids as text; parts of one id (video, start, end) are joined by `$_$` as MMSA does."""
    if value is None:
        return tuple(f"{split}-{i}" for i in range(count))

    def text(item: Any) -> str:
        if isinstance(item, (list, tuple, np.ndarray)):
            return "$_$".join(text(part) for part in item)
        return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)

    if not isinstance(value, (list, tuple, np.ndarray)) or np.ndim(value) == 0:  # type: ignore[arg-type]
        raise DataError(f"{where}: one id for each sample is needed, not {_what(value)}")
    return tuple(text(item) for item in value)


def check_counts(path: Path, split: str, table: Table) -> None:
    """That a split has samples, and as many of everything.

    Raises:
        DataError: It has not.
    """
    counts = {m: len(x) for m, x in table.features.items()}
    if table.label is not None:
        counts["labels"] = len(table.label)
    counts["ids"] = len(table.ids)
    first, expected = next(iter(counts.items()))
    for key, count in counts.items():
        if count != expected:
            raise DataError(
                f"{place(path, split)}: '{first}' has {expected} samples, but '{key}' has {count}; "
                "every key of a split needs the same number"
            )
    if expected == 0:
        raise DataError(f"{place(path, split)} is empty; every split needs at least one sample")
    for m, x in table.features.items():
        if table.masks[m].shape != x.shape[:2]:
            raise DataError(
                f"{place(path, split, m)}: the mask has the shape {table.masks[m].shape}; it needs {x.shape[:2]}"
            )


def check_widths(contents: Contents) -> None:
    """That a modality is as wide in every split.

    Raises:
        DataError: It is not.
    """
    seen: dict[str, tuple[str, int]] = {}
    for split, table in contents.tables.items():
        for m, x in table.features.items():
            other, width = seen.setdefault(m, (split, x.shape[2]))
            if width != x.shape[2]:
                raise DataError(
                    f"{place(contents.path, split, m)} is {x.shape[2]} wide, but in split '{other}' it is {width} wide"
                )


def check_labels(contents: Contents) -> None:
    """That every label is one the task knows.

    Raises:
        DataError: One is not finite, out of range, or no class.
    """
    task = contents.task
    for split, table in contents.tables.items():
        if task is None or table.label is None:
            continue
        label, where = table.label, place(contents.path, split)
        if task.kind == "regression":
            wrong = ~np.isfinite(label)
            right = "a finite number"
            if task.low is not None and task.high is not None:
                # Means of annotators may miss the end of the range by a rounding of float16 or float32.
                wrong |= (label < task.low - 1e-2) | (label > task.high + 1e-2)
                right = f"from {task.low:g} to {task.high:g}"
        else:
            most = task.outputs if task.kind == "classification" else 2
            wrong = ~np.isin(label, np.arange(most))
            right = f"a whole number from 0 to {most - 1}"
            wrong = wrong.any(1) if wrong.ndim > 1 else wrong
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(
                f"{where}: {int(wrong.sum())} of {len(label)} labels are out of range: sample '{table.ids[i]}' has "
                f"{label[i]}, but every label has to be {right}"
            )


# ------------------------------------------------------------------------------------------- preparing


class FileDataset(Dataset):
    """A dataset that lies in a file.

    Subclasses set `layout`, implement `read`, and hand their options to `__init__`.

    Attributes:
        preparation: What new data for the same model needs; see `mmrobust.data.open_features`.
    """

    layout: ClassVar[str]
    _given: ClassVar[Preparation | None] = None  # set where new data is opened for a model that exists

    preparation: Preparation

    def __init__(
        self,
        *,
        path: Path,
        modalities: list[str] | None,
        length: int | dict[str, int] | None,
        reduce: dict[str, Reduce] | None,
        standardize: bool | list[str],
        scale: Scale | dict[str, Scale],
        replace_nonfinite: Replace | None,
    ) -> None:
        self._path = Path(path)
        if self._given is None and not self._path.exists():
            raise DataError(f"{path}: no such file; give the path of the data as data.path=FILE")
        contents = self.read(self._path, labels=self._given is None)
        check_widths(contents)
        check_labels(contents)
        notes = list(contents.notes)
        order = self._order(contents, modalities)
        lengths = self._lengths(contents, order, length)
        how = _for_each("reduce", reduce or {}, order)
        scales = dict.fromkeys(order, scale) if isinstance(scale, str) else _for_each("scale", scale, order)
        scaled = order if standardize is True else _chosen("standardize", standardize or [], order)

        tables = list(contents.tables.items())
        tables.sort(key=lambda item: item[0] != "train")  # statistics come from it, so it goes first
        parts: dict[str, dict[str, Stream]] = {split: {} for split, _ in tables}
        given = self._given
        mean, std, fill = ({}, {}, {}) if given is None else (given.mean, given.std, given.fill)
        for m in order:
            for split, table in tables:
                x, mask, times = _shorten(
                    table.features.pop(m), table.masks[m], table.times.get(m), lengths[m], how.get(m, "truncate"),
                    None if given is None else f"{place(self._path, split, m)}", notes,
                )  # fmt: skip
                _clear_padding(x, mask)
                bad = self._not_finite(split, m, x, mask, table.ids, replace_nonfinite, notes)
                if given is None and split == tables[0][0]:
                    first = _statistics(x, mask, together=scales.get(m) == "modality")
                    if m in scaled:
                        mean[m], std[m] = first[0].tolist(), first[1].tolist()
                    if replace_nonfinite is not None:
                        fill[m] = (first[0] if replace_nonfinite == "mean" else 0 * first[0]).tolist()
                if bad is not None:
                    x[bad] = np.broadcast_to(np.asarray(fill[m], x.dtype), x.shape)[bad]
                if m in mean:
                    x = _standardized(x, np.asarray(mean[m]), np.asarray(std[m]))
                    _clear_padding(x, mask)
                parts[split][m] = Stream(torch.from_numpy(x), torch.from_numpy(mask), times)

        task = given.task if given is not None else contents.task
        assert task is not None
        self.task = task
        kind = torch.float32 if self.task.kind == "regression" else torch.int64
        self.splits = {
            split: Split(
                parts[split],
                None if table.label is None else torch.from_numpy(np.ascontiguousarray(table.label)).to(kind),
                table.ids,
            )
            for split, table in contents.tables.items()
        }
        self.modalities = {m: Shape(next(iter(parts.values()))[m].x.shape[2], lengths[m]) for m in order}
        masks = [[streams[m].mask for m in order] for streams in parts.values()]
        self.aligned = len(set(lengths.values())) == 1 and all(torch.equal(k[0], o) for k in masks for o in k[1:])
        if scaled and given is None:
            notes.append(f"{', '.join(scaled)}: standardised by the training split's real steps")
        self.notes = tuple(notes)
        self.preparation = given or Preparation(
            tuple(order), task, {m: s.width for m, s in self.modalities.items()}, lengths, how, mean, std, fill
        )

    @abstractmethod
    def read(self, path: Path, labels: bool) -> Contents:
        """Reads the whole file.

        Args:
            path: The file.
            labels: Whether it has to hold labels.

        Raises:
            DataError: It is missing, damaged, hostile or of another layout.
        """

    def _order(self, contents: Contents, modalities: list[str] | None) -> list[str]:
        there = list(next(iter(contents.tables.values())).features)
        order = list(modalities or there)
        if len(set(order)) < len(order):
            raise OptionError("modalities", f"a modality is named twice: {', '.join(order)}")
        if self._given is not None:
            order = list(self._given.modalities)
        for split, table in contents.tables.items():
            for m in order:
                if m not in table.features:
                    raise DataError(f"{place(self._path, split)} has no modality '{m}'{nearest(m, table.features)}")
                width = table.features[m].shape[2]
                if self._given is not None and width != self._given.width[m]:
                    raise DataError(
                        f"{place(self._path, split, m)} is {width} wide, but the model was trained on features "
                        f"{self._given.width[m]} wide"
                    )
        return order

    def _lengths(self, contents: Contents, order: list[str], length: int | dict[str, int] | None) -> dict[str, int]:
        if self._given is not None:
            return dict(self._given.length)
        there = {m: max(table.features[m].shape[1] for table in contents.tables.values()) for m in order}
        asked = dict.fromkeys(order, length) if isinstance(length, int) else _for_each("length", length or {}, order)
        for m, count in asked.items():
            if count < 1:
                raise OptionError("length", f"{count} steps of {m} are too few; give at least 1")
            if isinstance(length, int) and there[m] == 1:
                continue  # a summary of the whole sample has no sequence to cut
            if count > there[m]:
                raise DataError(
                    f"{self._path}: length {count} is asked for, but '{m}' has only {there[m]} steps; "
                    f"give at most {there[m]}"
                )
        return {m: min(asked.get(m, there[m]), there[m]) for m in order}

    def _not_finite(
        self, split: str, m: str, x: Array, mask: Array, ids: Sequence[str], replace: Replace | None, notes: list[str]
    ) -> Array | None:
        where = place(self._path, split, m)
        if not mask.any():
            raise DataError(f"{where}: there is no real step in any sample")
        nan = infinite = 0
        samples: list[int] = []
        bad: Array | None = None
        for chunk in _chunks(x):
            part = x[chunk]
            wrong = ~np.isfinite(part) & mask[chunk, :, None]
            if wrong.any():
                bad = np.zeros(x.shape, bool) if bad is None else bad
                bad[chunk] = wrong
                nan += int((np.isnan(part) & wrong).sum())
                infinite += int((np.isinf(part) & wrong).sum())
                samples += (np.flatnonzero(wrong.any((1, 2))) + chunk.start).tolist()
        if bad is None:
            return None
        if nan + infinite == int(mask.sum()) * x.shape[2]:
            raise DataError(
                f"{where}: no value is finite ({nan} NaN, {infinite} infinite); extract these features anew"
            )
        found = f"{nan + infinite} values are not finite ({nan} NaN, {infinite} infinite), in {len(samples)} samples"
        if replace is None:
            raise DataError(
                f"{where}: {found}, the first of them '{ids[samples[0]]}'; "
                "to replace them, say replace_nonfinite: zero (or mean) in the recipe's data"
            )
        notes.append(f"{split}, {m}: {found}; replaced by {replace}")
        return bad


def _for_each(option: str, value: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """An option given for some of the modalities."""
    for m in value:
        if m not in order:
            raise OptionError(option, f"there is no modality '{m}'{nearest(m, order)}")
    return dict(value)


def _chosen(option: str, value: Sequence[str], order: Sequence[str]) -> list[str]:
    return list(_for_each(option, dict.fromkeys(value), order))


def _chunks(x: Array) -> Iterator[slice]:
    for i in range(0, len(x), _CHUNK):
        yield slice(i, i + _CHUNK)


def _shorten(
    x: Array, mask: Array, times: Array | None, length: int, how: Reduce, new: str | None, notes: list[str]
) -> tuple[Array, Array, torch.Tensor | None]:
    """At most `length` real steps of each sample, in float16 or float32, writable."""
    kind = x.dtype if x.dtype in (np.float16, np.float32) else np.dtype(np.float32)
    clock = None if times is None else np.asarray(times, np.float32)
    if x.shape[1] > length:
        real = mask.sum(1)
        if new is not None and how == "truncate" and (real > length).any():
            notes.append(f"{new}: {int((real > length).sum())} samples are cut to the {length} steps the model takes")
        steps = np.arange(length)
        if how == "segments":
            # One frame from each of `length` equal segments of a sample that is longer: the middle one.
            middle = ((2 * steps + 1) * real[:, None]) // (2 * length)
            steps = np.where(real[:, None] > length, middle, steps)
        # Real steps first, in their order, whatever side the padding is on.
        order = np.argsort(~mask, axis=1, kind="stable")
        chosen = np.take_along_axis(order, np.broadcast_to(steps, (len(x), length)), 1)
        short = np.empty((len(x), length, x.shape[2]), x.dtype)
        for chunk in _chunks(x):
            short[chunk] = np.take_along_axis(x[chunk], chosen[chunk, :, None], 1)
        x, mask = short, np.arange(length) < real[:, None]
        clock = None if clock is None else np.take_along_axis(clock, chosen[:, :, None], 1)
    elif x.shape[1] < length:
        room = [(0, 0), (0, length - x.shape[1])]
        x, mask = np.pad(x, [*room, (0, 0)]), np.pad(mask, room)
        clock = None if clock is None else np.pad(clock, [*room, (0, 0)])
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is counted
        x = np.require(x, kind, ["C", "W"])
    return x, np.ascontiguousarray(mask), None if clock is None else torch.from_numpy(np.ascontiguousarray(clock))


def _clear_padding(x: Array, mask: Array) -> None:
    for chunk in _chunks(x):
        x[chunk][~mask[chunk]] = 0


def _statistics(x: Array, mask: Array, together: bool) -> tuple[Array, Array]:
    """Mean and standard deviation of each feature over real, finite values; 0 and 1 where there is nothing to tell.

    With `together`, the deviation is one for all features: the root of their mean variance.
    """
    count, total = np.zeros(x.shape[2]), np.zeros(x.shape[2])
    for chunk in _chunks(x):
        real = x[chunk][mask[chunk]].astype(np.float64)
        fine = np.isfinite(real)
        count += fine.sum(0)
        total += np.where(fine, real, 0).sum(0)
    mean = total / np.maximum(count, 1)
    square = np.zeros(x.shape[2])
    for chunk in _chunks(x):
        real = x[chunk][mask[chunk]].astype(np.float64)
        square += np.square(np.where(np.isfinite(real), real - mean, 0)).sum(0)
    std = np.sqrt(square / np.maximum(count, 1))
    if together:
        std = np.full_like(std, np.sqrt(np.square(std).mean()))
    return mean, np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0)


def _standardized(x: Array, mean: Array, std: Array) -> Array:
    mean, std = mean.astype(np.float32), std.astype(np.float32)
    largest = 0.0
    out = x if x.dtype == np.float32 else np.empty(x.shape, np.float32)
    for chunk in _chunks(x):
        out[chunk] = (x[chunk] - mean) / std
        largest = max(largest, float(np.abs(out[chunk]).max()))
    # Back to the file's float16 where that holds the values.
    return out.astype(x.dtype) if largest < 6e4 else out
