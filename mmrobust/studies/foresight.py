"""What difference a study can show with its seeds, said before anything is trained."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrobust.measures import describe
from mmrobust.robustness.power import detectable_difference

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["foresee", "foresight_text"]


def foresee(recipe: Recipe, runs: str | os.PathLike[str]) -> dict[str, Any]:
    """The smallest differences that the study's tests show four times in five.

    Args:
        recipe: With its variants.
        runs: The folder of all runs, where an earlier study of the same name says how far its seeds lay apart.

    Returns:
        `seeds` of the variant that has the fewest; `comparisons` that are corrected together; `alone` and `corrected`,
        the differences that a single comparison and the first step of Holm's correction show, in standard deviations
        of a seed's score, null for a single seed; `spread`, {study, variant, measure, std}, or null.
    """
    seeds = min(len(recipe.variant(name).train.seeds) for name in recipe.variants)
    comparisons = (len(recipe.variants) - 1) * (1 + len(recipe.evaluate.noise))
    return {
        "seeds": seeds,
        "comparisons": comparisons,
        "alone": detectable_difference(seeds),
        "corrected": detectable_difference(seeds, 0.05 / max(1, comparisons)),
        "spread": _spread(recipe, Path(runs) / recipe.name),
    }


def _spread(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """How far the seeds of the reference lay apart in the last study of that name on the same kind of data."""
    reference = recipe.variants[0]
    for path in sorted(folder.glob(f"*/variants/{reference}/evaluation.json"), reverse=True):
        try:
            evaluation = json.loads(path.read_text(encoding="utf-8"))
            measure, data = evaluation["primary"], evaluation["data"]["use"]
            std = evaluation["clean"][measure]["std"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if data == recipe.data.use and isinstance(std, float) and math.isfinite(std) and std > 0:
            return {"study": path.parts[-4], "variant": reference, "measure": measure, "std": std}
    return None


def foresight_text(foresight: dict[str, Any]) -> str:
    """The same in plain words."""
    seeds, comparisons = foresight["seeds"], foresight["comparisons"]
    if foresight["alone"] is None:
        return "One seed of a variant: no difference can be shown, whatever its size. Five seeds are a good start."
    alone, together = foresight["alone"], foresight["corrected"]
    text = (
        f"With {seeds} seeds of each variant, a true difference of {alone:.1f} standard deviations between seeds is "
        "shown four times in five"
    )
    if comparisons > 1:
        text += f"; of {together:.1f} where {comparisons} comparisons are corrected together"
    if (spread := foresight["spread"]) is not None:
        measure = describe(spread["measure"])
        size = lambda factor: f"{measure.show(factor * spread['std'])}{' points' if measure.percent else ''}"
        ends = size(alone) if comparisons < 2 else f"{size(alone)} and {size(together)}"
        text += (
            f". In the study {spread['study']} the seeds of {spread['variant']} had a standard deviation of "
            f"{size(1)} in {measure.label}, which makes {ends}"
        )
    return f"{text}. The luck of the test samples comes on top; smaller differences will look like luck."
