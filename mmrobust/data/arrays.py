"""The layout in which any features can be brought in: one `.npz` or `.safetensors` file.

Either each split has its own keys, or one table holds all samples and a key `split` says where each belongs:

| key in a split | key in a table | what |
|---|---|---|
| `train/NAME` | `NAME` | features of a modality, `n t w`, or `n w` for one step each |
| `train/NAME_length` | `NAME_length` | real steps of each sample, `n`; or else |
| `train/NAME_mask` | `NAME_mask` | True where a step is real, `n t`; or else all-zero steps at either end are padding |
| `train/NAME_times` | `NAME_times` | start and end of each step in seconds, `n t 2`; optional |
| `train/label` | `label` | `n` numbers, `n` class numbers, or `n k` of 0 and 1 |
| `train/id` | `id` | a name for each sample; optional |
| | `split` | `train`, `valid` or `test` for each sample |
| `meta` | `meta` | JSON: `{"task": {...}, "modalities": [...]}`; optional |

A safetensors file holds no text: there `meta`, and `id` and `split` as lists of text under the same names, stand in
the header's metadata under the key `mmrobust`. `save_arrays` writes either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save as to_safetensors

from mmrobust.contracts import Task
from mmrobust.data import tables
from mmrobust.data.reading import FileContent, read_file
from mmrobust.data.tables import Array, Contents, FileDataset, Table, place
from mmrobust.errors import DataError, OptionError, nearest
from mmrobust.files import write_atomic

_EXTRA = ("_length", "_mask", "_times")
_PLAIN = ("label", "id", "split", "meta")
_KINDS = ("regression", "classification", "multilabel")


class Arrays(FileDataset):
    """Any features, from an `.npz` or `.safetensors` file in the layout of docs/data.md."""

    layout = "arrays"

    def __init__(
        self,
        *,
        path: Path,
        modalities: list[str] | None = None,
        length: int | dict[str, int] | None = None,
        reduce: dict[str, Literal["truncate", "segments"]] | None = None,
        task: Literal["auto", "regression", "classification", "multilabel"] = "auto",
        measures: str = "auto",
        standardize: bool | list[str] = True,
        scale: Literal["feature", "modality"] | dict[str, Literal["feature", "modality"]] = "feature",
        replace_nonfinite: Literal["zero", "mean"] | None = None,
    ) -> None:
        """
        Args:
            path: The file.
            modalities: Which of the file's modalities, and in which order; all in the file's order by default.
            length: Most steps, for all modalities or for some; the file's own by default, and never more.
                A modality of one step keeps it.
            reduce: How a modality is shortened: the first steps (the default), or one frame of each of `length`
                equal segments, as the paper does with video.
            task: What the labels are for; what the file's `meta` says by default, and without it what their type
                says: whole numbers are classes, two columns or more are independent decisions.
            measures: Which scores to report; what `meta` says by default, or those of the task's kind.
            standardize: Give each feature mean 0 and deviation 1 over the training split's real steps: in all
                modalities, in those that are listed, or in none.
            scale: Whether the deviation is each feature's own, or one for all features of a modality together, which
                keeps their sizes relative to each other (right for principal components and embeddings); for all
                modalities or for some.
            replace_nonfinite: What to put for NaN and infinities: 0, or the feature's mean in the training split;
                they are refused by default.
        """
        self._kind, self._measures = task, measures
        super().__init__(
            path=path,
            modalities=modalities,
            length=length,
            reduce=reduce,
            standardize=standardize,
            scale=scale,
            replace_nonfinite=replace_nonfinite,
        )

    def read(self, path: Path, labels: bool) -> Contents:
        """Reads the whole file; see `FileDataset.read`."""
        return arrays_contents(path, read_arrays(path), labels, self._kind, self._measures)


def read_arrays(path: Path) -> dict[str, Any]:
    """The raw keys of a file.

    Args:
        path: A `.npz` or `.safetensors` file.

    Raises:
        DataError: It cannot be read; see `mmrobust.data.reading.read_file`.
    """
    return arrays_keys(path, read_file(path, ("npz", "safetensors")))


def arrays_keys(path: Path, content: FileContent) -> dict[str, Any]:
    """The raw keys of what was read from an `.npz` or `.safetensors` file; text of the latter stands in its header."""
    if content.form == "npz":
        return dict(content.value)
    keys, text = dict(content.value["tensors"]), content.value["metadata"]
    if text is not None:
        head = _json(path, "the metadata 'mmrobust'", text)
        keys |= {key: np.asarray(value) if isinstance(value, list) else value for key, value in head.items()}
    return keys


def _json(path: Path, where: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError
        raise DataError(f"{path}: {where} is no JSON ({error})"[:400]) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: {where} has to be a JSON object, not a {type(value).__name__}")
    return value


def arrays_contents(
    path: Path, raw: Mapping[str, Any], labels: bool, kind: str = "auto", measures: str = "auto"
) -> Contents:
    """Makes tables of the raw keys of an arrays file.

    Args:
        path: Where they came from, for messages.
        raw: The keys.
        labels: Whether there have to be any, and a training split.
        kind: Of the task; `auto` for what the file says.
        measures: Which scores; `auto` for what the file says.

    Raises:
        DataError: They have not this layout.
    """
    meta = raw.get("meta", {})
    if not isinstance(meta, dict):
        meta = _json(path, "the key 'meta'", str(meta))
    grouped: dict[str, dict[str, Any]] = {}
    plain = {k: v for k, v in raw.items() if "/" not in k and k != "meta"}
    for key, value in raw.items():
        if "/" in key:
            split, _, name = key.partition("/")
            grouped.setdefault(split, {})[name] = value
    if plain and grouped:
        raise DataError(
            f"{path}: some keys belong to a split ('{next(k for k in raw if '/' in k)}') and others to none "
            f"('{next(iter(plain))}'); use one form: all 'SPLIT/KEY', or all 'KEY' with a key 'split'"
        )
    if not grouped:
        grouped = _by_split(path, plain, labels)
    if labels and "train" not in grouped:
        raise DataError(f"{path}: there is no split 'train'; the file has {', '.join(grouped) or 'nothing'}")
    notes: list[str] = []
    order = meta.get("modalities")
    first = next(iter(grouped.values()), {})
    found = [k for k in first if k not in _PLAIN and not _belongs(k, first)]
    order = list(map(str, order)) if isinstance(order, list) else found
    if not order:
        raise DataError(f"{path}: there are no features; a modality is a key such as 'train/text' or 'text'")
    made = {split: _table(path, split, keys, order, labels, notes) for split, keys in grouped.items()}
    _pad_alike(made, order)
    return Contents(path, "arrays", made, _task(path, made, meta, kind, measures), notes)


def _belongs(key: str, keys: Mapping[str, Any]) -> bool:
    return any(key.endswith(end) and key.removesuffix(end) in keys for end in _EXTRA)


def _by_split(path: Path, plain: dict[str, Any], labels: bool) -> dict[str, dict[str, Any]]:
    """The rows of one table by their split."""
    where = plain.pop("split", None)
    if where is None and not labels:
        return {"new": plain}
    if where is None:
        raise DataError(f"{path}: there is no key 'split', and no key such as 'train/text'; it has {', '.join(plain)}")
    where = np.asarray(where).astype(str).reshape(-1)
    for key, value in plain.items():
        count = np.shape(value)[0] if np.ndim(value) else 0
        if count != len(where):
            raise DataError(f"{path}: 'split' has {len(where)} samples, but '{key}' has {count}")
    unknown = sorted(set(where.tolist()) - {"train", "valid", "test"})
    if unknown:
        raise DataError(f"{path}: key 'split': '{unknown[0]}' is no split; use train, valid and test")
    return {
        split: {key: np.asarray(value)[where == split] for key, value in plain.items()}
        for split in ("train", "valid", "test")
        if (where == split).any()
    }


def _table(
    path: Path, split: str, keys: Mapping[str, Any], order: Sequence[str], labels: bool, notes: list[str]
) -> Table:
    features: dict[str, Array] = {}
    masks: dict[str, Array] = {}
    times: dict[str, Array] = {}
    for m in order:
        if m not in keys:
            raise DataError(f"{place(path, split)} has no key '{split}/{m}'{nearest(m, keys)}")
        x = features[m] = tables.features(place(path, split, m), keys[m])
        if f"{m}_length" in keys:
            where = place(path, split, f"{m}_length")
            masks[m] = tables.mask_of_lengths(where, keys[f"{m}_length"], x, notes)
        elif f"{m}_mask" in keys:
            masks[m] = np.asarray(keys[f"{m}_mask"]).astype(bool)
        elif x.shape[1] == 1:
            masks[m] = np.ones(x.shape[:2], bool)
        else:
            masks[m] = tables.mask_of_values(x)
        if f"{m}_times" in keys:
            times[m] = np.asarray(keys[f"{m}_times"])
            if times[m].shape != (*x.shape[:2], 2) or times[m].dtype.kind not in "fiu":
                where = place(path, split, f"{m}_times")
                raise DataError(f"{where}: the shape is {times[m].shape}; (samples, steps, 2) is needed")
    label = None
    if "label" in keys:
        label = np.asarray(keys["label"])
        where = place(path, split, "label")
        label = label if label.ndim == 2 and label.shape[1] > 1 else tables.column(where, keys["label"])
    elif labels:
        raise DataError(f"{place(path, split)} has no key '{split}/label'{nearest('label', keys)}")
    count = len(next(iter(features.values())))
    table = Table(features, masks, label, tables.names(place(path, split, "id"), keys.get("id"), split, count), times)
    tables.check_counts(path, split, table)
    return table


def _pad_alike(made: dict[str, Table], order: Sequence[str]) -> None:
    """Splits may be padded to different lengths; the longest holds for all."""
    for m in order:
        longest = max(table.features[m].shape[1] for table in made.values())
        for table in made.values():
            room = [(0, 0), (0, longest - table.features[m].shape[1])]
            if room[1][1]:
                table.features[m] = np.pad(table.features[m], [*room, (0, 0)])
                table.masks[m] = np.pad(table.masks[m], room)
                if m in table.times:
                    table.times[m] = np.pad(table.times[m], [*room, (0, 0)])


def _task(path: Path, made: dict[str, Table], meta: Mapping[str, Any], kind: str, measures: str) -> Task | None:
    said = meta.get("task") or {}
    if not isinstance(said, dict):
        raise DataError(f"{path}: 'task' in 'meta' has to be an object with 'kind', 'measures', ...")
    found = [table.label for table in made.values() if table.label is not None]
    if not found:
        return None
    if len({x.shape[1:] for x in found}) > 1:
        raise DataError(f"{path}: labels have {found[0].shape[1:]} columns in one split, other splits have others")
    columns = found[0].shape[1] if found[0].ndim == 2 else 1
    if kind == "auto":
        kind = said.get("kind") or (
            "multilabel" if columns > 1 else "classification" if found[0].dtype.kind in "iub" else "regression"
        )
    if kind not in _KINDS:
        raise DataError(f"{path}: there is no kind of task '{kind}'{nearest(str(kind), _KINDS)}")
    if (columns > 1) != (kind == "multilabel"):
        raise DataError(f"{path}: the labels have {columns} columns, which does not suit the task '{kind}'")
    same = kind == said.get("kind")
    if measures == "auto":
        default = "iemocap" if kind == "multilabel" else kind
        measures = str(said.get("measures", default)) if same else default
    names = tuple(map(str, said.get("names") or ())) if same else ()
    if kind == "regression":
        edges = {"mosi": (-3.0, 3.0), "mosei": (-3.0, 3.0), "sims": (-1.0, 1.0)}.get(measures, (None, None))
        low, high = (said.get("low", edges[0]), said.get("high", edges[1])) if same else edges
        return Task("regression", 1, measures, _number(path, "low", low), _number(path, "high", high))
    if kind == "multilabel":
        names = names if len(names) == columns else tuple(f"label {i}" for i in range(columns))
        return Task("multilabel", 2 * columns, measures, names=names)
    whole = np.concatenate(found)
    most = int(whole.max()) + 1 if np.isfinite(whole).all() and whole.max() < 10_000 else 2
    outputs = said.get("outputs") if same else None
    outputs = outputs if isinstance(outputs, int) and outputs >= 2 else max(most, len(names), 2)
    return Task("classification", outputs, measures, names=names if len(names) == outputs else ())


def _number(path: Path, key: str, value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise DataError(f"{path}: '{key}' of the task in 'meta' has to be a number, not {value!r}")
    return None if value is None else float(value)


def save_arrays(
    path: str | Path,
    splits: Mapping[str, Mapping[str, Any]],
    *,
    task: Task,
    modalities: Sequence[str] | None = None,
) -> Path:
    """Writes features in the arrays layout, whole or not at all, after checking that they can be read back.

    Args:
        path: A `.npz` or `.safetensors` file.
        splits: For each of `train`, `valid` and `test` the keys of the layout without the split: `NAME` (`n t w` or
            `n w`), `NAME_length` or `NAME_mask`, `NAME_times`, `label`, `id`.
        task: What the labels are for.
        modalities: Their order; that of the training split's keys by default.

    Returns:
        The path.

    Raises:
        DataError: The arrays do not fit each other or the task.
        WriteError: The file cannot be written.

    Example:
        >>> save_arrays("mine.npz", {"train": {"audio": x, "audio_length": n, "label": y}, ...},
        ...             task=Task("classification", 6, "classification"))
    """
    path = Path(path)
    raw: dict[str, Any] = {}
    for split, keys in splits.items():
        for key, value in keys.items():
            array = np.asarray(value)
            raw[f"{split}/{key}"] = array.astype(str) if array.dtype.kind == "O" else array
    meta: dict[str, Any] = {"task": asdict(task)}
    order = modalities or [k for k in next(iter(splits.values()), {}) if k not in _PLAIN and not k.endswith(_EXTRA)]
    meta["modalities"] = list(order)
    for key in {key for keys in splits.values() for key in keys}:
        if (
            key not in order
            and key not in ("label", "id")
            and not any(key == f"{m}{end}" for m in order for end in _EXTRA)
        ):
            raise DataError(f"{path}: the key '{key}' is neither a modality nor belongs to one ({', '.join(order)})")
    for m in order:
        if not str(m).isidentifier() or m in _PLAIN or m.endswith(_EXTRA):
            raise DataError(
                f"{path}: a modality cannot be called '{m}'; use letters, digits and '_', but not {', '.join(_PLAIN)} "
                f"or an end such as {', '.join(_EXTRA)}"
            )
    contents = arrays_contents(path, raw | {"meta": meta}, labels=True)
    tables.check_widths(contents)
    tables.check_labels(contents)
    if contents.task is not None and contents.task.kind != task.kind:
        raise OptionError("task", f"'{task.kind}' does not suit these labels")
    write: Callable[[dict[str, Any], dict[str, Any]], bytes] | None
    write = {".npz": _npz, ".safetensors": _safetensors}.get(path.suffix)
    if write is None:
        raise DataError(f"{path}: the name has to end in .npz or .safetensors")
    write_atomic(path, write(raw, meta))
    return path


def _npz(raw: dict[str, Any], meta: dict[str, Any]) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, **raw, meta=np.asarray(json.dumps(meta)))
    return buffer.getvalue()


def _safetensors(raw: dict[str, Any], meta: dict[str, Any]) -> bytes:
    texts = {key: value.tolist() for key, value in raw.items() if value.dtype.kind in "US"}
    numbers = {key: np.ascontiguousarray(value) for key, value in raw.items() if key not in texts}
    return to_safetensors(numbers, metadata={"mmrobust": json.dumps({"meta": meta, **texts})})
