"""Promise: a sample is shortened by its real steps alone, and what is drawn anew is drawn from the recipe's seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.contracts import Part, Task
from mmrobust.data import open_dataset, open_features, save_arrays
from mmrobust.data.shortening import Steps, bounds, draw, middle, pool, select
from mmrobust.training import RunFolder, train


def numbered(lengths: list[int], steps: int, front: bool = False) -> Steps:
    """Step k of a sample holds the number k."""
    mask = np.arange(steps) < np.array(lengths)[:, None]
    x = np.where(mask, np.arange(steps), 0)[..., None].astype(np.float32)
    return Steps(x[:, ::-1], mask[:, ::-1]) if front else Steps(x, mask)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 99))
def test_segments_share_the_real_steps(lengths: list[int], count: int, seed: int) -> None:
    """Segments cover the real steps once; a middle or drawn step is of its segment; each step can be drawn."""
    begin, end = bounds(np.array(lengths), count)
    steps = numbered(lengths, 30)
    chosen = draw(steps.stream(), count, torch.Generator().manual_seed(seed))
    for i, real in enumerate(lengths):
        k = min(real, count)
        if real > count:
            assert begin[i, 0] == 0 and end[i, -1] == real and (end[i, :-1] == begin[i, 1:]).all()
        for stream in (chosen, middle(steps.stream(), count)):
            assert int(stream.mask[i].sum()) == k
            values = stream.x[i, :k, 0].numpy()
            first = np.arange(k) * max(real / count, 1)  # where segments begin, between steps
            assert ((values > first - 1) & (values < first + max(real / count, 1))).all()
            assert not stream.x[i, k:].any()


def test_every_step_of_a_segment_is_drawn_equally_often() -> None:
    stream = numbered([12] * 4000, 12).stream()
    drawn = draw(stream, 4, torch.Generator().manual_seed(0)).x[:, 1, 0]
    counts = torch.bincount(drawn.long(), minlength=12)
    assert counts[3:6].sum() == 4000 and (counts[3:6] - 4000 / 3).abs().max() < 120


def test_middle_frames_are_those_of_segments() -> None:
    steps = numbered([3, 8, 30], 30)
    expected = select(numbered([3, 8, 30], 30), 8, "segments")
    torch.testing.assert_close(middle(steps.stream(), 8).x, torch.from_numpy(expected.x))


@pytest.mark.parametrize("front", [False, True])
def test_means_of_segments(front: bool) -> None:
    steps = numbered([2, 6, 0], 7, front)
    if front:
        steps.x[1, 1:, 0] = np.arange(6)  # padded in front, the steps stay in order
        steps.x[0, 5:, 0] = np.arange(2)
    means = pool(steps, 3, deviation=True)
    assert means.x.shape == (3, 3, 2) and means.mask.sum(1).tolist() == [2, 3, 0]
    assert means.x[1].tolist() == [[0.5, 0.5], [2.5, 0.5], [4.5, 0.5]]
    assert means.x[0].tolist() == [[0, 0], [1, 0], [0, 0]] and not means.x[2].any()


def table(n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "audio": rng.normal(size=(n, 20, 3)).astype(np.float32),
        "audio_length": rng.integers(1, 21, n),
        "video": rng.normal(size=(n, 20, 2)).astype(np.float32),
        "label": rng.normal(size=n),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    splits = {s: table(n, k) for k, (s, n) in enumerate((("train", 40), ("valid", 8), ("test", 8)))}
    return save_arrays(tmp_path / "x.npz", splits, task=Task("regression", 1, "regression"))


def test_frames_are_drawn_anew_in_each_epoch_from_the_seed(path: Path) -> None:
    """The middle frames otherwise, so that validation, evaluation and new data are always the same."""
    options = {"path": path, "length": {"video": 4}}
    dataset = open_dataset(Part("arrays", {**options, "reduce": {"video": "random_segments"}}))
    split = dataset.splits["train"]
    first, again, other = (split.drawn(torch.Generator().manual_seed(k)).features for k in (1, 1, 2))
    assert torch.equal(first["video"].x, again["video"].x) and not torch.equal(first["video"].x, other["video"].x)
    assert torch.equal(first["audio"].x, split.features["audio"].x) and first["video"].x.shape == (40, 4, 2)
    assert dataset.splits["test"].redraw is None and str(dataset.modalities["video"]) == "4x2"
    part = Part("arrays", {**options, "reduce": {"video": "segments"}, "standardize": False})
    random = {**part.options, "reduce": {"video": "random_segments"}}
    plain, raw = open_dataset(part), open_dataset(Part("arrays", random))
    assert torch.equal(plain.splits["train"].features["video"].x, raw.splits["train"].features["video"].x)
    new = open_features(Part("arrays", {**options, "reduce": {"video": "random_segments"}}), path)
    assert torch.equal(new.splits["test"].features["video"].x, dataset.splits["test"].features["video"].x)


def test_new_features_are_pooled_as_the_training_was(path: Path) -> None:
    part = Part("arrays", {"path": path, "length": {"video": 4}, "reduce": {"video": "mean_std"}})
    dataset, new = open_dataset(part), open_features(part, path)
    assert str(dataset.modalities["video"]) == "4x4"
    torch.testing.assert_close(new.splits["test"].features["video"].x, dataset.splits["test"].features["video"].x)


def test_a_training_draws_its_frames_from_the_seed(path: Path, tmp_path: Path) -> None:
    """The same losses twice from the same seed, and other ones than with the middle frame in every epoch."""
    data = ["data.use=arrays", f"data.path={path}", "data.length={video: 4}", "data.reduce={video: random_segments}"]
    small = ["model.width=8", "model.fusion.depth=1", "model.fusion.heads=2", "train.lr=1e-2"]
    train("normtr", [*data, *small, "train.epochs=2"], out=tmp_path / "whole", quiet=True)
    train("normtr", [*data, *small, "train.epochs=2"], out=tmp_path / "other", quiet=True)
    lines = [RunFolder.open(tmp_path / name).read_metrics() for name in ("whole", "other")]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]
    train(
        "normtr",
        [*data[:-1], "data.reduce={video: segments}", *small, "train.epochs=2"],
        out=tmp_path / "fixed",
        quiet=True,
    )
    fixed = RunFolder.open(tmp_path / "fixed").read_metrics()
    assert [line["loss"] for line in fixed] != [line["loss"] for line in lines[0]]
