"""Promise: a run knows which data it was trained on; another file in its place is reported, and only knowingly used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmrobust.cli import main
from mmrobust.contracts import Task
from mmrobust.data import save_arrays
from mmrobust.errors import DataError
from mmrobust.training import RunFolder, fingerprints, load_trained, open_data
from mmrobust.training.data_record import DataRecord
from mmrobust.training.fingerprints import data_paths, fingerprint


def write_data(path: Path, shift: float = 0.0) -> None:
    rng = np.random.default_rng(0)
    table = lambda n: {
        "audio": (shift + rng.normal(size=(n, 4, 3))).astype(np.float32),
        "video": rng.normal(size=(n, 3, 2)).astype(np.float32),
        "label": rng.integers(0, 3, n),
    }
    save_arrays(path, {s: table(n) for s, n in (("train", 16), ("valid", 8), ("test", 8))},
                task=Task("classification", 3, "classification"))  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_data(folder / "data.npz")
    small = ["model.width=8", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "evaluate.draws=1"]
    data = ["data.use=arrays", f"data.path={folder / 'data.npz'}", "evaluate.rates=[0, 1]"]
    assert main(["train", "normtr", *data, *small, "--out", str(folder / "run"), "--quiet"]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A trained run whose data file stands alone, for this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_data(trained / "data.npz")
    return RunFolder(Path(shutil.copytree(trained / "run", tmp_path / "run")))


def test_the_record_says_what_a_model_has_to_know(run: RunFolder) -> None:
    record = DataRecord.read(run)
    assert record is not None
    dataset, notes = open_data(run)
    assert notes == []
    assert list(record.values["modalities"]) == ["audio", "video"] and record.values["samples"] == 16
    assert record.preparation is not None and record.preparation.to_dict() == dataset.preparation.to_dict()
    without = load_trained(run).dataset
    assert without.modalities == dataset.modalities and without.task == dataset.task
    assert len(without.splits["train"]) == 16 and without.aligned == dataset.aligned
    with pytest.raises(IndexError, match="the samples of this data are not here"):
        without.splits["train"].ids[0]


@pytest.mark.parametrize("line", ["evaluate RUN -q", "analyze RUN -q", "train --resume RUN -q", "run --resume RUN -q"])
def test_another_file_is_reported_with_both_fingerprints(
    run: RunFolder, trained: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    then = fingerprint(trained / "data.npz")
    write_data(trained / "data.npz", shift=3)
    now = fingerprint(trained / "data.npz")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert main([str(run.path) if word == "RUN" else word for word in line.split()]) == 3
    said = capsys.readouterr().err
    assert f"data.npz ({now}) is not the file that {run.path} was trained on: " in said and f"({then})" in said
    assert "put that file back, name it with data.path=..., or go on knowingly with --changed-data" in said
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_who_goes_on_knowingly_finds_it_in_the_notes(
    run: RunFolder, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(trained / "data.npz", shift=3)
    assert main(["evaluate", str(run.path), "-q", "--changed-data"]) == 0
    notes = json.loads(run.evaluation.read_text())["data"]["notes"]
    assert any("is not the file that" in note for note in notes)
    assert main(["report", str(run.path)]) == 0
    assert "is not the file that" in run.report.read_text()
    # A training that goes on with it keeps the note for good, even when the old file is back.
    assert main(["train", "--resume", str(run.path), "-q", "--changed-data"]) == 0
    write_data(trained / "data.npz")
    assert any("is not the file that" in note for note in open_data(run)[1])


def test_the_same_file_elsewhere_or_touched_is_the_same(run: RunFolder, trained: Path, tmp_path: Path) -> None:
    os.utime(trained / "data.npz", (1, 1))
    assert open_data(run)[1] == []
    shutil.copy(trained / "data.npz", tmp_path / "moved.npz")
    assert open_data(run, [f"data.path={tmp_path / 'moved.npz'}"])[1] == []


def test_a_folder_of_files_has_one_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "clips" / "deep").mkdir(parents=True)
    (tmp_path / "clips" / "a.wav").write_bytes(b"one")
    (tmp_path / "clips" / "deep" / "b.wav").write_bytes(b"two")
    before = fingerprint(tmp_path / "clips")
    assert before.size == 6
    (tmp_path / "clips" / "deep" / "b.wav").rename(tmp_path / "clips" / "b.wav")
    assert fingerprint(tmp_path / "clips").sha256 != before.sha256
    options = {"path": tmp_path / "clips", "more": [{"labels": tmp_path / "clips" / "a.wav"}], "n": 3, "no": Path("x")}
    assert list(data_paths(options)) == ["path", "more.0.labels"]


def test_a_second_look_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "big.npz"
    path.write_bytes(b"x" * 1000)
    whole = fingerprint(path).sha256
    assert not (tmp_path / "cache").exists()  # a file of this moment could change again and keep its times
    monkeypatch.setattr(fingerprints, "_TICK", 0)
    assert fingerprint(path).sha256 == whole
    (kept,) = (tmp_path / "cache").rglob("fingerprints/*")
    kept.write_text(kept.read_text().replace(whole, "0" * 64))  # what is kept, and not the file, is what answers
    assert fingerprint(path).sha256 == "0" * 64
    path.write_bytes(b"y" * 1000)
    assert fingerprint(path).sha256 not in (whole, "0" * 64)
    for text in ("", "{", "[]", '{"file": 1}'):
        kept.write_text(text)
        assert len(fingerprint(path).sha256) == 64


def test_a_missing_file_is_not_another_one(run: RunFolder, trained: Path) -> None:
    (trained / "data.npz").unlink()
    with pytest.raises(DataError, match=r"data\.npz"):
        open_data(run)
