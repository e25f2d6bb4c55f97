"""Kills a run with SIGKILL at random moments, 200 times, and counts whether it ends with the bits of one left alone.

    python tests/campaigns/kills.py [KILLS] [SEED]

Each run is trained and evaluated by children that are killed after a random time, each of which goes on where the one
before was killed. After every kill the whole run is looked at: nothing of it may be damaged.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mmrobust
from mmrobust import files
from mmrobust.training import RunFolder
from mmrobust.training.verify import problems

RECIPE = """\
recipe: 1
name: tiny
extends: normtr
data: {use: synthetic_affect, train: 40, valid: 16, test: 16, length: 6, text: 8, audio: 4, vision: 5}
model: {width: 16, fusion: {use: cross_attention, depth: 1, heads: 2, dropout: 0.1}}
train: {epochs: 4, batch_size: 16, lr: 1.0e-3, seeds: [1, 4]}
evaluate: {rates: [0, 0.5, 1], draws: 2}
"""


def work(recipe: Path, out: Path) -> None:
    """Training and evaluation, begun or gone on with."""
    if (out / "resolved.yaml").exists():
        mmrobust.train(resume=out, jobs=1, quiet=True)
    else:
        mmrobust.train(recipe, out=out, jobs=1, quiet=True)
    mmrobust.evaluate(out, quiet=True)


def child(recipe: Path, out: Path, seconds: float | None) -> int:
    """A process that does the job and is killed after so many seconds; how it ended."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(recipe, out)
            status = 0
        finally:
            os._exit(status)
    if seconds is not None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(code)
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def bits(folder: Path) -> dict[str, Any]:
    """All that must not depend on where the run was killed."""
    run = RunFolder(folder)
    timeless = [{k: v for k, v in line.items() if k != "seconds"} for line in run.read_metrics()]
    content: dict[str, Any] = {"metrics": sorted(timeless, key=lambda line: (line["seed"], line["epoch"]))}
    for path in (*folder.glob("checkpoints/*/*/*.safetensors"), *folder.glob("predictions/*"), run.evaluation):
        content[str(path.relative_to(folder))] = path.read_bytes()
    return content


def main(kills: int = 200, seed: int = 0) -> int:
    """Prints what was counted; 1 where anything went wrong."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    wrong: list[str] = []
    done = runs = same = 0
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        recipe = Path("tiny.yaml")
        recipe.write_text(RECIPE)
        work(recipe, Path("whole"))
        begin = time.monotonic()
        work(recipe, Path("timed"))
        most = time.monotonic() - begin
        expected = bits(Path("whole"))
        while done < kills:
            out = Path(f"run-{runs}")
            runs += 1
            code = -signal.SIGKILL
            while code == -signal.SIGKILL:
                code = child(recipe, out, rng.uniform(0, most) if done < kills else None)
                done += code == -signal.SIGKILL
                if out.exists():
                    wrong += [f"kill {done}: {text}" for text in problems(RunFolder(out))]
            if code:
                wrong.append(f"{out}: a child ended with {code}")
            elif bits(out) != expected:
                wrong.append(f"{out}: other bits")
            else:
                same += 1
            left = list(out.rglob("*.part"))
            files.sweep(Path())
            wrong += [f"{out}: left over: {path}" for path in (*left, *Path().glob(".*.part"))]
            shutil.rmtree(out, ignore_errors=True)
    print(f"{done} kills in {runs} runs: {same} of them ended with the same bits; {len(wrong)} complaints", *wrong[:20],
          sep="\n")  # fmt: skip
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
