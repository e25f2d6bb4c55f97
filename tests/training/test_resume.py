"""A run that was killed, interrupted, damaged or out of disk goes on and ends with the bits it would have had."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmrobust.errors import MmrobustError, UsageError
from mmrobust.training import Checkpoints, RunFolder, train

HERE = Path(__file__).parent


def bits(folder: Path) -> dict[str, object]:
    """Everything that must not depend on where the run was stopped."""

    def timeless(line):
        return {k: v for k, v in line.items() if k != "seconds"}

    content: dict[str, object] = {"metrics": [timeless(line) for line in RunFolder(folder).read_metrics()]}
    for path in sorted(folder.glob("checkpoints/*/*/*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            content[name] = path.read_bytes()
        elif path.name == "state.json":
            state = json.loads(path.read_text())
            content[name] = {**state, "metrics": [timeless(line) for line in state["metrics"]]}
    assert len(content) > 4
    return content


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob(".*") if p.name != ".lock"]


@pytest.mark.parametrize(
    ("mode", "overrides"),
    [
        ("files", ["train.epochs=2", "train.seeds=[1, 4]", "train.keep=1"]),
        ("times", ["train.epochs=40", "train.precision=fp16", "train.patience=39"]),
    ],
)
def test_killed_at_any_moment(tiny, tmp_path, environ, mode, overrides):
    whole = train(tiny, overrides, out=tmp_path / "whole", quiet=True)
    out = tmp_path / "killed-run"
    command = [sys.executable, str(HERE / "killed_children.py"), str(tiny), str(out), mode, "7", *overrides]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    codes = [int(line) for line in done.stdout.split()]
    assert codes[-1] == 0, done.stderr
    assert set(codes[:-1]) == {-signal.SIGKILL}
    assert len(codes) > (15 if mode == "files" else 4)
    assert bits(out) == bits(whole.folder.path)
    assert "passed over" not in (out / "log.txt").read_text()  # no kill has damaged anything
    assert leftovers(out) == []


@pytest.fixture
def finished(tiny, tmp_path):
    return train(tiny, ["train.epochs=4", "train.lr=1e-2"], out=tmp_path / "run", quiet=True).folder


def flip(path: Path, at: int = -9) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: flip(p / "model.safetensors"), "model.safetensors is damaged (its SHA-256"),
        (lambda p: flip(p / "optimizer.safetensors", 100), "optimizer.safetensors is damaged"),
        (lambda p: os.truncate(p / "learning.safetensors", 99), "learning.safetensors has 99 bytes, not the"),
        (lambda p: (p / "state.json").unlink(), "state.json is missing"),
        (lambda p: flip(p / "manifest.json", 0), "manifest.json is damaged"),
        (lambda p: (p / "manifest.json").write_text("[1]"), "manifest.json is damaged"),
        (lambda p: [f.unlink() for f in p.iterdir()], "manifest.json is missing"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(finished, harm, said):
    before = bits(finished.path)
    harm(finished.seed(1) / "epoch-0004")
    run = train(resume=finished.path, quiet=True)
    log = finished.log.read_text()
    assert "passed over: " in log and f"epoch-0004: {said}" in log
    assert "goes on after epoch 3" in log
    assert run.states[1].epoch == 4
    assert bits(finished.path) == before


def test_a_damaged_best_is_made_again(tiny, tmp_path):
    best_first = ["train.epochs=3", "train.lr=1e-30"]  # nothing moves, so the first epoch stays the best
    folder = train(tiny, best_first, out=tmp_path / "run", quiet=True).folder
    before = bits(folder.path)
    flip(folder.seed(1) / "epoch-0001" / "model.safetensors")
    with pytest.raises(MmrobustError, match=r"epoch-0001: model.safetensors is damaged"):
        Checkpoints(folder.seed(1)).best()
    train(resume=folder, quiet=True)
    assert bits(folder.path) == before


def test_a_finished_run_is_left_as_it_is(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.seed(1).rglob("*")}
    train(resume=finished.path, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in finished.seed(1).rglob("*")} == before


def test_torn_and_lost_metrics_are_mended(finished):
    before = bits(finished.path)
    lines = finished.metrics.read_text().splitlines(keepends=True)
    finished.metrics.write_text(lines[0] + lines[2][:40])
    assert [line["epoch"] for line in finished.read_metrics()] == [1]
    train(resume=finished.path, quiet=True)
    assert bits(finished.path) == before


def test_other_threads_are_told(finished, capsys):
    env = json.loads(finished.env.read_text())
    finished.write(finished.env, json.dumps({**env, "threads": 64}))
    train(resume=finished.path)
    captured = "not quite what the run began on, so its last bits may differ: threads 64 then, 1 now"
    assert captured in capsys.readouterr().err and captured in finished.log.read_text()


def test_another_library_for_products_is_told(finished):
    env = json.loads(finished.env.read_text())
    assert env["gemm"] in ("onednn", "torch")
    finished.write(finished.env, json.dumps({**env, "gemm": "another"}))
    train(resume=finished.path, quiet=True)
    assert f"its last bits may differ: gemm another then, {env['gemm']} now" in finished.log.read_text()


def test_a_resumed_run_takes_nothing_else(tiny, finished):
    alternatives: list[dict[str, Any]] = [{"recipe": tiny}, {"overrides": ["train.lr=1"]}, {"seeds": 2}, {"out": "x"}]
    for more in alternatives:
        with pytest.raises(UsageError, match="give --resume RUN alone"):
            train(resume=finished.path, **more)
    with pytest.raises(UsageError, match="name a recipe, or a run to go on with"):
        train()


def test_two_processes_never_train_in_one_run(finished):
    with finished.locked(), pytest.raises(MmrobustError, match=r"another process is training in .*run; wait for it"):
        train(resume=finished.path, quiet=True)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    for _ in range(2400):
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        if process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()}")
        time.sleep(0.05)
    process.kill()
    pytest.fail("no progress in two minutes")


def test_ctrl_c_says_how_to_go_on_and_that_works(tiny, tmp_path, command, environ):
    out = tmp_path / "a run"
    line = [*command, "train", str(tiny), "train.epochs=40", "--out", str(out)]
    process = subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_lines(out / "metrics.jsonl", 3, process)
    process.send_signal(signal.SIGINT)
    output, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert output == ""
    assert "stopping after this step; press ctrl-C again to stop at once" in said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("interrupted ") and "; every finished epoch is saved; go on with: mmrobust train" in last
    assert shlex.split(last.partition("go on with: ")[2]) == ["mmrobust", "train", "--resume", str(out)]
    newest = Checkpoints(out / "checkpoints" / "seed-1").newest()
    assert newest is not None and newest.state.epoch == len(RunFolder(out).read_metrics()) >= 3
    assert leftovers(out) == []
    run = train(resume=out, quiet=True)
    assert run.states[1].epoch == 40
    assert f"goes on after epoch {newest.state.epoch}" in run.folder.log.read_text()


FULL = """
import subprocess, sys
from mmrobust.cli import main
recipe, disk = sys.argv[1:]
code = main(["train", "-q", recipe, "train.epochs=4", "train.lr=1e-2", "--out", f"{disk}/run"])
print("code", code, flush=True)
subprocess.run(["mount", "-o", "remount,size=20m", "tmpfs", disk], check=True)
main(["train", "-q", "--resume", f"{disk}/run"])
"""


def test_a_full_disk_stops_with_a_clear_word_and_loses_nothing(tiny, tmp_path, environ):
    whole = train(tiny, ["train.epochs=4", "train.lr=1e-2"], out=tmp_path / "whole", quiet=True).folder
    size = sum(p.stat().st_size // 4096 * 4 + 4 for p in (whole.seed(1) / "epoch-0004").iterdir())  # KiB, in pages
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    inside = f"mount -t tmpfs -o size={int(size * 2.6) + 32}k tmpfs {disk}"
    if not shutil.which("unshare") or subprocess.run([*mount, inside], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    script = (
        f'{inside} && "$0" -c "$1" {tiny} {disk} && find {disk} -name "*.part" && cp -r {disk}/run {tmp_path}/saved'
    )
    done = subprocess.run([*mount, script, sys.executable, FULL], env=environ, capture_output=True, text=True)
    assert done.stdout.startswith("code 1\ntrained: "), done.stdout + done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: cannot write {disk}/run/") and "the disk is full (" in first
    assert second == f"  every finished epoch is saved; go on with: mmrobust train --resume {disk}/run"
    assert ".part" not in done.stdout
    log = (tmp_path / "saved" / "log.txt").read_text()
    assert "goes on after epoch" in log and "passed over" not in log
    assert bits(tmp_path / "saved") == bits(whole.path)
