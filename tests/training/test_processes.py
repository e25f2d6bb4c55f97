"""Seeds in processes end with the bits that they have one after the other, whatever happens to the processes."""

import json
import os
import shlex
import signal
import subprocess
import time
import traceback
from pathlib import Path

import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.errors import MmrobustError, UsageError
from mmrobust.training import RunFolder, Seed, train
from mmrobust.training.processes import only_here, share


def bits(folder: RunFolder) -> dict[str, object]:
    """All that was computed: weights, moments and metrics of every checkpoint, and the metrics of the run."""
    timeless = lambda line: {key: value for key, value in line.items() if key != "seconds"}
    content: dict[str, object] = {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in folder.path.glob("checkpoints/*/*/*.safetensors")
    }
    for path in folder.path.glob("checkpoints/*/*/state.json"):
        state = json.loads(path.read_text())
        content[str(path.relative_to(folder.path))] = {
            **state,
            "metrics": [timeless(line) for line in state["metrics"]],
        }
    lines = [timeless(line) for line in folder.read_metrics()]
    assert len(content) > 4 and lines
    return {**content, "metrics": sorted(lines, key=lambda line: (line["seed"], line["epoch"]))}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ((5, 2, None, None), (2, 1)),
        ((3, 8, None, None), (3, 2)),
        ((1, 8, None, None), (1, 8)),
        ((8, 4, 1, None), (1, 4)),
        ((8, 1, None, None), (1, 1)),  # OMP_NUM_THREADS=1, or a variant of a study with one core for itself
        ((8, 1, 2, None), (2, 1)),  # the user knows better
        ((2, 8, 4, None), (2, 4)),
        ((3, 8, None, 2), (3, 2)),  # resumed: as many threads as before
        ((3, 8, None, 8), (1, 8)),
        ((3, 8, 2, 2), (2, 2)),
        ((3, 8, 2, 8), (2, 4)),  # ... unless other jobs are asked for, which need fewer
        ((3, 2, None, 64), (2, 1)),
        ((3, 2, None, "many"), (2, 1)),
    ],
)
def test_threads_are_divided_and_never_more_than_there_were(asked, given):
    assert share(*asked) == given


@pytest.fixture(scope="module")
def seeds() -> list[str]:
    return ["train.seeds=[1, 4, 9]", "train.epochs=2"]


def test_the_bits_are_those_of_seeds_one_after_the_other(tiny, tmp_path, seeds, capsys):
    whole = train(tiny, seeds, out=tmp_path / "whole", quiet=True)
    run = train(tiny, seeds, out=tmp_path / "run", jobs=2)
    assert bits(run.folder) == bits(whole.folder)
    assert {seed: (state.best, state.epoch, state.step, state.finished) for seed, state in run.states.items()} == {
        seed: (state.best, state.epoch, state.step, state.finished) for seed, state in whole.states.items()
    }
    assert list(run.states) == [1, 4, 9]
    assert run.folder.read_env()["threads"] == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 seeds to train, 2 at a time, each in a process of 1 thread\n" in captured.err
    assert (
        "seed 4: epoch 1/2  loss " in captured.err
        and " left\n" in captured.err
        and "seed 9: best epoch " in captured.err
    )
    assert [path.name for path in run.folder.path.rglob(".*")] == [".lock"]


def test_all_seeds_in_processes_know_the_plugin_files_of_this_one(tiny, tmp_path):
    from mmrobust import registry

    registry.load_file(Path(__file__).parent / "memory.py")
    loaded = recipes.load(tiny, ["learning.views.type_1.objectives=[task, recall]", "train.seeds=2", "train.epochs=1"])
    assert only_here(loaded) == []
    run = train(loaded, out=tmp_path / "run", jobs=2, quiet=True)
    assert sorted(run.states) == [1, 2] and "2 at a time" in run.folder.log.read_text()


