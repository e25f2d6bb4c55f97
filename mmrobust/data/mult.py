"""MulT's pickle layout: IEMOCAP with four binary emotions, CMU-MOSI and CMU-MOSEI.

A pickle of `{train, valid, test}`, each a dict of `text` (GloVe, 300 wide), `audio`, `vision` (`n t w`), `labels`,
and maybe `id`. There are no lengths: steps that are all zero before the first or after the last other step are taken
as padding (MultiBench's files are padded in front). Labels of IEMOCAP are `n 4 2`, one-hot (no, yes) for neutral,
happy, sad and angry; those of MOSI and MOSEI are `n 1 1`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmrobust.contracts import Task
from mmrobust.data import tables
from mmrobust.data.dataset import FileDataset, FileOptions
from mmrobust.data.labels import Wanted, read_labels
from mmrobust.data.mmsa import MODALITIES, as_splits
from mmrobust.data.new_samples import complete
from mmrobust.data.preparation import Preparation
from mmrobust.data.reading import read_file
from mmrobust.data.tables import Array, Contents, Table, need, place
from mmrobust.errors import DataError

EMOTIONS = ("neutral", "happy", "sad", "angry")


class MulT(FileDataset):
    """A pickle in MulT's layout: IEMOCAP, MOSI or MOSEI."""

    layout = "mult"

    def __init__(
        self,
        *,
        path: Path,
        modalities: list[str] | None = None,
        length: int | dict[str, int] | None = None,
        reduce: dict[str, Literal["truncate", "segments", "random_segments", "mean", "mean_std"]] | None = None,
        measures: Literal["auto", "iemocap", "mosi", "mosei", "regression"] = "auto",
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
            measures: Which scores the field reports; by itself, `iemocap` for labels of four emotions, else `mosi`.
            clip_labels: Whether labels beyond the range of a regression become its nearest end; they are refused by
                default.
            standardize: Give each feature mean 0 and deviation 1 over the training split's real steps: in all
                modalities, in those that are listed, or in none. `robust` takes median and quartiles. `{by: group}`
                takes each group's own samples (transductive), with `causal: true` its earlier ones alone.
            scale: Whether the deviation is each feature's own, or one for all features of a modality together, which
                keeps their sizes relative to each other (right for principal components and embeddings); for all
                modalities or for some.
            clip: Largest absolute value after standardising, in deviations, for all modalities or for some.
            replace_nonfinite: What to put for NaN and infinities: 0 (as MulT's own reader does), or the feature's mean
                in the training split; they are refused by default.
            folds: Divide all samples anew so that no group (the video of an id) is in two splits:
                `{by: group, count: 5}`, or a list of the groups that test in each fold.
            fold: Which of the folds tests, from 1.
        """
        self._modalities = modalities
        self._wanted = Wanted("auto", measures, clip=clip_labels)
        super().__init__(
            path,
            FileOptions(modalities, length, reduce, standardize, scale, clip, replace_nonfinite, folds, fold),
        )

    def read(self, path: Path) -> Contents:
        """Reads the whole file; see `FileDataset.read`."""
        wanted = self._given.modalities if self._given is not None else tuple(self._modalities or MODALITIES)
        content = read_file(path, ("pickle",), only={*wanted, *(f"{m}_lengths" for m in wanted), "labels", "id"})
        notes = list(content.notes)
        splits = as_splits(path, content.value, wanted, self._given is None, notes)
        contents = mult_contents(path, splits, wanted, self._wanted, model=self._given)
        contents.notes[:0] = notes
        return contents


def mult_contents(
    path: Path,
    splits: dict[str, dict[str, Any]],
    wanted: tuple[str, ...],
    labels_wanted: Wanted,
    *,
    labels: bool = True,
    model: Preparation | None = None,
) -> Contents:
    """Makes tables of a MulT pickle.

    Args:
        path: Where it came from, for messages.
        splits: What was in it.
        wanted: Modalities.
        labels_wanted: Which scores.
        labels: Whether there have to be labels.
        model: What a model was trained on, where these are new samples for it.

    Raises:
        DataError: It has not this layout.
    """
    notes: list[str] = []
    if model is not None:
        splits = {split: complete(path, split, raw, model, "_lengths") for split, raw in splits.items()}
    parts: dict[str, Table] = {}
    for split, raw in splits.items():
        parts[split] = _table(path, split, raw, wanted, notes)
        given = need(path, split, raw, "labels") if labels and model is None else raw.get("labels")
        if given is not None and model is None:
            parts[split].label = _labels(place(path, split, "labels"), given)
        tables.check_counts(path, split, parts[split])
    measures = labels_wanted.measures
    shapes = {split: t.label.ndim for split, t in parts.items() if t.label is not None}
    if not shapes:
        return Contents(path, "mult", parts, None, notes)
    several = set(shapes.values()) == {2}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{path}: the labels have other shapes in one split than in another")
    if measures not in ("auto", "iemocap" if several else measures) or (measures == "iemocap" and not several):
        which = "four binary emotions (n, 4, 2)" if several else "one number for each sample"
        raise DataError(f"{path}: the measures of '{measures}' are asked for, but the labels are {which}")
    if several:
        return Contents(path, "mult", parts, Task("multilabel", 8, "iemocap", names=EMOTIONS), notes)
    given = {split: t.label for split, t in parts.items() if t.label is not None}
    understood = read_labels(path, given, {"kind": "regression", "measures": "mosi"}, labels_wanted, "labels")
    for split, values in understood.values.items():
        parts[split].label = values
    return Contents(path, "mult", parts, understood.task, [*notes, *understood.notes])


def _table(path: Path, split: str, raw: dict[str, Any], wanted: tuple[str, ...], notes: list[str]) -> Table:
    """The features of a split."""
    features, masks = {}, {}
    for m in wanted:
        value = need(path, split, raw, m, "; name what it has with modalities: [...]")
        x, lengths = tables.features(place(path, split, m), value)
        features[m] = x
        if raw.get(f"{m}_lengths") is not None:
            masks[m] = tables.mask_of_lengths(place(path, split, f"{m}_lengths"), raw[f"{m}_lengths"], x, notes)
        else:
            masks[m] = tables.mask_of_values(x) if lengths is None else np.arange(x.shape[1]) < lengths[:, None]
    count = len(next(iter(features.values())))
    ids = tables.names(place(path, split, "id"), raw.get("id"), split, count)
    table = Table(features, masks, None, ids, groups=tables.groups_of_ids(ids))
    tables.check_counts(path, split, table)
    return table


def _labels(where: str, value: Any) -> Array:
    try:
        x = np.asarray(value) if isinstance(value, (list, np.ndarray)) else np.asarray(None)
    except ValueError:
        x = np.asarray(None)
    if x.dtype.kind not in "fiub":
        raise DataError(f"{where}: labels have to be numbers")
    if x.ndim == 3 and x.shape[1:] == (4, 2):
        wrong = ~((x == 0) | (x == 1)).all((1, 2)) | (x.sum(-1) != 1).any(1)
        if wrong.any():
            raise DataError(
                f"{where}: {int(wrong.sum())} of {len(x)} labels are not one-hot, the first is sample "
                f"{int(wrong.argmax())}; each emotion needs (1, 0) for no or (0, 1) for yes"
            )
        return x.argmax(-1)
    if x.ndim == 0 or x.size != len(x):
        raise DataError(
            f"{where}: the shape is {x.shape}; (samples, 4, 2) is needed for emotions, or one number for each sample"
        )
    return x.reshape(-1)
