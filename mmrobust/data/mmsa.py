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

from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmrobust.contracts import Task
from mmrobust.data import tables
from mmrobust.data.reading import read_file
from mmrobust.data.tables import Array, Contents, FileDataset, Table, place
from mmrobust.errors import DataError, OptionError, nearest

MODALITIES = ("text", "audio", "vision")
SPLITS = ("train", "valid", "test")

Kind = Literal["regression", "classification"]
Measures = Literal["auto", "mosi", "mosei", "sims", "regression"]
Label = Literal["M", "T", "A", "V"]


class MMSA(FileDataset):
    """A pickle in MMSA's layout: MOSI, MOSEI, SIMS, or any data of the same form."""

    layout = "mmsa"

    def __init__(
        self,
        *,
        path: Path,
        modalities: list[str] | None = None,
        length: int | dict[str, int] | None = None,
        reduce: dict[str, Literal["truncate", "segments"]] | None = None,
        task: Literal["regression", "classification"] = "regression",
        measures: Literal["auto", "mosi", "mosei", "sims", "regression"] = "auto",
        label: Literal["M", "T", "A", "V"] = "M",
        standardize: bool | list[str] = True,
        scale: Literal["feature", "modality"] | dict[str, Literal["feature", "modality"]] = "feature",
        replace_nonfinite: Literal["zero", "mean"] | None = None,
    ) -> None:
        """
        Args:
            path: The pickle.
            modalities: Which of the file's modalities, and in which order; text, audio and vision by default.
            length: Most steps, for all modalities or for some; the file's own by default, and never more.
            reduce: How a modality is shortened: the first steps (the default), or one frame of each of `length`
                equal segments, as the paper does with video.
            task: Whether to predict `regression_labels` or `classification_labels`.
            measures: Which scores the field reports; by itself, `sims` for a file with SIMS' labels, else `mosi`.
            label: SIMS: the label of all modalities together (M), or that of text, audio or vision alone.
            standardize: Give each feature mean 0 and deviation 1 over the training split's real steps: in all
                modalities, in those that are listed, or in none.
            scale: Whether the deviation is each feature's own, or one for all features of a modality together, which
                keeps their sizes relative to each other (right for principal components and embeddings); for all
                modalities or for some.
            replace_nonfinite: What to put for NaN and infinities: 0, or the feature's mean in the training split;
                they are refused by default.
        """
        self._modalities = modalities
        self._kind: Kind = task
        self._measures: Measures = measures
        self._label: Label = label
        if task == "classification" and measures != "auto":
            raise OptionError("measures", f"'{measures}' are for a regression, but task is classification")
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
        wanted = tuple(self._modalities or MODALITIES)
        keys = {"text_bert", "annotations", "id", "classification_labels"}
        keys |= {*wanted, *(f"{m}_lengths" for m in wanted), *(f"regression_labels{s}" for s in ("", "_T", "_A", "_V"))}
        read = read_file(path, ("pickle",), only=keys)
        splits = as_splits(path, read.value, wanted, labels)
        contents = mmsa_contents(path, splits, wanted, self._kind, self._measures, self._label, labels)
        contents.notes[:0] = read.notes
        return contents


def as_splits(path: Path, value: Any, wanted: tuple[str, ...], labels: bool) -> dict[str, dict[str, Any]]:
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
    value = {k: v for k, v in value.items() if not labels or k in SPLITS}
    for split, table in value.items():
        if not isinstance(table, dict):
            raise DataError(f"{place(path, split)}: a dict is needed, not {type(table).__name__}")
    return value


def need(path: Path, split: str, table: dict[str, Any], key: str, advice: str = "") -> Any:
    """The value of a key that a split must have.

    Raises:
        DataError: It does not; nearest keys are told.
    """
    if key not in table:
        raise DataError(f"{place(path, split)} has no key '{key}'{nearest(key, map(str, table))}{advice}")
    return table[key]


