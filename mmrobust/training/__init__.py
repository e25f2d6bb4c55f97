"""Training: the loop, one step, checkpoints, the run folder, progress; seeds in turn, in processes or stacked."""

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
