"""Training: the loop, one step, checkpoints, the run folder, progress; seeds in turn, in processes or stacked.

A name is imported when it is used: whoever predicts with a trained run loads no training code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrobust.supervisor import Interrupt
    from mmrobust.training.checkpoint import Checkpoints, State
    from mmrobust.training.device import choose_device, resident
    from mmrobust.training.folder import RunFolder
    from mmrobust.training.job import Job, TrainingJob, takes
    from mmrobust.training.loop import fit
    from mmrobust.training.progress import Meter
    from mmrobust.training.run import Run, train, train_seeds, unstackable
    from mmrobust.training.seed import Seed, predict_split
    from mmrobust.training.trained import best_seed, chosen_seeds, finished_seeds, load_trained, open_data

_PUBLIC = {
    "mmrobust.supervisor": ("Interrupt",),
    "mmrobust.training.checkpoint": ("Checkpoints", "State"),
    "mmrobust.training.device": ("choose_device", "resident"),
    "mmrobust.training.folder": ("RunFolder",),
    "mmrobust.training.job": ("Job", "TrainingJob", "takes"),
    "mmrobust.training.loop": ("fit",),
    "mmrobust.training.progress": ("Meter",),
    "mmrobust.training.run": ("Run", "train", "train_seeds", "unstackable"),
    "mmrobust.training.seed": ("Seed", "predict_split"),
    "mmrobust.training.trained": ("best_seed", "chosen_seeds", "finished_seeds", "load_trained", "open_data"),
}

__all__ = [
    "Checkpoints",
    "Interrupt",
    "Job",
    "Meter",
    "Run",
    "RunFolder",
    "Seed",
    "State",
    "TrainingJob",
    "best_seed",
    "choose_device",
    "chosen_seeds",
    "finished_seeds",
    "fit",
    "load_trained",
    "open_data",
    "predict_split",
    "resident",
    "takes",
    "train",
    "train_seeds",
    "unstackable",
]


def __getattr__(name: str) -> Any:
    for module, names in _PUBLIC.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'mmrobust.training' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
