"""Promise: evaluation.json says what the seeds' best checkpoints did, and the same run gives the same bytes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.errors import CheckpointError, DamagedError, DataError, RecipeError, UsageError, WriteError
from mmrobust.measures import measure
from mmrobust.model.assemble import build
from mmrobust.robustness import evaluate, store
from mmrobust.robustness.evaluation import summary
from mmrobust.training import RunFolder, load_trained, open_data
from mmrobust.training.seed import predict_split


def test_numbers_are_those_of_the_predictions(run: RunFolder) -> None:
    told = json.loads(run.evaluation.read_text())
    task = load_trained(run).context.task
    for k, seed in enumerate(told["seeds"]):
        saved = store.load(run, told, seed)
        scores = measure(task, saved.predictions["clean"], saved.label)
        for name, value in scores.items():
            assert told["clean"][name]["each"][k] == pytest.approx(value)
        for i, row in enumerate(told["noises"]["frame_drop"]["at"]["mae"]["each"][k]):
            assert len(row) == (1 if told["rates"][i] == 0 else 2)
            for j, value in enumerate(row):
                again = measure(task, saved.predictions["frame_drop"][i, j], saved.label, ["mae"])
                assert value == pytest.approx(again["mae"])
    at = told["noises"]["frame_drop"]["at"]["mae"]
    curves = [[sum(row) / len(row) for row in seed] for seed in at["each"]]
    assert at["mean"] == pytest.approx([sum(x) / 2 for x in zip(*curves, strict=True)])
    assert at["std"] == pytest.approx([abs(x - y) / math.sqrt(2) for x, y in zip(*curves, strict=True)])
    areas = [0.25 * c[0] + 0.5 * c[1] + 0.25 * c[2] for c in curves]
    assert told["noises"]["frame_drop"]["auilc"]["mae"]["each"] == pytest.approx(areas)
    assert told["noises"]["frame_drop"]["auilc_mean"]["mae"]["each"] == pytest.approx(areas)
    means = [sum(curve) / 3 for curve in curves]
    assert told["noises"]["frame_drop"]["rate_mean"]["mae"]["each"] == pytest.approx(means)
    assert told["noises"]["frame_drop"]["limit"]["at"]["mae"]["mean"][0] == pytest.approx(told["limit"]["mae"])


def test_predictions_are_those_of_the_chosen_checkpoint(run: RunFolder) -> None:
    built = load_trained(run, 2, dataset=open_data(run)[0])
    split = built.dataset.splits["test"]
    saved = store.load(run, json.loads(run.evaluation.read_text()), 2)
    assert torch.allclose(saved.predictions["clean"], predict_split(built.model, split, 64), atol=1e-6)
    assert saved.ids == tuple(split.ids) and saved.rates == (0, 0.5, 1)


def test_a_run_that_cannot_be_written_is_told_before_the_sweep(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path, tmp_path / "own")
    (tmp_path / "own" / "log.txt").unlink()
    (tmp_path / "own" / "log.txt").mkdir()
    swept: list[None] = []
    monkeypatch.setattr("mmrobust.robustness.evaluation.sweep", lambda *_, **__: swept.append(None))
    with pytest.raises(WriteError, match=r"cannot write .*log\.txt"):
        evaluate(tmp_path / "own", quiet=True)
    assert not swept


def test_noises_of_one_kind_are_named_by_what_they_differ_in_and_noises_inside_noises_are_told(run: RunFolder) -> None:
    inner = "{use: gaussian, snr: {text: -5, audio: 5}}"
    noises = [
        "{use: gaussian, snr: 20}",
        "{use: gaussian, snr: [-10, 0], scope: one_modality}",
        "{use: sequence, noises: [" + inner + ", {use: babble, modalities: [audio]}], factors: [1, 0.5]}",
        "{use: sequence, noises: [freeze]}",
        "lnln",
    ]
    told = evaluate(run, [f"evaluate.noise=[{', '.join(noises)}]"], quiet=True)["noises"]
    names = list(told)
    assert names[:2] == ["gaussian (snr=20, scope=every_modality)", "gaussian (snr=[-10, 0], scope=one_modality)"]
    assert names[2].startswith("sequence (noises=gaussian (snr={text: -5, audio: 5}, scope=every_modality")
    assert names[3].startswith("sequence (noises=freeze (") and names[4] == "lnln"
    assert told[names[2]]["options"]["noises"][0]["snr"] == {"text": -5.0, "audio": 5.0}
    assert told[names[2]]["options"]["noises"][1]["use"] == "babble"
    # Of LNLN's masks there is one draw: nothing is random. Gaussian noise leaves no posterior to compute.
    assert all(row[1][0] == row[1][1] for row in told["lnln"]["at"]["mae"]["each"])
    assert told["lnln"]["limit"] is not None and told[names[0]]["limit"] is None
    alone = evaluate(run, [f"evaluate.noise=[{noises[2]}]"], quiet=True)["noises"]
    assert list(alone) == ["sequence"]


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (
            "{use: gaussian, snr: 500}",
            "bad.yaml:4:36: error: noise 'gaussian', option 'snr': 500 is no signal-to-noise ratio; give decibels "
            "between -100 and 100, or a rising pair of them",
        ),
        (
            "{use: frame_drop, modalities: [adio]}",
            "bad.yaml:4:38: error: noise 'frame_drop', option 'modalities': there is no modality 'adio'; did you mean "
            "'audio'?",
        ),
        (
            "{use: sequence, noises: [{use: babble, snr: {adio: 5}}]}",
            "bad.yaml:4:36: error: noise 'sequence', option 'noises': 'babble', option 'snr': there is no modality "
            "'adio'; did you mean 'audio'?",
        ),
        (
            "{use: one_of, noises: [{use: freeze, patern: steps}]}",
            "bad.yaml:4:57: error: noise 'freeze' has no option 'patern'; did you mean 'pattern'?",
        ),
        ("{use: shuffle, window: wide}", "bad.yaml:4:43: error: option 'window' of noise 'shuffle' has to be a whole"),
    ],
)
def test_an_impossible_noise_is_told_before_hours_of_training(
    tmp_path: Path, tiny: list[str], noise: str, message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"recipe: 1\nname: bad\nextends: normtr\nevaluate: {{noise: [{noise}]}}\n")
    with pytest.raises(RecipeError) as error:
        build(recipes.load(path, tiny))
    assert message in str(error.value)


def test_same_run_same_bytes(run: RunFolder) -> None:
    files = [run.evaluation, *sorted(run.predictions.iterdir())]
    before = [path.read_bytes() for path in files]
    shown = str(evaluate(run, quiet=True))
    assert [path.read_bytes() for path in files] == before
    assert "mean ± standard deviation over 2 seeds" in shown and "AUILC frame_drop" in shown


def test_settings_of_the_evaluation_can_be_changed_and_nothing_else(run: RunFolder) -> None:
    noises = "evaluate.noise=[{use: window_erase, scope: one_modality}, window_erase]"
    told = evaluate(run.path, ["evaluate.split=valid", noises, "evaluate.metrics=[corr]"], quiet=True)
    assert told["split"] == "valid" and told["samples"] == 16 and told["measures"] == ["corr"]
    assert len(told["noises"]) == 2  # of one kind, told apart by their options
    with pytest.raises(UsageError, match="changes what was trained"):
        evaluate(run, ["model.width=8"])


def test_one_seed_has_no_spread(run: RunFolder) -> None:
    shutil.rmtree(run.seed(2))
    told = evaluate(run, quiet=True)
    assert told["seeds"] == [1] and told["clean"]["mae"]["std"] is None
    assert told["noises"]["frame_drop"]["at"]["mae"]["std"] == [None, None, None]
    assert "one seed, so no spread is known" in str(told)


def test_bad_input_is_told(run: RunFolder) -> None:
    with pytest.raises(DataError, match="no labelled split 'tset'; did you mean 'test'"):
        evaluate(run, ["evaluate.split=tset"], quiet=True)
    with pytest.raises(RecipeError, match="did you mean 'acc7'"):
        evaluate(run, ["evaluate.metrics=[acc_7]"], quiet=True)
    with pytest.raises(RecipeError, match=r"lists .frame_drop. twice"):
        evaluate(run, ["evaluate.noise=[frame_drop, frame_drop]"], quiet=True)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(CheckpointError, match="go on with: mmrobust train --resume"):
        evaluate(run, quiet=True)


def test_a_damaged_file_of_predictions_is_told(run: RunFolder) -> None:
    told = json.loads(run.evaluation.read_text())
    path = run.path / told["predictions"]["1"]["file"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # a bit of a number: still a file that can be read
    with pytest.raises(DamagedError, match=r"seed-1-.*\.safetensors is damaged: .*; mmrobust evaluate .* writes it"):
        store.load(run, told, 1)
    path.unlink()
    with pytest.raises(DamagedError, match=r"seed-1-.*\.safetensors is missing; mmrobust evaluate"):
        store.load(run, told, 1)
    assert store.load(run, evaluate(run, quiet=True), 1).label.shape == (40,)


def test_predictions_without_a_seal_are_read(run: RunFolder) -> None:
    """Runs of older versions name them by their seed alone."""
    told = json.loads(run.evaluation.read_text())
    file = told.pop("predictions")["1"]["file"]
    (run.path / file).rename(run.predictions / "seed-1.safetensors")
    assert store.load(run, told, 1).rates == (0, 0.5, 1)
    (run.predictions / "seed-1.safetensors").write_bytes(b"\x08" + b"\0" * 20)
    with pytest.raises(DamagedError, match=r"seed-1\.safetensors is damaged \("):
        store.load(run, told, 1)


def test_scores_and_predictions_are_exchanged_in_one_step(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written when the evaluation is cut off, the scores that are there are those of the predictions."""
    before = run.evaluation.read_bytes()

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, ["evaluate.draws=3"], quiet=True)
    monkeypatch.undo()
    assert run.evaluation.read_bytes() == before
    assert store.load(run, json.loads(before), 2).draws == 2
    told = evaluate(run, ["evaluate.draws=4"], quiet=True)  # and this one leaves nothing of the other
    assert sorted(f"predictions/{p.name}" for p in run.predictions.iterdir()) == sorted(
        entry["file"] for entry in told["predictions"].values()
    )


