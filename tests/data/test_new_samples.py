"""Promise: new samples are predicted from what is there, with a note, and the same alone or in company."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrobust.cli import main
from mmrobust.contracts import Part
from mmrobust.data import Preparation, open_dataset, open_features
from mmrobust.errors import DataError


def keys(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "audio": rng.normal(1, 1, size=(n, 6, 4)).astype(np.float32),
        "text": rng.normal(size=(n, 6, 5)).astype(np.float32),
        "face": rng.normal(size=(n, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two sequences and a vector, trained for one epoch; its training file is gone."""
    folder = tmp_path_factory.mktemp("trained")
    raw = {}
    for k, (split, n) in enumerate((("train", 24), ("valid", 8), ("test", 8))):
        raw |= {f"{split}/{key}": value for key, value in keys(n, k).items()}
        raw[f"{split}/label"] = np.arange(n) % 3
    np.savez(folder / "x.npz", **raw)  # type: ignore[arg-type]
    small = ["model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "train.seeds=[1]"]
    data = ["data.use=arrays", f"data.path={folder / 'x.npz'}"]
    assert main(["train", "normtr", *data, *small, "--quiet", "--out", str(folder / "run")]) == 0
    (folder / "x.npz").unlink()
    return folder / "run"


def predicted(run: Path, folder: Path, capsys: pytest.CaptureFixture[str], **new: Any) -> tuple[list[list[float]], str]:
    """The probabilities that the command line writes, and what it says."""
    np.savez(folder / "new.npz", **new)
    assert main(["predict", str(run), str(folder / "new.npz"), "--out", str(folder / "p.csv"), "--force"]) == 0
    with (folder / "p.csv").open(newline="") as file:
        _, *rows = list(csv.reader(file))
    return [[float(x) for x in row[2:]] for row in rows], capsys.readouterr().out


def test_what_is_missing_is_masked_alone_as_in_company(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Absent, empty, all zero, of length 0, or NaN in every step: the same prediction, whoever stands beside it."""
    pair = keys(2, 9)
    pair["audio"][0] = 0
    company, text = predicted(run, tmp_path, capsys, **pair)
    assert "note: new, audio: missing (absent, empty or all zero) in 1 of 2 samples; masked" in text
    one = {m: x[:1] for m, x in pair.items()}
    nan = np.full((1, 6, 4), np.nan, np.float32)
    others: list[tuple[dict[str, Any], str]] = [
        (one, "missing (absent, empty or all zero) in 1 of 1 samples"),
        ({m: x for m, x in one.items() if m != "audio"}, "missing (absent, empty or all zero) in 1 of 1 samples"),
        (one | {"audio": np.zeros((1, 0, 4))}, "missing"),
        (one | {"audio": np.zeros(0)}, "missing"),
        (one | {"audio": one["audio"] + 1, "audio_length": [0]}, "missing"),
        (one | {"audio": nan, "audio_length": [6]}, "6 steps of 1 samples hold values that are not finite; they are"),
    ]
    for new, note in others:
        alone, text = predicted(run, tmp_path, capsys, **new)
        np.testing.assert_allclose(alone[0], company[0], atol=1e-6)
        assert f"note: new, audio: {note}" in text


def test_steps_with_nan_are_masked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As if the file had said that they are padding."""
    new = keys(2, 9)
    hidden = {**new, "audio_mask": np.arange(6) != np.array([[2], [9]])}
    expected, _ = predicted(run, tmp_path, capsys, **hidden)
    new["audio"][0, 2, 1] = np.inf
    new["face"][1, 0] = np.nan
    result, text = predicted(run, tmp_path, capsys, **new)
    np.testing.assert_allclose(result[0], expected[0], atol=1e-6)
    assert "note: new, audio: 1 steps of 1 samples hold values that are not finite; they are masked" in text
    assert "note: new, face: 1 steps of 1 samples" in text


def test_one_sample_without_the_dimension_of_samples(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = {m: x[:1] for m, x in keys(1, 9).items()}
    expected, _ = predicted(run, tmp_path, capsys, **three, audio_length=[4])
    single = {m: x[0] for m, x in three.items()}
    result, _ = predicted(run, tmp_path, capsys, **single, audio_length=4, id="clip")
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("clip,")
    result, _ = predicted(run, tmp_path, capsys, audio=single["audio"], audio_mask=np.arange(6) < 4)
    assert len(result) == 1


def test_nothing_that_the_model_knows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "new.npz", video=np.ones((1, 2, 3)))
    assert main(["predict", str(run), str(tmp_path / "new.npz"), "--out", str(tmp_path / "p.csv")]) == 3
    assert "none of the model's modalities (audio, text, face) is in it; it has video" in capsys.readouterr().err
    empty = {m: np.zeros_like(x) for m, x in keys(2, 0).items()}
    result, text = predicted(run, tmp_path, capsys, **empty)
    np.testing.assert_allclose(result[0], result[1], atol=1e-6)
    assert "nothing is left of 2 samples, the first 'new-0'; what is predicted for them is a guess" in text


def test_new_samples_of_a_pickle(tmp_path: Path) -> None:
    """Lists of arrays of different length, a modality that is None, and a single clip."""

    def table(n: int) -> dict[str, Any]:
        rng = np.random.default_rng(n)
        built: dict[str, Any] = {m: rng.normal(size=(n, 5, w)) for m, w in (("text", 3), ("audio", 2), ("vision", 2))}
        return built | {"regression_labels": np.linspace(-3, 3, n)}

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"train": table(8), "valid": table(3), "test": table(3)}))
    part = Part("mmsa", {"path": tmp_path / "x.pkl", "replace_nonfinite": "zero"})
    kept: Preparation = open_dataset(part).preparation  # type: ignore[attr-defined]
    new = {"text": [np.ones((2, 3)), np.ones((4, 3))], "audio": None, "vision": np.ones((2, 5, 2))}
    new["vision"][0, 1, 0] = np.nan
    (tmp_path / "new.pkl").write_bytes(pickle.dumps(new))
    result = open_features(part, tmp_path / "new.pkl", preparation=kept)
    features = result.splits["new"].features
    assert features["text"].mask.sum(1).tolist() == [2, 4] and not features["audio"].mask.any()
    assert features["vision"].mask.all()  # the training replaced such values, and so is this one
    assert any("1 values are not finite, and are replaced as in the training" in note for note in result.notes)
    (tmp_path / "new.pkl").write_bytes(pickle.dumps({"text": np.ones((4, 3)), "vision": np.ones((2, 2))}))
    result = open_features(part, tmp_path / "new.pkl", preparation=kept)
    assert len(result.splits["new"]) == 1 and result.splits["new"].features["vision"].mask.sum() == 2


def test_training_data_is_not_masked_silently(tmp_path: Path) -> None:
    """What is missing is an error there, as before: a model shall not learn from a broken extraction."""
    raw = {f"{s}/{k}": v for s in ("train", "test") for k, v in keys(4, 1).items()}
    raw |= {"train/label": np.arange(4) % 2, "test/label": np.arange(4) % 2}
    raw["train/audio"][0, 0, 0] = np.nan
    np.savez(tmp_path / "x.npz", **raw)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="1 values are not finite"):
        open_dataset(Part("arrays", {"path": tmp_path / "x.npz"}))
