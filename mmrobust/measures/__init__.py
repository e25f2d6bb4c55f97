"""Scores of predictions, and the limit that a posterior sets."""

from mmrobust.measures.scores import (
    MEASURES,
    SIMS_EDGES,
    Measure,
    check,
    describe,
    limit,
    measure,
    measure_many,
    measures_of,
    primary,
)

__all__ = [
    "MEASURES",
    "SIMS_EDGES",
    "Measure",
    "check",
    "describe",
    "limit",
    "measure",
    "measure_many",
    "measures_of",
    "primary",
]
