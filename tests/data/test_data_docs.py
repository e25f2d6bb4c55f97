"""The snippets of docs/data.md run as printed, and what they write is what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.contracts import Dataset, Part
from mmrobust.data import open_dataset

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def snippet(language: str, containing: str) -> str:
    result = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (one,) = [text for text in result if containing in text]
    return one


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Dataset:
    """Runs the snippet that writes a file, in a folder beside the shared data, and opens the file."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    exec(snippet("python", f'"{name}.npz"'), {})
    return open_dataset(Part("arrays", {"path": folder / f"{name}.npz"}))


def test_features_of_your_own_and_their_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = written(tmp_path, monkeypatch, "mine")
    assert dataset.task.names == ("calm", "glad", "angry")
    Path("mine.yaml").write_text(snippet("yaml", "mine.npz"))
    again = open_dataset(recipes.load("mine.yaml").data)
    assert {m: str(s) for m, s in again.modalities.items()} == {"audio": "20x8", "face": "1x16"}


def test_ravdess_is_split_by_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    (tmp_path / "shared").symlink_to(shared_data.parent)
    dataset = written(tmp_path, monkeypatch, "ravdess")
    assert {m: str(s) for m, s in dataset.modalities.items()} == {"audio": "131x40", "au": "1x35"}
    assert {s: len(split) for s, split in dataset.splits.items()} == {"train": 840, "valid": 180, "test": 180}
    actors = {s: {name.rpartition("-")[2] for name in split.ids} for s, split in dataset.splits.items()}
    assert not actors["train"] & actors["valid"] | actors["train"] & actors["test"] | actors["valid"] & actors["test"]
    assert dataset.task.outputs == 8


def test_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    (tmp_path / "shared").symlink_to(shared_data.parent)
    dataset = written(tmp_path, monkeypatch, "digits")
    assert {m: str(s) for m, s in dataset.modalities.items()} == {"audio": "49x24", "image": "8x8"}
    assert {s: len(split) for s, split in dataset.splits.items()} == {"train": 2430, "valid": 270, "test": 300}
    label = dataset.splits["valid"].label
    assert label is not None and torch.bincount(label, minlength=10).min() > 10


def test_the_numbers_of_the_made_up_data() -> None:
    """What the page says of the limit under the default options."""
    from mmrobust.data.synthetic import SyntheticAffect

    data = SyntheticAffect()
    batch = data.splits["test"].batch(torch.arange(600))
    posterior = data.posterior("test", batch)
    assert posterior is not None and batch.label is not None
    median = posterior.values[(posterior.weights.cumsum(-1) >= 0.5).double().argmax(-1)]
    assert abs((median - batch.label).abs().mean() - 0.44) < 0.01
