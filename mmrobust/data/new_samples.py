"""New samples for a trained model: what is missing is masked, so that the model predicts from what is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmrobust.data.preparation import Preparation
from mmrobust.data.tables import Array, chunks, place
from mmrobust.errors import DataError


def complete(path: Path, split: str, keys: Mapping[str, Any], model: Preparation, length_key: str) -> dict[str, Any]:
    """The keys of one split of new samples, with everything the model knows and nothing it is to predict.

    A modality that is absent, None or has no values gets steps that are all padding. A single sample without the
    dimension of samples, `t w` for a modality of several steps, gets it.

    Args:
        path: Of the file, for messages.
        split: Of the file.
        keys: What is in the split.
        model: What the model was trained on.
        length_key: What follows the modality's name in the key of its lengths: `_length` or `_lengths`.

    Raises:
        DataError: None of the model's modalities is in the file.
    """
    there = {m: _array(keys[m]) for m in model.modalities if not _empty(keys.get(m))}
    if not there:
        have = f"it has {', '.join(map(str, keys))}" if keys else "it has no keys"
        raise DataError(
            f"{place(path, split)}: none of the model's modalities ({', '.join(model.modalities)}) is in it; {have}"
        )
    out = {key: value for key, value in keys.items() if key in ("id", "text_bert", "group")}
    single = _single(there, model)
    for m, x in there.items():
        out[m] = x[None, None] if single and x.ndim == 1 else x[None] if single and model.length[m] > 1 else x
        for end in (length_key, "_mask", "_times"):
            if keys.get(m + end) is not None:
                value = np.asarray(keys[m + end])
                depth = {"_mask": 2, "_times": 3}.get(end, 1)
                out[m + end] = value[None] if single and value.ndim == depth - 1 else value
    for key in ("id", "group"):
        if isinstance(out.get(key), (str, bytes)) or getattr(out.get(key), "ndim", 1) == 0:
            out[key] = [out[key]]
    count = len(next(out[m] for m in there))
    for m in model.modalities:
        if m not in there:
            out[m] = np.zeros((count, 1, model.width[m]), np.float32)
            out[m + length_key] = np.zeros(count, np.int64)
    return out


def _array(value: Any) -> Any:
    """A value as an array where it is one of numbers; a list of arrays of different length as it is."""
    if isinstance(value, (list, tuple)):
        try:
            return np.asarray(value)
        except ValueError:
            return _objects(value)
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def _objects(value: Any) -> Array:
    out = np.empty(len(value), object)
    out[:] = [np.asarray(item) for item in value]
    return out


def _empty(value: Any) -> bool:
    if value is None:
        return True
    try:
        return np.size(value) == 0
    except ValueError:  # a list of arrays of different length
        return not len(value)


def _single(there: Mapping[str, Any], model: Preparation) -> bool:
    """Whether the arrays are one sample: those of several steps are `t w`, or there are only vectors `w`."""
    sequences = [x for m, x in there.items() if model.length[m] > 1]
    if not all(isinstance(x, np.ndarray) and x.dtype.kind in "fiub" for x in there.values()):
        return False
    if sequences:
        return all(x.ndim == 2 for x in sequences)
    return all(x.ndim == 1 for x in there.values())


def mask_what_is_missing(
    where: str, x: Array, mask: Array, fill: list[float] | None, notes: list[str]
) -> tuple[Array, Array]:
    """Masks the steps of new samples that hold NaN or infinities, and whole samples that are all zero.

    Args:
        where: The split and modality, for notes.
        x: `n t w` of one modality, padding zero; changed in place.
        mask: `n t`.
        fill: What replaces a value that is not finite, as in training; None to mask its step.
        notes: What was done is added here.

    Returns:
        `x` and the new mask.
    """
    broken = np.zeros(mask.shape, bool)
    silent = np.zeros(len(x), bool)
    replaced = 0
    for chunk in chunks(len(x)):
        part, real = x[chunk], mask[chunk]
        wrong = ~np.isfinite(part)
        if wrong.any():
            if fill is None:
                broken[chunk] = wrong.any(-1) & real
                part[wrong.any(-1)] = 0
            else:
                replaced += int((wrong & real[..., None]).sum())
                part[wrong] = np.broadcast_to(np.asarray(fill, x.dtype), part.shape)[wrong]
        silent[chunk] = ~(part != 0).any((1, 2))
    if replaced:
        notes.append(f"{where}: {replaced} values are not finite, and are replaced as in the training")
    if broken.any():
        notes.append(
            f"{where}: {int(broken.sum())} steps of {int(broken.any(1).sum())} samples hold values that are not "
            "finite; they are masked"
        )
    if silent.any():
        notes.append(f"{where}: missing (absent, empty or all zero) in {int(silent.sum())} of {len(x)} samples; masked")
    return x, mask & ~broken & ~silent[:, None]


def note_empty_samples(split: str, masks: Mapping[str, Array], ids: tuple[str, ...], notes: list[str]) -> None:
    """Notes the samples of which no modality has a step left."""
    bare = ~np.stack([mask.any(1) for mask in masks.values()]).any(0)
    if bare.any():
        first = ids[int(bare.argmax())]
        notes.append(
            f"{split}: nothing is left of {int(bare.sum())} samples, the first '{first}'; what is predicted for them "
            "is a guess"
        )
