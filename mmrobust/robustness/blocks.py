"""Predictions of a block of samples, clean and under many draws of a noise.

Noise that sets steps to zero costs its pattern and the fusion alone: what the model makes of single steps is made once
for all noises, rates and draws (see `mmrobust.accel.token_cache`), and what a sample lost is predicted once, however many draws
took it away. Samples of like length share a forward pass, of one draw or several, and are cut to the longest of them.
None of this changes a prediction, but for the order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmrobust.accel.token_cache import TwoValued, two_valued
from mmrobust.contracts import Batch, Noise, Stream, Streams
from mmrobust.model.model import Model

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
        self.last = {m: _last(s.mask) for m, s in batch.features.items()}
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
            gone = {m: chunk.cut(e, m, 1) for m, e in erased.items()}
            if isinstance(model, Model) and model.samplewise:
                tokens = two_valued(model, features)
                if isinstance(tokens, TwoValued):
                    return self._reused(model, tokens, chunk, gone, clean.index_select(0, chunk.index))
            views = ({m: s.without(gone[m][i].to(self.device)) for m, s in features.items()} for i in range(len(masks)))
            return torch.stack([self._predict(view) for view in views])

        parts = self._gather([predict(chunk) for chunk in self.chunks]).split(
            [len(draws) for _, draws in drawn.values()]
        )
        return dict(zip(drawn, parts, strict=True))

    def _reused(
        self, model: Model, tokens: TwoValued, chunk: _Chunk, gone: Mapping[str, Tensor], clean: Tensor
    ) -> Tensor:
        """The predictions of all draws, `draws k c`, from tokens and from what is gone, `{m: draws k t}`.

        What a sample lost is predicted once, however many draws took it away; where it lost nothing, the clean
        prediction stands.
        """
        draws, count = next(iter(gone.values())).shape[:2]
        flat = {m: e.flatten(0, 1) for m, e in gone.items()}
        lost = torch.cat(list(flat.values()), 1)
        touched = lost.any(1).nonzero().squeeze(1)
        # Sorted by their first column, so that a batch is one sample, or two, and has next to no padding.
        kinds, kind = torch.cat([(touched % count).unsqueeze(1), lost[touched]], 1).unique(dim=0, return_inverse=True)
        first = kind.new_full((len(kinds),), len(lost)).scatter_reduce_(0, kind, touched, "amin")
        tokens, last = tokens.leanest(), {m: steps[chunk.index] for m, steps in self.last.items()}
        parts = []
        for some in first.split(self.size) if len(first) else ():
            sample = some % count
            view = {m: e[some, : max(1, int(last[m][sample].max()))].to(self.device) for m, e in flat.items()}
            parts.append(model.fuse(tokens.pick(view, sample.to(self.device))).prediction.float())
            self.tick(len(some))
        self.tick(draws * count - len(first))
        found = clean.repeat(draws, 1)
        if parts:
            found[touched] = torch.cat(parts).cpu()[kind]
        return found.unflatten(0, (draws, count))

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
        order = torch.arange(len(self.batch))
        if getattr(self.model, "samplewise", True):  # else a prediction depends on who is beside it
            order = torch.stack(list(self.last.values())).sum(0).argsort(stable=True)
        return [
            _Chunk(index, {m: max(1, int(steps[index].max())) for m, steps in self.last.items()})
            for index in order.split(self.size)
        ]


def _last(mask: Tensor) -> Tensor:
    """How many steps of each sample there are up to its last real one, `n`: padding before or between others stays."""
    return (mask * torch.arange(1, mask.shape[1] + 1)).amax(1)
