"""Promise: masks, ragged lists, triples and keys that are nearly right are read, or refused with what is right."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrobust.cli import main
from mmrobust.contracts import Part, Task
from mmrobust.data import open_dataset, save_arrays
from mmrobust.errors import DataError


def table(n: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    return {"audio": rng.normal(size=(n, 5, 2)), "text": rng.normal(size=(n, 5, 3)), "label": np.arange(n) % 2}


def write(folder: Path, **changes: Any) -> Path:
    keys = {**table(), **changes}
    splits = ("train", "valid", "test")
    np.savez(folder / "x.npz", **{f"{s}/{k}": v for s in splits for k, v in keys.items() if v is not None})
    return folder / "x.npz"


# ------------------------------------------------------------------------------------------- masks

REAL = np.arange(5) < np.array([[5], [3], [1], [4]])


@pytest.mark.parametrize("mask", [REAL, REAL.astype(np.uint8), REAL.astype(float), REAL.astype(np.int64)])
def test_masks_are_boolean_or_1_and_0(tmp_path: Path, mask: np.ndarray) -> None:
    dataset = open_dataset(Part("arrays", {"path": write(tmp_path, audio_mask=mask)}))
    np.testing.assert_array_equal(dataset.splits["train"].features["audio"].mask, REAL)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (np.where(REAL, 0.0, -np.inf), "but it holds -inf; it looks like an additive mask (0 where a step is real): "
         "save mask == 0"),
        (np.where(REAL, 0.0, -1e9), "save mask == 0"),
        (np.where(REAL, 1.0, np.nan), "but it holds nan; save the mask without NaN"),
        (np.where(REAL, 1, -1), "but it holds -1; save mask == 1"),
        (np.where(REAL, 255, 0), "but it holds 255; save mask > 0"),
        (np.where(REAL, 0.9, 0.1), "but it holds 0.9; save mask > 0"),
        (np.where(REAL, "real", "pad"), "not an array of the type <U4"),
    ],
)  # fmt: skip
def test_other_masks_are_refused_with_what_converts_them(tmp_path: Path, mask: np.ndarray, text: str) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(Part("arrays", {"path": write(tmp_path, audio_mask=mask)}))
    right = "a mask is true (or 1) where a step is real and false (or 0) where it is padding"
    assert f"key 'audio_mask': {right}" in str(error.value) and text in str(error.value)


# ------------------------------------------------------------------------------------------- ragged lists

LENGTHS = [5, 2, 3, 1]


def ragged(width: int = 2) -> list[np.ndarray]:
    return [np.full((n, width), n, np.float32) for n in LENGTHS]


def objects(items: list[Any]) -> np.ndarray:
    out = np.empty(len(items), object)
    out[:] = items
    return out


def check(path: Path, use: str = "arrays", **options: Any) -> None:
    dataset = open_dataset(Part(use, {"path": path, "standardize": False, **options}))
    stream = dataset.splits["test"].features["audio"]
    assert stream.mask.sum(1).tolist() == LENGTHS and stream.x.shape == (4, 5, 2)
    assert stream.x[1].tolist() == [[2, 2], [2, 2], [0, 0], [0, 0], [0, 0]]


def test_lists_of_arrays_are_padded_and_their_lengths_taken(tmp_path: Path) -> None:
    check(write(tmp_path, audio=objects(ragged())))
    data = {s: table() | {"audio": ragged(), "regression_labels": [0.0, 1, 2, 3]} for s in ("train", "valid", "test")}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    check(tmp_path / "x.pkl", "mmsa", modalities=["audio", "text"])
    splits = {s: table() | {"audio": ragged()} for s in ("train", "valid", "test")}
    for suffix in (".npz", ".safetensors"):
        check(save_arrays(tmp_path / f"y{suffix}", splits, task=Task("classification", 2, "classification")))


def test_lists_of_arrays_of_one_shape_and_nested_lists_are_arrays(tmp_path: Path) -> None:
    whole = table()["audio"]
    for value in (objects([*whole]), whole.tolist()):
        data = {s: table() | {"audio": value, "regression_labels": [0.0, 1, 2, 3]} for s in ("train", "valid", "test")}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
        dataset = open_dataset(
            Part("mmsa", {"path": tmp_path / "x.pkl", "modalities": ["audio"], "standardize": False})
        )
        np.testing.assert_array_equal(dataset.splits["train"].features["audio"].x, whole.astype(np.float32))


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (
            [np.ones((2, 2)), np.ones((2, 3)), np.ones((1, 2)), np.ones((1, 2))],
            "the samples have the shapes (1, 2), (2,",
        ),
        ([np.ones(2), np.ones(3), np.ones(1), np.ones(1)], "each needs (steps, width) with one width"),
        ([np.ones((2, 2)), "words", np.ones((1, 2)), None], "but sample 1 is text; each needs (steps, width)"),
    ],
)
def test_lists_that_cannot_be_padded(tmp_path: Path, items: list[Any], text: str) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(Part("arrays", {"path": write(tmp_path, audio=objects(items))}))
    assert text in str(error.value)


def test_padding_to_one_monstrous_sample_is_refused(tmp_path: Path) -> None:
    items = [np.ones((1, 2))] * 1999 + [np.ones((1_000_000, 2), np.uint8)]
    with pytest.raises(DataError, match="padded to the longest sample's 1000000 steps it takes 4000000000 values"):
        open_dataset(Part("arrays", {"path": write(tmp_path, audio=objects(items), text=None, label=np.zeros(2000))}))


# ------------------------------------------------------------------------------------------- triples


def triples(n: int, words: Any, more: tuple[Any, ...] = ()) -> list[Any]:
    rng = np.random.default_rng(n)
    out = []
    for i in range(n):
        steps = int(rng.integers(2, 6))
        features = (words(steps), rng.normal(size=(steps, 4)), rng.normal(size=(steps, 3)), *more)
        out.append((features, np.array([[i - 1.0]]), f"video{i // 2}[{i}]"))
    return out


@pytest.mark.parametrize("more", [(), (["a", "word"],), (["a"], 3, 4)])
def test_the_triples_of_misa_mmim_and_mag(
    tmp_path: Path, more: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Words are numbers of a vocabulary there, which are no features; embedded words are."""
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({s: triples(4, lambda t: np.arange(t), more) for s in ("train", "dev", "test")}))
    dataset = open_dataset(Part("mmsa", {"path": path, "modalities": ["audio", "vision"]}))
    split = dataset.splits["valid"]
    assert {m: s.width for m, s in dataset.modalities.items()} == {"audio": 3, "vision": 4}
    assert split.label is not None and split.label.tolist() == [-1, 0, 1, 2]
    assert split.ids == ("video0[0]", "video0[1]", "video1[2]", "video1[3]")
    assert main(["data", "info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "note: the words are numbers of a vocabulary or text, not features, and are left out" in text
    assert "modalities: [audio, vision]" in text and "2 groups" in text
    embedded = {s: triples(4, lambda t: np.ones((t, 7)), more) for s in ("train", "dev", "test")}
    path.write_bytes(pickle.dumps(embedded))
    assert open_dataset(Part("mmsa", {"path": path})).modalities["text"].width == 7


# ------------------------------------------------------------------------------------------- near misses


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"audio_len": [1, 2, 3, 4]}, "there is a key 'audio_len'; did you mean 'audio_length'?"),
        ({"audio_lengths": [1, 2, 3, 4]}, "there is a key 'audio_lengths'; did you mean 'audio_length'?"),
        ({"text_masks": REAL}, "there is a key 'text_masks'; did you mean 'text_mask'?"),
        ({"labels": np.arange(4), "label": None}, "there is a key 'labels'; did you mean 'label'?"),
        ({"speaker": np.arange(4)}, "there is a key 'speaker'; did you mean 'group'?"),
        ({"ids": np.array(list("abcd"))}, "there is a key 'ids'; did you mean 'id'?"),
        (
            {"ids": np.array(list("abcd")), "actor": np.arange(4), "audio_len": [1, 2, 3, 4]},
            "there are keys 'ids', 'actor', 'audio_len'; did you mean 'id', 'group', 'audio_length'?",
        ),
    ],
)
def test_keys_that_are_nearly_right(
    tmp_path: Path, changes: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, **changes)
    assert main(["data", "info", str(path)]) == 3
    assert capsys.readouterr().err == f"error: {path}: {text}\n"


