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
from mmrobust.data.mmsa import MODALITIES, as_splits, need
from mmrobust.data.reading import read_file
from mmrobust.data.tables import Array, Contents, FileDataset, Table, place
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
        reduce: dict[str, Literal["truncate", "segments"]] | None = None,
        measures: Literal["auto", "iemocap", "mosi", "mosei", "regression"] = "auto",
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
            measures: Which scores the field reports; by itself, `iemocap` for labels of four emotions, else `mosi`.
            standardize: Give each feature mean 0 and deviation 1 over the training split's real steps: in all
                modalities, in those that are listed, or in none.
            scale: Whether the deviation is each feature's own, or one for all features of a modality together, which
                keeps their sizes relative to each other (right for principal components and embeddings); for all
                modalities or for some.
            replace_nonfinite: What to put for NaN and infinities: 0 (as MulT's own reader does), or the feature's mean
                in the training split; they are refused by default.
        """
        self._modalities, self._measures = modalities, measures
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
        read = read_file(path, ("pickle",), only={*wanted, "labels", "id"})
        contents = mult_contents(path, as_splits(path, read.value, wanted, labels), wanted, self._measures, labels)
        contents.notes[:0] = read.notes
        return contents


def mult_contents(
    path: Path, splits: dict[str, dict[str, Any]], wanted: tuple[str, ...], measures: str, labels: bool
) -> Contents:
    """Makes tables of a MulT pickle.

    Args:
        path: Where it came from, for messages.
        splits: What was in it.
        wanted: Modalities.
        measures: Which scores, or `auto`.
        labels: Whether there have to be labels.

    Raises:
        DataError: It has not this layout.
    """
    tables_ = {}
    for split, raw in splits.items():
        features = {
            m: tables.features(
                place(path, split, m), need(path, split, raw, m, "; name what it has with modalities: [...]")
            )
            for m in wanted
        }
        given = need(path, split, raw, "labels") if labels else raw.get("labels")
        target = None if given is None else _labels(place(path, split, "labels"), given)
        count = len(next(iter(features.values())))
        ids = tables.names(place(path, split, "id"), raw.get("id"), split, count)
        masks = {m: tables.mask_of_values(x) for m, x in features.items()}
        tables_[split] = Table(features, masks, target, ids)
        tables.check_counts(path, split, tables_[split])
    shapes = {split: t.label.ndim for split, t in tables_.items() if t.label is not None}
    if not shapes:
        return Contents(path, "mult", tables_, None)
    several = set(shapes.values()) == {2}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{path}: the labels have other shapes in one split than in another")
    if measures not in ("auto", "iemocap" if several else measures) or (measures == "iemocap" and not several):
        which = "four binary emotions (n, 4, 2)" if several else "one number for each sample"
        raise DataError(f"{path}: the measures of '{measures}' are asked for, but the labels are {which}")
    if several:
        return Contents(path, "mult", tables_, Task("multilabel", 8, "iemocap", names=EMOTIONS))
    chosen = "mosi" if measures == "auto" else measures
    low, high = (None, None) if chosen == "regression" else (-3.0, 3.0)
    return Contents(path, "mult", tables_, Task("regression", 1, chosen, low, high))


def _labels(where: str, value: Any) -> Array:
    x = np.asarray(value) if isinstance(value, (list, np.ndarray)) else np.asarray(None)
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
