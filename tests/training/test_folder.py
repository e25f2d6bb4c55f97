"""A run's folder holds what the design says, is found by name, and its small files are never left half written."""

import json
import math
import subprocess

import pytest

from mmrobust import recipe as recipes
from mmrobust.errors import UsageError
from mmrobust.training import RunFolder
from mmrobust.training.folder import to_json


@pytest.fixture
def run(tiny, tmp_path):
    return RunFolder.create(recipes.load(tiny, ["train.lr=0.5"]), tmp_path / "runs")


def test_a_new_run_holds_its_recipe_and_its_environment(run, tiny):
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints", "env.json", "log.txt", "metrics.jsonl", "recipe.yaml", "resolved.yaml",
    ]  # fmt: skip
    assert run.path.parent.name == "tiny"
    assert run.recipe.read_text() == tiny.read_text()
    again = recipes.load(run.resolved)
    assert again.train.lr == 0.5 and again.resolved == recipes.load(tiny, ["train.lr=0.5"]).resolved
    env = run.read_env()
    assert set(env) >= {
        "mmrobust",
        "python",
        "torch",
        "numpy",
        "platform",
        "cpus",
        "threads",
        "commit",
        "command",
        "date",
    }
    assert env["threads"] == 1


def test_the_commit_of_the_current_folder_is_kept(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = recipes.load(tiny)
    assert RunFolder.create(loaded).read_env()["commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for args in (["init", "-q"], ["add", "tiny.yaml"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *args], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert RunFolder.create(loaded).read_env()["commit"] == commit
    tiny.write_text(tiny.read_text() + "\n")
    assert RunFolder.create(loaded).read_env()["commit"] == f"{commit}-dirty"


def test_runs_are_found_by_folder_and_by_name(run, tiny, tmp_path):
    runs = tmp_path / "runs"
    later = RunFolder.create(recipes.load(tiny), runs)
    (runs / "tiny" / "29991231-000000-half").mkdir()  # no run
    assert RunFolder.open(run.path) == RunFolder.open(str(run.path)) == run
    assert RunFolder.open("tiny", runs) == RunFolder.open(runs / "tiny") == later
    with pytest.raises(UsageError, match=r"there is no run 'tinny'; did you mean 'tiny'?"):
        RunFolder.open("tinny", runs)
    with pytest.raises(UsageError, match="holds no runs"):
        RunFolder.open("tiny", tmp_path / "none")
    with pytest.raises(UsageError, match=r"is not the folder of a run: it holds no resolved\.yaml"):
        RunFolder.open(tmp_path)


def test_a_folder_that_holds_something_is_not_taken(run, tiny, tmp_path):
    with pytest.raises(UsageError, match="holds something already; name a new folder, or go on with --resume"):
        RunFolder.create(recipes.load(tiny), out=run.path)
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(recipes.load(tiny), out=tmp_path / "empty").resolved.exists()


def test_metrics_grow_by_whole_lines_and_a_torn_one_is_left_out(run):
    run.add_metrics({"seed": 1, "epoch": 1, "valid": {"corr": math.nan}})
    run.add_metrics({"seed": 1, "epoch": 2, "valid": {"corr": 0.5}})
    with run.metrics.open("a") as file:
        file.write('{"seed": 1, "epo')
    assert run.read_metrics() == [
        {"seed": 1, "epoch": 1, "valid": {"corr": None}},
        {"seed": 1, "epoch": 2, "valid": {"corr": 0.5}},
    ]


def test_json_is_taken_by_every_reader():
    told = to_json({1: (math.nan, math.inf, 0.1), "ä": [True, None]})
    assert json.loads(told, parse_constant=pytest.fail) == {"1": [None, None, 0.1], "ä": [True, None]}


def test_the_log_tells_times(run):
    run.say("epoch 1")
    assert run.log.read_text().endswith("  epoch 1\n") and run.log.read_text()[4] == "-"
