"""The layout in which any features can be brought in: one `.npz` or `.safetensors` file.

Either each split has its own keys, or one table holds all samples and a key `split` says where each belongs:

| key in a split | key in a table | what |
|---|---|---|
| `train/NAME` | `NAME` | features of a modality, `n t w`, or `n w` for one step each, or a list of `t_i w` |
| `train/NAME_length` | `NAME_length` | real steps of each sample, `n`; or else |
| `train/NAME_mask` | `NAME_mask` | True where a step is real, `n t`; or else all-zero steps at either end are padding |
| `train/NAME_times` | `NAME_times` | start and end of each step in seconds, `n t 2`; optional |
| `train/label` | `label` | `n` numbers, class numbers or words, or `n k` of several decisions or targets |
| `train/id` | `id` | a name for each sample; optional |
| `train/group` | `group` | the speaker or video of each sample; optional |
| | `split` | `train`, `valid` or `test` for each sample |
| `meta` | `meta` | JSON: `{"task": {...}, "modalities": [...]}`; optional |

A safetensors file holds no text: there `meta`, and `id`, `group` and `split` as lists of text under the same names,
stand in the header's metadata under the key `mmrobust`. `save_arrays` writes either.
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
from mmrobust.data.dataset import FileDataset, FileOptions
from mmrobust.data.labels import Wanted, read_labels
from mmrobust.data.new_samples import complete
from mmrobust.data.preparation import Preparation
from mmrobust.data.reading import FileContent, read_file
from mmrobust.data.tables import Array, Contents, Table, place
from mmrobust.errors import DataError, OptionError, nearest
from mmrobust.files import write_atomic

_EXTRA = ("_length", "_mask", "_times")
_PLAIN = ("label", "id", "group", "split", "meta")
_SPLITS = ("train", "valid", "test")
# What people write for the keys of the layout.
_NEAR_ENDINGS = {
    "_length": ("_lengths", "_len", "_lens", "_seq_len", "_seq_lens", "_n", "_steps"),
    "_mask": ("_masks", "_padding_mask", "_pad_mask", "_attention_mask", "_attn_mask", "_valid"),
    "_times": ("_time", "_timestamps", "_timestamp"),
}
_NEAR_KEYS = {
    "label": ("labels", "y", "target", "targets", "class", "classes", "regression_labels", "emotion", "Y"),
    "id": ("ids", "names", "name"),
    "group": ("groups", "speaker", "speakers", "actor", "subject", "speaker_id"),
    "split": ("splits", "fold", "set"),
}
_NEAR_SPLITS = {"val": "valid", "dev": "valid", "validation": "valid", "training": "train", "testing": "test"}


class Arrays(FileDataset):
    """Any features, from an `.npz` or `.safetensors` file in the layout of docs/data.md."""

    layout = "arrays"

    def __init__(
        self,
        *,
        path: Path,
        modalities: list[str] | None = None,
        length: int | dict[str, int] | None = None,
        reduce: dict[str, Literal["truncate", "segments", "random_segments", "mean", "mean_std"]] | None = None,
        task: Literal["auto", "regression", "classification", "multilabel"] = "auto",
        measures: str = "auto",
        target: str | int | None = None,
        clip_labels: bool = False,
        standardize: bool | list[str] | Literal["robust"] | dict[str, bool | str | list[str]] = True,
        scale: Literal["feature", "modality"] | dict[str, Literal["feature", "modality"]] = "feature",
        clip: float | dict[str, float] | None = None,
        replace_nonfinite: Literal["zero", "mean"] | None = None,
        folds: dict[str, str | int | float] | list[list[str | int]] | None = None,
        fold: int = 1,
    ) -> None:
        """
        Args:
            path: The file.
            modalities: Which of the file's modalities, and in which order; all in the file's order by default.
            length: Most steps, for all modalities or for some; the file's own by default, and never more.
                A modality of one step keeps it.
            reduce: How a modality is shortened: `truncate` keeps the first steps (the default), `segments` the middle
                one of each of `length` equal segments, `random_segments` one that is drawn anew in each epoch of
                training and the middle one otherwise, `mean` the mean of each segment, `mean_std` mean and deviation.
            task: What the labels are for; what the file's `meta` says by default, and without it what they look like:
                whole numbers from 0 and words are classes, two columns or more are one-hot classes, independent
                decisions or several targets. A note says which.
            measures: Which scores to report; what `meta` says by default, or those of the task's kind.
            target: Name or number (from 0) of the one column of the labels to predict; all by default.
            clip_labels: Whether labels beyond the range of a regression become its nearest end; they are refused by
                default.
            standardize: Give each feature mean 0 and deviation 1 over the training split's real steps: in all
                modalities, in those that are listed, or in none. `robust` takes median and quartiles. `{by: group}`
                takes each group's own samples (transductive), with `causal: true` its earlier ones alone.
            scale: Whether the deviation is each feature's own, or one for all features of a modality together, which
                keeps their sizes relative to each other (right for principal components and embeddings); for all
                modalities or for some.
            clip: Largest absolute value after standardising, in deviations, for all modalities or for some.
            replace_nonfinite: What to put for NaN and infinities: 0, or the feature's mean in the training split;
                they are refused by default.
            folds: Divide all samples anew so that no group is in two splits: `{by: group, count: 5}`, or a list of
                the groups that test in each fold.
            fold: Which of the folds tests, from 1.
        """
        self._wanted = Wanted(task, measures, target, clip_labels)
        super().__init__(
            path,
            FileOptions(modalities, length, reduce, standardize, scale, clip, replace_nonfinite, folds, fold),
        )

    def read(self, path: Path) -> Contents:
        """Reads the whole file; see `FileDataset.read`."""
        whole = self._options.folds is not None
        only = self._options.modalities
        return arrays_contents(path, read_arrays(path), self._wanted, only=only, model=self._given, whole=whole)


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
    path: Path,
    raw: Mapping[str, Any],
    wanted: Wanted,
    *,
    labels: bool = True,
    only: Sequence[str] | None = None,
    model: Preparation | None = None,
    whole: bool = False,
) -> Contents:
    """Makes tables of the raw keys of an arrays file.

    Args:
        path: Where they came from, for messages.
        raw: The keys.
        wanted: What is asked of the labels.
        labels: Whether there have to be any, and a training split.
        only: The modalities that are wanted; None for all.
        model: What a model was trained on, where these are new samples for it.
        whole: Whether the file's own splits do not matter, so that it needs none.

    Raises:
        DataError: They have not this layout.
    """
    labels = labels and model is None
    meta = raw.get("meta", {})
    if not isinstance(meta, dict):
        meta = _json(path, "the key 'meta'", str(meta))
    grouped = _grouped(path, raw, labels, whole)
    if labels and not whole and "train" not in grouped:
        raise DataError(f"{path}: there is no split 'train'; the file has {', '.join(grouped) or 'nothing'}")
    notes: list[str] = []
    order = list(model.modalities) if model is not None else _modalities(path, grouped, meta, only)
    if model is not None:
        grouped = {split: complete(path, split, keys, model, "_length") for split, keys in grouped.items()}
    parts = {split: _table(path, split, keys, order, notes) for split, keys in grouped.items()}
    _pad_alike(parts, order)
    task = None
    raw_labels = {split: keys["label"] for split, keys in grouped.items() if "label" in keys}
    if labels:
        for split, keys in grouped.items():
            if "label" not in keys:
                raise DataError(f"{place(path, split)} has no key '{split}/label'{_meant('label', keys)}")
    if raw_labels:
        understood = read_labels(path, raw_labels, _said(path, meta), wanted, "label")
        task = understood.task
        notes += understood.notes
        for split, values in understood.values.items():
            parts[split].label = values
    for split, table in parts.items():
        tables.check_counts(path, split, table)
    return Contents(path, "arrays", parts, task, notes)


def _grouped(path: Path, raw: Mapping[str, Any], labels: bool, whole: bool) -> dict[str, dict[str, Any]]:
    """The keys of each split; of a table without a split that of `all` if it is divided later, and of `new` samples."""
    grouped: dict[str, dict[str, Any]] = {}
    plain = {k: v for k, v in raw.items() if "/" not in k and k != "meta"}
    for key, value in raw.items():
        if "/" in key:
            split, _, name = key.partition("/")
            grouped.setdefault(split, {})[name] = value
    for key in plain:
        split, mark, name = key.partition("_")
        right = _NEAR_SPLITS.get(split, split)
        if mark and name and right in _SPLITS and key not in ("train", "test"):
            raise DataError(
                f"{path}: there is a key '{key}'; the key of a split has a slash: did you mean '{right}/{name}'?"
            )
    for split in grouped:
        if split in _NEAR_SPLITS:
            raise DataError(f"{path}: '{split}' is no split; did you mean '{_NEAR_SPLITS[split]}'?")
    if plain and grouped:
        raise DataError(
            f"{path}: some keys belong to a split ('{next(k for k in raw if '/' in k)}') and others to none "
            f"('{next(iter(plain))}'); use one form: all 'SPLIT/KEY', or all 'KEY' with a key 'split'"
        )
    if not grouped and "split" not in plain and (whole or not labels):
        return {"all" if whole else "new": plain}
    return grouped or _by_split(path, plain)


def _modalities(
    path: Path, grouped: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any], only: Sequence[str] | None
) -> list[str]:
    """The names of the modalities, after a look for keys that are nearly right."""
    first = next(iter(grouped.values()), {})
    order = meta.get("modalities")
    if order is not None and (not isinstance(order, list) or not all(isinstance(m, str) for m in order)):
        raise DataError(f"{path}: 'modalities' in 'meta' has to be a list of names")
    names = [k for k in first if k not in _PLAIN and not _belongs(k, first)]
    wrong: dict[str, str] = {}
    for key in names:
        for right, endings in _NEAR_ENDINGS.items():
            if similar := tables.similar_key(key, first, endings, right):
                wrong[key] = similar
        for right, near in _NEAR_KEYS.items():
            if key in near and right not in first and np.ndim(first[key]) < 2 and key not in (only or order or ()):
                wrong[key] = right
    if wrong:
        keys, meant = ("', '".join(names) for names in (wrong, wrong.values()))
        one = len(wrong) == 1
        there = f"there is a key '{keys}'" if one else f"there are keys '{keys}'"
        raise DataError(f"{path}: {there}; did you mean '{meant}'?")
    names = list(only or order or names)
    if not names:
        raise DataError(f"{path}: there are no features; a modality is a key such as 'train/text' or 'text'")
    return names


def _belongs(key: str, keys: Mapping[str, Any]) -> bool:
    return any(key.endswith(end) and key.removesuffix(end) in keys for end in _EXTRA)


def _meant(right: str, keys: Mapping[str, Any]) -> str:
    near = next((key for key in keys if key in _NEAR_KEYS[right]), None)
    return f"; rename '{near}' to '{right}'" if near else nearest(right, keys)


def _said(path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    said = meta.get("task") or {}
    if not isinstance(said, dict):
        raise DataError(f"{path}: 'task' in 'meta' has to be an object with 'kind', 'measures', ...")
    return said


def _by_split(path: Path, plain: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of one table by their split."""
    where = plain.pop("split", None)
    if where is None:
        raise DataError(
            f"{path}: there is no key 'split', and no key such as 'train/text'; "
            f"it has {', '.join(plain) or 'nothing'}; say which sample is in which split, or divide them by speaker "
            "with folds: {by: group, count: 5}"
        )
    where = np.asarray(where).astype(str).reshape(-1)
    for key, value in plain.items():
        count = len(value) if np.ndim(value) else 0
        if count != len(where):
            raise DataError(f"{path}: 'split' has {len(where)} samples, but '{key}' has {count}")
    unknown = sorted(set(where.tolist()) - set(_SPLITS))
    if unknown:
        raise DataError(f"{path}: key 'split': {unknown[0]!a} is no split; use train, valid and test")
    return {
        split: {key: np.asarray(value)[where == split] for key, value in plain.items()}
        for split in _SPLITS
        if (where == split).any()
    }


