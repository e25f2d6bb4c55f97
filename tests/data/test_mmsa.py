"""MMSA's layout: every quirk of the real files is read, and every wrong file gets one precise error."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrobust.contracts import Part
from mmrobust.data import FileDataset, Preparation, open_dataset, open_features
from mmrobust.errors import DataError, OptionError

T, A, V = 6, 9, 5


def table(n: int, seed: int) -> dict[str, Any]:
    """A split as in unaligned_50.pkl, small."""
    rng = np.random.default_rng(seed)
    built: dict[str, Any] = {
        "raw_text": np.array([f"text {i}" for i in range(n)], dtype=object),
        "text": rng.normal(size=(n, T, 7)).astype(np.float32),
        "audio": rng.normal(3, 20, size=(n, A, 4)),  # float64, as in some files
        "vision": rng.normal(size=(n, V, 3)).astype(np.float16),
        "text_bert": np.zeros((n, 3, T), np.float32),
        "audio_lengths": rng.integers(1, A + 1, n).tolist(),
        "vision_lengths": rng.integers(1, V + 1, n).tolist(),
        "id": [f"video{seed}$_${i}" for i in range(n)],
        "annotations": np.array(["Negative", "Neutral", "Positive"])[np.arange(n) % 3],
        "classification_labels": (np.arange(n) % 3).astype(np.float32),
        "regression_labels": rng.uniform(-3, 3, n).astype(np.float32).tolist(),
    }
    for i in range(n):
        built["text_bert"][i, 1, : 2 + i % (T - 1)] = 1
        built["audio"][i, built["audio_lengths"][i] :] = 0
        built["vision"][i, built["vision_lengths"][i] :] = 0
    return built


def splits() -> dict[str, dict[str, Any]]:
    return {"train": table(12, 1), "valid": table(4, 2), "test": table(5, 3)}


def save(tmp_path: Path, data: Any, name: str = "data.pkl") -> Path:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(data))
    return path


def opened(path: Path, **options: Any) -> FileDataset:
    dataset = open_dataset(Part("mmsa", {"path": path, **options}))
    assert isinstance(dataset, FileDataset)
    return dataset


def test_unaligned(tmp_path: Path) -> None:
    data = splits()
    dataset = opened(save(tmp_path, data), standardize=False)
    assert {m: str(s) for m, s in dataset.modalities.items()} == {"text": "6x7", "audio": "9x4", "vision": "5x3"}
    assert (dataset.task.kind, dataset.task.measures, dataset.task.low, dataset.task.high) == (
        "regression", "mosi", -3, 3,
    )  # fmt: skip
    assert not dataset.aligned
    for name, split in dataset.splits.items():
        raw = data[name]
        assert split.ids == tuple(raw["id"]) and len(split) == len(raw["id"])
        assert split.label is not None and split.label.dtype == torch.float32
        np.testing.assert_array_equal(split.label, np.float32(raw["regression_labels"]))
        np.testing.assert_array_equal(split.features["text"].mask, raw["text_bert"][:, 1] == 1)
        for m, kind in (("text", torch.float32), ("audio", torch.float32), ("vision", torch.float16)):
            stream = split.features[m]
            assert stream.x.dtype == kind and not stream.x[~stream.mask].any()
            np.testing.assert_array_equal(stream.x[stream.mask], raw[m].astype(stream.x.numpy().dtype)[stream.mask])
        assert split.features["audio"].mask.sum(1).tolist() == raw["audio_lengths"]
        assert split.batch(torch.tensor([0])).features["vision"].x.dtype == torch.float32


def test_aligned_takes_the_masks_of_the_tokens(tmp_path: Path) -> None:
    data = splits()
    for raw in data.values():
        del raw["audio_lengths"], raw["vision_lengths"]
        raw["audio"], raw["vision"] = raw["audio"][:, :T], np.ones((len(raw["id"]), T, 2), np.float32)
    dataset = opened(save(tmp_path, data))
    assert dataset.aligned
    for name, split in dataset.splits.items():
        for stream in split.features.values():
            np.testing.assert_array_equal(stream.mask, data[name]["text_bert"][:, 1] == 1)


def test_without_lengths_and_tokens_zero_ends_are_padding(tmp_path: Path) -> None:
    data = splits()
    for raw in data.values():
        del raw["text_bert"], raw["audio_lengths"]
        raw["audio"][:] = 1
        raw["audio"][0, :2] = raw["audio"][0, 4] = raw["audio"][0, 6:] = 0
    mask = opened(save(tmp_path, data)).splits["test"].features["audio"].mask
    assert mask[0].tolist() == [False, False, True, True, True, True, False, False, False] and mask[1:].all()


def test_classification_and_its_names(tmp_path: Path) -> None:
    dataset = opened(save(tmp_path, splits()), task="classification")
    assert (dataset.task.kind, dataset.task.outputs, dataset.task.names) == (
        "classification", 3, ("Negative", "Neutral", "Positive"),
    )  # fmt: skip
    label = dataset.splits["train"].label
    assert label is not None and label.dtype == torch.int64 and label.tolist() == [0, 1, 2] * 4


def test_sims(tmp_path: Path) -> None:
    data = splits()
    for raw in data.values():
        raw["regression_labels"] = [x / 3 for x in raw["regression_labels"]]
        raw |= {f"regression_labels_{m}": np.full(len(raw["id"]), v) for m, v in (("T", 0.2), ("A", 0.4), ("V", -1.0))}
    path = save(tmp_path, data)
    dataset = opened(path)
    assert (dataset.task.measures, dataset.task.low, dataset.task.high) == ("sims", -1, 1)
    label = opened(path, label="V").splits["test"].label
    assert label is not None and label.tolist() == [-1.0] * 5
    assert opened(path, measures="mosei").task.measures == "mosei"


def test_modalities_length_and_segments(tmp_path: Path) -> None:
    data = splits()
    path = save(tmp_path, data)
    dataset = opened(
        path, modalities=["vision", "audio"], length={"audio": 4}, reduce={"audio": "segments"}, standardize=False
    )
    assert list(dataset.modalities) == ["vision", "audio"] and dataset.modalities["audio"].length == 4
    stream = dataset.splits["train"].features["audio"]
    for i, length in enumerate(data["train"]["audio_lengths"]):
        steps = [(2 * k + 1) * length // 8 for k in range(4)] if length > 4 else range(length)
        assert int(stream.mask[i].sum()) == len(steps)
        np.testing.assert_array_equal(stream.x[i, : len(steps)], data["train"]["audio"][i, list(steps)].astype("f4"))
    short = opened(path, length=3, standardize=False).splits["test"].features["audio"]
    np.testing.assert_array_equal(short.x, data["test"]["audio"][:, :3].astype("f4"))
    assert short.mask.sum(1).tolist() == [min(n, 3) for n in data["test"]["audio_lengths"]]


def test_standardize_by_the_training_split(tmp_path: Path) -> None:
    data = splits()
    dataset = opened(save(tmp_path, data), standardize=["audio"])
    train, test = (dataset.splits[s].features["audio"] for s in ("train", "test"))
    real = train.x[train.mask]
    torch.testing.assert_close(real.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(4))
    values = data["train"]["audio"][train.mask.numpy()]
    expected = (data["test"]["audio"] - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(test.x[test.mask], expected[test.mask.numpy()], rtol=1e-4, atol=1e-5)
    assert not test.x[~test.mask].any()
    text = dataset.splits["train"].features["text"]
    np.testing.assert_array_equal(text.x[text.mask], data["train"]["text"][text.mask.numpy()])
    assert "audio: standardised by the training split's real steps" in dataset.notes


def test_one_scale_for_a_modality_keeps_its_features_sizes_relative_to_each_other(tmp_path: Path) -> None:
    data = splits()
    data["train"]["text"][..., 0] *= 9
    dataset = opened(save(tmp_path, data), scale={"text": "modality"})
    text, audio = (dataset.splits["train"].features[m] for m in ("text", "audio"))
    values = data["train"]["text"][text.mask.numpy()]
    std = values.std(0)
    torch.testing.assert_close(text.x[text.mask].square().mean(), torch.tensor(1.0), rtol=1e-4, atol=0)
    expected = torch.from_numpy(std / std[1]).float()
    scaled = text.x[text.mask].std(0, correction=0)
    torch.testing.assert_close(scaled / scaled[1], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(audio.x[audio.mask].std(0, correction=0), torch.ones(4))


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    data = splits()
    data["train"]["audio"][3, 0, :2] = -np.inf
    data["train"]["audio"][5, 0, 1] = np.nan
    data["train"]["audio_lengths"][7] = 2
    data["train"]["audio"][7, 5:] = np.nan  # padding does not count
    path = save(tmp_path, data)
    with pytest.raises(DataError) as info:
        opened(path)
    assert info.value.exit_code == 3 and str(info.value) == (
        f"{path}: split 'train', key 'audio': 3 values are not finite (1 NaN, 2 infinite), in 2 samples, the first of "
        "them 'video1$_$3'; to replace them, say replace_nonfinite: zero (or mean) in the recipe's data"
    )
    zero = opened(path, replace_nonfinite="zero", standardize=False)
    assert zero.splits["train"].features["audio"].x[3, 0, :2].tolist() == [0, 0]
    assert zero.notes == ("train, audio: 3 values are not finite (1 NaN, 2 infinite), in 2 samples; replaced by zero",)
    mean = opened(path, replace_nonfinite="mean")
    assert abs(mean.splits["train"].features["audio"].x[5, 0, 1]) < 1e-5
    assert mean.splits["train"].features["audio"].x.isfinite().all()


def drop(key: str, split: str = "train") -> Callable[[dict[str, Any]], Any]:
    return lambda data: data[split].pop(key)


def put(key: str, value: Any, split: str = "train") -> Callable[[dict[str, Any]], Any]:
    return lambda data: data[split].update({key: value(data[split]) if callable(value) else value})


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no split": (lambda d: d.pop("valid"), ": there is no split 'valid'; the file has train, test"),
    "no dict": (lambda d: d.update(train=[1]), ": split 'train': a dict is needed, not list"),
    "no modality": (
        drop("audio"),
        ": split 'train' has no key 'audio'; known: annotations, audio_lengths, classification_labels, id, raw_text, "
        "regression_labels, text, text_bert, vision, vision_lengths; name what it has with modalities: [...]",
    ),
    "no labels": (
        drop("regression_labels", "test"),
        ": split 'test' has no key 'regression_labels'; did you mean 'classification_labels'?",
    ),
    "flat features": (
        put("text", lambda t: t["text"].reshape(-1)),
        ": split 'train', key 'text': the shape is (504,); features need (samples, steps, width); to leave a key "
        "out, name the modalities with modalities: [...]",
    ),
    "text for numbers": (
        put("vision", np.array([["a"]])),
        ": split 'train', key 'vision': features have to be an array of numbers, not an array of the type <U1",
    ),
    "nothing": (
        put("audio", None),
        ": split 'train', key 'audio': features have to be an array of numbers, not nothing",
    ),
    "other width": (
        put("text", lambda t: t["text"][:, :, :5], "test"),
        ": split 'test', key 'text' is 5 wide, but in split 'train' it is 7 wide",
    ),
    "unequal counts": (
        put("vision", lambda t: t["vision"][:-1], "valid"),
        ": split 'valid', key 'vision_lengths': there are 4, but 3 samples; one for each is needed",
    ),
    "unequal counts of features": (
        put("text", lambda t: t["text"][:-1], "valid"),
        ": split 'valid', key 'text_bert': there are 4, but 3 samples",
    ),
    "unequal labels": (
        put("regression_labels", lambda t: t["regression_labels"][:-2]),
        ": split 'train': 'text' has 12 samples, but 'labels' has 10; every key of a split needs the same number",
    ),
    "unequal ids": (
        put("id", lambda t: t["id"][1:]),
        ": split 'train': 'text' has 12 samples, but 'ids' has 11; every key of a split needs the same number",
    ),
    "empty split": (
        lambda d: d.update(test={k: v[:0] for k, v in d["test"].items()}),
        ": split 'test' is empty; every split needs at least one sample",
    ),
    "label out of range": (
        put("regression_labels", [0.0, 4.2, -3.5, 1.0], "valid"),
        ": split 'valid': 2 of 4 labels are out of range: sample 'video2$_$1' has 4.2, but every label has to be from "
        "-3 to 3; to set it to the end of the range, say clip_labels: true",
    ),
    "label not finite": (
        put("regression_labels", [0.0, float("nan"), 1.0, 1.0], "valid"),
        ": split 'valid': 1 of 4 labels are out of range: sample 'video2$_$1' has nan, but every label has to be from "
        "-3 to 3",
    ),
    "labels are text": (
        put("regression_labels", ["a"] * 4, "valid"),
        ": split 'valid', key 'regression_labels': one number for each sample is needed, not a list",
    ),
    "all NaN": (
        put("text", lambda t: t["text"] * np.nan, "test"),
        ": split 'test', key 'text': no value is finite (140 NaN, 0 infinite); extract these features anew",
    ),
    "all padding": (
        put("audio_lengths", [0] * 4, "valid"),
        ": split 'valid', key 'audio': there is no real step in any sample",
    ),
    "negative length": (
        put("audio_lengths", [-1, 1, 1, 1], "valid"),
        ": split 'valid', key 'audio_lengths': lengths have to be whole numbers from 0 to 9",
    ),
    "wrong tokens": (
        put("text_bert", lambda t: t["text_bert"][:, 1]),
        ": split 'train', key 'text_bert': the shape is (12, 6); (samples, 3, steps) is needed: token ids, attention "
        "mask, segments",
    ),
    "id is no list": (
        put("id", "abc"),
        ": split 'train', key 'id': one id for each sample is needed, not text",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(tmp_path: Path, name: str) -> None:
    data = splits()
    WRONG[name][0](data)
    path = save(tmp_path, data)
    with pytest.raises(DataError) as info:
        opened(path)
    assert str(info.value) == f"{path}{WRONG[name][1]}" and info.value.exit_code == 3


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"length": 7}, DataError, "{path}: length 7 is asked for, but 'text' has only 6 steps; give at most 6"),
        (
            {"length": {"vision": 6}},
            DataError,
            "{path}: length 6 is asked for, but 'vision' has only 5 steps; give at most 5",
        ),
        ({"length": 0}, OptionError, "option 'length': 0 steps of text are too few; give at least 1"),
        (
            {"length": {"vsion": 3}},
            OptionError,
            "option 'length': there is no modality 'vsion'; did you mean 'vision'?",
        ),
        (
            {"reduce": {"x": "segments"}},
            OptionError,
            "option 'reduce': there is no modality 'x'; known: audio, text, vision",
        ),
        (
            {"standardize": ["txt"]},
            OptionError,
            "option 'standardize': there is no modality 'txt'; did you mean 'text'?",
        ),
        ({"modalities": ["text", "text"]}, OptionError, "option 'modalities': a modality is named twice: text, text"),
        (
            {"modalities": ["text", "vision2"]},
            DataError,
            "{path}: split 'train' has no key 'vision2'; did you mean 'vision'?; name what it has with modalities: "
            "[...]",
        ),
        (
            {"task": "classification", "measures": "mosi"},
            OptionError,
            "option 'measures': 'mosi' are for a regression, but task is classification",
        ),
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, Any], kind: type[Exception], text: str) -> None:
    path = save(tmp_path, splits())
    with pytest.raises(kind) as info:
        opened(path, **options)
    assert str(info.value) == text.format(path=path)


def test_missing_file_and_other_pickle(tmp_path: Path) -> None:
    with pytest.raises(DataError) as info:
        opened(tmp_path / "no.pkl")
    assert str(info.value) == f"{tmp_path / 'no.pkl'}: no such file; give the path of the data as data.path=FILE"
    path = save(tmp_path, [1, 2])
    with pytest.raises(DataError) as info:
        opened(path)
    assert str(info.value) == f"{path}: a dict with the splits train, valid, test is needed, not list"


def test_lengths_beyond_the_steps_are_named(tmp_path: Path) -> None:
    data = splits()
    data["test"]["audio_lengths"][1] = 50
    dataset = opened(save(tmp_path, data))
    assert any("1 lengths exceed the 9 steps that there are, and count as 9" in note for note in dataset.notes)
    assert dataset.splits["test"].features["audio"].mask[1].all()


def test_new_features_are_prepared_as_the_training_data_was(tmp_path: Path) -> None:
    data = splits()
    data["train"]["audio"][3, 0, 0] = np.nan
    options = {"path": save(tmp_path, data), "length": {"audio": 4}, "replace_nonfinite": "mean"}
    part = Part("mmsa", options)
    dataset = opened(**options)
    new = copy.deepcopy({k: v for k, v in data["test"].items() if "label" not in k and k != "annotations"})
    for given in ({"test": new}, new):  # with a split, or flat
        path = save(tmp_path, given, "new.pkl")
        result = open_features(part, path)
        split = next(iter(result.splits.values()))
        assert split.label is None and result.task == dataset.task and result.modalities == dataset.modalities
        for m, stream in dataset.splits["test"].features.items():
            torch.testing.assert_close(split.features[m].x, stream.x)
            assert torch.equal(split.features[m].mask, stream.mask)
    # What a run keeps is enough: the training data may be gone.
    kept = Preparation.from_dict(json.loads(json.dumps(dataset.preparation.to_dict())))
    assert kept == dataset.preparation
    options["path"].unlink()
    again = open_features(part, path, preparation=kept)
    assert again.task == dataset.task
    torch.testing.assert_close(again.splits["new"].features["audio"].x, split.features["audio"].x)

    new["text"] = new["text"][:, :, :3]
    with pytest.raises(DataError) as info:
        open_features(part, save(tmp_path, new, "new.pkl"), preparation=kept)
    assert str(info.value) == (
        f"{path}: split 'new', key 'text' is 3 wide, but the model was trained on features 7 wide"
    )


def test_new_features_may_be_shorter_or_longer(tmp_path: Path) -> None:
    data = splits()
    part = Part("mmsa", {"path": save(tmp_path, data)})
    new = {k: v for k, v in data["test"].items() if k in ("text", "audio", "vision", "audio_lengths", "vision_lengths")}
    new["text"] = new["text"][:, :3]
    new["audio"], new["audio_lengths"] = np.ones((5, 12, 4)), [12, 3, 4, 5, 11]
    result = open_features(part, save(tmp_path, new, "new.pkl"))
    stream = result.splits["new"].features
    assert stream["text"].x.shape == (5, 6, 7) and stream["text"].mask.sum() == 15
    assert stream["audio"].x.shape == (5, 9, 4) and stream["audio"].mask.sum(1).tolist() == [9, 3, 4, 5, 9]
    assert any("2 samples are cut to the 9 steps the model takes" in note for note in result.notes)


def test_made_up_data_has_no_new_features(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset 'synthetic_affect' is not read from files"):
        open_features(Part("synthetic_affect"), tmp_path / "new.pkl")


def test_mosi(shared_data: Path) -> None:
    dataset = opened(shared_data / "mosi_utterances.pkl")
    assert {s: len(split) for s, split in dataset.splits.items()} == {"train": 1284, "valid": 229, "test": 686}
    assert {m: str(s) for m, s in dataset.modalities.items()} == {"text": "50x128", "audio": "8x73", "vision": "8x100"}
    assert dataset.task.measures == "mosi"
    for split in dataset.splits.values():
        for stream in split.features.values():
            assert stream.x.dtype == torch.float16 and stream.x.isfinite().all() and stream.mask.any(1).all()