def test_summary() -> None:
    assert summary([1.0, 2.0, 4.0]) == {
        "mean": pytest.approx(7 / 3), "std": pytest.approx(1.5275252), "n": 3, "each": [1, 2, 4],
    }  # fmt: skip
    assert summary([2.0])["std"] is None
    assert math.isnan(summary([1.0, math.nan])["mean"])


def test_a_run_of_an_older_version_is_evaluated_with_one_note(run: RunFolder) -> None:
    """It has no manifest, no record of its data, no calibration, and predictions that are named by their seed alone."""
    told = json.loads(run.evaluation.read_text())
    for seed, entry in told.pop("predictions").items():
        (run.path / entry["file"]).rename(run.predictions / f"seed-{seed}.safetensors")
    told.pop("confidence")
    run.evaluation.write_text(json.dumps(told))
    lines = [json.dumps(line) for line in run.read_metrics()]
    run.metrics.write_text("\n".join(lines) + "\n")
    for path in (run.path / "manifest.json", run.data, run.calibration):
        path.unlink()
    assert not run.is_sealed and len(run.read_metrics()) == 4
    assert store.load(run, run.read_evaluation() or {}, 2).draws == 2
    again = evaluate(run, quiet=True)
    (note,) = [text for text in again["data"]["notes"] if text not in told["data"]["notes"]]
    assert "written by an older version: it has no manifest" in note
    assert again["clean"] == told["clean"] and again["noises"] == told["noises"]
    assert not list(run.predictions.glob("seed-?.safetensors")) and len(run.read_metrics()) == 4