def mmsa_contents(
    path: Path,
    splits: dict[str, dict[str, Any]],
    wanted: tuple[str, ...],
    kind: Kind,
    measures: Measures,
    label: Label,
    labels: bool,
) -> Contents:
    """Makes tables of an MMSA pickle; see `MMSA` for the arguments.

    Args:
        path: Where it came from, for messages.
        splits: What was in it.
        wanted: Modalities.
        kind: Which labels.
        measures: Which scores.
        label: Which of SIMS' labels.
        labels: Whether there have to be any.

    Raises:
        DataError: It has not this layout.
    """
    notes: list[str] = []
    tables_ = {}
    key = {"regression": "regression_labels", "classification": "classification_labels"}[kind]
    key += f"_{label}" if kind == "regression" and label != "M" else ""
    for split, raw in splits.items():
        features, masks = {}, {}
        for m in wanted:
            where = place(path, split, m)
            features[m] = tables.features(where, need(path, split, raw, m, "; name what it has with modalities: [...]"))
        bert = _attention(path, split, raw)
        for m, x in features.items():
            if raw.get(f"{m}_lengths") is not None:
                where = place(path, split, f"{m}_lengths")
                masks[m] = tables.mask_of_lengths(where, raw[f"{m}_lengths"], x, notes)
            elif bert is not None and bert.shape == x.shape[:2]:
                masks[m] = bert  # of an aligned file: step i of every modality belongs to token i
            else:
                masks[m] = tables.mask_of_values(x)
        count = len(next(iter(features.values())))
        given = need(path, split, raw, key) if labels else raw.get(key)
        target = None if given is None else tables.column(place(path, split, key), given, None)
        ids = tables.names(place(path, split, "id"), raw.get("id"), split, count)
        tables_[split] = Table(features, masks, target, ids)
        tables.check_counts(path, split, tables_[split])
    sims = any("regression_labels_T" in raw for raw in splits.values())
    return Contents(path, "mmsa", tables_, _task(tables_, splits, kind, measures, sims), notes)


def _attention(path: Path, split: str, raw: dict[str, Any]) -> Array | None:
    bert = raw.get("text_bert")
    if bert is None:
        return None
    if not isinstance(bert, np.ndarray) or bert.ndim != 3 or bert.shape[1] != 3:
        raise DataError(
            f"{place(path, split, 'text_bert')}: the shape is {np.shape(bert)}; (samples, 3, steps) is needed: "
            "token ids, attention mask, segments"
        )
    return bert[:, 1] > 0.5


def _task(
    tables_: dict[str, Table], splits: dict[str, dict[str, Any]], kind: Kind, measures: Measures, sims: bool
) -> Task | None:
    found = [t.label for t in tables_.values() if t.label is not None]
    if not found:
        return None
    if kind == "regression":
        chosen = ("sims" if sims else "mosi") if measures == "auto" else measures
        ranges = {"sims": (-1.0, 1.0), "regression": (None, None)}
        return Task("regression", 1, chosen, *ranges.get(chosen, (-3.0, 3.0)))
    whole = np.concatenate(found)
    most = int(whole.max()) + 1 if np.isfinite(whole).all() and whole.max() < 1000 else 1
    return Task("classification", max(most, 2), "classification", names=_class_names(tables_, splits, max(most, 2)))


def _class_names(tables_: dict[str, Table], splits: dict[str, dict[str, Any]], count: int) -> tuple[str, ...]:
    """The names that `annotations` gives the classes, if each has just one."""
    names: dict[int, set[str]] = {}
    for split, table in tables_.items():
        words = splits[split].get("annotations")
        if table.label is None or words is None or len(words) != len(table.label):
            return ()
        for number, word in zip(table.label.tolist(), words, strict=True):
            names.setdefault(int(number) if np.isfinite(number) else -1, set()).add(str(word))
    if sorted(names) != list(range(count)) or any(len(words) > 1 for words in names.values()):
        return ()
    return tuple(words.pop() for _, words in sorted(names.items()))
