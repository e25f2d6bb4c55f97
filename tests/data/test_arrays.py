"""The arrays layout: what is written is read back, in every form, and every wrong file gets one precise error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mmrobust.contracts import Dataset, Part, Task
from mmrobust.data import open_dataset, open_features, save_arrays
from mmrobust.errors import DataError, WriteError

SIX = Task("classification", 3, "classification", names=("a", "b", "c"))


def keys(n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, n)
    audio = rng.normal(size=(n, 5, 3)).astype(np.float32)
    audio[np.arange(5) >= lengths[:, None]] = 0
    return {
        "audio": audio,
        "audio_length": lengths,
        "face": rng.normal(size=(n, 4)).astype(np.float16),
        "label": np.arange(n) % 3,
        "id": np.array([f"s{seed}-{i}" for i in range(n)]),
    }


def splits() -> dict[str, dict[str, Any]]:
    return {"train": keys(9, 1), "valid": keys(4, 2), "test": keys(5, 3)}


def opened(path: Path, **options: Any) -> Dataset:
    return open_dataset(Part("arrays", {"path": path, **options}))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    data = splits()
    path = save_arrays(tmp_path / f"mine{suffix}", data, task=SIX)
    dataset = opened(path, standardize=False)
    assert dataset.task == SIX
    assert {m: str(s) for m, s in dataset.modalities.items()} == {"audio": "5x3", "face": "1x4"}
    for name, split in dataset.splits.items():
        assert split.ids == tuple(data[name]["id"]) and split.label is not None
        np.testing.assert_array_equal(split.label, data[name]["label"])
        np.testing.assert_array_equal(split.features["audio"].x, data[name]["audio"])
        assert split.features["audio"].mask.sum(1).tolist() == data[name]["audio_length"].tolist()
        np.testing.assert_array_equal(split.features["face"].x[:, 0], data[name]["face"])
        assert split.features["face"].mask.all() and split.features["face"].x.dtype == torch.float16
    again = save_arrays(path, data, task=SIX, modalities=["face", "audio"])
    assert list(opened(again).modalities) == ["face", "audio"]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kinds = st.sampled_from([np.float16, np.float32])
    steps = data.draw(st.integers(1, 4))
    names = data.draw(st.lists(st.sampled_from(["a", "mask", "length", "C3"]), min_size=1, max_size=3, unique=True))
    widths = {m: (data.draw(st.integers(1, 3)), data.draw(kinds)) for m in names}

    def split(n: int) -> dict[str, Any]:
        built: dict[str, Any] = {"label": rng.normal(size=n)}
        for m, (width, kind) in widths.items():
            built[m] = rng.normal(size=(n, steps, width)).astype(kind)
            built[f"{m}_mask"] = rng.random((n, steps)) < 0.7
            built[f"{m}_mask"][:, 0] = True
        return built

    given_ = {s: split(data.draw(st.integers(1, 4))) for s in ("train", "valid", "test")}
    suffix = data.draw(st.sampled_from([".npz", ".safetensors"]))
    path = tmp_path_factory.mktemp("any") / f"x{suffix}"
    save_arrays(path, given_, task=Task("regression", 1, "regression"))
    dataset = opened(path, standardize=False)
    for name, built in given_.items():
        for m in names:
            stream = dataset.splits[name].features[m]
            np.testing.assert_array_equal(stream.mask, built[f"{m}_mask"])
            np.testing.assert_array_equal(stream.x, np.where(built[f"{m}_mask"][..., None], built[m], 0))


def test_one_table_with_a_split_and_what_labels_say(tmp_path: Path) -> None:
    table = keys(8, 1) | {"split": np.array(["train"] * 4 + ["valid"] * 2 + ["test"] * 2)}
    path = tmp_path / "table.npz"
    np.savez(path, **table)
    dataset = opened(path)
    assert [len(split) for split in dataset.splits.values()] == [4, 2, 2]
    assert (dataset.task.kind, dataset.task.outputs, dataset.task.names) == ("classification", 3, ())
    np.savez(path, **(table | {"label": np.linspace(0, 9, 8)}))
    assert opened(path).task == Task("regression", 1, "regression")
    np.savez(path, **(table | {"label": np.arange(24).reshape(8, 3) % 2}))
    task = opened(path).task
    assert (task.kind, task.outputs, task.names) == ("multilabel", 6, ("label 0", "label 1", "label 2"))
    np.savez(path, **(table | {"label": np.arange(8) % 3 - 1}))
    assert opened(path, task="regression", measures="mosi").task.low == -3
    del table["id"]
    np.savez(path, **table)
    assert opened(path).splits["test"].ids == ("test-0", "test-1")


def test_a_table_in_safetensors_and_times(tmp_path: Path) -> None:
    table = {k: v for k, v in keys(6, 1).items() if k != "id"}
    table["audio_times"] = np.arange(60, dtype=np.float32).reshape(6, 5, 2)
    head = {"split": ["train"] * 3 + ["valid"] * 2 + ["test"], "id": list("abcdef"), "meta": {"modalities": ["audio"]}}
    path = tmp_path / "table.safetensors"
    save_file(table, path, metadata={"mmrobust": json.dumps(head)})
    dataset = opened(path, length=2)
    assert list(dataset.modalities) == ["audio"] and dataset.splits["valid"].ids == ("d", "e")
    times = dataset.splits["valid"].features["audio"].times
    assert times is not None and times[0].tolist() == [[30, 31], [32, 33]]


def test_splits_may_be_padded_differently_and_valid_may_be_absent(tmp_path: Path) -> None:
    data = splits()
    del data["valid"]
    data["test"]["audio"] = data["test"]["audio"][:, :4]
    data["test"]["audio_length"] = np.minimum(data["test"]["audio_length"], 4)
    dataset = opened(save_arrays(tmp_path / "x.npz", data, task=SIX))
    assert dataset.splits["test"].features["audio"].x.shape == (5, 5, 3) and list(dataset.splits) == ["train", "test"]


def test_length_leaves_summaries_alone_and_whole_numbers_become_floats(tmp_path: Path) -> None:
    data = splits()
    for split in data.values():
        split["face"] = np.arange(len(split["label"]) * 4, dtype=np.uint8).reshape(-1, 4)
    dataset = opened(save_arrays(tmp_path / "x.npz", data, task=SIX), length=3)
    assert {m: str(s) for m, s in dataset.modalities.items()} == {"audio": "3x3", "face": "1x4"}
    assert dataset.splits["train"].features["face"].x.dtype == torch.float32


def test_new_features_without_labels(tmp_path: Path) -> None:
    data = splits()
    part = Part("arrays", {"path": save_arrays(tmp_path / "x.npz", data, task=SIX)})
    dataset = open_dataset(part)
    new = {k: v for k, v in data["test"].items() if k != "label"}
    np.savez(tmp_path / "new.npz", **new)
    result = open_features(part, tmp_path / "new.npz")
    assert list(result.splits) == ["new"] and result.splits["new"].label is None and result.task == SIX
    for m, stream in dataset.splits["test"].features.items():
        torch.testing.assert_close(result.splits["new"].features[m].x, stream.x)


def put(key: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda raw: raw.update({key: value(raw.get(key))})


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no train": (
        lambda r: [r.pop(k) for k in list(r) if k.startswith("train")],
        ": there is no split 'train'; the file has valid, test",
    ),
    "mixed": (
        put("face", lambda _: np.ones(3)),
        ": some keys belong to a split ('train/audio') and others to none ('face'); use one form: all 'SPLIT/KEY', or "
        "all 'KEY' with a key 'split'",
    ),
    "no modality": (
        lambda r: r.pop("test/face"),
        ": split 'test' has no key 'test/face'; known: audio, audio_length, id, label",
    ),
    "no label": (
        lambda r: r.pop("valid/label"),
        ": split 'valid' has no key 'valid/label'; known: audio, audio_length, face, id",
    ),
    "unequal counts": (
        put("valid/face", lambda x: x[:2]),
        ": split 'valid': 'audio' has 4 samples, but 'face' has 2; every key of a split needs the same number",
    ),
    "empty split": (
        lambda r: r.update({k: v[:0] for k, v in r.items() if k.startswith("test/")}),
        ": split 'test' is empty; every split needs at least one sample",
    ),
    "flat": (
        put("train/audio", lambda x: x.reshape(-1)),
        ": split 'train', key 'audio': the shape is (135,); features need (samples, steps, width); to leave a key "
        "out, name the modalities with modalities: [...]",
    ),
    "text": (
        put("train/face", lambda x: x.astype(str)),
        ": split 'train', key 'face': features have to be an array of numbers, not an array of the type <U32",
    ),
    "width": (
        put("test/face", lambda x: x[:, :2]),
        ": split 'test', key 'face' is 2 wide, but in split 'train' it is 4 wide",
    ),
    "class": (
        put("train/label", lambda x: x - 1),
        ": the labels are the whole numbers -1, 0, 1, 2, but classes are numbered from 0; number them so "
        "({-1: 0, 0: 1, 1: 2, 2: 3}), or say task: regression if they are amounts",
    ),
    "half a class": (
        put("meta", lambda _: json.dumps({"task": {"kind": "classification"}})),
        "",
    ),
    "mask": (
        lambda r: r.update({"train/audio_mask": np.ones((9, 4), bool), "train/audio_length": None})
        or r.pop("train/audio_length"),
        ": split 'train', key 'audio': the mask has the shape (9, 4); it needs (9, 5)",
    ),
    "times": (
        put("train/audio_times", lambda _: np.ones((9, 5))),
        ": split 'train', key 'audio_times': the shape is (9, 5); (samples, steps, 2) is needed",
    ),
    "all NaN": (
        put("valid/audio", lambda x: x * np.nan),
        ": split 'valid', key 'audio': no value is finite",
    ),
    "meta": (put("meta", lambda _: "{"), ": the key 'meta' is no JSON"),
    "task": (
        put("meta", lambda _: json.dumps({"task": {"kind": "clasification"}})),
        ": there is no kind of task 'clasification'; did you mean 'classification'?",
    ),
    "range": (
        put("meta", lambda _: json.dumps({"task": {"kind": "regression", "low": "x", "high": 1}})),
        ": 'low' of the task in 'meta' has to be a number, not 'x'",
    ),
    "columns": (
        put("meta", lambda _: json.dumps({"task": {"kind": "multilabel"}})),
        ": the labels have 1 column, which does not suit the task 'multilabel'; it needs (samples, decisions) of 0 "
        "and 1",
    ),
    "objects": (
        put("train/id", lambda x: np.array([{i} for i in x], dtype=object)),
        ": refused: it holds a set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(tmp_path: Path, name: str) -> None:
    raw = {f"{split}/{key}": value for split, table in splits().items() for key, value in table.items()}
    change, text = WRONG[name]
    change(raw)
    path = tmp_path / "x.npz"
    np.savez(path, **raw)
    if not text:
        opened(path)
        return
    with pytest.raises(DataError) as info:
        opened(path)
    assert str(info.value).startswith(f"{path}{text}") and info.value.exit_code == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"split": None}, ": there is no key 'split', and no key such as 'train/text'; it has audio, audio_length, "),
        ({"split": np.array(["train"] * 3 + ["dev"])}, ": key 'split': 'dev' is no split; use train, valid and test"),
        ({"split": np.array(["train"] * 3)}, ": 'split' has 3 samples, but 'audio' has 4"),
        ({"split": np.array(["test"] * 4)}, ": there is no split 'train'; the file has test"),
    ],
)
def test_wrong_tables(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{k: v for k, v in (keys(4, 1) | change).items() if v is not None})
    with pytest.raises(DataError) as info:
        opened(path)
    assert str(info.value).startswith(f"{path}{text}")


def test_the_writer_refuses_what_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    data = splits()
    data["test"]["label"] = data["test"]["label"] + 5
    with pytest.raises(DataError, match="split 'test': 5 of 5 labels are out of range"):
        save_arrays(path, data, task=SIX)
    data = splits()
    data["train"]["face"] = data["train"]["face"][1:]
    with pytest.raises(DataError, match="'audio' has 9 samples, but 'face' has 8"):
        save_arrays(path, data, task=SIX)
    spaced = {s: t | {"my face": t["face"]} for s, t in splits().items()}
    with pytest.raises(DataError, match="a modality cannot be called 'my face'; use letters, digits and '_'"):
        save_arrays(path, spaced, task=SIX)
    stray = {s: t | {"b_mask": t["face"]} for s, t in splits().items()}
    with pytest.raises(DataError, match=r"the key 'b_mask' is neither a modality nor belongs to one \(audio, face\)"):
        save_arrays(path, stray, task=SIX)
    with pytest.raises(DataError, match="a modality cannot be called 'b_mask'"):
        save_arrays(path, stray, task=SIX, modalities=["audio", "face", "b_mask"])
    with pytest.raises(DataError, match=r"the name has to end in \.npz or \.safetensors"):
        save_arrays(tmp_path / "x.csv", splits(), task=SIX)
    with pytest.raises(WriteError):
        save_arrays(tmp_path / "no" / "x.npz", splits(), task=SIX)
    assert list(tmp_path.iterdir()) == []
