"""Predictions kept for later: `predictions/seed-<k>-<beginning of its SHA-256>.safetensors`.

`evaluation.json` names the file of each seed with its SHA-256. Other predictions have other names, so that replacing
that one file exchanges scores and predictions in one step: whenever a process is killed, they belong together.

Tensors: `label` (`n` or `n k`), `clean` (`n c`) and `noise/<name>` (`r d n c`, with the rates above 0 only), float32.
The metadata hold one key, `mmrobust`: JSON with the ids of the samples, the rates, the draws and the noise seed, so
that a later comparison knows that two runs met the same samples and the same noise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mmrobust import files
from mmrobust.errors import DamagedError
from mmrobust.robustness.sweep import CLEAN
from mmrobust.training import RunFolder
from mmrobust.training.manifest import digest

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


def save(run: RunFolder, seed: int, saved: Saved) -> dict[str, str]:
    """Writes the predictions of one seed.

    Returns:
        What `evaluation.json` says of them: the file's name in the run, and its SHA-256.

    Raises:
        WriteError: The file cannot be written.
    """
    data = pack(saved)
    sha256 = digest(data)
    name = f"{run.predictions.name}/seed-{seed}-{sha256[:12]}.safetensors"
    with files.explained(run.predictions):
        run.predictions.mkdir(exist_ok=True)
    files.write_atomic(run.path / name, data)
    return {"file": name, "sha256": sha256}


def clean(run: RunFolder, evaluation: Mapping[str, Any]) -> None:
    """Removes the predictions that no longer belong to the run's evaluation."""
    named = {entry["file"].rpartition("/")[2] for entry in evaluation["predictions"].values()}
    for name in files.names(run.predictions):
        if re.fullmatch(r"seed-\d+(-[0-9a-f]{12})?\.safetensors", name) and name not in named:
            (run.predictions / name).unlink(missing_ok=True)


def pack(saved: Saved) -> bytes:
    """The predictions of one seed as the bytes of a safetensors file."""
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
    return safetensors.torch.save(tensors, {"mmrobust": text})


def load(run: RunFolder, evaluation: Mapping[str, Any], seed: int) -> Saved:
    """Reads the predictions of one seed.

    Args:
        run: The run.
        evaluation: What its `evaluation.json` holds.
        seed: The seed.

    Raises:
        DamagedError: The file is missing, or not the one that belongs to the evaluation.
        ReadError: It cannot be read.
    """
    entry, path = evaluation.get("predictions", {}).get(str(seed)), run.predictions_of(evaluation, seed)
    data = files.read(path)
    again = f"mmrobust evaluate {run.path} writes it again"
    if data is None:
        raise DamagedError(f"{path} is missing; {again}")
    if entry is not None and digest(data) != entry["sha256"]:
        raise DamagedError(f"{path} is damaged: its SHA-256 is not the one that was written; {again}")
    try:
        return unpack(data)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{path} is damaged ({error}); {again}") from error


def unpack(data: bytes) -> Saved:
    """The predictions that `pack` wrote.

    Raises:
        ValueError: Or another error of a reader, where the bytes are not those of such a file.
    """
    size = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["mmrobust"])
    tensors = safetensors.torch.load(data)
    if about["format"] != FORMAT:
        raise ValueError(f"its format is {about['format']}; this version of mmrobust reads format {FORMAT}")
    rates, clean = tuple(about["rates"]), tensors[CLEAN]
    predictions = {CLEAN: clean}
    for name in about["noises"]:
        predictions[name] = _with_zero(rates, about["draws"], clean, tensors[f"noise/{name}"])
    return Saved(
        tuple(about["ids"]), tensors["label"], rates, about["draws"], about["noise_seed"], about["noises"], predictions
    )


def _with_zero(rates: Sequence[float], draws: int, clean: Tensor, above: Tensor) -> Tensor:
    rows = iter(above)
    return torch.stack([next(rows) if rate > 0 else clean.expand(draws, *clean.shape) for rate in rates])
