"""A trained seed of a run, ready to be looked into: its model, its split, its noise, and passes through the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrobust.analysis.attention import WEIGHTS_AT_ONCE
from mmrobust.contracts import Batch, Noise, Outputs, Split, Stream, Streams
from mmrobust.contracts.randomness import generator
from mmrobust.errors import DataError, nearest
from mmrobust.model.assemble import Built
from mmrobust.nn.attention import record
from mmrobust.robustness.grids import grid_of
from mmrobust.robustness.sweep import blocks_of, noisy_blocks, restrict
from mmrobust.training import Checkpoints, Meter, RunFolder, choose_device, chosen_seeds, load_trained, open_data

__all__ = ["Pooled", "Trained", "open_trained"]

Pooled = dict[str, dict[str, Tensor]]  # {stage: {modality: n d}}, each sample's mean over its real steps


@dataclass(frozen=True)
class Trained:
    """One trained seed of a run.

    Attributes:
        folder: The run.
        built: Its recipe, data and model, with the weights of the best checkpoint.
        seed: Which seed.
        epoch: The epoch of the best checkpoint.
        split: The split that `evaluate.split` names, with the modalities that the model uses.
        noise: The first noise of `evaluate.noise`.
        noise_name: Its name.
        device: Where the model is.
    """

    folder: RunFolder
    built: Built
    seed: int
    epoch: int
    split: Split
    noise: Noise
    noise_name: str
    device: torch.device

    @property
    def batch_size(self) -> int:
        """How many samples pass through the model at a time, so that their attention weights fit into memory."""
        steps = sum(shape.length for shape in self.built.context.features.values())
        return max(1, min(64, WEIGHTS_AT_ONCE // (2 * steps) ** 2))

    def noisy(self, rate: float, blocks: list[Batch]) -> Iterator[Batch]:
        """Blocks of the split under the first draw of the noise that `mmrobust evaluate` makes at this rate."""
        return noisy_blocks(self.noise, self.noise_name, rate, 0, 0, blocks)

    def forward(self, batch: Batch) -> Iterator[tuple[Batch, Outputs, list[Tensor]]]:
        """Small batches through the model: what went in, what came out, and the attention weights of the fusion."""
        for start in range(0, len(batch), self.batch_size):
            rows = slice(start, start + self.batch_size)
            features = rows_of(batch.features, rows, self.device)
            erased = {m: e[rows].to(self.device) for m, e in batch.erased.items()}
            notes: dict[str, Any] = {}
            streams = self.built.model.encode(features, notes)
            with record() as weights:
                out = self.built.model.fuse(*streams, notes)
            label = None if batch.label is None else batch.label[rows]
            yield Batch(features, label, batch.index[rows], erased), out, weights

    def pooled(self, blocks: Iterator[Batch], meter: Meter) -> Pooled:
        """The streams of each stage, averaged over each sample's real steps, on the CPU."""
        parts: dict[str, dict[str, list[Tensor]]] = {"encoded": {}, "generic": {}, "specific": {}}
        for block in blocks:
            for start in range(0, len(block), self.batch_size):
                rows = slice(start, start + self.batch_size)
                stages = self.built.model.encode(rows_of(block.features, rows, self.device), {})
                for streams, new in zip(parts.values(), stages, strict=True):
                    for key, stream in new.items():
                        streams.setdefault(key, []).append(stream.mean().float().cpu())
            meter.update(meter.done + len(block))
        return {stage: {key: torch.cat(pieces) for key, pieces in streams.items()} for stage, streams in parts.items()}

    def pooled_splits(self, rate: float, meter: Meter) -> dict[str, Pooled]:
        """Pooled features of the training split (`train`) and the scored one (`test`), clean and under noise.

        Args:
            rate: Of the noise in `noisy train` and `noisy test`.
            meter: Shows the progress.
        """
        train = restrict(self.built.dataset.splits["train"], self.built.context.modalities)
        random = generator(0, "analysis", "probe")
        return {
            "train": self.pooled(blocks_of(train), meter),
            "noisy train": self.pooled((self.noise(block, rate, random) for block in blocks_of(train)), meter),
            "test": self.pooled(blocks_of(self.split), meter),
            "noisy test": self.pooled(self.noisy(rate, list(blocks_of(self.split))), meter),
        }


def open_trained(run: str | Path | RunFolder, seed: int | None, changed_data: bool = False) -> Trained:
    """Loads the best checkpoint of one seed.

    Args:
        run: The run's folder, or a recipe's name for its latest run.
        seed: Which seed; the best on the validation split where None.
        changed_data: Go on although a data file is not the one that the run was trained on.

    Raises:
        UsageError: There is no such run or seed.
        CheckpointError: No seed was trained, or the checkpoint is damaged.
        DataError: The data cannot be read.
    """
    folder = RunFolder.open(run)
    seed = chosen_seeds(folder, "best" if seed is None else seed)[0]
    dataset, _ = open_data(folder, changed=changed_data)
    built = load_trained(folder, seed, dataset=dataset)
    name = built.recipe.evaluate.split
    split = built.dataset.splits.get(name)
    if split is None:
        raise DataError(f"the data has no split '{name}'{nearest(name, built.dataset.splits)}")
    noise_name, noise = next(iter(grid_of(built)[0].noises.items()))
    device = choose_device(built.recipe)
    built.model.to(device).eval()
    best = Checkpoints(folder.seed(seed)).best().state.best
    return Trained(folder, built, seed, best["epoch"], restrict(split, built.context.modalities), noise,
                   noise_name, device)  # fmt: skip


def rows_of(features: Streams, rows: slice, device: torch.device | str = "cpu") -> Streams:
    """Some samples of `{modality: b t n}`, on a device."""
    cut = lambda t: None if t is None else t[rows].to(device)
    return {m: Stream(s.x[rows].to(device), s.mask[rows].to(device), cut(s.times)) for m, s in features.items()}
