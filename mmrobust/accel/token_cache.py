"""The token cache: where noise sets steps to zero, a step has two values, and neither is computed twice.

Noise comes before the encoder (paper, equation 2). Where encoder and extractors look at each step alone, an erased
step of a modality therefore becomes the same token wherever it stands. So the tokens of a batch are computed once of
its clean steps and once of one erased step, and every view, draw and rate picks from both. Nothing is approximated:
values and gradients are those of the plain path, up to the order of additions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from mmrobust.accel.cross_attention import FastCrossAttention, Projections
from mmrobust.accel.modes import eager
from mmrobust.accel.packing import IndexedSteps, Steps, rounding
from mmrobust.contracts import Component, Fusion, Outputs, Segment, Stream, Streams
from mmrobust.model.model import Model

__all__ = ["TokenCache", "obstacle"]


@dataclass(frozen=True)
class TokenCache:
    """The tokens of `b` clean samples, and of one more sample whose every step is erased.

    Attributes:
        model: Whose tokens they are.
        encoded: U', `{m: b+1 t_m n}`.
        generic: F_NR, `{m: b+1 t_m d}`.
        specific: F_M, `{m: b+1 t_m d}`.
        real: Which steps of the clean samples are real, `{m: b t_m}`.
        projections: What the fusion's projections make of them; None for a fusion that has no fast form.
    """

    model: Model
    encoded: Mapping[str, Steps]
    generic: Mapping[str, Steps]
    specific: Mapping[str, Steps]
    real: Mapping[str, Tensor]
    projections: Projections | None

    @staticmethod
    def fill(model: Model, features: Streams) -> TokenCache:
        """Computes the tokens.

        Args:
            model: One for which `obstacle` is None.
            features: `{m: b t_m n_m}`, clean, padding zero.
        """
        clean = {m: features[m] for m in model.modalities}
        # A GPU would have to be waited for, and neither a compiler nor vmap knows how many steps are real.
        packs = eager() and all(stream.mask.device.type == "cpu" for stream in clean.values())
        steps = {m: (_packed if packs else _one_more)(stream) for m, stream in clean.items()}
        masks = {m: _one_more_row(stream.mask) for m, stream in clean.items()}
        index = {m: _index(clean[m].mask, steps[m].x.shape[1]) for m in clean} if packs else {}
        stored = lambda m, s: IndexedSteps(s.x.squeeze(0), index[m], masks[m]) if packs else s
        notes: dict[str, Any] = {}
        encoded = model.ordered(model.encoder(steps, notes))
        sides = (model.ordered(part(encoded, notes)) for part in (model.generic, model.specific))
        generic, specific = ({m: stored(m, s) for m, s in side.items()} for side in sides)
        fusion = model.fusion
        projections = fusion.project(generic, specific) if shares_projections(fusion) else None
        real = {m: stream.mask for m, stream in clean.items()}
        return TokenCache(model, {m: stored(m, s) for m, s in encoded.items()}, generic, specific, real, projections)

    def outputs(self, erased: Mapping[str, Tensor]) -> Outputs:
        """The outputs for noisy copies of all samples.

        Args:
            erased: True where a step is erased, `{m: k*b t_m}`, never in padding: copy after copy.
        """
        encoded, generic, specific = (self._pick(side, erased) for side in (self.encoded, self.generic, self.specific))
        notes: dict[str, Any] = {}
        fused = self._fuse(generic, specific, notes, erased)
        return Outputs(encoded, generic, specific, fused, self.model.head(fused), notes)

    def predict(self, erased: Mapping[str, Tensor], sample: Tensor) -> Tensor:
        """The predictions for noisy samples, `k c`.

        Args:
            erased: True where a step is erased, `{m: k t_m}`, never in padding. Where all `k` samples are shorter than
                the clean streams, so may it be.
            sample: Which of the `b` samples each of the `k` is, int64.
        """
        if self.projections is None:
            generic, specific = (self._pick(side, erased, sample) for side in (self.generic, self.specific))
        else:
            generic, specific = {}, {}
        return self.model.head(self._fuse(generic, specific, {}, erased, sample)).float()

    def _fuse(
        self,
        generic: Streams,
        specific: Streams,
        notes: dict[str, Any],
        erased: Mapping[str, Tensor],
        sample: Tensor | None = None,
    ) -> Stream:
        """What the fusion gives, padding zero."""
        fusion, stored = self.model.fusion, self.projections
        if stored is None or not isinstance(fusion, FastCrossAttention):
            return fusion(generic, specific, notes).zeroed()
        queries = _Places([segment.name for segment in fusion.queries.shape.segments], self.real, erased, sample)
        keys = _Places([segment.name for segment in fusion.keys.shape.segments], self.real, erased, sample)
        picked = Projections(
            queries.pick(stored.x),
            queries.pick(stored.query),
            tuple(keys.pick(key_value) for key_value in stored.key_values),
            queries.segments,
        )
        return fusion.attend(picked)

    def _pick(
        self, side: Mapping[str, Steps], erased: Mapping[str, Tensor], sample: Tensor | None = None
    ) -> dict[str, Stream]:
        """The streams of noisy samples, padding zero."""
        picked = {m: _Places([m], self.real, erased, sample).pick(steps) for m, steps in side.items()}
        return {m: s.zeroed() if isinstance(s, Stream) else Stream(s.x, s.mask) for m, s in picked.items()}


class _Places:
    """Where the steps of noisy samples are stored, of some modalities one after the other.

    Args:
        names: The modalities.
        real: `{m: b t_m}`.
        erased: `{m: k t_m}`.
        sample: Which of the `b` each of the `k` is; None for all of them in their order, again and again.
    """

    def __init__(
        self, names: list[str], real: Mapping[str, Tensor], erased: Mapping[str, Tensor], sample: Tensor | None
    ) -> None:
        self.sample = sample
        self.lengths = [(real[m].shape[1], erased[m].shape[1]) for m in names]
        self.segments = tuple(Segment(m, erased[m].shape[1]) for m in names)
        self.erased = torch.cat([erased[m] for m in names], 1)
        self.mask = self._of_samples(self._cut(torch.cat([real[m] for m in names], 1)))

    def pick(self, steps: Steps) -> Steps:
        """The steps of the noisy samples, `k s d`; in padding something finite."""
        if isinstance(steps, IndexedSteps):
            return IndexedSteps(steps.values, self._choose(steps.index, self.erased), self.mask)
        return Stream(self._choose(steps.x, self.erased.unsqueeze(-1)), self.mask)

    def _choose(self, values: Tensor, erased: Tensor) -> Tensor:
        """Of `b+1 s ...`: the last sample's where a step is erased, elsewhere the clean ones."""
        values = self._cut(values)
        return torch.where(erased, values[-1:], self._of_samples(values[:-1]))

    def _cut(self, values: Tensor) -> Tensor:
        """The steps of `b s ...` that noisy samples have."""
        if all(length == wanted for length, wanted in self.lengths):
            return values
        parts = values.split([length for length, _ in self.lengths], 1)
        return torch.cat([part[:, :wanted] for part, (_, wanted) in zip(parts, self.lengths, strict=True)], 1)

    def _of_samples(self, values: Tensor) -> Tensor:
        """What each of the `k` samples has of the `b`, `k ...`."""
        if self.sample is not None:
            return values.index_select(0, self.sample)
        copies = len(self.erased) // len(values)
        return values.expand(copies, *values.shape).flatten(0, 1)


