"""Promise: features are standardised as the recipe says, and a run's note says what was used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrobust.contracts import Dataset, Part
from mmrobust.data import Preparation, open_dataset, open_features
from mmrobust.data.statistics import by_group, moments
from mmrobust.errors import DataError, OptionError


def write(folder: Path, groups: bool = True, wild: float = 0.0) -> Path:
    """Speakers differ in level and scale; in `wild` one value of the training split is far off."""
    raw: dict[str, Any] = {}
    for k, (split, n) in enumerate((("train", 120), ("valid", 12), ("test", 12))):
        rng = np.random.default_rng(k)
        speaker = np.arange(n) % 4 + 4 * k
        level, scale = speaker[:, None, None] * 10.0, 1.0 + speaker[:, None, None]
        raw[f"{split}/audio"] = (level + scale * rng.normal(size=(n, 6, 3))).astype(np.float32)
        raw[f"{split}/label"] = np.arange(n) % 2
        if groups:
            raw[f"{split}/group"] = speaker
    if wild:
        raw["train/audio"][3, 2, 1] = wild
    np.savez(folder / "x.npz", **raw)
    return folder / "x.npz"


def opened(path: Path, **options: Any) -> Dataset:
    return open_dataset(Part("arrays", {"path": path, **options}))


def values(dataset: Dataset, split: str) -> torch.Tensor:
    stream = dataset.splits[split].features["audio"]
    return stream.x[stream.mask].double()


def test_a_handful_of_values_that_dominate_a_column_are_noted(tmp_path: Path) -> None:
    """One 1e13 leaves the rest without spread; robust statistics and a limit do not mind it."""
    path = write(tmp_path, wild=1e13)
    plain = opened(path)
    (note,) = [n for n in plain.notes if "a handful of values" in n]
    assert "1 of 3 columns (1e+13 in column 1)" in note and "standardize: robust" in note and "clip: 5" in note
    assert values(plain, "test")[:, 1].std() < 1e-6
    robust = opened(path, standardize="robust")
    assert not any("a handful" in n for n in robust.notes)
    assert values(robust, "test")[:, 1].std() > 0.3
    assert "audio: standardised by median and quartiles of the training split's real steps" in robust.notes
    clipped = opened(path, standardize="robust", clip=5)
    assert values(clipped, "train").abs().max() == 5
    assert not any("a handful" in n for n in opened(write(tmp_path)).notes)


def test_by_group_each_speaker_has_mean_0_and_deviation_1(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path), standardize={"by": "group"})
    stream = dataset.splits["train"].features["audio"]
    for speaker in range(4):
        x = stream.x[speaker::4].double()
        assert x.mean().abs() < 1e-4 and abs(x.std() - 1) < 1e-2
    assert values(opened(write(tmp_path)), "test").mean() > 2  # another level without it
    assert any("transductive" in note for note in dataset.notes)


def test_the_causal_form_knows_nothing_of_later_clips(tmp_path: Path) -> None:
    path = write(tmp_path)
    part = Part("arrays", {"path": path, "standardize": {"by": "group", "causal": True}})
    whole = open_dataset(part).splits["test"].features["audio"].x
    raw = dict(np.load(path))
    raw["test/audio"][6:] += 1000
    np.savez(tmp_path / "later.npz", **raw)
    later = open_dataset(Part("arrays", {**part.options, "path": tmp_path / "later.npz"}))
    assert torch.equal(later.splits["test"].features["audio"].x[:6], whole[:6])
    usual = moments(raw["train/audio"], np.ones((120, 6), bool))
    first = (dict(np.load(path))["test/audio"][0] - usual.mean) / usual.std
    np.testing.assert_allclose(whole[0], first, rtol=1e-3, atol=1e-3)  # no clip before it: the training's statistics


def test_a_group_of_few_clips_is_filled_up_with_the_training_statistics() -> None:
    rng = np.random.default_rng(0)
    x, mask = rng.normal(5, 2, size=(6, 4, 1)), np.ones((6, 4), bool)
    mean, std = by_group(x, mask, ("a", "b", "a", "a", "b", "a"), (np.zeros(1), np.ones(1)), False, {})
    steps = x[[0, 2, 3, 5]].reshape(-1)
    np.testing.assert_allclose(mean[0], steps.mean() / 2)  # 4 of 8
    np.testing.assert_allclose(std[0], np.sqrt(steps.var() / 2 + 1 / 2))
    assert np.allclose(mean[0], mean[5]) and not np.allclose(mean[0], mean[1])


def test_new_clips_are_standardised_by_their_own_speaker(tmp_path: Path) -> None:
    """A preparation says so; where the new file names no groups, the training split serves, with a note."""
    path = write(tmp_path)
    part = Part("arrays", {"path": path, "standardize": {"by": "group"}})
    dataset = open_dataset(part)
    kept = Preparation.from_dict(dataset.preparation.to_dict())  # type: ignore[attr-defined]
    assert kept.groups == {"audio": "all"}
    raw = dict(np.load(path))
    new = {"audio": raw["test/audio"], "group": raw["test/group"]}
    np.savez(tmp_path / "new.npz", **new)
    result = open_features(part, tmp_path / "new.npz", preparation=kept)
    torch.testing.assert_close(result.splits["new"].features["audio"].x, dataset.splits["test"].features["audio"].x)
    np.savez(tmp_path / "new.npz", audio=raw["test/audio"])
    result = open_features(part, tmp_path / "new.npz", preparation=kept)
    assert any("no groups are named; standardised by the training split" in note for note in result.notes)


def test_enrolment_clips_say_how_a_new_speaker_speaks(tmp_path: Path) -> None:
    """One clip with the speaker's others for enrolment is standardised as it is among all of them."""
    path = write(tmp_path)
    raw = dict(np.load(path))
    part = Part("arrays", {"path": path, "standardize": {"by": "group"}})
    whole = open_dataset(part)
    alone, others = (raw["train/group"] == 1).nonzero()[0][:1], (raw["train/group"] == 1).nonzero()[0][1:]
    np.savez(tmp_path / "one.npz", audio=raw["train/audio"][alone], group=raw["train/group"][alone])
    np.savez(tmp_path / "others.npz", audio=raw["train/audio"][others], group=raw["train/group"][others])
    kept: Preparation = whole.preparation  # type: ignore[attr-defined]
    result = open_features(part, tmp_path / "one.npz", preparation=kept, enrolment=tmp_path / "others.npz")
    expected = whole.splits["train"].features["audio"].x[alone]
    torch.testing.assert_close(result.splits["new"].features["audio"].x, expected, atol=1e-5, rtol=0)
    assert len(result.splits["new"]) == 1 and "enrolment: 29 clips of 1 groups" in result.notes
    plain = Part("arrays", {"path": path})
    with pytest.raises(DataError, match="this model does not standardise by group, so it takes no enrolment clips"):
        open_features(plain, tmp_path / "one.npz", enrolment=tmp_path / "others.npz")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"standardize": {"by": "speaker"}}, "by has to be training or group, not 'speaker'"),
        ({"standardize": {"group": True}}, "unknown key 'group'; it takes by, causal, robust and modalities"),
        ({"standardize": {"causal": True}}, "causal goes with by: group"),
        ({"standardize": {"by": "group", "robust": True}}, "robust goes with by: training"),
        ({"clip": 0}, "0 of audio is no limit; give a number above 0"),
        ({"clip": {"video": 3}}, "there is no modality 'video'"),
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as error:
        opened(write(tmp_path), **options)
    assert text in str(error.value)


def test_by_group_needs_groups(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="to standardise by group, the file has to name the group of each sample"):
        opened(write(tmp_path, groups=False), standardize={"by": "group"})
