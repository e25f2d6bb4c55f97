"""What every file format comes to: tables of padded sequences, and the checks that hold for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmrobust.contracts import Task
from mmrobust.errors import DataError, nearest

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK = 512  # samples handled at once, so that large files need no second copy of themselves
_MOST_PADDED = 2**31  # values of a modality whose samples are padded to the longest


@dataclass
class Table:
    """One split as a file has it.

    Attributes:
        features: `{m: n t w}`, any numeric type.
        masks: True where a step is real, `{m: n t}`.
        label: `n`, or `n k` for several decisions or targets; None where the file has none.
        ids: A name for each sample.
        times: Start and end of each step in seconds, `{m: n t 2}`, where the file has them.
        groups: Who or what each sample comes from (a speaker, a video); None where the file does not say.
    """

    features: dict[str, Array]
    masks: dict[str, Array]
    label: Array | None
    ids: tuple[str, ...]
    times: dict[str, Array] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None


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


def place(path: Path, split: str, key: str | None = None) -> str:
    """Where something is wrong, for messages."""
    return f"{path}: split '{split}'" + (f", key '{key}'" if key is not None else "")


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices over so many samples, a few hundred at a time."""
    for i in range(0, count, size):
        yield slice(i, i + size)


# ------------------------------------------------------------------------------------------- features


def features(where: str, value: Any) -> tuple[Array, Array | None]:
    """A modality's features as `n t w`, and the lengths `n` where the samples are of different length.

    `n w` is taken as one step each. A list of arrays `t_i w` is padded with zeros at the end.

    Raises:
        DataError: It is no numeric array, or has another number of dimensions.
    """
    lengths = None
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype.kind == "O"):
        value, lengths = _stacked(where, list(value))
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise DataError(f"{where}: features have to be an array of numbers, not {what(value)}")
    x = value[:, None, :] if value.ndim == 2 else value
    if x.ndim != 3 or 0 in x.shape[1:]:
        raise DataError(
            f"{where}: the shape is {x.shape}; features need (samples, steps, width); to leave a key out, name the "
            "modalities with modalities: [...]"
        )
    return x, lengths


def _stacked(where: str, samples: list[Any]) -> tuple[Array, Array | None]:
    """Samples of one shape as an array; others padded to the longest, with their lengths."""
    arrays: list[Array] = []
    for i, sample in enumerate(samples):
        try:
            x = np.asarray(sample)
        except ValueError:
            x = np.asarray(None)
        if x.dtype.kind not in "fiub" and x.size:
            raise DataError(
                f"{where}: features have to be an array of numbers, but sample {i} is {what(sample)}; "
                "each needs (steps, width)"
            )
        arrays.append(x)
    shapes = {x.shape for x in arrays}
    if len(shapes) == 1 and arrays[0].size:
        return np.stack(arrays), None
    widths = {x.shape[1] for x in arrays if x.ndim == 2 and x.size}
    ranks = {x.ndim for x in arrays if x.size}
    if len(widths) != 1 or ranks != {2}:
        shown = ", ".join(str(shape) for shape in sorted(shapes)[:4])
        raise DataError(f"{where}: the samples have the shapes {shown}; each needs (steps, width) with one width")
    width, longest = widths.pop(), max(len(x) for x in arrays if x.size)
    if len(arrays) * longest * width > _MOST_PADDED:
        raise DataError(
            f"{where}: padded to the longest sample's {longest} steps it takes {len(arrays) * longest * width} values, "
            "more than is handled; shorten that sample"
        )
    kind = np.result_type(*{x.dtype for x in arrays if x.size})
    padded = np.zeros((len(arrays), longest, width), kind)
    lengths = np.array([len(x) if x.size else 0 for x in arrays])
    for i, x in enumerate(arrays):
        padded[i, : lengths[i]] = x.reshape(-1, width)
    return padded, lengths


def what(value: Any) -> str:
    """What a value is, for messages."""
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
        raise DataError(f"{where}: one number for each sample is needed, not {what(value)}")
    if x.size != len(x):
        raise DataError(f"{where}: the shape is {x.shape}; one number for each sample is needed")
    x = x.reshape(-1)
    if count is not None and len(x) != count:
        raise DataError(f"{where}: there are {len(x)}, but {count} samples; one for each is needed")
    return x


# ------------------------------------------------------------------------------------------- masks


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
    filled = np.concatenate([(x[i : i + CHUNK] != 0).any(-1) for i in range(0, max(len(x), 1), CHUNK)])
    after = np.maximum.accumulate(filled, 1)
    before = np.maximum.accumulate(filled[:, ::-1], 1)[:, ::-1]
    return after & before