def _one_more(stream: Stream) -> Stream:
    """The stream with a sample whose every step is erased."""
    return Stream(torch.cat([stream.x, stream.x.new_zeros(1, *stream.x.shape[1:])]), _one_more_row(stream.mask))


def _one_more_row(mask: Tensor) -> Tensor:
    return torch.cat([mask, mask.new_ones(1, mask.shape[1])])


def _packed(stream: Stream) -> Stream:
    """One sample of all real steps and an erased one, or a few of these (`rounding`): `1 r d`."""
    x = stream.x.flatten(0, 1).index_select(0, stream.mask.flatten().nonzero().squeeze(1))
    x = torch.cat([x, x.new_zeros(1 + rounding(len(x) + 1), x.shape[1])]).unsqueeze(0)
    return Stream(x, x.new_ones(x.shape[:2], dtype=torch.bool))


def _index(mask: Tensor, rows: int) -> Tensor:
    """Where the steps of `b t` are in what `_packed` gives, and those of an erased sample, `b+1 t`; padding `rows`."""
    real = mask.flatten()
    index = torch.where(real, real.cumsum(0) - 1, rows)
    return torch.cat([index, real.sum().expand(mask.shape[1])]).view(-1, mask.shape[1])


def shares_projections(fusion: Fusion) -> TypeGuard[FastCrossAttention]:
    """Whether the fusion's projections can be computed once for all noisy copies."""
    return isinstance(fusion, FastCrossAttention)


def obstacle(model: Model, timed: bool) -> str | None:
    """Why cached tokens cannot stand for every noisy view; None where they can.

    Args:
        model: In training, its encoder and extractors must have no dropout: each view draws what it drops on its own.
        timed: Whether steps carry their times.
    """
    parts: dict[str, Component] = {"encoder": model.encoder, "generic extractor": model.generic}
    parts["specific extractor"] = model.specific
    for slot, part in parts.items():
        name = f"the {slot} ({type(part).__name__})"
        if not part.positionwise:
            return f"{name} does not promise to look at each step alone"
        if not part.samplewise:
            return f"{name} looks across samples"
        if not set(getattr(part, "shapes", ())) <= set(model.modalities):
            return f"{name} gives streams that are no modalities"
        if model.training and _drops(part):
            return f"{name} has dropout, which each view draws on its own"
    if timed:
        return "steps carry their times, so that erased ones are not all alike"
    return None


def _drops(module: nn.Module) -> bool:
    """Whether a part has dropout of its own or in a layer of torch's (`nn.LSTM` has a plain attribute)."""
    for part in module.modules():
        p = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else getattr(part, "dropout", 0.0)
        if isinstance(p, float) and p > 0:
            return True
    return False
