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
        clean: Of `b` samples.
        erased: Of one sample that lost all of its steps.
        order: For each stream that the fusion prepared, the streams whose steps stand in it.
    """

    clean: Tokens
    erased: Tokens
    order: Mapping[str, tuple[str, ...]]

    def pick(self, erased: Mapping[str, Tensor]) -> Tokens:
        """The tokens of `v` noisy views of the batch, as if they were one batch of `v b` samples.

        Args:
            erased: True where a step is erased, `{m: v b t_m}`, never in padding.
        """
        own = lambda clean, gone: {key: _pick(clean[key], gone[key], erased[key]) for key in clean}
        beside = {name: torch.cat([erased[key] for key in self.order[name]], 2) for name in self.clean.prepared}
        return Tokens(
            own(self.clean.encoded, self.erased.encoded),
            own(self.clean.generic, self.erased.generic),
            own(self.clean.specific, self.erased.specific),
            {name: _pick(s, self.erased.prepared[name], beside[name]) for name, s in self.clean.prepared.items()},
        )


def two_valued(model: Model, features: Streams) -> TwoValued | str:
    """The tokens of clean features and of erased steps, or why they cannot stand for every noisy view.

    Args:
        model: In training, its encoder and extractors must have no dropout: each view draws what it drops on its own.
        features: `{m: b t_m n_m}`, clean.
    """
    reason = _obstacle(model, features)
    if reason is not None:
        return reason
    zero = {m: features[m].x.new_zeros(1, 1, features[m].x.shape[2]) for m in model.modalities}
    real = features[model.modalities[0]].mask.new_ones(1, 1)
    clean, one = model.tokens(features), model.tokens({m: Stream(x, real) for m, x in zero.items()})
    if clean.notes:
        return f"encoder or extractors write notes ({', '.join(clean.notes)}), which cannot be shared"
    along = lambda streams: {m: _repeated(s, features[m].x.shape[1]) for m, s in streams.items()}
    erased = Tokens(along(one.encoded), along(one.generic), along(one.specific))
    if not model.fusion.prepared:
        return TwoValued(clean, erased, {})
    prepare = lambda tokens: replace(tokens, prepared=model.fusion.prepare(tokens.generic, tokens.specific))
    return TwoValued(prepare(clean), prepare(erased), model.fusion.prepared)


def _obstacle(model: Model, features: Streams) -> str | None:
    parts = {"encoder": model.encoder, "generic extractor": model.generic, "specific extractor": model.specific}
    for slot, part in parts.items():
        name = f"the {slot} ({type(part).__name__})"
        if not part.positionwise:
            return f"{name} does not promise to look at each step alone"
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


def _pick(clean: Stream, gone: Stream, erased: Tensor) -> Stream:
    x = torch.where(erased.unsqueeze(-1), gone.x.unsqueeze(0), clean.x.unsqueeze(0))
    return Stream(x.flatten(0, 1), clean.mask.expand(len(erased), -1, -1).flatten(0, 1))


def _repeated(stream: Stream, steps: int) -> Stream:
    return Stream(stream.x.expand(-1, steps, -1), stream.mask.expand(-1, steps))
