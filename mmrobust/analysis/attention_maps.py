"""What the fusion of a trained model attends to: one sample's map, and the share of attention on erased steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmrobust.analysis.attention import Layout, erased_mass, layout, relative, shrink, to_lists
from mmrobust.analysis.trained import Trained, rows_of
from mmrobust.contracts import Batch, Outputs
from mmrobust.robustness.sweep import BLOCK, blocks_of
from mmrobust.training import Meter

__all__ = ["attention_map", "attention_on_erased"]

CELLS = 20  # of a modality, in a map of attention
_MISSING = {"missing": "this model's fusion does not attend to the steps of the modalities"}

Call = tuple[Tensor, Layout, Layout | None]  # weights `b h s t`, what the keys are, what the queries are


def attention_on_erased(trained: Trained, rates: Sequence[float], meter: Meter) -> dict[str, Any]:
    """The share of the fusion's attention that erased steps receive at each rate, beside their share of the steps."""
    blocks = list(blocks_of(trained.split))
    mass, share = [], []
    for rate in rates:
        masses, shares = [], []
        for block in trained.noisy(rate, blocks):
            for batch, out, weights in trained.forward(block):
                calls = _calls(batch, out, weights)
                if not calls:
                    return dict(_MISSING)
                masses.append(torch.stack([erased_mass(*call) for call in calls]).mean(0).cpu())
                shares.append(_erased_share(calls[0][1]))
            meter.update(meter.done + len(block))
        mass.append(torch.cat(masses).nanmean().item())
        share.append(torch.cat(shares).nanmean().item())
    return {"rates": list(rates), "mass": mass, "share": share}


def _erased_share(keys: Layout) -> Tensor:
    """The share of each sample's real steps that noise erased, `b`; NaN where no step is real."""
    real = keys.real.sum(1)
    return (keys.erased.sum(1) / real.clamp(min=1)).masked_fill(real == 0, math.nan).cpu()


def attention_map(trained: Trained, number: int, rate: float) -> dict[str, Any]:
    """The fusion's attention for one sample, clean and under noise, mean over heads and blocks.

    Args:
        trained: The model.
        number: The sample's place in the split.
        rate: Of the noise.
    """
    place, offset = divmod(number, BLOCK)
    blocks = list(blocks_of(trained.split))
    noisy = list(trained.noisy(rate, blocks[: place + 1]))[place]
    pictures: dict[str, Tensor] = {}
    shape: dict[str, Any] = {}
    for name, block in (("clean", blocks[place]), ("noisy", noisy)):
        row = slice(offset, offset + 1)
        erased = {m: e[row] for m, e in block.erased.items()}
        single = Batch(rows_of(block.features, row), None, block.index[row], erased)
        ((batch, out, weights),) = trained.forward(single)
        calls = _calls(batch, out, weights)
        if not calls:
            return dict(_MISSING)
        pictures[name], shape = _picture(calls)
    label = trained.split.label
    return {
        "id": str(trained.split.ids[number]),
        "label": None if label is None else label[number].tolist(),
        **shape,
        **{name: to_lists(picture) for name, picture in pictures.items()},
    }


def _picture(calls: list[Call]) -> tuple[Tensor, dict[str, Any]]:
    """The mean map of the largest attention calls of one sample, and what its rows and columns are."""
    largest = max(weights.shape[2:] for weights, *_ in calls)
    calls = [call for call in calls if call[0].shape[2:] == largest]
    whole = torch.stack([relative(*call) for call in calls]).mean(0)
    _, keys, queries = calls[0]
    columns = _real_steps(keys)
    rows = _real_steps(queries) if queries is not None else {"query": whole.shape[0]}
    small, tall, wide = shrink(whole.cpu(), rows, columns, CELLS)
    erased = keys.erased[0][keys.real[0]].double().cpu()
    marked, _, _ = shrink(erased.unsqueeze(0), {"": 1}, columns, CELLS)
    return small, {"queries": tall, "keys": wide, "erased": to_lists(marked[0], 3)}


def _calls(batch: Batch, out: Outputs, every: Sequence[Tensor]) -> list[Call]:
    """The attention calls whose keys are the steps of all modalities."""
    # A fusion whose query is one side and whose keys are the other has both of the same steps.
    sides = [out.specific, out.generic]
    calls: list[Call] = []
    for weights in every:
        keys = layout(weights.shape[3], sides, batch.erased)
        if keys is not None and weights.shape[0] == len(keys.real):
            calls.append((weights, keys, layout(weights.shape[2], sides[::-1], batch.erased)))
    return calls


def _real_steps(steps: Layout) -> dict[str, int]:
    """How many steps of each modality are real in the first sample."""
    counts, start = {}, 0
    for m, length in steps.lengths.items():
        counts[m] = int(steps.real[0, start : start + length].sum())
        start += length
    return counts
