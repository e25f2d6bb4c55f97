"""How a trained model stands noise: sweeps, areas under curves, limits, tests between two runs."""

from mmrobust.robustness.evaluation import Evaluation, evaluate
from mmrobust.robustness.sweep import Grid, auilc, auilc_mean, sweep, sweep_limit

__all__ = ["Evaluation", "Grid", "auilc", "auilc_mean", "evaluate", "sweep", "sweep_limit"]
