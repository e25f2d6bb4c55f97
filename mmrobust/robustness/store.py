"""Predictions kept for later: `predictions/seed-<k>.safetensors`.

Tensors: `label` (`n` or `n k`), `clean` (`n c`) and `noise/<name>` (`r d n c`, with the rates above 0 only), float32.
The metadata hold one key, `mmrobust`: JSON with the ids of the samples, the rates, the draws and the noise seed, so
that a later comparison knows that two runs met the same samples and the same noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mmrobust import files
from mmrobust.errors import MmrobustError
from mmrobust.robustness.sweep import CLEAN

FORMAT = 1


@dataclass(frozen=True)
class Saved:
    """What one seed predicted.

    Attributes:
        ids: Of the samples.
        label: Their truth, `n` or `n k`.
        rates: As evaluated, rate 0 included where it was.
        draws: At each rate above 0.
        noise_seed: Source of the noise.
        options: Use and options of each noise, by its name.
        predictions: `clean`: `n c`; each noise: `r d n c`.
    """

    ids: tuple[str, ...]
    label: Tensor
    rates: tuple[float, ...]
    draws: int
    noise_seed: int
    options: Mapping[str, Any]
    predictions: Mapping[str, Tensor]


def save(path: Path, saved: Saved) -> None:
    """Writes the predictions of one seed.

    Raises:
        WriteError: The file cannot be written.
    """
    above = [i for i, rate in enumerate(saved.rates) if rate > 0]
    tensors = {"label": saved.label.cpu().contiguous(), CLEAN: saved.predictions[CLEAN].contiguous()}
    for name, value in saved.predictions.items():
        if name != CLEAN:
            tensors[f"noise/{name}"] = value[above].contiguous()
    about = {
        "format": FORMAT,
        "ids": saved.ids,
        "rates": saved.rates,
        "draws": saved.draws,
        "noise_seed": saved.noise_seed,
        "noises": saved.options,
    }
    # One key: the order of several is not fixed, and the same predictions shall give the same bytes.
    text = json.dumps(about, ensure_ascii=False, default=str)
    files.write_atomic(path, safetensors.torch.save(tensors, {"mmrobust": text}))


def read(path: Path) -> Saved:
    """Reads the predictions of one seed.

    Raises:
        MmrobustError: The file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["mmrobust"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if about["format"] != FORMAT:
            raise MmrobustError(f"{path} has format {about['format']}; this version of mmrobust reads format {FORMAT}")
        rates, clean = tuple(about["rates"]), tensors[CLEAN]
        predictions = {CLEAN: clean}
        for name in about["noises"]:
            predictions[name] = _with_zero(rates, about["draws"], clean, tensors[f"noise/{name}"])
        return Saved(
            tuple(about["ids"]),
            tensors["label"],
            rates,
            about["draws"],
            about["noise_seed"],
            about["noises"],
            predictions,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, safetensors.SafetensorError) as error:
        raise MmrobustError(f"{path} is missing or damaged ({error}); run `mmrobust evaluate` on the run") from error


def _with_zero(rates: Sequence[float], draws: int, clean: Tensor, above: Tensor) -> Tensor:
    rows = iter(above)
    return torch.stack([next(rows) if rate > 0 else clean.expand(draws, *clean.shape) for rate in rates])
