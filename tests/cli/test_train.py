"""`mmrobust run` and `mmrobust train`: the main job from one end to the other, and what they refuse."""

import json

import pytest

from mmrobust.cli import main
from mmrobust.errors import DataError
from mmrobust.training import RunFolder

TINY = """\
recipe: 1
name: tiny
extends: normtr
data: {use: synthetic_affect, train: 40, valid: 16, test: 16, length: 6, text: 8, audio: 4, vision: 5}
model: {width: 16, fusion: {use: cross_attention, depth: 1, heads: 2}}
train: {epochs: 2, lr: 1.0e-3}
evaluate: {rates: [0, 1], draws: 2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def test_the_main_job_leaves_a_report(folder, capsys):
    assert main(["run", "tiny.yaml", "train.epochs=1", "--seeds", "2"]) == 0
    captured = capsys.readouterr()
    run = RunFolder.open("tiny")
    assert run.path.parent == RunFolder.open(folder / "runs" / "tiny").path.parent.relative_to(folder)
    assert captured.out.startswith(f"trained: {run.path}\n  seed 1: best epoch 1/1, valid mae ")
    assert captured.out.endswith(f"report: {run.path}/report.html\n")
    assert "AUILC" in captured.out
    assert "seed 2: epoch 1/1  loss " in captured.err and "\r" not in captured.err
    assert {p.name for p in run.path.iterdir()} >= {"evaluation.json", "report.html", "figures", "predictions"}
    assert json.loads(run.evaluation.read_text())["seeds"] == [1, 2]

    # Killed in the evaluation: going on does what is left, and nothing else.
    before = run.evaluation.read_bytes()
    run.evaluation.unlink()
    assert main(["run", "--resume", "tiny", "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and run.evaluation.read_bytes() == before


def test_train_tells_machines_what_it_made(folder, capsys):
    assert main(["train", "tiny.yaml", "--out", "here", "--json", "--quiet", "--seeds", "3,"]) == 0
    captured = capsys.readouterr()
    made = json.loads(captured.out)
    assert captured.err == ""
    assert made["run"] == "here" and made["name"] == "tiny" and made["diverged"] == {}
    assert made["seeds"]["3"]["epochs"] == 2 and made["seeds"]["3"]["best"]["measure"] == "mae"
    assert not (folder / "runs").exists()


def test_several_seeds_are_trained_at_a_time(folder, capsys):
    assert main(["run", "tiny.yaml", "--out", "both", "--seeds", "2", "--jobs", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("trained: both\n  seed 1: best epoch ") and "\n  seed 2: best epoch " in captured.out
    assert "2 seeds to train, 2 at a time, each in a process of 1 thread\n" in captured.err
    assert main(["train", "tiny.yaml", "--out", "turn", "--seeds", "2", "--jobs", "1", "train.epochs=1"]) == 0
    assert "at a time" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("run", 2, "error: name a recipe, or a run to go on with: --resume RUN"),
        ("run tiny.yaml --resume tiny", 2, "error: a resumed run has its recipe, seeds and folder already"),
        ("train --resume tinny", 2, "error: there is no run 'tinny'; runs holds no runs"),
        ("train tiny.yaml --seeds 0", 2, "error: --seeds 0: give how many, e.g. 5 for the seeds 1 to 5"),
        ("train tiny.yaml --jobs 0", 2, "error: --jobs 0: at least one seed has to be trained at a time"),
        ("run tiny.yaml --seeds 2 --jobs two", 2, "error: Invalid value for '--jobs' / '-j': "),
        ("train tiny.yaml train.together=maybe", 2, "train.together has to be 'auto' or true or false, not 'maybe'"),
        ("train tiny.yaml --seeds a,b", 2, "error: --seeds a,b: give how many"),
        ("train tiny.yaml train.epoch=3", 2, "command line: error: "),
        ("train tiny.yaml train.device=cuda:99", 2, "command line: error: there is no device 'cuda:99' here"),
        ("train tiny.yaml train.select=accuracy", 2, "the measure 'accuracy' cannot be taken on a regression task"),
        ("train tiny.yaml train.lr=1e30 train.warmup=0 -q", 4, "error: training diverged: seed 1, epoch 1, step 2: "),
        ("train tiny.yaml --runs tiny.yaml", 1, "error: cannot write tiny.yaml/tiny/"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(line, code, said, capsys):
    assert main(line.split()) == code
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err and "Traceback" not in captured.err


def test_nothing_is_left_by_a_recipe_that_cannot_be_used(folder):
    assert main(["train", "tiny.yaml", "model.fusion.heads=3"]) == 2
    assert main(["train", "tiny.yaml", "train.select=nothing"]) == 2
    assert [p.name for p in folder.iterdir()] == ["tiny.yaml"]


def test_what_fails_after_the_training_says_that_it_is_saved(folder, capsys, monkeypatch):
    def fail(*_, **__):
        raise DataError("the disk with the data is gone")

    with monkeypatch.context() as broken:
        broken.setattr("mmrobust.pipeline.evaluate", fail)
        assert main(["run", "tiny.yaml", "--out", "here", "-q"]) == 3
    assert capsys.readouterr().err == (
        "error: the disk with the data is gone\n"
        "  the training is finished and saved in here; go on with: mmrobust run --resume here\n"
    )
    assert main(["run", "--resume", "here", "-q"]) == 0