def test_keys_that_are_no_features_are_left_out_by_naming_the_modalities(tmp_path: Path) -> None:
    path = write(tmp_path, statement=np.arange(4))
    with pytest.raises(DataError, match=r"'statement': the shape is \(4,\); .* name the modalities with modalities"):
        open_dataset(Part("arrays", {"path": path}))
    dataset = open_dataset(Part("arrays", {"path": path, "modalities": ["text", "audio"]}))
    assert list(dataset.modalities) == ["text", "audio"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("train_audio", "there is a key 'train_audio'; the key of a split has a slash: did you mean 'train/audio'?"),
        ("val_audio", "there is a key 'val_audio'; the key of a split has a slash: did you mean 'valid/audio'?"),
        ("dev/audio", "'dev' is no split; did you mean 'valid'?"),
    ],
)
def test_splits_that_are_nearly_right(tmp_path: Path, key: str, text: str) -> None:
    np.savez(tmp_path / "x.npz", **{key: np.ones((4, 5, 2))})
    with pytest.raises(DataError) as error:
        open_dataset(Part("arrays", {"path": tmp_path / "x.npz"}))
    assert str(error.value) == f"{tmp_path / 'x.npz'}: {text}"


def test_lengths_of_a_pickle_that_are_nearly_right(tmp_path: Path) -> None:
    data = {
        s: table() | {"audio_len": [1, 2, 3, 4], "regression_labels": np.zeros(4)} for s in ("train", "valid", "test")
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(DataError, match="split 'train' has a key 'audio_len'; did you mean 'audio_lengths'"):
        open_dataset(Part("mmsa", {"path": tmp_path / "x.pkl", "modalities": ["audio"]}))


def test_text_bert_as_a_list_or_of_too_few_samples(tmp_path: Path) -> None:
    bert = np.ones((4, 3, 5))
    bert[:, 1] = REAL
    data = {
        s: table() | {"text_bert": bert.tolist(), "regression_labels": np.zeros(4)} for s in ("train", "valid", "test")
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(data))
    part = Part("mmsa", {"path": path, "modalities": ["audio", "text"]})
    np.testing.assert_array_equal(open_dataset(part).splits["test"].features["audio"].mask, REAL)
    data["train"]["text_bert"] = bert[:3]
    path.write_bytes(pickle.dumps(data))
    with pytest.raises(DataError, match="key 'text_bert': there are 3, but 4 samples"):
        open_dataset(part)


# ------------------------------------------------------------------------------------------- text and numbers


def test_halves_of_characters_and_monstrous_numbers_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, text in (
        (
            {"id": np.array(["a\ud800"] * 4)},
            "key 'id': 'a\\ud800' is no valid text (half of a surrogate pair); rename it",
        ),
        ({"label": np.array(["a\udfff"] * 4)}, "is no valid text"),
        ({"group": np.array(["a\udfff"] * 4)}, "key 'group': 'a\\udfff' is no valid text"),
    ):
        path = write(tmp_path, **changes)
        assert main(["data", "info", str(path)]) == 3
        assert text in capsys.readouterr().err
    for meta, text in (
        ('{"task": ' + "9" * 5000 + "}", "the key 'meta' is no JSON (Exceeds the limit"),
        ("[" * 100_000, "the key 'meta' is no JSON ("),
        ('"text"', "the key 'meta' has to be a JSON object, not a str"),
        (json.dumps({"task": {"kind": "classification", "outputs": 10**9}}), "from 1 to 10000, not 1000000000"),
        (json.dumps({"task": {"names": 3}}), "'names' of the task has to be a list"),
        (json.dumps({"modalities": {"a": 1}}), "'modalities' in 'meta' has to be a list of names"),
    ):
        raw = dict(np.load(write(tmp_path)))
        np.savez(tmp_path / "x.npz", **raw, meta=np.asarray(meta))
        assert main(["data", "info", str(tmp_path / "x.npz")]) == 3
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1 and "internal" not in error
