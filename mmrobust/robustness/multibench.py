"""MultiBench's two measures of robustness, from curves of a score over the noise (Liang et al., 2021).

"MultiBench: Multiscale Benchmarks for Multimodal Representation Learning", NeurIPS 2021, Datasets and Benchmarks; its
`eval_scripts/robustness.py` fixes what the text leaves open, and these functions do as it does. A curve begins at the
clean data; MultiBench's levels are 0, 0.1, ... to 0.9 or 1. Which of two models is called more robust depends on the
levels, so compare over the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmrobust.robustness.sweep import auilc

__all__ = ["effective_robustness", "normalized", "relative_robustness"]


def relative_robustness(rates: Sequence[float], values: Tensor) -> Tensor:
    """How high the curve of a model is: the area under it, by trapezoids.

    That is NORM-TR's AUILC over MultiBench's levels; a model that is better on clean data has more of it, robust or
    not. MultiBench reports it after `normalized`.

    Args:
        rates: `r`, rising, the first of them 0.
        values: A score at each rate, `... r`, the mean over the draws.

    Returns:
        `...`, float64.

    Raises:
        ValueError: The curve does not begin at rate 0, or has not one value for each rate.
    """
    _check(rates, values)
    return auilc(rates, values)


def effective_robustness(rates: Sequence[float], values: Tensor, baseline: Tensor) -> Tensor:
    """How far a model stays above a baseline as noise grows, whatever their clean scores are.

    The baseline's curve (late fusion's, in MultiBench) is lifted to the model's clean score; what counts is the sum of
    the differences over all levels: sum of f(r) - (LF(r) + f(0) - LF(0)). Above 0 a model loses less than the baseline.
    It is a sum, so more levels make it larger. MultiBench reports it after `normalized`.

    Args:
        rates: `r`, rising, the first of them 0.
        values: The model's score at each rate, `... r`, the mean over the draws.
        baseline: The baseline's, `... r`.

    Returns:
        `...`, float64; for a score of which less is better, above 0 is worse.

    Raises:
        ValueError: A curve does not begin at rate 0, or has not one value for each rate.
    """
    _check(rates, values)
    _check(rates, baseline)
    lost = (values - values[..., :1]).double() - (baseline - baseline[..., :1]).double()
    return lost.sum(-1)


def normalized(robustness: Tensor, *, higher: bool = True) -> Tensor:
    """Robustness of several models, the least at 0 and the most at 1: what MultiBench's tables and figures show.

    It says who is where among these models and nothing else: another model in the comparison changes every number.

    Args:
        robustness: Relative or effective, one for each model, `k`.
        higher: Whether more of the score is better; it is turned around otherwise.

    Returns:
        `k`, float64; NaN where all are the same. A model whose robustness is NaN keeps it and counts for no other.
    """
    x = robustness.double() if higher else -robustness.double()
    known = x[~x.isnan()]
    return (x - known.min()) / (known.max() - known.min()) if len(known) else x


def _check(rates: Sequence[float], values: Tensor) -> None:
    if not rates or rates[0] != 0:
        raise ValueError(f"a curve from the clean data on, rate 0, is needed; the rates are {list(rates)}")
    if values.shape[-1] != len(rates):
        raise ValueError(f"there are {len(rates)} rates and {values.shape[-1]} values")
