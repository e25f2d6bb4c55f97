"""Noise sweeps: a model's predictions on one split, for every noise, rate and draw.

Every random number comes from the grid's own seed, the noise's name, the rate and the number of the draw, and from
nothing else: two models, two training seeds, two batch sizes or two machines meet the very same noise, so that they
can be compared sample by sample. Noise is therefore always drawn on the CPU, in blocks of a fixed size, and
predictions are always made in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Dataset, Noise, Posterior, Split, Streams
from mmrobust.contracts.randomness import generator
from mmrobust.measures import limit, measures_of
from mmrobust.model.model import Model, Tick

__all__ = ["CLEAN", "Grid", "auilc", "auilc_mean", "blocks_of", "noisy_blocks", "restrict", "sweep", "sweep_limit"]

CLEAN = "clean"
BLOCK = 256  # samples that share one call of a noise; changing it changes every published draw


@dataclass(frozen=True)
class Grid:
    """What is tried.

    Attributes:
        noises: By the name under which the results are kept, `name` or `name (options)`; what stands in brackets does
            not change the draws.
        rates: Rising, each in [0, 1].
        draws: How often each noise is drawn at each rate above 0; at rate 0 there is nothing to draw, and what is
            fixed is drawn once and stands for all.
        seed: Source of the noise. Leave it alone to stay comparable with every other run.
    """

    noises: Mapping[str, Noise]
    rates: Sequence[float]
    draws: int = 5
    seed: int = 0

    @property
    def cells(self) -> int:
        """Passes over the split: the clean one, and one for each noise, rate above 0 and draw."""
        rates = sum(rate > 0 for rate in self.rates)
        return 1 + rates * sum(self.draws_of(noise) for noise in self.noises.values())

    def draws_of(self, noise: Noise) -> int:
        """How often this noise is drawn at a rate above 0: once where every draw would be the same."""
        return 1 if noise.fixed else self.draws


@torch.inference_mode()
def sweep(
    model: Model,
    split: Split,
    grid: Grid,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    tick: Tick | None = None,
) -> dict[str, Tensor]:
    """A model's predictions under every noise, rate and draw.

    Args:
        model: Put into evaluation mode; afterwards it is in the mode it was in.
        split: What is predicted; its features are those that the model reads.
        grid: What is tried.
        batch_size: Samples of one forward pass; what bounds the memory.
        device: Where the model is.
        tick: Called with the number of samples after each forward pass.

    Returns:
        `clean`: `n c`, and `r d n c` for each noise, float32, on the CPU. The draws at rate 0 are all the clean one.
    """
    draws = {name: _draws(name, noise, grid) for name, noise in grid.noises.items()}
    parts: dict[str, list[Tensor]] = {name: [] for name in (CLEAN, *draws)}
    training = model.training
    model.eval()
    try:
        for block in blocks_of(split):
            for name, predictions in _predict_block(model, block, grid.noises, draws, batch_size, device, tick).items():
                parts[name].append(predictions)
    finally:
        model.train(training)
    clean = torch.cat(parts[CLEAN])
    result = {CLEAN: clean}
    for name, noise in grid.noises.items():
        noisy = iter(torch.cat(parts[name], 1).split(grid.draws_of(noise)) if draws[name] else ())
        result[name] = torch.stack(
            [(next(noisy) if rate > 0 else clean).expand(grid.draws, *clean.shape) for rate in grid.rates]
        )
    return result


_Draws = list[tuple[float, torch.Generator]]


def _draws(name: str, noise: Noise, grid: Grid) -> _Draws:
    """The rate and the generator of each draw of a noise, in the order of the rates."""
    rates = [rate for rate in grid.rates if rate > 0]
    return [
        (rate, _generator(name, rate, draw, grid.seed)) for rate in rates for draw in range(grid.draws_of(noise))
    ]


def _predict_block(
    model: Model,
    block: Batch,
    noises: Mapping[str, Noise],
    draws: Mapping[str, _Draws],
    batch_size: int,
    device: torch.device | str,
    tick: Tick | None,
) -> dict[str, Tensor]:
    """The predictions of a block of samples: `clean` `n c`, and for each noise one for each of its draws, `k n c`."""

    def predict(features: Streams) -> Tensor:
        return model.predict({m: s.to(device) for m, s in features.items()}, batch_size, tick).cpu()

    result = {CLEAN: predict(block.features)}
    patterns: dict[str, list[dict[str, Tensor]]] = {}
    outline = block.outline()
    for name, noise in noises.items():
        if noise.constant:  # which steps it erases does not depend on their values
            patterns[name] = [noise(outline, rate, random).erased for rate, random in draws[name]]
        elif draws[name]:
            result[name] = torch.stack([predict(noise(block, rate, random).features) for rate, random in draws[name]])
    erased = [pattern for drawn in patterns.values() for pattern in drawn]
    if erased:
        features = {m: stream.to(device) for m, stream in block.features.items()}
        stacked = {m: torch.stack([pattern[m] for pattern in erased]).to(device) for m in features}
        predictions = model.predict_erased(features, stacked, batch_size, tick).cpu()
        drawn = {name: len(some) for name, some in patterns.items() if some}
        result |= dict(zip(drawn, predictions.split(list(drawn.values())), strict=True))
    return result


def sweep_limit(
    dataset: Dataset,
    name: str,
    grid: Grid,
    measures: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
) -> dict[str, dict[str, Tensor]] | None:
    """The scores that no model can pass, under the very draws that models meet.

    Args:
        dataset: Whose posterior is asked.
        name: The split.
        grid: What is tried.
        measures: Which measures; the task's own set where None.
        modalities: What the model may look at; everything where None.

    Returns:
        For `clean` a scalar and for each noise a tensor `r d` for each measure; None where the dataset knows no
        posterior, and without the noises for which it knows none.
    """
    names = list(measures_of(dataset.task) if measures is None else measures)
    split = restrict(dataset.splits[name], modalities)
    label, blocks = split.label, list(blocks_of(split))
    if label is None:
        return None

    def score(batches: Iterator[Batch]) -> dict[str, float] | None:
        parts = []
        for batch in batches:
            known = dataset.posterior(name, batch)
            if known is None:
                return None
            parts.append(known)
        whole = Posterior(parts[0].values, torch.cat([part.weights for part in parts]))
        return limit(dataset.task, whole, label, names) or None

    clean = score(iter(blocks))
    if clean is None:
        return None
    result = {CLEAN: {m: torch.tensor(v, dtype=torch.float64) for m, v in clean.items()}}
    for key, noise in grid.noises.items():
        table: list[list[dict[str, float]]] = []
        for rate in grid.rates:
            if rate == 0:
                table.append([clean] * grid.draws)
                continue
            row = [
                score(noisy_blocks(noise, key, rate, draw, grid.seed, blocks)) for draw in range(grid.draws_of(noise))
            ]
            if any(scores is None for scores in row):
                break
            table.append([scores for scores in row if scores is not None] * (grid.draws // len(row)))
        if len(table) == len(grid.rates):
            result[key] = {
                m: torch.tensor([[scores[m] for scores in row] for row in table], dtype=torch.float64) for m in names
            }
    return result


def auilc(rates: Sequence[float], values: Tensor) -> Tensor:
    """Area under the indicator's line chart (NORM-TR, equation 10): trapezoids over the rates, nothing divided.

    Its unit is that of the measure times that of the rate. Over rates from 0 to 1 it is also the mean height of the
    curve; over other rates it is not, and only areas over the same rates can be compared.

    Args:
        rates: `r`, rising.
        values: `... r`, the mean over the draws at each rate.

    Returns:
        `...`; NaN where a value is NaN, and where there are fewer than two rates.
    """
    if len(rates) < 2:
        return torch.full(values.shape[:-1], torch.nan, dtype=torch.float64)
    r = torch.as_tensor(rates, dtype=torch.float64)
    return torch.trapezoid(values.double(), r, dim=-1)


def auilc_mean(rates: Sequence[float], values: Tensor) -> Tensor:
    """`auilc` divided by the range of the rates: the mean height of the curve, in the unit of the measure."""
    return auilc(rates, values) / (rates[-1] - rates[0] or 1.0)


def restrict(split: Split, modalities: Sequence[str] | None) -> Split:
    """The split with these modalities alone, in this order, padding set to zero."""
    names = list(split.features) if modalities is None else modalities
    return replace(split, features={m: split.features[m].zeroed() for m in names})


def blocks_of(split: Split) -> Iterator[Batch]:
    """The samples of a split in the blocks in which noise is drawn."""
    for index in torch.arange(len(split)).split(BLOCK):
        yield split.batch(index)


def noisy_blocks(
    noise: Noise, name: str, rate: float, draw: int, seed: int, blocks: Sequence[Batch]
) -> Iterator[Batch]:
    """The blocks of a split under one draw of a noise."""
    random = _generator(name, rate, draw, seed)
    for block in blocks:
        yield noise(block, rate, random)


def _generator(name: str, rate: float, draw: int, seed: int) -> torch.Generator:
    """Where one draw of a noise comes from, for all blocks of a split one after the other."""
    kind = name.partition(" (")[0].rpartition("/")[2]
    return generator(seed, "evaluate", kind, f"{rate:.6g}", draw)
