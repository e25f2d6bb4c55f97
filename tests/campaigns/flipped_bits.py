"""Flips one bit of one file of a finished run, 400 times: each flip has to be reported, or to change nothing.

    python tests/campaigns/flipped_bits.py [FLIPS] [SEED]

A flip is reported where a look at the run names the file. It is harmless where nothing that the run says has changed:
recipe, environment, data, metrics, scores, predictions, and what its models give for new samples.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmrobust
from mmrobust.contracts import Task
from mmrobust.data import save_arrays
from mmrobust.errors import MmrobustError
from mmrobust.inference.ensemble import load_ensemble
from mmrobust.robustness import store
from mmrobust.training import RunFolder
from mmrobust.training.data_record import DataRecord
from mmrobust.training.verify import problems

SMALL = [
    "data.use=arrays", "data.path=data.npz", "model.width=8", "model.fusion.depth=1", "model.fusion.heads=2",
    "train.epochs=2", "train.seeds=[1, 2]", "evaluate.rates=[0, 0.5, 1]", "evaluate.draws=1",
]  # fmt: skip


def trained(folder: Path) -> RunFolder:
    """A run with everything in it."""
    rng = np.random.default_rng(0)
    table = lambda n: {
        "audio": rng.normal(size=(n, 4, 3)).astype(np.float32),
        "video": rng.normal(size=(n, 3, 2)).astype(np.float32),
        "label": rng.integers(0, 3, n),
    }
    sizes = {"train": 16, "valid": 8, "test": 8}
    save_arrays("data.npz", {s: table(n) for s, n in sizes.items()}, task=Task("classification", 3, "classification"))
    run = mmrobust.run("normtr", SMALL, out=folder, jobs=1, quiet=True).run.folder
    mmrobust.analyze(run, quiet=True)
    return run


def said(run: RunFolder) -> dict[str, Any]:
    """All that the run says."""
    evaluation = run.read_evaluation() or {}
    predictions = {
        seed: {name: x.tolist() for name, x in store.load(run, evaluation, seed).predictions.items()}
        for seed in evaluation["seeds"]
    }
    record = DataRecord.read(run)
    ensemble = load_ensemble(run, "all")
    sums = [sum(p.double().sum().item() for p in model.parameters()) for model in ensemble.models]
    return {
        "recipe": run.load_recipe().resolved,
        "source": run.read(run.recipe),
        "environment": run.read_env(),
        "data": record.values if record else None,
        "metrics": run.read_metrics(),
        "evaluation": evaluation,
        "analysis": run.read_json(run.analysis),
        "predictions": predictions,
        "models": (ensemble.seeds, sums),
    }


def main(flips: int = 400, seed: int = 0) -> int:
    """Prints what was counted; 1 where a flip was passed over in silence."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    counted: dict[str, Counter[str]] = {"reported": Counter(), "harmless": Counter(), "SILENT": Counter()}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        run = trained(Path("run"))
        before = said(run)
        paths = sorted(p for p in run.path.rglob("*") if p.is_file() and p.stat().st_size)
        figures = [path for path in paths if path.suffix == ".svg"]
        paths = [path for path in paths if path not in figures[1:]]  # one stands for all: they are many
        for _ in range(flips):
            path = rng.choice(paths)
            whole = path.read_bytes()
            harmed = bytearray(whole)
            harmed[rng.randrange(len(harmed))] ^= 1 << rng.randrange(8)
            path.write_bytes(harmed)
            name = "/".join(path.relative_to(run.path).parts[:1] + path.relative_to(run.path).parts[3:])
            if any(path.name in text for text in problems(run)):
                counted["reported"][name] += 1
            else:
                try:
                    same = said(run) == before
                except MmrobustError:
                    same = False
                counted["harmless" if same else "SILENT"][name] += 1
            path.write_bytes(whole)
    for kind, files in counted.items():
        print(f"{kind}: {files.total()}  " + ", ".join(f"{name} {count}" for name, count in files.most_common()))
    return bool(counted["SILENT"])


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
