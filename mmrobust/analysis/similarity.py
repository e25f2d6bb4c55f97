"""How alike generic and specific features are (NORM-TR, section 4.7.6 and figure 7).

The paper shows densities of cosine similarities "between the NRGFs" and "NRGFs and MFs" and leaves open which are
paired. Read here: each stream is averaged over its real steps; NRGF-NRGF are the generic features of two modalities of
the same sample, every pair of modalities once; NRGF-MF are the generic and the specific features of the same modality
of the same sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bandwidth", "density", "similarities", "similarity_of", "summarise"]

GRID = torch.linspace(-1, 1, 401, dtype=torch.float64)
_NARROWEST = 0.01  # two steps of the grid
_AT_ONCE = 4096


def similarity_of(generic: Mapping[str, Tensor], specific: Mapping[str, Tensor]) -> dict[str, Any]:
    """Densities of the cosine similarities of pooled features, as `analysis.json` holds them.

    Args:
        generic: `{m: n d}`.
        specific: `{m: n d}`.
    """
    if not generic:
        return {"missing": "this model has no generic features"}
    values = similarities(generic, specific)
    if not values:
        return {"missing": "this model has no two streams of generic and specific features of one width"}
    return {name: summarise(one) for name, one in values.items()}


def similarities(generic: Mapping[str, Tensor], specific: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cosine similarities of pooled features.

    Args:
        generic: `{m: n d}`.
        specific: `{m: n d}`.

    Returns:
        `generic_generic` and `generic_specific`, one number for each pair; without those for which there are no pairs
        of one width.
    """
    values = {}
    across = [_cosine(generic[a], generic[b]) for a, b in combinations(generic, 2) if _alike(generic[a], generic[b])]
    within = [_cosine(generic[m], specific[m]) for m in generic if m in specific and _alike(generic[m], specific[m])]
    for name, parts in (("generic_generic", across), ("generic_specific", within)):
        if parts:
            values[name] = torch.cat(parts)
    return values


def summarise(values: Tensor) -> dict[str, Any]:
    """What a figure of similarities needs: their density on a grid, its bandwidth, mean and number."""
    width = bandwidth(values)
    return {
        "pairs": len(values),
        "mean": values.double().mean().item(),
        "std": values.double().std().item() if len(values) > 1 else None,
        "bandwidth": width,
        "grid": [round(x, 6) for x in GRID[::2].tolist()],
        "density": [round(x, 6) for x in density(values, GRID[::2], width).tolist()],
    }


def bandwidth(values: Tensor) -> float:
    """Silverman's rule (1986, equation 3.31): 0.9 min(std, IQR / 1.34) n^(-1/5); never under 0.01."""
    x = values.double()
    if len(x) < 2:
        return _NARROWEST
    # By sorting: torch.quantile takes 16 million values at most.
    order = x.sort().values
    low, high = (order[round(share * (len(x) - 1))].item() for share in (0.25, 0.75))
    spread = min((one for one in (x.std().item(), (high - low) / 1.34) if one > 0), default=0.0)
    return max(0.9 * spread * len(x) ** -0.2, _NARROWEST)


def density(values: Tensor, grid: Tensor, width: float) -> Tensor:
    """A Gaussian kernel density estimate on [-1, 1], with mass beyond the ends reflected, so that it integrates to 1.

    Args:
        values: `n`, in [-1, 1].
        grid: `g`.
        width: Standard deviation of the kernel.

    Returns:
        `g`, float64.
    """
    x, at = values.double(), grid.double()
    total = torch.zeros_like(at)
    for some in x.split(_AT_ONCE):
        for image in (some, 2 - some, -2 - some):
            total += torch.exp(((at.unsqueeze(1) - image) / width).square() / -2).sum(1)
    return total / (len(x) * width * math.sqrt(2 * math.pi))


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.double(), b.double(), dim=-1).clamp(-1, 1)
