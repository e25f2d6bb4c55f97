"""Where the fusion looks, and whether it looks away from erased steps (NORM-TR, section 4.7.7 and figure 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrobust.contracts import Streams

__all__ = ["WEIGHTS_AT_ONCE", "Layout", "erased_mass", "layout", "relative", "shrink", "to_lists"]

WEIGHTS_AT_ONCE = 2**23  # attention weights of one head


@dataclass(frozen=True)
class Layout:
    """Which steps the positions of an attention are.

    Attributes:
        lengths: Steps of each modality, in order.
        real: `b t`, True where a step is real.
        erased: `b t`, True where noise destroyed it.
    """

    lengths: Mapping[str, int]
    real: Tensor
    erased: Tensor


def layout(count: int, sides: Sequence[Streams], erased: Mapping[str, Tensor]) -> Layout | None:
    """The steps that `count` positions are, where they are those of all modalities, one after the other.

    Args:
        count: Positions, of keys or of queries.
        sides: Generic and specific streams; those of either will do, or both, one behind the other.
        erased: `{m: b t_m}`.

    Returns:
        None where the positions are something else: a class token, a bottleneck, one modality.
    """
    kept = [side for side in sides if side and all(m in erased and s.x.shape[1] == erased[m].shape[1]
                                                   for m, s in side.items())]  # fmt: skip
    for chosen in [*([side] for side in kept), kept]:
        parts = [(m, stream) for side in chosen for m, stream in side.items()]
        if not parts or sum(stream.x.shape[1] for _, stream in parts) != count:
            continue
        if len(chosen) == 1 and len(parts) < len(erased):
            continue
        lengths: dict[str, int] = {}
        for m, stream in parts:
            lengths[m if m not in lengths else f"{m}, again"] = stream.x.shape[1]
        real = torch.cat([stream.mask for _, stream in parts], 1)
        return Layout(lengths, real, torch.cat([erased[m].to(real.device) for m, _ in parts], 1) & real)
    return None


def erased_mass(weights: Tensor, keys: Layout, queries: Layout | None = None) -> Tensor:
    """The share of each sample's attention that erased steps receive, `b`; NaN where no step is real.

    Uniform attention gives them what they are of all real steps.

    Args:
        weights: `b h s t`, rows sum to one.
        keys: What the keys are.
        queries: What the queries are; None where every query counts.
    """
    mass = torch.einsum("bhst,bt->bhs", weights.double(), keys.erased.double()).mean(1)
    if queries is None:
        mean = mass.mean(1)
    else:
        real = queries.real.double()
        mean = (mass * real).sum(1) / real.sum(1)
    return mean.masked_fill(~keys.real.any(1), torch.nan)


def relative(weights: Tensor, keys: Layout, queries: Layout | None) -> Tensor:
    """Attention of one sample as a multiple of uniform attention, `s t` over its real steps, mean over the heads.

    Args:
        weights: `1 h s t`.
        keys: What the keys are.
        queries: What the queries are; None where every query counts.
    """
    mean = weights[0].double().mean(0)[:, keys.real[0]]
    mean = mean if queries is None else mean[queries.real[0]]
    return mean * keys.real[0].sum()


def shrink(
    picture: Tensor, rows: Mapping[str, int], columns: Mapping[str, int], most: int
) -> tuple[Tensor, dict[str, int], dict[str, int]]:
    """A picture of at most `most` cells a modality in each direction, by means over neighbouring steps.

    Args:
        picture: `s t`.
        rows: Steps of each modality along it.
        columns: The same across.
        most: Cells of a modality.

    Returns:
        The picture, and how many cells each modality has.
    """
    small, tall = _bins(picture, rows, most)
    small, wide = _bins(small.T, columns, most)
    return small.T, tall, wide


def _bins(picture: Tensor, lengths: Mapping[str, int], most: int) -> tuple[Tensor, dict[str, int]]:
    parts, cells, start = [], {}, 0
    for m, length in lengths.items():
        own = picture[start : start + length]
        start += length
        if length:
            pieces = own.tensor_split(min(length, most))
            parts += [piece.mean(0) for piece in pieces]
            cells[m] = len(pieces)
    return (torch.stack(parts), cells) if parts else (picture, cells)


def to_lists(values: Tensor, digits: int = 4) -> Any:
    """A tensor as lists of short numbers."""
    return torch.round(values.double(), decimals=digits).tolist()
