"""The gap to the limit: by how much the best possible prediction would be better than the model's."""

from __future__ import annotations

from typing import Any

from mmrobust.measures import describe
from mmrobust.training import RunFolder

__all__ = ["gap_to_limit"]


def gap_to_limit(folder: RunFolder) -> dict[str, Any]:
    """The gap at each rate of each noise, in the unit of each measure, from `evaluation.json`.

    Returns:
        `{noise: {rates, gap: {measure: [r]}}}`, or `{"missing": why}`.
    """
    evaluation = folder.read_evaluation()
    if evaluation is None:
        return {"missing": f"the run is not evaluated; mmrobust evaluate {folder.path} measures it"}
    gaps = {}
    for noise, sweep in evaluation["noises"].items():
        if not sweep["limit"]:
            continue
        at = {}
        for name in evaluation["measures"]:
            sign = 1 if describe(name).better == "lower" else -1
            pairs = zip(sweep["at"][name]["mean"], sweep["limit"]["at"][name]["mean"], strict=True)
            at[name] = [None if a is None or b is None else sign * (a - b) for a, b in pairs]
        gaps[noise] = {"rates": evaluation["rates"], "gap": at}
    return gaps or {"missing": "the best possible prediction on this data is not known"}
