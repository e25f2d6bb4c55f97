"""Token reuse: where noise sets steps to zero, a step has two values, and neither has to be computed twice.

Noise comes before the encoder (paper, equation 2). Where encoder and extractors look at each step alone, an erased
step of a modality therefore becomes the same token wherever it stands. So the tokens of a batch are made once of its
clean steps and once of one erased step, and every view, draw and rate picks from both. Nothing is approximated: values
and gradients are those of the plain path, up to the order of additions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmrobust.contracts import Stream, Streams
from mmrobust.model import Model, Tokens

__all__ = ["TwoValued", "two_valued"]


@dataclass(frozen=True)
class TwoValued:
    """The tokens of a batch, and what they become where a step is erased.

    Attributes:
        tokens: Of the `b` clean samples, and of one more that lost all of its steps.
        order: For each stream that the fusion prepared, the streams whose steps stand in it.
    """

    tokens: Tokens
    order: Mapping[str, tuple[str, ...]]

    def pick(self, erased: Mapping[str, Tensor], sample: Tensor | None = None) -> Tokens:
        """The tokens of noisy samples, padding zero but in what the fusion prepared.

        Args:
            erased: True where a step is erased, `{m: k t_m}`, never in padding.
            sample: Which of the `b` samples each of the `k` is, int64; None for all of them in their order, again and
                again.
        """
        places = {key: _Places(gone, sample) for key, gone in erased.items()}
        for keys in set(self.order.values()):
            places["+".join(keys)] = _Places(torch.cat([erased[key] for key in keys], 1), sample)
        own = lambda streams: {key: places[key].pick(stream) for key, stream in streams.items()}
        prepared = self.tokens.prepared
        return Tokens(
            own(self.tokens.encoded),
            own(self.tokens.generic),
            own(self.tokens.specific),
            {name: places["+".join(self.order[name])].pick(prepared[name], zeroed=False) for name in prepared},
        )

    def lean(self) -> TwoValued:
        """The same without `encoded`."""
        return replace(self, tokens=replace(self.tokens, encoded={}))

    def leanest(self) -> TwoValued:
        """What `Model.fuse` needs of it, without what else `Outputs` tell."""
        prepared = self.tokens.prepared
        return replace(self, tokens=Tokens({}, {}, {}, prepared)) if prepared else self.lean()


class _Places:
    """Where noisy samples take their steps from.

    Args:
        erased: `k t`.
        sample: `k`, or None.
    """

    def __init__(self, erased: Tensor, sample: Tensor | None) -> None:
        self.erased, self.sample = erased, sample
        self._rows: Tensor | None = None

    def pick(self, stream: Stream, zeroed: bool = True) -> Stream:
        """The steps of the samples, `k t d`, from those of `b` samples and of an erased one.

        Args:
            stream: `b + 1` samples; what it holds in padding is finite.
            zeroed: Set padding to zero.
        """
        count, steps, width = len(stream.mask) - 1, *stream.x.shape[1:]
        mask = self._of(stream.mask[:-1])
        if stream.x.device.type == "cpu":  # rows are copied ten times as fast as they are chosen
            table, rows = stream.x.reshape(-1, width), self._rows_of(count, steps)
            if zeroed:
                table = torch.cat([table, table.new_zeros(1, width)])
                rows = torch.where(mask, rows, (count + 1) * steps)
            return Stream(table.index_select(0, rows.flatten()).unflatten(0, mask.shape), mask)
        x = torch.where(self.erased.unsqueeze(-1), stream.x[-1:], self._of(stream.x[:-1]))
        return Stream(torch.where(mask.unsqueeze(-1), x, 0) if zeroed else x, mask)

    def _of(self, values: Tensor) -> Tensor:
        """What the samples have of the `b`, `k ...`."""
        if self.sample is not None:
            return values.index_select(0, self.sample)
        views = len(self.erased) // len(values)
        return values.expand(views, *values.shape).flatten(0, 1)

    def _rows_of(self, count: int, steps: int) -> Tensor:
        """The row of each step, `k t`, in a table of `count` samples and the erased one; the same for all streams."""
        if self._rows is None:
            device = self.erased.device
            sample = self._of(torch.arange(count, device=device)).unsqueeze(1)
            self._rows = torch.where(self.erased, count, sample) * steps + torch.arange(steps, device=device)
        return self._rows


def two_valued(model: Model, features: Streams) -> TwoValued | str:
    """The tokens of clean features and of erased steps, or why they cannot stand for every noisy view.

    Args:
        model: In training, its encoder and extractors must have no dropout: each view draws what it drops on its own.
        features: `{m: b t_m n_m}`, clean, padding zero.
    """
    reason = _obstacle(model, features)
    if reason is not None:
        return reason
    tokens = model.tokens({m: _one_more(features[m]) for m in model.modalities}, zeroed=False)
    if tokens.notes:
        return f"encoder or extractors write notes ({', '.join(tokens.notes)}), which cannot be shared"
    if len(model.fusion.prepared):  # torch.compile takes an empty mapping proxy for true
        tokens = replace(tokens, prepared=model.fusion.prepare(tokens.generic, tokens.specific))
    return TwoValued(tokens, model.fusion.prepared)


def _one_more(stream: Stream) -> Stream:
    """The stream with a sample whose every step is erased."""
    x, mask = stream.x, stream.mask
    return Stream(torch.cat([x, x.new_zeros(1, *x.shape[1:])]), torch.cat([mask, mask.new_ones(1, mask.shape[1])]))


def _obstacle(model: Model, features: Streams) -> str | None:
    parts = {"encoder": model.encoder, "generic extractor": model.generic, "specific extractor": model.specific}
    for slot, part in parts.items():
        name = f"the {slot} ({type(part).__name__})"
        if not part.positionwise:
            return f"{name} does not promise to look at each step alone"
        if not part.samplewise:
            return f"{name} looks across samples"
        if not set(part.shapes) <= set(model.modalities):
            return f"{name} makes streams that are no modalities"
        if model.training and _drops(part):
            return f"{name} has dropout, which each view draws on its own"
    if any(features[m].times is not None for m in model.modalities):
        return "steps carry their times, so that erased ones are not all alike"
    return None


def _drops(module: nn.Module) -> bool:
    """Whether a part has dropout of its own or in a layer of torch's (`nn.LSTM` has a plain attribute)."""
    for part in module.modules():
        p = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else getattr(part, "dropout", 0.0)
        if isinstance(p, float) and p > 0:
            return True
    return False
