"""MMSA's pickle layout: CMU-MOSI, CMU-MOSEI and CH-SIMS as `aligned_50.pkl`, `unaligned_50.pkl`, `unaligned_39.pkl`.

A pickle of `{train, valid, test}`, each a dict of

| key | what |
|---|---|
| `text`, `audio`, `vision` | features, `n t w`, padded with zeros |
| `text_lengths`, `audio_lengths`, `vision_lengths` | real steps of each sample; absent where aligned |
| `text_bert` | `n 3 t`: token ids, attention mask, segments; may be absent |
| `regression_labels` | `n`; CH-SIMS has `regression_labels_T`, `_A`, `_V` as well |
| `classification_labels`, `annotations` | `n`: class numbers and their names |
| `id` | `video$_$clip` |

Read through `mmrobust.data.reading`, which executes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmrobust.data import tables
from mmrobust.data.dataset import FileDataset, FileOptions
from mmrobust.data.labels import Labels, Wanted, read_labels
from mmrobust.data.new_samples import complete
from mmrobust.data.preparation import Preparation
from mmrobust.data.reading import read_file
from mmrobust.data.tables import Array, Contents, Table, need, place
from mmrobust.data.triples import splits_of_triples
from mmrobust.errors import DataError, OptionError

MODALITIES = ("text", "audio", "vision")
SPLITS = ("train", "valid", "test")

Kind = Literal["regression", "classification"]
Measures = Literal["auto", "mosi", "mosei", "sims", "regression"]
Label = Literal["M", "T", "A", "V"]

_NEAR_LENGTHS = ("_length", "_len", "_lens", "_seq_len", "_seq_lens")


class MMSA(FileDataset):
    """A pickle in MMSA's layout: MOSI, MOSEI, SIMS, or any data of the same form; the triples of MISA's pickles too."""

    layout = "mmsa"

    def __init__(
        self,
        *,
        path: Path,
        modalities: list[str] | None = None,
        length: int | dict[str, int] | None = None,
        reduce: dict[str, Literal["truncate", "segments", "random_segments", "mean", "mean_std"]] | None = None,
        task: Literal["regression", "classification"] = "regression",
        measures: Literal["auto", "mosi", "mosei", "sims", "regression"] = "auto",
        label: Literal["M", "T", "A", "V"] = "M",
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
            path: The pickle.
            modalities: Which of the file's modalities, and in which order; text, audio and vision by default.
            length: Most steps, for all modalities or for some; the file's own by default, and never more.
            reduce: How a modality is shortened: `truncate` keeps the first steps (the default), `segments` the middle
                one of each of `length` equal segments, `random_segments` one that is drawn anew in each epoch of
                training and the middle one otherwise, `mean` the mean of each segment, `mean_std` mean and deviation.
            task: Whether to predict `regression_labels` or `classification_labels`.
            measures: Which scores the field reports; by itself, `sims` for a file with SIMS' labels, else `mosi`.
            label: SIMS: the label of all modalities together (M), or that of text, audio or vision alone.
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
            folds: Divide all samples anew so that no group (the video of an id) is in two splits:
                `{by: group, count: 5}`, or a list of the groups that test in each fold.
            fold: Which of the folds tests, from 1.
        """
        self._modalities = modalities
        self._wanted = Wanted(task, measures, clip=clip_labels)
        self._label: Label = label
        if task == "classification" and measures != "auto":
            raise OptionError("measures", f"'{measures}' are for a regression, but task is classification")
        super().__init__(
            path,
            FileOptions(modalities, length, reduce, standardize, scale, clip, replace_nonfinite, folds, fold),
        )

    def read(self, path: Path) -> Contents:
        """Reads the whole file; see `FileDataset.read`."""
        wanted = self._given.modalities if self._given is not None else tuple(self._modalities or MODALITIES)
        keys = {"text_bert", "annotations", "id", "classification_labels"}
        keys |= {f"{m}{end}" for m in wanted for end in ("", "_lengths", *_NEAR_LENGTHS)}
        keys |= {f"regression_labels{end}" for end in ("", "_T", "_A", "_V")}
        content = read_file(path, ("pickle",), only=keys)
        notes = list(content.notes)
        splits = as_splits(path, content.value, wanted, self._given is None, notes)
        contents = mmsa_contents(path, splits, wanted, self._wanted, self._label, model=self._given)
        contents.notes[:0] = notes
        return contents


