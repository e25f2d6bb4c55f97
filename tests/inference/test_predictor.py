"""Promise: arrays go in and predictions come out as the run's own would be, whatever is missing, from any thread."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmrobust
from mmrobust import Predictor
from mmrobust.contracts import Task
from mmrobust.data import save_arrays
from mmrobust.errors import DataError, UsageError
from mmrobust.inference.predict import predict
from mmrobust.training import RunFolder, load_trained, open_data
from mmrobust.training.verify import problems

WIDTHS = {"audio": 4, "video": 3}
TASKS = {
    "regression": Task("regression", 1, "regression"),
    "classification": Task("classification", 3, "classification", names=("calm", "glad", "<b>sad</b>")),
    "multilabel": Task("multilabel", 4, "iemocap", names=("happy", "sad")),
}


def table(task: Task, count: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    keys: dict[str, Any] = {m: (2 + rng.normal(size=(count, 6, w))).astype(np.float32) for m, w in WIDTHS.items()}
    if task.kind == "regression":
        return {**keys, "label": rng.normal(size=count).astype(np.float32)}
    return {
        **keys,
        "label": rng.integers(0, 3, count) if task.kind == "classification" else rng.integers(0, 2, (count, 2)),
    }


def trained(kind: str, folder: Path) -> RunFolder:
    task = TASKS[kind]
    splits = {name: table(task, n, k) for k, (name, n) in enumerate((("train", 32), ("valid", 24), ("test", 12)))}
    save_arrays(folder / "data.npz", splits, task=task)
    small = ["model.width=16", "model.fusion.depth=1", "model.fusion.heads=2", "train.epochs=1", "train.seeds=[1, 2]"]
    more = ["data.use=arrays", f"data.path={folder / 'data.npz'}", "evaluate.rates=[0, 0.5, 1]", "evaluate.draws=1"]
    run = mmrobust.train("normtr", [*more, *small], out=folder / "run", quiet=True).folder
    mmrobust.evaluate(run, quiet=True)
    return run


@pytest.fixture(scope="module", params=list(TASKS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(request.param, tmp_path_factory.mktemp("predictor"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained("classification", tmp_path_factory.mktemp("classes"))


@pytest.fixture
def sample() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {m: (2 + rng.normal(size=(5, w))).astype(np.float32) for m, w in WIDTHS.items()}


def numbers(prediction: mmrobust.inference.prediction.Prediction) -> list[float]:
    return list((prediction.probabilities or {"value": prediction.value}).values())


def test_it_predicts_what_the_verb_predicts(run: RunFolder, tmp_path: Path) -> None:
    dataset, _ = open_data(run)
    new = {k: v for k, v in table(dataset.task, 12, 2).items() if k != "label"}
    np.savez(tmp_path / "new.npz", **new)
    for seeds in ("best", "all", 2):
        predictor = Predictor(run, seeds)
        rows = predict(run, tmp_path / "new.npz", seeds=seeds, out=tmp_path / f"{seeds}.csv").rows
        from_arrays = predictor(new)
        from_file = predictor.file(tmp_path / "new.npz")
        assert predictor.seeds == predict(run, tmp_path / "new.npz", seeds=seeds).seeds
        for row, one, other in zip(rows, from_arrays, from_file, strict=True):
            assert one.id == other.id == row[0]
            assert numbers(one) == pytest.approx(numbers(other))
            if dataset.task.kind == "regression":
                assert one.value == pytest.approx(row[1])


def test_the_temperature_changes_probabilities_and_no_decision(classes: RunFolder, tmp_path: Path) -> None:
    new = {k: v for k, v in table(TASKS["classification"], 12, 2).items() if k != "label"}
    np.savez(tmp_path / "new.npz", **new)
    rows = predict(classes, tmp_path / "new.npz", out=tmp_path / "new.csv").rows
    assert [one.label for one in Predictor(classes)(new)] == [row[1] for row in rows]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "torch", "bfloat16", "list"])
def test_any_array_of_numbers_is_taken(classes: RunFolder, sample: dict[str, np.ndarray], dtype: str) -> None:
    predictor = Predictor(classes)
    whole = {m: np.round(x) for m, x in sample.items()}
    expected = numbers(predictor(whole))
    change = {
        "torch": torch.from_numpy, "bfloat16": lambda x: torch.from_numpy(x).bfloat16(), "list": lambda x: x.tolist(),
    }.get(dtype, lambda x: x.astype(dtype))  # fmt: skip
    one = predictor.batch([{m: change(x) for m, x in whole.items()}])[0]
    assert numbers(one) == pytest.approx(expected, abs=1e-6)


def test_alone_and_in_company(run: RunFolder, sample: dict[str, np.ndarray]) -> None:
    """Samples of unequal lengths, with modalities missing, NaN and silence, are predicted as each would be alone."""
    predictor = Predictor(run, "all")
    holes = {m: x.copy() for m, x in sample.items()}
    holes["audio"][1] = np.nan
    holes["video"][:] = 0
    samples = [sample, {"video": sample["video"][:2], "audio": None}, {"audio": sample["audio"]}, holes]
    alone = [predictor(one) for one in samples]
    together = predictor(samples)
    for one, other in zip(alone, together, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), abs=1e-5) and one.lost == other.lost
    assert [one.lost for one in together] == [
        {"audio": 0, "video": 0}, {"audio": 1, "video": 0}, {"audio": 0, "video": 1}, {"audio": 0.2, "video": 1},
    ]  # fmt: skip
    assert any("masked" in note for note in alone[1].notes) and alone[0].notes == ()
    by_modality = predictor({"audio": [sample["audio"], None], "video": [sample["video"], sample["video"][:2]]})
    assert [numbers(one) for one in by_modality] == [
        pytest.approx(numbers(one), abs=1e-5) for one in (together[0], together[1])
    ]


def test_values_far_outside_the_training_are_lost(classes: RunFolder, sample: dict[str, np.ndarray]) -> None:
    wild = {m: x.copy() for m, x in sample.items()}
    wild["audio"][0], wild["audio"][1], wild["audio"][2] = 1e6, np.nan, 0
    one = Predictor(classes)(wild)
    assert one.lost == {"audio": 0.6, "video": 0} and any("far outside the range" in note for note in one.notes)


def test_intervals_sets_and_abstaining(run: RunFolder, sample: dict[str, np.ndarray]) -> None:
    task = open_data(run)[0].task
    narrow, wide = Predictor(run, coverage=0.5)(sample), Predictor(run, coverage=0.9)(sample)
    if task.kind == "multilabel":
        assert wide.interval is None and wide.set is None and wide.coverage is None
        return
    assert wide.coverage == 0.9 and not wide.abstain
    if task.kind == "regression":
        assert wide.interval is not None and narrow.interval is not None
        assert wide.interval[0] < narrow.interval[0] < narrow.value < narrow.interval[1] < wide.interval[1]
    else:
        assert wide.label in wide.set and set(narrow.set) <= set(wide.set)
    never = Predictor(run, abstain={"risk": 1e-9})(sample)
    always = Predictor(run, abstain={"coverage": 1.0})(sample)
    assert never.abstain and never.to_dict()["abstain"] is True and not always.abstain
    for wrong in ({"risk": 0.1, "coverage": 0.5}, {"error": 1}):
        with pytest.raises(UsageError, match=r"give \{'risk': 0.1\} or \{'coverage': 0.8\}"):
            Predictor(run, abstain=wrong)
    with pytest.raises(UsageError, match="give a probability between 0 and 1"):
        Predictor(run, coverage=90)


def test_it_shows_itself(classes: RunFolder, sample: dict[str, np.ndarray]) -> None:
    predictor = Predictor(classes)
    assert repr(predictor).startswith(
        "Predictor of a class from audio (steps, 4), video (steps, 3), by the model of seed"
    )
    page = predictor({"audio": sample["audio"]})._repr_html_()
    assert page.startswith("<table>") and "&lt;b&gt;sad&lt;/b&gt;" in page and "<b>" not in page
    assert "<th>lost</th><td>video 100%</td>" in page


def test_threads_get_what_one_thread_gets(classes: RunFolder) -> None:
    predictor = Predictor(classes, "all")
    rng = np.random.default_rng(0)
    samples = [{m: rng.normal(size=(rng.integers(1, 6), w)) for m, w in WIDTHS.items()} for _ in range(40)]
    expected = [numbers(predictor(one)) for one in samples]
    with ThreadPoolExecutor(8) as pool:
        assert [numbers(one) for one in pool.map(predictor, samples)] == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"adio": [[1.0] * 4]}, "there is no modality 'adio' in this model; it has audio, video"),
        ({"audio": [[1.0] * 5]}, "sample 0, audio: the shape is (1, 5); the model takes (steps, 4)"),
        ({"audio": "loud"}, "sample 0, audio: an array of numbers is needed, not str"),
        ({"audio": None}, "nothing is there of any sample; this model takes audio, video"),
        ({"audio": [[[1.0] * 4]] * 2, "video": [[[1.0] * 3]]}, "the same number of samples; audio has 2, video has 1"),
        ([], "there are no samples"),
        (3, "a sample is a mapping of modalities to arrays"),
        ("audio", "a sample is a mapping of modalities to arrays"),
    ],
)
def test_what_does_not_fit_is_said(classes: RunFolder, given: Any, said: str) -> None:
    with pytest.raises((DataError, UsageError)) as error:
        Predictor(classes)(given)
    assert said in str(error.value)


def test_a_run_on_built_in_data_takes_features_as_they_are(tmp_path: Path) -> None:
    small = ["data.train=16", "data.valid=8", "data.test=8", "data.length=6", "model.width=16", "train.epochs=1"]
    run = mmrobust.train("normtr", small, out=tmp_path / "run", quiet=True).folder
    features = mmrobust.build("normtr", small).dataset.splits["test"].batch(torch.tensor([0])).features
    expected = load_trained(run).model(features).prediction.item()
    sample = {m: s.x[0][s.mask[0]].numpy() for m, s in features.items()}
    assert Predictor(run)(sample).value == pytest.approx(expected, abs=1e-5)
    broken = Predictor(run)({m: x for m, x in sample.items() if m != "audio"})
    assert broken.lost["audio"] == 1.0 and broken.value != pytest.approx(expected, abs=1e-6)


def test_a_package_predicts_alone(run: RunFolder, sample: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Moved to where neither the run nor its data is, it gives the same numbers, intervals and notes."""
    given = {"audio": sample["audio"]}
    both = Predictor(run, "all")
    expected = both(given)
    both.save(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "moved")
    data, aside = run.path.parent / "data.npz", run.path.parent / "aside.npz"
    data.rename(aside)
    try:
        assert Predictor(tmp_path / "moved", "all")(given) == expected
        assert Predictor(tmp_path / "moved").seeds == Predictor(run).seeds
    finally:
        aside.rename(data)
    size = lambda folder: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size(tmp_path / "moved" / "checkpoints") < 0.5 * size(run.checkpoints)  # no optimizer states
    assert problems(RunFolder(tmp_path / "moved")) == []
    with pytest.raises(UsageError, match="holds something already"):
        both.save(tmp_path / "moved")
    Predictor(run, 2).save(tmp_path / "one")
    assert Predictor(tmp_path / "one").seeds == (2,)


def test_it_loads_no_training_code_and_nothing_that_draws(classes: RunFolder) -> None:
    code = (
        "import sys, numpy, mmrobust\n"
        f"p = mmrobust.Predictor({str(classes.path)!r})\n"
        "p({'audio': numpy.ones((2, 4))})\n"
        "heavy = {'matplotlib', 'typer', 'jinja2', 'mmrobust.training.loop', 'mmrobust.training.step',\n"
        "         'mmrobust.training.seed', 'mmrobust.robustness', 'mmrobust.reports', 'mmrobust.studies', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
