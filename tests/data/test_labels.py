"""Promise: labels as people have them are taken, with a note, or refused with the mapping to write."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrobust.cli import main
from mmrobust.contracts import Dataset, Part
from mmrobust.data import open_dataset
from mmrobust.errors import DataError, OptionError

COUNTS = {"train": 12, "valid": 6, "test": 6}


def write(folder: Path, label: Callable[[np.ndarray], Any], **meta: Any) -> Path:
    """A file whose labels are built of 0, 1, 2, 0, 1, ... in each split."""
    raw: dict[str, Any] = {"meta": np.asarray(json.dumps(meta))}
    for k, (split, n) in enumerate(COUNTS.items()):
        raw[f"{split}/audio"] = np.random.default_rng(k).normal(size=(n, 3, 2))
        raw[f"{split}/label"] = label(np.arange(n) % 3)
    np.savez(folder / "x.npz", **raw)
    return folder / "x.npz"


def opened(path: Path, **options: Any) -> Dataset:
    return open_dataset(Part("arrays", {"path": path, **options}))


def first(dataset: Dataset) -> list[Any]:
    label = dataset.splits["train"].label
    assert label is not None
    return label[:4].tolist()


TAKEN: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, int, tuple[str, ...]], str]] = {
    "whole numbers": (lambda y: y, ("classification", 3, ()), ""),
    "whole floats": (lambda y: y.astype("f4"), ("classification", 3, ()), "0, 1, 2 are taken as classes (for amounts"),
    "from 1": (lambda y: y + 1, ("classification", 3, ("1", "2", "3")), "1, 2, 3 are the classes 0 to 2"),
    "-1, 0, 1": (lambda y: y - 1, ("classification", 3, ("-1", "0", "1")), "-1, 0, 1 are the classes 0 to 2"),
    "-1, 1": (lambda y: np.where(y > 1, 1, -1), ("classification", 2, ("-1", "1")), "-1, 1 are the classes 0 to 1"),
    "true, false": (lambda y: y > 1, ("classification", 2, ()), ""),
    "words": (
        lambda y: np.array(["sad", "calm", "glad"])[y],
        ("classification", 3, ("calm", "glad", "sad")),
        "words are classes, in the order of the alphabet: 0 calm, 1 glad, 2 sad",
    ),
    "bytes": (lambda y: np.array([b"b", b"a"])[y % 2], ("classification", 2, ("a", "b")), "words are classes"),
    "numbers as text": (lambda y: (y / 2).astype(str), ("regression", 1, ()), "text such as '0.0' is read as numbers"),
    "one-hot": (lambda y: np.eye(3)[y], ("classification", 3, ("0", "1", "2")), "exactly one is 1, are 3 classes"),
    "decisions": (lambda y: np.stack([y > 0, y > 1], 1), ("multilabel", 4, ("label 0", "label 1")), ""),
    "amounts": (lambda y: y / 3, ("regression", 1, ()), ""),
    "whole amounts": (lambda y: y * 5.0 + 30, ("regression", 1, ()), "30, 35, 40 are taken as amounts (for classes"),
    "one column": (lambda y: y[:, None, None] / 3, ("regression", 1, ()), ""),
    "targets": (
        lambda y: np.stack([y / 3, y - 0.5], 1),
        ("regression", 2, ("target 0", "target 1")),
        "2 columns of numbers are 2 targets of a regression",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_labels_are_taken_for_what_they_are(tmp_path: Path, name: str) -> None:
    label, (kind, outputs, names), note = TAKEN[name]
    dataset = opened(write(tmp_path, label))
    assert (dataset.task.kind, dataset.task.outputs, dataset.task.names) == (kind, outputs, names)
    assert any(note in line for line in dataset.notes) if note else not any("labels:" in n for n in dataset.notes)


def test_labels_become_numbers_of_classes(tmp_path: Path) -> None:
    assert first(opened(write(tmp_path, lambda y: np.array(["sad", "calm", "glad"])[y]))) == [2, 0, 1, 2]
    assert first(opened(write(tmp_path, lambda y: y - 1))) == [0, 1, 2, 0]
    assert first(opened(write(tmp_path, lambda y: np.eye(3)[y]))) == [0, 1, 2, 0]
    path = write(tmp_path, lambda y: np.array(["sad", "calm", "glad"])[y], task={"names": ["sad", "glad", "calm"]})
    assert first(opened(path)) == [0, 2, 1, 0]


REFUSED: dict[str, tuple[Callable[[np.ndarray], Any], dict[str, Any], dict[str, Any], str]] = {
    "sparse numbers": (
        lambda y: y * 10, {}, {},
        "the labels are the whole numbers 0, 10, 20, but classes are numbered from 0; number them so "
        "({0: 0, 10: 1, 20: 2}), or say task: regression if they are amounts",
    ),
    "from -3": (lambda y: y - 3, {}, {}, "number them so ({-3: 0, -2: 1, -1: 2})"),
    "words for a regression": (
        lambda y: np.array(["a", "b", "c"])[y], {"task": "regression"}, {},
        "the labels are words, which are classes and do not suit the task 'regression'; say task: classification",
    ),
    "unknown word": (
        lambda y: np.array(["sad", "calm", "gladd"])[y], {}, {"task": {"names": ["sad", "calm", "glad"]}},
        "the label 'gladd' is none of the task's names; did you mean 'glad'?",
    ),
    "columns for classes": (
        lambda y: np.ones((len(y), 2)), {"task": "classification"}, {}, "2 columns that are not one-hot",
    ),
    "targets with the measures of one": (
        lambda y: np.stack([y / 3, y - 0.5], 1), {"measures": "mosi"}, {},
        "the measures of 'mosi' are for one target, but the labels have 2; choose one with target",
    ),
    "too many outputs": (
        lambda y: y, {}, {"task": {"kind": "classification", "outputs": 10**9}},
        "'outputs' of the task has to be a whole number from 1 to 10000, not 1000000000",
    ),
    "outputs of words": (
        lambda y: y, {}, {"task": {"kind": "classification", "outputs": "three"}}, "not 'three'",
    ),
    "low above high": (
        lambda y: y / 3, {}, {"task": {"kind": "regression", "low": 3, "high": -3}}, "which is not below 'high', -3",
    ),
    "infinite end": (
        lambda y: y / 3, {}, {"task": {"kind": "regression", "low": -1e400}}, "'low' of the task in 'meta' has to be a",
    ),
    "objects": (lambda y: np.ones((len(y), 2, 2)), {}, {}, "(samples) or (samples, targets) is needed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_labels_are_refused_with_what_to_write(tmp_path: Path, name: str) -> None:
    label, options, meta, text = REFUSED[name]
    with pytest.raises(DataError) as error:
        opened(write(tmp_path, label, **meta), **options)
    assert text in str(error.value) and error.value.exit_code == 3


def test_one_of_several_targets(tmp_path: Path) -> None:
    path = write(tmp_path, lambda y: np.stack([y / 3, y - 0.5], 1), task={"names": ["valence", "arousal"]})
    both = opened(path)
    assert both.task.names == ("valence", "arousal") and both.task.outputs == 2
    label = both.splits["train"].label
    assert label is not None and label.shape == (12, 2) and label.dtype == torch.float32
    for target in ("arousal", 1):
        one = opened(path, target=target)
        assert (one.task.kind, one.task.outputs) == ("regression", 1) and first(one) == [-0.5, 0.5, 1.5, -0.5]
        assert "of 2 targets, arousal is predicted" in one.notes
    with pytest.raises(OptionError, match="there is no target 'arousel'; did you mean 'arousal'"):
        opened(path, target="arousel")
    with pytest.raises(OptionError, match="there is no column 2; the labels have 2, from 0"):
        opened(path, target=2)


def test_labels_beyond_the_range_are_clipped_on_demand(tmp_path: Path) -> None:
    path = write(tmp_path, lambda y: y - 10 / 3, task={"kind": "regression", "measures": "mosi"})
    with pytest.raises(DataError, match="to set it to the end of the range, say clip_labels: true"):
        opened(path)
    dataset = opened(path, clip_labels=True)
    assert first(dataset)[0] == -3 and "train: 4 labels beyond -3 to 3 are set to the nearest end" in dataset.notes
    with pytest.raises(OptionError, match="the task has no range"):
        opened(write(tmp_path, lambda y: y), clip_labels=True)


def test_what_a_user_should_think_about_is_noted_in_the_run_and_by_data_info(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {}
    for k, n in enumerate((60, 6, 6)):
        data[("train", "valid", "test")[k]] = {
            "text": np.random.default_rng(k).normal(size=(n, 3, 2)),
            "id": ["same"] * n if k < 2 else [f"clip$_${i}" for i in range(n)],
            "classification_labels": (np.arange(n) > n - 2).astype(int) if k < 2 else np.arange(n) % 3,
        }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(data))
    expected = [
        "1 id is in both 'train' and 'valid' (same)",
        "train: 59 of 60 ids are repeated",
        "train: 1 of 3 classes have no sample (2)",
        "train: classes are unbalanced: 59 samples of 0, 1 of 1",
    ]
    notes = open_dataset(Part("mmsa", {"path": path, "modalities": ["text"], "task": "classification"})).notes
    assert main(["data", "info", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["notes"]
    assert all(line in notes and line in report for line in expected)
