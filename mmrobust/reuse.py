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

    def pick(self, erased: Mapping[str, Tensor]) -> Tokens:
        """The tokens of `v` noisy views of the batch, as if they were one batch of `v b` samples.

        Args:
            erased: True where a step is erased, `{m: v b t_m}`, never in padding.
        """
        places = {key: _Places(gone) for key, gone in erased.items()}
        for keys in set(self.order.values()):
            places["+".join(keys)] = _Places(torch.cat([erased[key] for key in keys], 2))
        own = lambda streams: {key: places[key].pick(stream) for key, stream in streams.items()}
        prepared = self.tokens.prepared
        return Tokens(
            own(self.tokens.encoded),
            own(self.tokens.generic),
            own(self.tokens.specific),
            {name: places["+".join(self.order[name])].pick(stream) for name, stream in prepared.items()},
        )

    def lean(self) -> TwoValued:
        """What `Model.fuse` needs of it, without what else `Outputs` tell."""
        tokens = self.tokens
        if tokens.prepared:
            return replace(self, tokens=Tokens({}, {}, {}, tokens.prepared))
        return replace(self, tokens=replace(tokens, encoded={}))


class _Places:
    """Where views take their steps from.

    Args:
        erased: `v b t`.
    """

    def __init__(self, erased: Tensor) -> None:
        self.erased = erased
        self.views, count, steps = erased.shape
        sample = torch.arange(count, device=erased.device).unsqueeze(1)
        step = torch.arange(steps, device=erased.device)
        self.rows = (torch.where(erased, count, sample) * steps + step).flatten()

    def pick(self, stream: Stream) -> Stream:
        """The steps of all views, `(v b) t d`, from those of `b` samples and an erased one."""
        mask = stream.mask[:-1].expand(self.views, -1, -1).flatten(0, 1)
        if stream.x.device.type == "cpu":  # rows are copied ten times as fast as they are chosen
            return Stream(stream.x.flatten(0, 1).index_select(0, self.rows).unflatten(0, mask.shape), mask)
        return Stream(torch.where(self.erased.unsqueeze(-1), stream.x[-1:], stream.x[:-1]).flatten(0, 1), mask)


def two_valued(model: Model, features: Streams) -> TwoValued | str:
    """The tokens of clean features and of erased steps, or why they cannot stand for every noisy view.

    Args:
        model: In training, its encoder and extractors must have no dropout: each view draws what it drops on its own.
        features: `{m: b t_m n_m}`, clean.
    """
    reason = _obstacle(model, features)
    if reason is not None:
        return reason
    tokens = model.tokens({m: _one_more(features[m]) for m in model.modalities})
    if tokens.notes:
        return f"encoder or extractors write notes ({', '.join(tokens.notes)}), which cannot be shared"
    if model.fusion.prepared:
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
