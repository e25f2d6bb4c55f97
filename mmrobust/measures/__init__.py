"""Scores of predictions, the constant prediction that they are held against, and the limit that a posterior sets."""

from mmrobust.measures.calibration import Reliability, reliability
from mmrobust.measures.catalogue import MEASURES, Measure, describe
from mmrobust.measures.classification import confusion, f1_of_classes
from mmrobust.measures.constant import constant_prediction, constant_scores
from mmrobust.measures.limit import limit
from mmrobust.measures.regression import SIMS_EDGES
from mmrobust.measures.scores import measure, measure_many
from mmrobust.measures.sets import check, measures_of, primary, quoted, targets_of

__all__ = [
    "MEASURES",
    "SIMS_EDGES",
    "Measure",
    "Reliability",
    "check",
    "confusion",
    "constant_prediction",
    "constant_scores",
    "describe",
    "f1_of_classes",
    "limit",
    "measure",
    "measure_many",
    "measures_of",
    "primary",
    "quoted",
    "reliability",
    "targets_of",
]