def test_what_only_this_session_knows_is_trained_in_it(tiny, tmp_path):
    import mmrobust
    from mmrobust.components.head import MeanPoolLinear

    @mmrobust.register("head", "only_in_this_session")
    class Mine(MeanPoolLinear):
        """A head."""

    run = train(tiny, ["model.head=only_in_this_session", "train.seeds=2", "train.epochs=1"], out=tmp_path / "run",
                jobs=2, quiet=True)  # fmt: skip
    assert sorted(run.states) == [1, 2]
    captured = (
        "one after the other: a process of its own would not know head 'only_in_this_session', registered in this"
    )
    assert captured in run.folder.log.read_text()


BROKEN = '''
import os
import signal

import mmrobust
from mmrobust.contracts import Objective

@mmrobust.register("objective", "breaks")
class Breaks(Objective):
    """Fails in the second epoch, in one way or another."""

    def forward(self, out, views, progress):
        way = os.environ["BREAK"]
        if float(progress.fraction) > 0.4 and os.path.exists(os.environ["ARMED"]):
            if way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if way == "raise":
                print("this is printed and no message")
                raise ZeroDivisionError("a part of somebody's is broken")
            if way == "nan":
                return out.prediction.sum() * float("nan")
        return out.prediction.square().mean()
'''


@pytest.fixture
def broken(tmp_path, monkeypatch):
    from mmrobust import registry

    def make(way: str):
        file = tmp_path / "breaks.py"
        file.write_text(BROKEN)
        registry.load_file(file)
        monkeypatch.setenv("BREAK", way)
        monkeypatch.setenv("ARMED", str(tmp_path / "armed"))
        (tmp_path / "armed").touch()
        return ["learning.views.type_1.objectives=[task, breaks]", "train.seeds=2", "train.epochs=3"]

    return make


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("kill", r"the process that trained seed [12] was ended by signal 9\n"),
        ("raise", r"the process that trained seed [12] ended with exit code 1\n(    .*\n)*"
                  r"    ZeroDivisionError: a part of somebody's is broken\n"),
    ],
)  # fmt: skip
def test_a_process_that_dies_is_told_and_the_run_goes_on_later(tiny, tmp_path, broken, way, said):
    changes = broken(way)
    out = tmp_path / "a run"
    with pytest.raises(MmrobustError, match=said + r"  every finished epoch is saved; go on with: ") as error:
        train(tiny, changes, out=out, jobs=2, quiet=True)
    assert error.value.exit_code == 1
    last = str(error.value).splitlines()[-1].partition("go on with: ")[2]
    assert shlex.split(last) == ["mmrobust", "train", "--resume", str(out)]
    if way == "raise":
        assert "a process said: this is printed and no message" in (out / "log.txt").read_text()
    (tmp_path / "armed").unlink()
    run = train(resume=out, jobs=1, quiet=True)
    assert {seed: state.epoch for seed, state in run.states.items()} == {1: 3, 2: 3}
    whole = train(tiny, changes, out=tmp_path / "whole", quiet=True)
    assert bits(run.folder) == bits(whole.folder)


def test_seeds_that_diverge_are_told_as_they_are_alone(tiny, tmp_path, broken):
    from mmrobust.errors import DivergedError

    changes = broken("nan")
    with pytest.raises(DivergedError) as error:
        train(tiny, changes, out=tmp_path / "run", jobs=2, quiet=True)
    lines = str(error.value).splitlines()
    assert [line[:32] for line in lines if line.startswith("training")] == [
        "training diverged: seed 1, epoch", "training diverged: seed 2, epoch",
    ]  # fmt: skip
    assert "not finite: the loss type_1.breaks" in lines[0]
    where = "".join(traceback.format_exception(error.value))
    assert "in a child process:" in where and "in _look" in where  # --debug shows where it arose


