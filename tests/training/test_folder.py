"""A run's folder holds what the design says, is found by name, and its small files are never left half written."""

import errno
import json
import math
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from mmrobust import files
from mmrobust import recipe as recipes
from mmrobust.errors import DamagedError, ReadError, UsageError
from mmrobust.training import RunFolder
from mmrobust.training.folder import to_json


@pytest.fixture
def run(tiny, tmp_path):
    return RunFolder.create(recipes.load(tiny, ["train.lr=0.5"]), tmp_path / "runs")


def test_a_new_run_holds_its_recipe_and_its_environment(run, tiny):
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints", "env.json", "log.txt", "manifest.json", "metrics.jsonl", "recipe.yaml", "resolved.yaml",
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
    subprocess.run([*git, "pack-refs", "--all"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", "beside"], check=True)
    monkeypatch.chdir(tmp_path / "beside")
    assert RunFolder.create(loaded).read_env()["commit"] == commit


def test_reading_the_commit_executes_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "evil.sh").write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    (tmp_path / "evil.sh").chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", str(tmp_path / "evil.sh")], check=True)
    assert RunFolder.create(recipes.load(tiny)).read_env()["commit"] is None
    assert not (tmp_path / "executed").exists()
    (tmp_path / ".git" / "HEAD").unlink()
    os.mkfifo(tmp_path / ".git" / "HEAD")  # opening it would wait for ever
    assert RunFolder.create(recipes.load(tiny)).read_env()["commit"] is None


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


def test_of_several_that_create_one_folder_exactly_one_succeeds(tiny, tmp_path):
    recipe, out = recipes.load(tiny), tmp_path / "new"
    together = threading.Barrier(8)

    def create(number: int) -> str:
        together.wait()
        try:
            return RunFolder.create(recipe, out=out, others={"who.txt": str(number)}).path.name
        except UsageError as error:
            assert "holds something already" in str(error)
            return ""

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [*[""] * 7, "new"]
    assert RunFolder(out).read(out / "who.txt") is not None  # what is there is the winner's, and whole
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_what_killed_processes_left_beside_new_runs_is_removed(tiny, tmp_path):
    script = "import os, sys; from mmrobust import files\nwith files.staged(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "runs" / "tiny" / "half")], check=False)
    assert len(list((tmp_path / "runs" / "tiny").glob(".half*.part"))) == 1
    with files.staged(tmp_path / "runs" / "tiny" / "living") as living:  # of a process that is alive
        run = RunFolder.create(recipes.load(tiny), tmp_path / "runs")
        assert sorted(run.path.parent.iterdir()) == sorted([living, run.path])


def test_every_flipped_bit_of_a_small_file_is_reported(run):
    run.add_metrics({"seed": 1, "epoch": 1})
    run.add_metrics({"seed": 1, "epoch": 2})
    run.write(run.evaluation, '{"format": 1}')
    lines = run.read_metrics()
    readers = {
        run.resolved: run.load_recipe, run.env: run.read_env, run.evaluation: run.read_evaluation,
        run.metrics: run.read_metrics, run.path / "manifest.json": run.load_recipe,
    }  # fmt: skip
    random = Random(0)
    for path, read in readers.items():
        whole = path.read_bytes()
        for _ in range(40):
            harmed = bytearray(whole)
            harmed[random.randrange(len(harmed))] ^= 1 << random.randrange(8)
            path.write_bytes(harmed)
            try:
                read()
            except DamagedError as error:
                assert str(error).startswith(f"{path} is damaged") and "; " in str(error)
            else:  # the end of the last line, or a blank in the manifest
                assert path in (run.metrics, run.path / "manifest.json") and run.read_metrics() == lines
        path.write_bytes(whole)


def test_a_damaged_file_says_what_writes_it_again(run):
    run.write(run.evaluation, '{"format": 1}')
    run.evaluation.write_text('{"format": 2}')
    with pytest.raises(DamagedError) as error:
        run.read_evaluation()
    assert str(error.value) == (
        f"{run.evaluation} is damaged: its SHA-256 is not the one that was written; "
        f"mmrobust evaluate {run.path} writes it again"
    )


def test_a_file_is_the_old_or_the_new_one_when_its_writer_is_killed_at_any_moment(run):
    """Killed before each step in which manifest and file are replaced, it is never taken for damaged."""
    run.write(run.evaluation, '{"format": 1, "which": "old"}')
    script = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from mmrobust.training.folder import RunFolder
        replace, left = os.replace, int(sys.argv[2])
        def counted(*names):
            global left
            left -= 1
            if left < 0:
                os._exit(9)
            replace(*names)
        os.replace = counted
        run = RunFolder(Path(sys.argv[1]))
        run.write(run.evaluation, '{"format": 1, "which": "new"}')
    """)
    seen = []
    for steps in range(5):
        done = subprocess.run([sys.executable, "-c", script, str(run.path), str(steps)], check=False)
        seen.append((done.returncode, run.read_evaluation()["which"]))
        run.write(run.evaluation, '{"format": 1, "which": "old"}')
    assert seen == [(9, "old"), (9, "old"), (9, "new"), (0, "new"), (0, "new")]


def test_runs_of_older_versions_are_read(run):
    (run.path / "manifest.json").unlink()
    run.metrics.write_text('{"seed": 1, "epoch": 1}\n{"seed": 1, "ep')
    assert not run.is_sealed and run.read_metrics() == [{"seed": 1, "epoch": 1}]
    assert run.load_recipe().train.lr == 0.5


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_cannot_be_read_is_not_taken_for_missing(run, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.listdir", fail)
    monkeypatch.setattr("pathlib.Path.read_bytes", fail)
    for read in (lambda: run.seeds, run.read_metrics, run.read_env, run.load_recipe, lambda: RunFolder.open(run.path)):
        with pytest.raises(ReadError, match=f"is there but cannot be read.*{os.strerror(code)}"):
            read()


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
    text = to_json({1: (math.nan, math.inf, 0.1), "ä": [True, None]})
    assert json.loads(text, parse_constant=pytest.fail) == {"1": [None, None, 0.1], "ä": [True, None]}


def test_the_log_tells_times(run):
    run.say("epoch 1")
    assert run.log.read_text().endswith("  epoch 1\n") and run.log.read_text()[4] == "-"
