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

from mmrobust.accel.packing import Kept, spare
from mmrobust.contracts import Steps, Stream, Streams, eager
from mmrobust.model.model import Model, Tokens

__all__ = ["TwoValued", "two_valued"]


@dataclass(frozen=True)
class TwoValued:
    """The tokens of a batch, and what they become where a step is erased.

    Attributes:
        tokens: Of the `b` clean samples, and of one more that lost all of its steps. Where `rows` tell places, what
            encoder and extractors made is packed: `1 r d`, the real steps of a modality, one sample's after the
            other's, and the erased step, or a few copies of it.
        real: Which steps of the clean samples are real, `{m: b t}`.
        rows: Where a step is among those that were packed, `{m: (b + 1) t}`; for padding, the place after the last.
        order: For each stream that the fusion prepared, the streams whose steps stand in it.
    """

    tokens: Tokens
    real: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    order: Mapping[str, tuple[str, ...]]

    def pick(self, erased: Mapping[str, Tensor], sample: Tensor | None = None) -> Tokens:
        """The tokens of noisy samples, padding zero but in what the fusion prepared.

        Args:
            erased: True where a step is erased, `{m: k t_m}`, never in padding; where all `k` samples are shorter than
                the clean streams, it may be as well, and so is what comes out.
            sample: Which of the `b` samples each of the `k` is, int64; None for all of them in their order, again and
                again.
        """
        places = {m: _Places((m,), erased, self.real, sample) for m in erased}
        own = lambda streams: {m: places[m].pick(stream, self.rows.get(m)) for m, stream in streams.items()}
        joined = {keys: _Places(keys, erased, self.real, sample) for keys in set(self.order.values())}
        tokens = self.tokens
        prepared = {name: joined[self.order[name]].steps(s) for name, s in tokens.prepared.items()}
        return Tokens(own(tokens.encoded), own(tokens.generic), own(tokens.specific), prepared)

    def lean(self) -> TwoValued:
        """The same without `encoded`."""
        return replace(self, tokens=replace(self.tokens, encoded={}))

    def leanest(self) -> TwoValued:
        """What `Model.fuse` needs of it, without what else `Outputs` tell."""
        prepared = self.tokens.prepared
        return replace(self, tokens=Tokens({}, {}, {}, prepared)) if prepared else self.lean()


class _Places:
    """Where the steps of noisy samples come from, the same for all streams of some modalities one after the other.

    Args:
        keys: The modalities.
        erased: `{m: k t}`.
        real: `{m: b t_m}`.
        sample: `k`, or None.
    """

    def __init__(
        self,
        keys: tuple[str, ...],
        erased: Mapping[str, Tensor],
        real: Mapping[str, Tensor],
        sample: Tensor | None,
    ) -> None:
        self.sample = sample
        self.cuts = [(real[m].shape[1], erased[m].shape[1]) for m in keys]
        self.erased = torch.cat([erased[m] for m in keys], 1)
        self.mask = self._of(self._cut(torch.cat([real[m] for m in keys], 1)))
        self.found: list[tuple[Tensor, Tensor]] = []

    def pick(self, stream: Stream, rows: Tensor | None) -> Stream:
        """The steps of the samples, `k t d`, padding zero.

        Args:
            stream: What they are taken from.
            rows: Where each step is among those that it keeps, `(b + 1) t`; None where they stand at their places.
        """
        if rows is None:
            return Stream(torch.where(self.mask.unsqueeze(-1), self._chosen(stream.x), 0), self.mask)
        return Stream(Kept(stream.x.flatten(0, 1), self._rows(rows), self.mask).x, self.mask)

    def steps(self, steps: Steps) -> Steps:
        """What a fusion prepared for the samples, `k s d`; in padding something finite."""
        if isinstance(steps, Kept):
            return Kept(steps.values, self._rows(steps.places), self.mask)
        return Stream(self._chosen(steps.x), self.mask)

    def _chosen(self, x: Tensor) -> Tensor:
        x = self._cut(x)
        return torch.where(self.erased.unsqueeze(-1), x[-1:], self._of(x[:-1]))

    def _rows(self, rows: Tensor) -> Tensor:
        """Where the steps of the samples are, `k t`, of where those of the clean and the erased ones are."""
        for given, found in self.found:
            if given is rows:
                return found
        cut = self._cut(rows)
        self.found.append((rows, torch.where(self.erased, cut[-1], self._of(cut[:-1]))))
        return self.found[-1][1]

    def _cut(self, values: Tensor) -> Tensor:
        """The steps of `b t ...` that are asked for."""
        if all(length == wanted for length, wanted in self.cuts):
            return values
        parts = values.split([length for length, _ in self.cuts], 1)
        return torch.cat([part[:, :wanted] for part, (_, wanted) in zip(parts, self.cuts, strict=True)], 1)

    def _of(self, values: Tensor) -> Tensor:
        """What the samples have of the `b`, `k ...`."""
        if self.sample is not None:
            return values.index_select(0, self.sample)
        views = len(self.erased) // len(values)
        return values.expand(views, *values.shape).flatten(0, 1)