def test_ctrl_c_and_term_stop_all_and_a_killed_parent_takes_its_children_with_it(tiny, tmp_path, command, environ):
    out = tmp_path / "a run"
    line = [*command, "train", str(tiny), "train.epochs=300", "--seeds", "2", "--jobs", "2", "--out", str(out)]
    process = subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(out, 4, process)
    process.send_signal(signal.SIGINT)
    output, said = process.communicate(timeout=400)
    assert process.returncode == 130, said
    assert output == "" and "Traceback" not in said
    assert "stopping after this step; press ctrl-C again to stop at once" in said
    last = said.splitlines()[-1]
    assert last.startswith("interrupted in seed 1, 2; every finished epoch is saved; go on with: mmrobust train")
    done = len(RunFolder(out).read_metrics())

    again = [*command, "train", "--resume", str(out), "--jobs", "2"]
    process = subprocess.Popen(again, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(out, done + 2, process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    for pid in [*map(int, workers), process.pid, process.pid]:  # a scheduler sends it to all, and more than once
        os.kill(pid, signal.SIGTERM)
    output, said = process.communicate(timeout=400)
    assert process.returncode == 130, said
    assert "stopping after this step" in said and "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted in seed 1, 2; every finished epoch is saved; go on with: ")
    done = len(RunFolder(out).read_metrics())

    process = subprocess.Popen(again, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(out, done + 2, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # the lock is free when the last of them has ended
        try:
            with RunFolder(out).locked():
                break
        except MmrobustError:
            time.sleep(0.1)
    else:
        pytest.fail("a worker outlived its parent")
    assert all(line["epoch"] < 300 for line in RunFolder(out).read_metrics())


def wait_for(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until both seeds have finished `count` epochs together."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if (out / "metrics.jsonl").exists():
            lines = RunFolder(out).read_metrics()
            if len(lines) >= count and {line["seed"] for line in lines} == {1, 2}:
                return
        if process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()}")
        time.sleep(0.05)
    process.kill()
    pytest.fail("no progress in three minutes")


def test_a_seed_resumed_alone_has_the_threads_that_it_had(tiny, tmp_path, monkeypatch):
    torch.set_num_threads(2)
    before = []
    run = train(tiny, ["train.seeds=1", "train.epochs=1"], out=tmp_path / "run", quiet=True)
    env = json.loads(run.folder.env.read_text())
    assert env["threads"] == 2
    run.folder.write(run.folder.env, json.dumps({**env, "threads": 1}))
    for epoch in run.folder.seed(1).iterdir():
        for file in epoch.iterdir():
            file.unlink()
        epoch.rmdir()
    draw = Seed.draw
    monkeypatch.setattr(Seed, "draw", lambda *a: before.append(torch.get_num_threads()) or draw(*a))
    train(resume=run.folder, quiet=True)
    assert set(before) == {1} and torch.get_num_threads() == 2
    assert "not quite what the run began on" not in run.folder.log.read_text()


def test_jobs_have_to_be_some(tiny):
    with pytest.raises(UsageError, match="--jobs 0: at least one seed has to be trained at a time"):
        train(tiny, jobs=0)


def test_term_while_the_workers_start_is_answered_at_once(tiny, tmp_path, command, environ):
    """They import torch, which takes seconds; nothing is begun that could be saved."""
    line = [*command, "train", str(tiny), "--seeds", "2", "--jobs", "2", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 120
    while len(pids := workers.read_text().split()) < 2:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    sent = time.monotonic()
    said = ""
    while "go on with: mmrobust train --resume" not in said:
        said += process.stderr.readline()
    assert time.monotonic() - sent < 5, said
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # before the run's own process ends
    process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted in seed 1, 2; every finished epoch is saved; " in said


def test_debug_shows_where_a_loss_diverged_in_a_process(tiny, tmp_path, command, environ):
    line = [*command, "train", str(tiny), "train.lr=1e30", "train.warmup=0", "--seeds", "2", "--jobs", "2", "--debug"]
    done = subprocess.run([*line, "--out", str(tmp_path / "run")], env=environ, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert "in a child process:" in done.stderr and "seed.py" in done.stderr and "in _look" in done.stderr
    assert "mmrobust.errors.DivergedError: training diverged: seed 1, epoch 1, step 2" in done.stderr
