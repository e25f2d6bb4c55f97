"""The pickles of MISA, MMIM and MAG-BERT: for each split a list of `((words, vision, audio, ...), label, segment)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmrobust.data.tables import place
from mmrobust.errors import DataError


def splits_of_triples(path: Path, splits: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Splits that are lists of triples as dicts of MMSA's keys; others as they are.

    Words that are numbers of a vocabulary, or text, are no features: then there is no `text`, which a note says.

    Raises:
        DataError: A split is a list of triples of several forms.
    """
    out: dict[str, Any] = {}
    for split, samples in splits.items():
        out[split] = _split(path, split, samples) if isinstance(samples, list) and _triple(samples) else samples
    if out != dict(splits) and any(isinstance(s, dict) and "text" not in s for s in out.values()):
        notes.append(
            "the words are numbers of a vocabulary or text, not features, and are left out; say modalities: [audio, "
            "vision], and bring text features in the layout of MMSA or arrays"
        )
    return out


def _triple(samples: list[Any]) -> bool:
    first = samples[0] if samples else None
    return (
        isinstance(first, (tuple, list))
        and len(first) >= 2
        and isinstance(first[0], (tuple, list))
        and len(first[0]) >= 3
    )


def _split(path: Path, split: str, samples: list[Any]) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {"text": [], "vision": [], "audio": [], "regression_labels": [], "id": []}
    for i, sample in enumerate(samples):
        if not _triple([sample]):
            raise DataError(f"{place(path, split)}: sample {i} is not ((words, vision, audio), label, segment)")
        for name, part in zip(("text", "vision", "audio"), sample[0], strict=False):
            columns[name].append(part)
        label = np.asarray(sample[1]).reshape(-1)
        if label.dtype.kind not in "fiub" or not label.size:
            raise DataError(f"{place(path, split)}: sample {i} has no number as its label")
        columns["regression_labels"].append(float(label[0]))  # of several, the first is the sentiment
        columns["id"].append(sample[2] if len(sample) > 2 else f"{split}-{i}")
    words = columns["text"]
    if not all(isinstance(w, np.ndarray) and w.ndim == 2 and w.dtype.kind == "f" for w in words):
        del columns["text"]
    return dict(columns)
