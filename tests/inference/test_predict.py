"""Promise: new features are prepared as the training's were, labels or not, and the CSV holds what the model says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrobust.contracts import Task
from mmrobust.data import save_arrays
from mmrobust.errors import DataError, UsageError
from mmrobust.inference.predict import predict
from mmrobust.training import RunFolder, load_trained, open_data, train
from mmrobust.training.seed import predict_split

KINDS = {
    "regression": Task("regression", 1, "regression"),
    "classification": Task("classification", 3, "classification", names=("calm", 'a "b", c', "=1+1")),
    "multilabel": Task("multilabel", 4, "iemocap", names=("happy", "sad")),
}


def table(task: Task, count: int, seed: int, *, labels: bool = True) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    keys: dict[str, object] = {
        "audio": (5 + rng.normal(size=(count, 6, 4))).astype(np.float32),
        "audio_length": rng.integers(1, 7, count),
        "video": rng.normal(size=(count, 5, 3)).astype(np.float32),
        "id": [f"clip,{i}" for i in range(count)],
    }
    if labels and task.kind == "regression":
        keys["label"] = rng.normal(size=count).astype(np.float32)
    elif labels:
        keys["label"] = rng.integers(0, 3, count) if task.kind == "classification" else rng.integers(0, 2, (count, 2))
    return keys


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, RunFolder]:
    task, folder = KINDS[request.param], tmp_path_factory.mktemp("new")
    splits = {name: table(task, 24, k) for k, name in enumerate(("train", "valid", "test"))}
    save_arrays(folder / "data.npz", splits, task=task)
    small = ["model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "train.seeds=[1, 2]"]
    data = ["data.use=arrays", f"data.path={folder / 'data.npz'}"]
    train("normtr", [*data, *small], out=folder / "run", quiet=True)
    return task, RunFolder(folder / "run")


def test_new_features_without_labels(trained: tuple[Task, RunFolder], tmp_path: Path) -> None:
    """The test split's features, brought in as new ones, get the predictions that the test split gets."""
    task, run = trained
    new = tmp_path / "new.npz"
    np.savez(new, **table(task, 24, 2, labels=False))  # type: ignore[arg-type]
    result = predict(run, new, seeds=2, out=tmp_path / "said.csv")
    built = load_trained(run, 2, dataset=open_data(run)[0])
    expected = predict_split(built.model, built.dataset.splits["test"], 64).double()
    with (tmp_path / "said.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert tuple(header) == result.header and len(rows) == 24
    assert [row[0] for row in rows] == [f"clip,{i}" for i in range(24)]
    cells = [row[1:] for row in rows]
    if task.kind == "regression":
        assert header == ["id", "prediction"]
        assert torch.allclose(torch.tensor([[float(x) for x in row] for row in cells]).double(), expected, atol=1e-5)
    elif task.kind == "classification":
        assert header == ["id", "prediction", *(f"p_{name}" for name in task.names)]
        p = torch.softmax(expected, -1)
        assert torch.allclose(torch.tensor([[float(x) for x in row[1:]] for row in cells]).double(), p, atol=1e-5)
        safe = ["calm", 'a "b", c', "'=1+1"]  # what a spreadsheet would take for a formula is text
        assert [row[0] for row in cells] == [safe[k] for k in p.argmax(-1).tolist()]
    else:
        assert header == ["id", "happy", "p_happy", "sad", "p_sad"]
        p = torch.softmax(expected.unflatten(-1, (2, 2)), -1)[..., 1]
        told = torch.tensor([[float(x) for x in row] for row in cells]).double()
        assert torch.allclose(told[:, 1::2], p, atol=1e-5)
        assert torch.equal(told[:, 0::2], (p > 0.5).double())


def test_where_it_goes_and_whose_model(trained: tuple[Task, RunFolder], tmp_path: Path) -> None:
    task, run = trained
    new = tmp_path / "more clips.npz"
    np.savez(new, **table(task, 5, 9, labels=False))  # type: ignore[arg-type]
    result = predict(run, new)
    assert result.path == run.predictions / "more clips.csv" and result.path.is_file()
    assert result.seeds in ((1,), (2,))
    assert f"by the model of seed {result.seeds[0]}, the best on the validation split of 2 seeds)" in str(result)
    assert len(result.to_dict()["predictions"]) == 5
    # Several splits in one file are told apart.
    save_arrays(tmp_path / "two.npz", {"train": table(task, 4, 1), "test": table(task, 3, 2)}, task=task)
    both = predict(run, tmp_path / "two.npz", out=tmp_path / "two.csv")
    assert both.header[:2] == ("id", "split") and [row[1] for row in both.rows] == ["train"] * 4 + ["test"] * 3


def test_all_seeds_together_give_the_mean(trained: tuple[Task, RunFolder], tmp_path: Path) -> None:
    task, run = trained
    new = tmp_path / "new.npz"
    np.savez(new, **table(task, 5, 9, labels=False))  # type: ignore[arg-type]
    both, one, two = (predict(run, new, seeds=s, out=tmp_path / f"{s}.csv") for s in ("all", "1", 2))
    assert both.seeds == (1, 2) and "by the mean of the models of seeds 1, 2)" in str(both)
    numbers = lambda result: torch.tensor([[x for x in row if isinstance(x, float)] for row in result.rows])
    assert torch.allclose(numbers(both), (numbers(one) + numbers(two)) / 2)
    with pytest.raises(UsageError, match="seeds 'every': give best, all, or one of 1, 2"):
        predict(run, new, seeds="every")


def test_a_run_predicts_without_its_training_file(trained: tuple[Task, RunFolder], tmp_path: Path) -> None:
    """Nothing of the training data is read: the run has recorded what new features need."""
    task, run = trained
    new = tmp_path / "new.npz"
    np.savez(new, **table(task, 5, 9, labels=False))  # type: ignore[arg-type]
    before = predict(run, new, out=tmp_path / "before.csv").rows
    data, aside = run.path.parent / "data.npz", run.path.parent / "aside.npz"
    data.rename(aside)
    try:
        assert predict(run, new, out=tmp_path / "after.csv").rows == before
        assert load_trained(run).model is not None
        data.write_bytes(b"another file")
        other = predict(run, new, out=tmp_path / "other.csv")
        assert other.rows == before and "is not the file that" in " ".join(other.notes)
    finally:
        aside.replace(data)


def test_a_file_is_replaced_only_by_force(trained: tuple[Task, RunFolder], tmp_path: Path) -> None:
    task, run = trained
    new, out = tmp_path / "new.npz", tmp_path / "mine.csv"
    np.savez(new, **table(task, 5, 9, labels=False))  # type: ignore[arg-type]
    out.write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.csv exists; name another file, or replace it with --force"):
        predict(run, new, out=out)
    assert out.read_text() == "mine"
    assert predict(run, new, out=out, force=True).path == out and out.read_text().startswith("id,")


def test_features_that_do_not_fit(trained: tuple[Task, RunFolder], tmp_path: Path) -> None:
    task, run = trained
    keys = table(task, 5, 9, labels=False)
    with pytest.raises(DataError, match=r"none\.npz"):
        predict(run, tmp_path / "none.npz")
    np.savez(tmp_path / "wide.npz", **{**keys, "video": np.zeros((5, 5, 7))})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"7 wide.*trained on.*3 wide"):
        predict(run, tmp_path / "wide.npz")
    np.savez(tmp_path / "one.npz", **{k: v for k, v in keys.items() if k != "video"})  # type: ignore[arg-type]
    alone = predict(run, tmp_path / "one.npz", out=tmp_path / "one.csv")
    assert "new, video: missing (absent, empty or all zero) in 5 of 5 samples; masked" in alone.notes
    with pytest.raises(UsageError, match="no trained seed 7; it has 1, 2"):
        predict(run, tmp_path / "one.npz", seeds=7)
    with pytest.raises(UsageError, match="changes what was trained"):
        predict(run, tmp_path / "one.npz", overrides=["model.width=8"])


def test_data_that_no_file_holds(tmp_path: Path) -> None:
    small = ["data.train=16", "data.valid=8", "data.test=8", "data.length=6", "model.width=16", "train.epochs=1"]
    run = train("normtr", small, out=tmp_path / "run", quiet=True).folder
    with pytest.raises(DataError, match="not read from files"):
        predict(run, tmp_path / "new.npz")