def _table(path: Path, split: str, keys: Mapping[str, Any], order: Sequence[str], notes: list[str]) -> Table:
    """The features of a split; its labels are read for all splits together."""
    features: dict[str, Array] = {}
    masks: dict[str, Array] = {}
    times: dict[str, Array] = {}
    for m in order:
        if m not in keys:
            raise DataError(f"{place(path, split)} has no key '{split}/{m}'{nearest(m, keys)}")
        where = place(path, split, m)
        x, lengths = tables.features(where, keys[m])
        features[m] = x
        if f"{m}_length" in keys:
            masks[m] = tables.mask_of_lengths(place(path, split, f"{m}_length"), keys[f"{m}_length"], x, notes)
        elif f"{m}_mask" in keys:
            masks[m] = tables.boolean_mask(place(path, split, f"{m}_mask"), keys[f"{m}_mask"])
        elif lengths is not None:
            masks[m] = np.arange(x.shape[1]) < lengths[:, None]
        else:
            masks[m] = np.ones(x.shape[:2], bool) if x.shape[1] == 1 else tables.mask_of_values(x)
        if f"{m}_times" in keys:
            times[m] = np.asarray(keys[f"{m}_times"])
            if times[m].shape != (*x.shape[:2], 2) or times[m].dtype.kind not in "fiu":
                where = place(path, split, f"{m}_times")
                raise DataError(f"{where}: the shape is {times[m].shape}; (samples, steps, 2) is needed")
    count = len(next(iter(features.values())))
    ids = tables.names(place(path, split, "id"), keys.get("id"), split, count)
    named = keys.get("group")
    groups = (
        tables.groups_of_ids(ids) if named is None else tables.names(place(path, split, "group"), named, split, count)
    )
    table = Table(features, masks, None, ids, times, groups)
    tables.check_counts(path, split, table)
    return table


