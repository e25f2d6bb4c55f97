"""Predictions of a block of samples, clean and under many draws of a noise.

Noise that sets steps to zero costs its pattern and the fusion alone: what the model makes of single steps is made once
for all noises, rates and draws (see `mmrobust.reuse`), and a sample that lost nothing or everything is not predicted
again. Samples of like length share a forward pass, of one draw or several, and are cut to the longest of them. None of
this changes a prediction, but for the order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
        return self._gather([self._predict(self._features(chunk)) for chunk in self.chunks])

    def noisy(self, drawn: Mapping[str, tuple[Noise, Draws]], clean: Tensor) -> dict[str, Tensor]:
        """The predictions under each draw of each noise, `draws n c`.

        Args:
            drawn: By name a noise, the rate of each of its draws, and the generator of each.
            clean: What `clean` returned.
        """
        constant = {name: one for name, one in drawn.items() if one[0].constant}
        found = {name: self._changed(*one) for name, one in drawn.items() if name not in constant}
        return found | (self._erased(constant, clean) if constant else {})

    def _changed(self, noise: Noise, draws: Draws) -> Tensor:
        found = []
        for rate, random in draws:
            features = noise(self.batch, rate, random).features
            found.append(self._gather([self._predict(chunk.features(features, self.device)) for chunk in self.chunks]))
        return torch.stack(found)

    def _erased(self, drawn: Mapping[str, tuple[Noise, Draws]], clean: Tensor) -> dict[str, Tensor]:
        # What a constant noise erases does not depend on the features, so that it is drawn without them.
        outline = self.batch.outline()
        masks = [noise(outline, rate, random).erased for noise, draws in drawn.values() for rate, random in draws]
        erased = {m: torch.stack([one[m] for one in masks]) for m in outline.features}

        def predict(chunk: _Chunk) -> Tensor:
            model, features = self.model, self._features(chunk)
            gone = {m: chunk.cut(e, m, 1).to(self.device) for m, e in erased.items()}
            if isinstance(model, Model) and model.samplewise:
                tokens = two_valued(model, features)
                if isinstance(tokens, TwoValued):
                    real = {m: s.mask for m, s in features.items()}
                    return self._reused(model, tokens, real, gone, clean.index_select(0, chunk.index))
            views = ({m: s.without(gone[m][i]) for m, s in features.items()} for i in range(len(masks)))
            return torch.stack([self._predict(view) for view in views])

        parts = self._gather([predict(chunk) for chunk in self.chunks]).split(
            [len(draws) for _, draws in drawn.values()]
        )
        return dict(zip(drawn, parts, strict=True))

    def _reused(
        self, model: Model, tokens: TwoValued, real: Mapping[str, Tensor], gone: Mapping[str, Tensor], clean: Tensor
    ) -> Tensor:
        """The predictions of all draws, `draws k c`, from tokens and from what is gone, `{m: draws k t}`."""
        draws, count = next(iter(gone.values())).shape[:2]
        touched = torch.stack([e.any(-1) for e in gone.values()]).any(0)
        left = torch.stack([(real[m] & ~e).any(-1) for m, e in gone.items()]).any(0)
        empty = touched & ~left
        # Where nothing is gone, the clean prediction stands; where nothing is left, that of the first such draw.
        first = empty & (empty.cumsum(0) == 1)
        rows = (touched & (left | first)).flatten().nonzero().squeeze(1)
        tokens, flat = tokens.leanest(), {m: e.flatten(0, 1) for m, e in gone.items()}
        found = clean.to(self.device).repeat(draws, 1)
        for some in rows.split(self.size) if len(rows) else ():
            view = tokens.pick({m: e.index_select(0, some) for m, e in flat.items()}, some % count)
            found[some] = model.fuse(view).prediction.float()
            self.tick(len(some))
        self.tick(draws * count - len(rows))
        found = found.unflatten(0, (draws, count))
        once = found[empty.int().argmax(0), torch.arange(count, device=found.device)]
        return torch.where(empty.unsqueeze(-1), once, found).cpu()

    def _features(self, chunk: _Chunk) -> Streams:
        return {m: s.zeroed() for m, s in chunk.features(self.batch.features, self.device).items()}

    def _predict(self, features: Streams) -> Tensor:
        prediction = self.model(features).prediction.float().cpu()
        self.tick(len(prediction))
        return prediction

    def _gather(self, parts: Sequence[Tensor]) -> Tensor:
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