def two_valued(model: Model, features: Streams) -> TwoValued | str:
    """The tokens of clean features and of erased steps, or why they cannot stand for every noisy view.

    Args:
        model: In training, its encoder and extractors must have no dropout: each view draws what it drops on its own.
        features: `{m: b t_m n_m}`, clean, padding zero.
    """
    reason = _obstacle(model, features)
    if reason is not None:
        return reason
    clean = {m: features[m] for m in model.modalities}
    # A GPU would have to be waited for, and neither a compiler nor vmap knows how many steps are real.
    packs = eager() and all(s.mask.device.type == "cpu" for s in clean.values())
    steps = {m: _packed(s) if packs else _one_more(s) for m, s in clean.items()}
    rows = {m: _rows(s.mask, steps[m]) for m, s in clean.items()} if packs else {}
    tokens = model.tokens(steps, zeroed=False)
    if tokens.notes:
        return f"encoder or extractors write notes ({', '.join(tokens.notes)}), which cannot be shared"
    if len(model.fusion.prepared):  # torch.compile takes an empty mapping proxy for true
        masks = {m: _and_erased(s.mask) for m, s in clean.items()}
        place = lambda m, s: Kept(s.x.squeeze(0), rows[m], masks[m]) if packs else s
        sides = ({m: place(m, s) for m, s in side.items()} for side in (tokens.generic, tokens.specific))
        prepared = model.fusion.prepare(*sides)
        tokens = replace(tokens, prepared=_to_copy_from(prepared, model.fusion.prepared) if packs else prepared)
    return TwoValued(tokens, {m: s.mask for m, s in clean.items()}, rows, model.fusion.prepared)


def _one_more(stream: Stream) -> Stream:
    """The stream with a sample whose every step is erased."""
    x, mask = stream.x, stream.mask
    return Stream(torch.cat([x, x.new_zeros(1, *x.shape[1:])]), _and_erased(mask))


def _to_copy_from(prepared: Mapping[str, Steps], order: Mapping[str, tuple[str, ...]]) -> dict[str, Kept]:
    """What the fusion prepared, in one form: on a CPU rows are copied ten times as fast as they are chosen."""
    found, standing = {}, {}
    for name, steps in prepared.items():
        if not isinstance(steps, Kept):
            x = steps.x
            places = standing.setdefault(order[name], torch.arange(x.shape[0] * x.shape[1]).view(x.shape[:2]))
            steps = Kept(x.flatten(0, 1), places, steps.mask)
        found[name] = steps
    return found


def _and_erased(mask: Tensor) -> Tensor:
    return torch.cat([mask, mask.new_ones(1, mask.shape[1])])


def _packed(stream: Stream) -> Stream:
    """One sample of all real steps and an erased one, or a few of these (`spare`): `1 r d`."""
    x = stream.x.flatten(0, 1).index_select(0, stream.mask.flatten().nonzero().squeeze(1))
    x = torch.cat([x, x.new_zeros(1 + spare(len(x) + 1), x.shape[1])]).unsqueeze(0)
    return Stream(x, x.new_ones(x.shape[:2], dtype=torch.bool))


def _rows(mask: Tensor, packed: Stream) -> Tensor:
    """Where the steps of `b t` are in what `_packed` gave, and where those of a sample without any, `(b + 1) t`."""
    real = mask.flatten()
    rows = torch.where(real, real.cumsum(0) - 1, packed.x.shape[1])
    return torch.cat([rows, real.sum().expand(mask.shape[1])]).view(-1, mask.shape[1])


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