def boolean_mask(where: str, value: Any) -> Array:
    """A mask as it stands in a file, which holds true and false, or exactly 1 and 0.

    Raises:
        DataError: It holds anything else; with what converts it.
    """
    try:
        mask = np.asarray(value)
    except ValueError:
        mask = np.asarray(None)
    right = "a mask is true (or 1) where a step is real and false (or 0) where it is padding"
    if mask.dtype.kind == "b":
        return mask
    if mask.dtype.kind not in "fiu":
        raise DataError(f"{where}: {right}, not {what(value)}")
    wrong = (mask != 0) & (mask != 1)
    if not wrong.any():
        return mask.astype(bool)
    seen = mask[wrong].reshape(-1)[0]
    advice = "save mask > 0" if np.nanmin(mask) >= 0 else "save mask >= 0"
    if not wrong.all() and (mask == 0).any() and (np.isneginf(mask) | (mask < -1e3) | (mask == 0)).all():
        advice = "it looks like an additive mask (0 where a step is real): save mask == 0"
    elif np.isnan(mask).any():
        advice = "save the mask without NaN"
    elif set(np.unique(mask).tolist()) == {-1, 1}:
        advice = "save mask == 1"
    raise DataError(f"{where}: {right}, but it holds {seen:g}; {advice}")


# ------------------------------------------------------------------------------------------- names


def text(where: str, value: Any) -> str:
    """Text of a file as text; parts of one name (video, start, end) are joined by `$_$` as MMSA does.

    Raises:
        DataError: It holds half of a character, which no terminal and no file could show.
    """
    if _several(value):
        return "$_$".join(text(where, part) for part in value)
    words = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    try:
        words.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {ascii(words)[:60]} is no valid text (half of a surrogate pair); rename it"
        ) from error
    return words


def names(where: str, value: Any, split: str, count: int) -> tuple[str, ...]:
    """Ids as text; numbers of the samples where there are none."""
    if value is None:
        return tuple(f"{split}-{i}" for i in range(count))
    if not _several(value):
        raise DataError(f"{where}: one id for each sample is needed, not {what(value)}")
    return tuple(text(where, item) for item in value)


def _several(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def groups_of_ids(ids: Sequence[str]) -> tuple[str, ...] | None:
    """The video or speaker that each id names before `$_$` or `[`; None where one of them names none."""
    groups = []
    for name in ids:
        for mark in ("$_$", "["):
            head, marked, _ = name.partition(mark)
            if marked and head:
                groups.append(head)
                break
        else:
            return None
    return tuple(groups)


def similar_key(key: str, keys: Mapping[str, Any], endings: Sequence[str], right: str) -> str | None:
    """The name that `key` ought to have if it is `NAME` of a modality in `keys` and one of the wrong endings."""
    for ending in endings:
        stem = key.removesuffix(ending)
        if stem != key and stem in keys and ending != right:
            return stem + right
    return None


# ------------------------------------------------------------------------------------------- checks


def check_counts(path: Path, split: str, table: Table) -> None:
    """That a split has samples, and as many of everything.

    Raises:
        DataError: It has not.
    """
    counts = {m: len(x) for m, x in table.features.items()}
    if table.label is not None:
        counts["labels"] = len(table.label)
    counts["ids"] = len(table.ids)
    if table.groups is not None:
        counts["groups"] = len(table.groups)
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
        advice = ""
        if task.kind == "regression":
            wrong = ~np.isfinite(label)
            right = "a finite number"
            if task.low is not None and task.high is not None:
                # Means of annotators may miss the end of the range by a rounding of float16 or float32.
                beyond = (label < task.low - 1e-2) | (label > task.high + 1e-2)
                right = f"from {task.low:g} to {task.high:g}"
                advice = "" if wrong.any() else "; to set it to the end of the range, say clip_labels: true"
                wrong |= beyond
        else:
            most = task.outputs if task.kind == "classification" else 2
            wrong = ~((label >= 0) & (label < most) & (label == np.floor(label)))
            right = f"a whole number from 0 to {most - 1}"
        wrong = wrong.any(1) if wrong.ndim > 1 else wrong
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(
                f"{where}: {int(wrong.sum())} of {len(label)} labels are out of range: sample '{table.ids[i]}' has "
                f"{label[i]}, but every label has to be {right}{advice}"
            )


def need(path: Path, split: str, table: Mapping[str, Any], key: str, advice: str = "") -> Any:
    """The value of a key that a split must have.

    Raises:
        DataError: It does not; with the nearest key that it has.
    """
    if key not in table:
        raise DataError(f"{place(path, split)} has no key '{key}'{nearest(key, map(str, table))}{advice}")
    return table[key]
