"""MulT's layout: IEMOCAP's four binary emotions, MOSI's numbers, padding at either end."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrobust.contracts import Part
from mmrobust.data import open_dataset
from mmrobust.errors import DataError


def table(n: int, seed: int, front: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, n)
    emotion = rng.integers(0, 2, (n, 4))
    built: dict[str, Any] = {
        "labels": np.stack([1 - emotion, emotion], -1).astype(np.float64),
        "id": np.array([[f"v{i}".encode(), b"0.5", b"1.5"] for i in range(n)]),
    }
    for m, width in (("vision", 3), ("audio", 4), ("text", 5)):
        built[m] = rng.normal(size=(n, 6, width)).astype(np.float32)
        for i, length in enumerate(lengths):
            built[m][i, : 6 - length] = 0 if front else built[m][i, : 6 - length]
            built[m][i, length:] = built[m][i, length:] if front else 0
    return built | {"emotion": emotion, "lengths": lengths}


def splits(front: bool = False) -> dict[str, dict[str, Any]]:
    return {"train": table(10, 1, front), "valid": table(4, 2, front), "test": table(3, 3, front)}


def save(tmp_path: Path, data: dict[str, dict[str, Any]], protocol: int = 4) -> Path:
    path = tmp_path / "iemocap_data.pkl"
    kept = {s: {k: v for k, v in t.items() if k not in ("emotion", "lengths")} for s, t in data.items()}
    path.write_bytes(pickle.dumps(kept, protocol))
    return path


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("protocol", [2, 5])
def test_iemocap(tmp_path: Path, front: bool, protocol: int) -> None:
    data = splits(front)
    dataset = open_dataset(Part("mult", {"path": save(tmp_path, data, protocol)}))
    assert list(dataset.modalities) == ["text", "audio", "vision"] and dataset.aligned
    task = dataset.task
    assert (task.kind, task.outputs, task.measures) == ("multilabel", 8, "iemocap")
    assert task.names == ("neutral", "happy", "sad", "angry")
    for name, split in dataset.splits.items():
        assert split.label is not None and split.label.dtype == torch.int64
        np.testing.assert_array_equal(split.label, data[name]["emotion"])
        mask = split.features["audio"].mask
        assert mask.sum(1).tolist() == data[name]["lengths"].tolist()
        assert bool(mask[:, -1 if front else 0].all())
    assert dataset.splits["test"].ids == ("v0$_$0.5$_$1.5", "v1$_$0.5$_$1.5", "v2$_$0.5$_$1.5")


def test_shortening_keeps_the_first_real_steps_of_data_padded_in_front(tmp_path: Path) -> None:
    data = splits(front=True)
    path = save(tmp_path, data)
    stream = open_dataset(Part("mult", {"path": path, "length": 4, "standardize": False})).splits["train"].features
    for i, length in enumerate(data["train"]["lengths"]):
        real = data["train"]["text"][i, 6 - length :][:4]
        np.testing.assert_array_equal(stream["text"].x[i, : len(real)], real)
        assert int(stream["text"].mask[i].sum()) == len(real)


def test_mosi(tmp_path: Path) -> None:
    data = splits()
    for t in data.values():
        t["labels"] = np.linspace(-3, 3, len(t["labels"])).reshape(-1, 1, 1)
        del t["id"]
    path = save(tmp_path, data)
    for measures, expected in (("auto", "mosi"), ("mosei", "mosei")):
        dataset = open_dataset(Part("mult", {"path": path, "measures": measures}))
        assert (dataset.task.kind, dataset.task.measures, dataset.task.low) == ("regression", expected, -3)
    label = dataset.splits["valid"].label
    assert label is not None and label.tolist() == [-3, -1, 1, 3]
    assert dataset.splits["valid"].ids == ("valid-0", "valid-1", "valid-2", "valid-3")


def test_infinite_audio_as_in_the_published_files(tmp_path: Path) -> None:
    data = splits()
    data["train"]["audio"][0, 0, 0] = -np.inf
    part = {"path": save(tmp_path, data)}
    with pytest.raises(DataError, match=r"1 values are not finite \(0 NaN, 1 infinite\), in 1 samples"):
        open_dataset(Part("mult", part))
    dataset = open_dataset(Part("mult", part | {"replace_nonfinite": "zero", "standardize": False}))
    assert dataset.splits["train"].features["audio"].x[0, 0, 0] == 0


def put(split: str, key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data[split].update({key: change(data[split][key])})


def flip(labels: np.ndarray) -> np.ndarray:
    labels[2, 1] = 1
    return labels


@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        (lambda d: d["test"].pop("labels"), {}, ": split 'test' has no key 'labels'; known: audio, id, text, vision"),
        (
            put("train", "labels", flip),
            {},
            ": split 'train', key 'labels': 1 of 10 labels are not one-hot, the first is sample 2; each emotion needs "
            "(1, 0) for no or (0, 1) for yes",
        ),
        (
            put("train", "labels", lambda x: x[:, :3]),
            {},
            ": split 'train', key 'labels': the shape is (10, 3, 2); (samples, 4, 2) is needed for emotions, or one "
            "number for each sample",
        ),
        (
            put("train", "labels", lambda x: x[:, 0, :1]),
            {},
            ": the labels have other shapes in one split than in another",
        ),
        (
            lambda d: None,
            {"measures": "mosei"},
            ": the measures of 'mosei' are asked for, but the labels are four binary emotions (n, 4, 2)",
        ),
        (
            put("valid", "audio", lambda x: x[:-1]),
            {},
            ": split 'valid': 'text' has 4 samples, but 'audio' has 3; every key of a split needs the same number",
        ),
    ],
)
def test_wrong_files(tmp_path: Path, change: Callable[[Any], Any], options: dict[str, Any], text: str) -> None:
    data = splits()
    change(data)
    path = save(tmp_path, data)
    with pytest.raises(DataError) as info:
        open_dataset(Part("mult", {"path": path, **options}))
    assert str(info.value) == f"{path}{text}" and info.value.exit_code == 3
