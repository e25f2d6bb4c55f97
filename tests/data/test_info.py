"""`mmrobust data info` says what is in a file, and its recipe runs; `data convert` keeps every value."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.cli import main
from mmrobust.contracts import Part, Task
from mmrobust.data import open_dataset, save_arrays
from mmrobust.data.info import convert, info, show
from mmrobust.errors import DataError


def mmsa(tmp_path: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)

    def table(n: int) -> dict[str, Any]:
        return {
            "text": rng.normal(size=(n, 4, 3)).astype(np.float32),
            "text_lengths": [4, 2, 1, 3][:n],
            "audio": rng.normal(size=(n, 120, 2)),
            "audio_lengths": [120, 2, 100, 3][:n],
            "vision": np.where(np.arange(5)[:, None] == 2, 0, rng.normal(size=(n, 5, 2))),
            "vision_lengths": [5, 0, 1, 3][:n],
            "regression_labels": np.array([-3, 2.4, 0, 0.2])[:n],
            "classification_labels": np.array([0, 2, 1, 2])[:n],
            "annotations": np.array(["Negative", "Positive", "Neutral", "Positive"])[:n],
            "id": [f"v$_${i}" for i in range(n)],
        }

    data = {"train": table(4), "valid": table(3), "test": table(4)}
    for split in data.values():
        split.update(changes)
    path = tmp_path / "some file.pkl"
    path.write_bytes(pickle.dumps(data))
    return path


def test_a_file_of_mmsa(tmp_path: Path) -> None:
    result = info(mmsa(tmp_path))
    json.dumps(result)
    assert result["layout"] == "mmsa" and result["task"]["measures"] == "mosi" and result["problems"] == []
    train = result["splits"]["train"]
    assert train["samples"] == 4
    text, vision = train["modalities"]["text"], train["modalities"]["vision"]
    assert (text["steps"], text["width"], text["type"]) == (4, 3, "float32")
    assert text["length"] == {"min": 1, "median": 2.5, "max": 4} and text["values"] == 30
    assert vision["without_steps"] == 1 and vision["zero_steps"] == 2 and vision["real_steps"] == 9
    assert train["label"]["histogram"] == {
        "-3.5 to -2.5": 1, "-2.5 to -1.5": 0, "-1.5 to -0.5": 0, "-0.5 to 0.5": 2, "0.5 to 1.5": 0, "1.5 to 2.5": 1,
        "2.5 to 3.5": 0,
    }  # fmt: skip
    assert "3 ids are in both 'train' and 'valid' (v$_$0, v$_$1, v$_$2)" in result["notes"]
    text = show(result)
    assert "train  4 (1 groups)  text      4x3            float32  1, 2.5, 4" in text
    assert "22.2% of steps all zero; 1 samples without a step" in text
    assert "length: {audio: 50}" in text and "reduce: {audio: segments}" in text


def test_its_recipe_opens_the_file(tmp_path: Path) -> None:
    audio = np.ones((4, 3, 2))
    audio[0, 0, 0] = -np.inf
    for changes in ({}, {"audio": audio[:3], "audio_lengths": [3, 3, 3]}):
        path = mmsa(tmp_path)
        if changes:
            data = pickle.loads(path.read_bytes())
            for split in data.values():
                split |= {"audio": audio[: len(split["id"])], "audio_lengths": [3] * len(split["id"])}
            path.write_bytes(pickle.dumps(data))
        result = info(path)
        assert ("replace_nonfinite: zero" in result["recipe"]) == bool(changes)
        mine = tmp_path / "mine.yaml"
        mine.write_text(result["recipe"])
        loaded = recipes.load(mine)
        dataset = open_dataset(loaded.data)
        assert loaded.name == "some_file" and dataset.modalities["audio"].length == (3 if changes else 50)


def test_problems_are_named_and_no_recipe_is_given(tmp_path: Path) -> None:
    result = info(mmsa(tmp_path, regression_labels=None))
    assert result["recipe"] is None and result["task"] is None
    assert any("there are no labels; it can be predicted, but not trained on" in p for p in result["problems"])
    path = mmsa(tmp_path)
    data = pickle.loads(path.read_bytes())
    data["test"]["regression_labels"] = [9, 0, 0, 0]
    data["test"]["text"][:] = np.nan
    del data["valid"]
    path.write_bytes(pickle.dumps(data))
    result = info(path)
    assert [p.removeprefix(f"{path}: ") for p in result["problems"]] == [
        "split 'test': 1 of 4 labels are out of range: sample 'v$_$0' has 9, but every label has to be from -3 to 3; "
        "to set it to the end of the range, say clip_labels: true",
        "there is no split 'valid'",
        "split 'test', key 'text': no value is finite",
    ]
    assert "problem: " in show(result)


def test_a_file_that_is_not_there_is_named_without_advice_that_is_for_recipes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("no.pkl", "no.npz"):
        assert main(["data", "info", str(tmp_path / name)]) == 3
        assert capsys.readouterr().err == f"error: {tmp_path / name}: no such file\n"
    assert main(["data", "info", "n" * 300]) == 3
    assert capsys.readouterr().err == f"error: {'n' * 300}: cannot be read: File name too long\n"


def test_mult_and_arrays_are_recognised(tmp_path: Path) -> None:
    def table(n: int) -> dict[str, Any]:
        built: dict[str, Any] = {m: np.ones((n, 3, 2)) for m in ("text", "audio", "vision")}
        return built | {"labels": np.tile([[[1, 0], [0, 1], [1, 0], [1, 0]]], (n, 1, 1))}

    path = tmp_path / "iemocap.pkl"
    path.write_bytes(pickle.dumps({s: table(2) for s in ("train", "valid", "test")}))
    result = info(path)
    assert result["layout"] == "mult"
    assert result["splits"]["test"]["label"] == {"counts": {"neutral": 0, "happy": 2, "sad": 0, "angry": 0}}
    built = {"a": np.ones((4, 2)), "label": [0, 1, 1, 2]}
    task = Task("classification", 3, "classification", names=("x", "y", "z"))
    path = save_arrays(tmp_path / "a.safetensors", dict.fromkeys(("train", "valid", "test"), built), task=task)
    result = info(path)
    assert result["layout"] == "arrays" and result["splits"]["train"]["label"]["counts"] == {"x": 1, "y": 2, "z": 1}
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps({"train": {"words": [1]}}))
    with pytest.raises(DataError, match="neither MMSA's nor MulT's layout: a split needs text, audio or vision"):
        info(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_conversion_keeps_every_value(tmp_path: Path, suffix: str) -> None:
    path = mmsa(tmp_path)
    for task in ("regression", "classification"):
        out = convert(path, tmp_path / f"out-{task}{suffix}", task)  # type: ignore[arg-type]
        old = open_dataset(Part("mmsa", {"path": path, "task": task}))
        new = open_dataset(Part("arrays", {"path": out}))
        assert new.task == old.task and list(new.modalities) == list(old.modalities)
        for name, split in old.splits.items():
            assert new.splits[name].ids == split.ids
            assert list(np.load(out)[f"{name}/group"]) == ["v"] * len(split) if suffix == ".npz" else True
            torch.testing.assert_close(new.splits[name].label, split.label)
            for m, stream in split.features.items():
                torch.testing.assert_close(new.splits[name].features[m].x, stream.x)
                assert torch.equal(new.splits[name].features[m].mask, stream.mask)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mmsa(tmp_path)
    assert main(["data", "info", str(path)]) == 0
    assert "layout 'mmsa'" in capsys.readouterr().out
    assert main(["data", "info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "mmsa"
    out = tmp_path / "out.npz"
    assert main(["data", "convert", str(path), str(out)]) == 0
    assert capsys.readouterr().out == f"written: {out}\n"
    assert main(["data", "convert", str(path), str(out)]) == 2
    assert capsys.readouterr().err == f"error: '{out}' is there already; give another name, or --force to replace it\n"
    assert main(["data", "convert", str(path), str(out), "--force", "--task", "classification"]) == 0
    assert main(["data", "info", str(tmp_path / "no.pkl")]) == 3
    path.write_bytes(pickle.dumps(print))
    assert main(["data", "info", str(path)]) == 3
    assert "refused: it asks for 'builtins.print'" in capsys.readouterr().err
