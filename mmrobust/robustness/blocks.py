"""Predictions of a block of samples, clean and under many draws of a noise.

Noise that sets steps to zero costs its pattern and the fusion alone: what the model makes of single steps is made once
for all rates and draws (see `mmrobust.reuse`). Samples of like length share a forward pass and are cut to the longest
of them, and small blocks are predicted under several draws at once. None of this changes a prediction, but for the
order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmrobust.contracts import Batch, Noise, Stream, Streams
from mmrobust.model import Model
from mmrobust.reuse import TwoValued, two_valued

__all__ = ["Block", "Draws", "Tick"]

Tick = Callable[[int], None]
Draws = Sequence[tuple[float, torch.Generator]]


@dataclass(frozen=True)
class _Chunk:
    """Samples of a block that share a forward pass.

    Attributes:
        index: Their places in the block, `k`.
        steps: How many steps of each modality the longest of them has.
    """

    index: Tensor
    steps: dict[str, int]

    def __len__(self) -> int:
        return len(self.index)

    def cut(self, values: Tensor, m: str, samples: int = 0) -> Tensor:
        """Their part of what holds the block's samples in dimension `samples` and the steps of `m` in the next."""
        return values.index_select(samples, self.index).narrow(samples + 1, 0, self.steps[m])

    def features(self, block: Streams, device: torch.device | str) -> Streams:
        """Their features, on the device."""
        cut = lambda t, m: None if t is None else self.cut(t, m).to(device)
        return {
            m: Stream(self.cut(s.x, m).to(device), self.cut(s.mask, m).to(device), cut(s.times, m))
            for m, s in block.items()
        }


class Block:
    """Some samples of a split, and the model that is to predict them.

    Args:
        model: In evaluation mode; called with features, returns `Outputs`.
        batch: The samples, clean, on the CPU.
        batch_size: Samples of one forward pass, of one draw or several.
        device: Where the model is.
        tick: Called with the number of samples after each forward pass.
    """

    def __init__(
        self, model: nn.Module, batch: Batch, batch_size: int, device: torch.device | str, tick: Tick | None = None
    ) -> None:
        self.model, self.batch, self.size, self.device = model, batch, batch_size, device
        self.tick = tick or (lambda count: None)
        self.chunks = self._chunks()

    def clean(self) -> Tensor:
        """The predictions without noise, `n c`."""
        return self._gather(self._predict(self._features(chunk)) for chunk in self.chunks)

    def noisy(self, noise: Noise, draws: Draws) -> Tensor:
        """The predictions under each draw, `draws n c`.

        Args:
            noise: The noise.
            draws: The rate of each, and its generator.
        """
        if noise.constant:
            return self._erased(noise, draws)
        found = []
        for rate, random in draws:
            features = noise(self.batch, rate, random).features
            parts = (self._predict(chunk.features(features, self.device)) for chunk in self.chunks)
            found.append(self._gather(parts))
        return torch.stack(found)

    def _erased(self, noise: Noise, draws: Draws) -> Tensor:
        # What a constant noise erases does not depend on the features, so that it is drawn without them.
        empty = lambda s: replace(s, x=s.x.new_zeros(1, 1, 1).expand(*s.mask.shape, 1))
        batch = replace(self.batch, features={m: empty(s) for m, s in self.batch.features.items()})
        drawn = [noise(batch, rate, random).erased for rate, random in draws]
        erased = {m: torch.stack([one[m] for one in drawn]) for m in batch.features}

        def predict(chunk: _Chunk) -> Tensor:
            gone = {m: chunk.cut(e, m, 1).to(self.device) for m, e in erased.items()}
            features, count = self._features(chunk), len(draws)
            model = self.model
            tokens = two_valued(model, features) if isinstance(model, Model) else None
            if not isinstance(model, Model) or not isinstance(tokens, TwoValued):
                found = [self._predict({m: s.without(gone[m][i]) for m, s in features.items()}) for i in range(count)]
                return torch.stack(found)
            tokens, found = tokens.lean(), []
            for some in torch.arange(count).split(max(1, self.size // len(chunk))):
                views = tokens.pick({m: e[some[0] : some[-1] + 1] for m, e in gone.items()})
                prediction = model.fuse(views).prediction.float().cpu()
                found.append(prediction.unflatten(0, (len(some), len(chunk))))
                self.tick(len(prediction))
            return torch.cat(found)

        return self._gather(predict(chunk) for chunk in self.chunks)

    def _features(self, chunk: _Chunk) -> Streams:
        return chunk.features(self.batch.features, self.device)

    def _predict(self, features: Streams) -> Tensor:
        prediction = self.model(features).prediction.float().cpu()
        self.tick(len(prediction))
        return prediction

    def _gather(self, parts: Iterable[Tensor]) -> Tensor:
        """What the chunks gave, `... k c`, in the order of the block, `... n c`."""
        place = torch.cat([chunk.index for chunk in self.chunks]).argsort()
        return torch.cat(list(parts), -2).index_select(-2, place)

    def _chunks(self) -> list[_Chunk]:
        # The place of the last real step: padding before or between others stays.
        last = {m: (s.mask * torch.arange(1, s.mask.shape[1] + 1)).amax(1) for m, s in self.batch.features.items()}
        order = torch.arange(len(self.batch))
        if getattr(self.model, "samplewise", True):  # else a prediction depends on who is beside it
            order = torch.stack(list(last.values())).sum(0).argsort(stable=True)
        return [
            _Chunk(index, {m: max(1, int(steps[index].max())) for m, steps in last.items()})
            for index in order.split(self.size)
        ]