def as_splits(
    path: Path, value: Any, wanted: tuple[str, ...], labels: bool, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """The splits of a pickle, or the one split `new` of new features that are in none.

    Raises:
        DataError: It is something else, or a split is missing.
    """
    if not isinstance(value, dict) or not value:
        raise DataError(f"{path}: a dict with the splits {', '.join(SPLITS)} is needed, not {type(value).__name__}")
    if not labels and any(m in value for m in wanted):
        value = {"new": value}
    value = {{"val": "valid", "dev": "valid"}.get(str(k), str(k)): v for k, v in value.items()}
    for split in SPLITS if labels else ():
        if split not in value:
            raise DataError(f"{path}: there is no split '{split}'; the file has {', '.join(map(str, value))}")
    splits = {k: v for k, v in value.items() if k in SPLITS or (not labels and isinstance(v, (dict, list)))}
    splits = splits_of_triples(path, splits, notes)
    for split, table in splits.items():
        if not isinstance(table, dict):
            raise DataError(f"{place(path, split)}: a dict is needed, not {type(table).__name__}")
    return splits


def mmsa_contents(
    path: Path,
    splits: dict[str, dict[str, Any]],
    wanted: tuple[str, ...],
    labels_wanted: Wanted,
    label: Label,
    *,
    labels: bool = True,
    model: Preparation | None = None,
) -> Contents:
    """Makes tables of an MMSA pickle.

    Args:
        path: Where it came from, for messages.
        splits: What was in it.
        wanted: Modalities.
        labels_wanted: Which labels and scores.
        label: Which of SIMS' labels.
        labels: Whether there have to be any.
        model: What a model was trained on, where these are new samples for it.

    Raises:
        DataError: It has not this layout.
    """
    notes: list[str] = []
    if model is not None:
        splits = {split: complete(path, split, raw, model, "_lengths") for split, raw in splits.items()}
    parts = {split: _table(path, split, raw, wanted, notes) for split, raw in splits.items()}
    kind = labels_wanted.kind
    key = {"regression": "regression_labels", "classification": "classification_labels"}[kind]
    key += f"_{label}" if kind == "regression" and label != "M" else ""
    if labels and model is None:
        for split, raw in splits.items():
            need(path, split, raw, key)
    given = {split: raw[key] for split, raw in splits.items() if raw.get(key) is not None}
    task = None
    if given and model is None:
        understood = _labels(path, splits, given, labels_wanted, key)
        task, notes = understood.task, [*notes, *understood.notes]
        for split, values in understood.values.items():
            parts[split].label = values
    for split, table in parts.items():
        tables.check_counts(path, split, table)
    return Contents(path, "mmsa", parts, task, notes)


def _table(path: Path, split: str, raw: Mapping[str, Any], wanted: tuple[str, ...], notes: list[str]) -> Table:
    """The features of a split; its labels are read for all splits together."""
    features, masks, ragged = {}, {}, {}
    for m in wanted:
        where = place(path, split, m)
        value = need(path, split, raw, m, "; name what it has with modalities: [...]")
        features[m], ragged[m] = tables.features(where, value)
        for end in _NEAR_LENGTHS:
            if raw.get(m + end) is not None and raw.get(f"{m}_lengths") is None:
                raise DataError(f"{place(path, split)} has a key '{m}{end}'; did you mean '{m}_lengths'?")
    bert = _attention(path, split, raw)
    count = len(next(iter(features.values())))
    if bert is not None and len(bert) != count:
        raise DataError(f"{place(path, split, 'text_bert')}: there are {len(bert)}, but {count} samples")
    for m, x in features.items():
        lengths = ragged[m]
        if raw.get(f"{m}_lengths") is not None:
            masks[m] = tables.mask_of_lengths(place(path, split, f"{m}_lengths"), raw[f"{m}_lengths"], x, notes)
        elif lengths is not None:
            masks[m] = np.arange(x.shape[1]) < lengths[:, None]
        elif bert is not None and bert.shape == x.shape[:2]:
            masks[m] = bert  # of an aligned file: step i of every modality belongs to token i
        else:
            masks[m] = tables.mask_of_values(x)
    ids = tables.names(place(path, split, "id"), raw.get("id"), split, count)
    groups = tables.groups_of_ids(ids)
    if raw.get("group") is not None:
        groups = tables.names(place(path, split, "group"), raw["group"], split, count)
    table = Table(features, masks, None, ids, groups=groups)
    tables.check_counts(path, split, table)
    return table


def _attention(path: Path, split: str, raw: Mapping[str, Any]) -> Array | None:
    bert = raw.get("text_bert")
    if bert is None:
        return None
    try:
        bert = np.asarray(bert)
    except ValueError:
        bert = np.asarray(None)
    if bert.dtype.kind not in "fiub" or bert.ndim != 3 or bert.shape[1] != 3:
        raise DataError(
            f"{place(path, split, 'text_bert')}: the shape is {bert.shape}; (samples, 3, steps) is needed: "
            "token ids, attention mask, segments"
        )
    return bert[:, 1] > 0.5


def _labels(
    path: Path, splits: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], wanted: Wanted, key: str
) -> Labels:
    """The labels of all splits, with the measures of the data set and the names that `annotations` gives classes."""
    said: dict[str, Any] = {}
    if wanted.kind == "regression":
        given = {split: tables.column(place(path, split, key), value) for split, value in given.items()}
        sims = any("regression_labels_T" in raw for raw in splits.values())
        said = {"kind": "regression", "measures": "sims" if sims else "mosi"}
        return read_labels(path, given, said, wanted, key)
    understood = read_labels(path, given, said, wanted, key)
    names = understood.task.names or _class_names(understood.values, splits, understood.task.outputs)
    return Labels(understood.values, replace(understood.task, names=names), understood.notes)


def _class_names(labels: Mapping[str, Array], splits: Mapping[str, Mapping[str, Any]], count: int) -> tuple[str, ...]:
    """The names that `annotations` gives the classes, if each has just one."""
    names: dict[int, set[str]] = {}
    for split, label in labels.items():
        words = splits[split].get("annotations")
        if words is None or np.size(words) != len(label):
            return ()
        for number, word in zip(label.tolist(), words, strict=True):
            names.setdefault(int(number) if np.isfinite(number) else -1, set()).add(str(word))
    if sorted(names) != list(range(count)) or any(len(words) > 1 for words in names.values()):
        return ()
    return tuple(words.pop() for _, words in sorted(names.items()))