def _pad_alike(parts: dict[str, Table], order: Sequence[str]) -> None:
    """Splits may be padded to different lengths; the longest holds for all."""
    for m in order:
        longest = max(table.features[m].shape[1] for table in parts.values())
        for table in parts.values():
            room = [(0, 0), (0, longest - table.features[m].shape[1])]
            if room[1][1]:
                table.features[m] = np.pad(table.features[m], [*room, (0, 0)])
                table.masks[m] = np.pad(table.masks[m], room)
                if m in table.times:
                    table.times[m] = np.pad(table.times[m], [*room, (0, 0)])


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
        splits: For each of `train`, `valid` and `test` the keys of the layout without the split: `NAME` (`n t w`,
            `n w`, or a list of `t_i w`), `NAME_length` or `NAME_mask`, `NAME_times`, `label`, `id`, `group`.
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
    splits = {split: _ready(path, split, keys) for split, keys in splits.items()}
    raw = {f"{split}/{key}": value for split, keys in splits.items() for key, value in keys.items()}
    meta: dict[str, Any] = {"task": asdict(task)}
    order = modalities or [k for k in next(iter(splits.values()), {}) if k not in _PLAIN and not k.endswith(_EXTRA)]
    meta["modalities"] = list(order)
    for key in {key for keys in splits.values() for key in keys}:
        if (
            key not in order
            and key not in ("label", "id", "group")
            and not any(key == f"{m}{end}" for m in order for end in _EXTRA)
        ):
            raise DataError(f"{path}: the key '{key}' is neither a modality nor belongs to one ({', '.join(order)})")
    for m in order:
        if not str(m).isidentifier() or m in _PLAIN or m.endswith(_EXTRA):
            raise DataError(
                f"{path}: a modality cannot be called '{m}'; use letters, digits and '_', but not {', '.join(_PLAIN)} "
                f"or an end such as {', '.join(_EXTRA)}"
            )
    contents = arrays_contents(path, raw | {"meta": meta}, Wanted())
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


def _ready(path: Path, split: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a split as plain arrays; lists of arrays of different length are padded, with their lengths."""
    out: dict[str, Any] = {}
    for key, value in keys.items():
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind == "O" and array.ndim and all(isinstance(item, (str, bytes)) for item in array.reshape(-1)):
            array = array.astype(str)
        elif array.dtype.kind == "O":
            array, lengths = tables.features(place(path, split, key), value)
            if lengths is not None and f"{key}_mask" not in keys:
                out.setdefault(f"{key}_length", lengths)
        out[key] = array
    return out


def _npz(raw: dict[str, Any], meta: dict[str, Any]) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, **raw, meta=np.asarray(json.dumps(meta)))
    return buffer.getvalue()


def _safetensors(raw: dict[str, Any], meta: dict[str, Any]) -> bytes:
    texts = {key: value.tolist() for key, value in raw.items() if value.dtype.kind in "US"}
    numbers = {key: np.ascontiguousarray(value) for key, value in raw.items() if key not in texts}
    return to_safetensors(numbers, metadata={"mmrobust": json.dumps({"meta": meta, **texts})})
