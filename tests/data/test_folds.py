"""Promise: in a fold no speaker is on two sides, every sample is tested once, and the file's ids are enough."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust import recipe as recipes
from mmrobust.cli import main
from mmrobust.contracts import Dataset, Part
from mmrobust.data import FileDataset, open_dataset
from mmrobust.errors import DataError, OptionError


def table(speakers: list[str]) -> dict[str, Any]:
    n = len(speakers)
    return {
        "audio": np.arange(n * 6, dtype=np.float32).reshape(n, 3, 2) + 1,
        "label": np.arange(n) % 2,
        "id": np.array([f"clip{i}" for i in range(n)]),
        "group": np.array(speakers),
    }


def opened(path: Path, use: str = "arrays", **options: Any) -> Dataset:
    return open_dataset(Part(use, {"path": path, **options}))


def sides(dataset: Dataset, speakers: dict[str, str]) -> dict[str, set[str]]:
    return {split: {speakers[name] for name in part.ids} for split, part in dataset.splits.items()}


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_folds_divide_the_speakers(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Each sample tests in exactly one fold; no speaker is in two splits of any; the same seed, the same folds."""
    count = data.draw(st.integers(2, 4))
    names = [f"s{i}" for i in range(data.draw(st.integers(count + 2, 9)))]
    speakers = names + data.draw(st.lists(st.sampled_from(names), max_size=30))
    raw = table(speakers)
    path = tmp_path_factory.mktemp("folds") / "x.npz"
    np.savez(path, **raw)
    of = dict(zip(raw["id"].tolist(), speakers, strict=True))
    tested: list[str] = []
    for fold in range(1, count + 1):
        dataset = opened(path, folds={"by": "group", "count": count}, fold=fold)
        assert isinstance(dataset, FileDataset) and dataset.fold_count == count
        parts = sides(dataset, of)
        assert set(parts) == {"train", "valid", "test"} and all(parts.values())
        assert not parts["train"] & parts["valid"] | parts["train"] & parts["test"] | parts["valid"] & parts["test"]
        assert sum(map(len, dataset.splits.values())) == len(speakers)
        tested += dataset.splits["test"].ids
    assert sorted(tested) == sorted(of)


def test_fixed_lists_and_a_file_that_has_splits_of_its_own(tmp_path: Path) -> None:
    raw = table(["1", "1", "2", "3", "4", "5"])
    split = np.array(["train", "train", "train", "valid", "test", "test"])
    np.savez(tmp_path / "x.npz", **raw, split=split)
    dataset = opened(tmp_path / "x.npz", folds=[[1, 2], ["3"]], fold=1, standardize=False)
    assert dataset.splits["test"].ids == ("clip0", "clip1", "clip2")
    assert any(note.startswith("fold 1 of 2: 1, 2 test, ") for note in dataset.notes)
    np.testing.assert_array_equal(dataset.splits["test"].features["audio"].x, raw["audio"][:3])


def test_speakers_are_known_from_ids(tmp_path: Path) -> None:
    data = {}
    for k, split in enumerate(("train", "valid", "test")):
        data[split] = {
            "text": np.ones((6, 3, 2)) * np.arange(1, 7)[:, None, None],
            "id": [f"video{k * 2 + i // 3}$_${i}" for i in range(6)],
            "regression_labels": np.arange(6) / 3,
        }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    dataset = opened(tmp_path / "x.pkl", "mmsa", modalities=["text"], folds={"count": 3})
    parts = [{name.split("$_$")[0] for name in part.ids} for part in dataset.splits.values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 6


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"folds": {"by": "id"}}, OptionError, "by has to be group, not 'id'"),
        ({"folds": {"counts": 3}}, OptionError, "unknown key 'counts'; did you mean 'count'?"),
        ({"folds": {"count": 1}}, OptionError, "count has to be a whole number from 2"),
        ({"folds": {"count": 2, "valid": 1}}, OptionError, "valid has to be a share of the other samples"),
        ({"folds": {"count": 2}, "fold": 3}, OptionError, "there is no fold 3; the data has folds 1 to 2"),
        ({"folds": {"count": 5}}, DataError, "5 folds need at least 6 groups, and there are 4"),
        ({"folds": [["b", "x"]]}, OptionError, "there is no group 'x' in the data"),
        ({"folds": [["a", "b", "c"]]}, OptionError, "each fold needs a group that tests, and two that do not"),
        ({}, DataError, "or divide them by speaker with folds: {by: group, count: 5}"),
    ],
)
def test_wrong_folds(tmp_path: Path, options: dict[str, Any], kind: type[Exception], text: str) -> None:
    np.savez(tmp_path / "x.npz", **table(["a", "b", "c", "d"]))
    with pytest.raises(kind) as error:
        opened(tmp_path / "x.npz", **options)
    assert text in str(error.value)


def test_folds_need_groups(tmp_path: Path) -> None:
    raw = table(["a"] * 4)
    del raw["group"]
    np.savez(tmp_path / "x.npz", **raw)
    with pytest.raises(DataError, match=r"for folds the file has to name the group of each sample: a key 'group', or"):
        opened(tmp_path / "x.npz", folds={"count": 2})


def test_data_info_shows_groups_and_warns_of_a_speaker_in_two_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = np.array(["train", "train", "train", "valid", "test", "test"])
    np.savez(tmp_path / "x.npz", **table(["a", "b", "b", "c", "b", "d"]), split=split)
    assert main(["data", "info", str(tmp_path / "x.npz")]) == 0
    text = capsys.readouterr().out
    assert "3 (2 groups)" in text
    note = "1 group is in both 'train' and 'test' (b): scores may show how well it knows them"
    assert f"note: {note}" in text and note in opened(tmp_path / "x.npz").notes


def test_data_info_offers_folds_where_a_file_has_no_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = table([f"s{i % 6}" for i in range(24)])
    np.savez(tmp_path / "x.npz", **raw, video=raw["audio"])
    assert main(["data", "info", str(tmp_path / "x.npz"), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    note = "the file has no splits; its groups can be divided into 5 folds"
    assert note in info["notes"] and not info["problems"]
    (tmp_path / "mine.yaml").write_text(info["recipe"])
    dataset = open_dataset(recipes.load(tmp_path / "mine.yaml").data)
    assert isinstance(dataset, FileDataset) and dataset.fold_count == 5


def test_a_fold_is_trained_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = table([f"s{i % 6}" for i in range(24)])
    np.savez(tmp_path / "x.npz", **raw, video=raw["audio"])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"recipe: 1\nname: r\nextends: normtr\ndata: {{use: arrays, path: {json.dumps(str(tmp_path / 'x.npz'))}, "
        "folds: {by: group, count: 3}}\nmodel: {width: 16}\ntrain: {epochs: 1}\n"
    )
    assert main(["train", str(recipe), "data.fold=2", "--quiet", "--out", str(tmp_path / "run")]) == 0
    notes = json.loads((tmp_path / "run" / "data.json").read_text())["notes"]
    assert any(note.startswith("fold 2 of 3: ") for note in notes)
    capsys.readouterr()
    assert main(["train", str(recipe), "data.fold=4", "--quiet", "--out", str(tmp_path / "no")]) == 2
    assert "option 'fold': there is no fold 4; the data has folds 1 to 3" in capsys.readouterr().err
