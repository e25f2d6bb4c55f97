"""Several seeds at once over one after the other: as processes of one thread each, and stacked into one model.

Rates are of the epochs themselves, from `metrics.jsonl`: what starting and the first epochs cost is left out. The ways
take turns; on a CPU a seed alone on one thread is the third of them, whose rate times the cores is all that processes
could give.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.alternate import fewer
from mmrobust.training import train

SIZES = {
    "mosi": ["data.text=768", "data.audio=5", "data.vision=20", "data.train=160"],
    "rml": ["data.text=512", "data.audio=512", "data.length=8", "data.train=320", "model.modalities=[text, audio]"],
}
CUDA = torch.cuda.is_available()
#: Ten steps each at MOSI sizes; until some forty are done a new process meets numbers of rows that oneDNN has no kernel
#: for.
EPOCHS, LEFT_OUT = 9, 4


def rate(folder: Path, at_once: bool) -> float:
    """Seed-steps a second after each seed's first epochs."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    later = [line for line in lines if line["epoch"] > LEFT_OUT]
    each = {seed: sum(x["seconds"] for x in later if x["seed"] == seed) for seed in {x["seed"] for x in later}}
    steps = max(line["step"] for line in lines) * (EPOCHS - LEFT_OUT) / EPOCHS * len(each)
    return steps / (max(each.values()) if at_once else sum(each.values()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", ["processes", "stacked"])
def bench_seeds(benchmark, size: str, way: str, tmp_path: Path) -> None:
    benchmark.group = "seeds"
    if way == "stacked" and not CUDA and not os.environ.get("BENCH_FULL"):
        pytest.skip("meant for GPUs: nothing is gained on a CPU (BENCH_FULL=1 measures it)")
    if way == "processes" and CUDA:
        pytest.skip("seeds share a GPU as one stacked model")
    count = 8 if CUDA else 2
    settings = [*SIZES[size], "data.valid=16", "data.test=16", "model.width=256", f"train.epochs={EPOCHS}"]

    def run(name: str, at_once: bool) -> float:
        # Any number of jobs keeps seeds from being stacked.
        jobs = None if at_once and way == "stacked" else count if at_once else 1
        more = [f"train.together={str(at_once and way == 'stacked').lower()}"]
        train("normtr", [*settings, *more], out=tmp_path / name, seeds=count, jobs=jobs, quiet=True)
        return rate(tmp_path / name, at_once)

    def on_one_thread(name: str) -> float:
        # In a process of its own: `torch.set_num_threads` here would change how MKL works afterwards.
        command = [sys.executable, "-m", "mmrobust", "train", "normtr", *settings, "--out", str(tmp_path / name)]
        subprocess.run([*command, "--quiet"], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        return rate(tmp_path / name, False)

    alone, together, single = [], [], []

    def others() -> None:
        alone.append(run(f"alone {len(alone)}", False))
        if not CUDA:
            single.append(on_one_thread(f"single {len(single)}"))

    benchmark.pedantic(lambda: together.append(run(f"together {len(together)}", True)), setup=others, rounds=fewer(3))
    benchmark.extra_info.update(
        size=size, way=way, seeds=count, device="cuda" if CUDA else "cpu", threads=torch.get_num_threads(),
        seed_steps_per_second={"alone": statistics.median(alone), "together": statistics.median(together)}
        | ({"one_thread": statistics.median(single)} if single else {}),
        ratio=statistics.median(b / a for a, b in zip(alone, together, strict=True)),
        of_cores=statistics.median(b / count / a for a, b in zip(single, together, strict=True)) if single else None,
    )  # fmt: skip
