"""Fast forms of `Learning` and `Model`: views in one pass, tokens from a cache, draws that are predicted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mmrobust.accel.allocator import keep_freed_memory
from mmrobust.accel.modes import eager
from mmrobust.accel.token_cache import TokenCache, obstacle
from mmrobust.contracts import Batch, Outputs, Stream, Streams
from mmrobust.model.learning import Learning
from mmrobust.model.model import Model, Tick

__all__ = ["FastLearning", "FastModel", "equal_copies", "why_not_cached"]


class FastLearning(Learning):
    """`Learning` whose views share one pass, and their tokens, where the model's parts allow it."""

    def run(self, model: Model, batches: Mapping[str, Batch]) -> dict[str, Outputs]:
        """See `Learning.run`."""
        first = next(iter(batches.values()))
        if first.index.device.type == "cpu" and eager():
            keep_freed_memory()
        clean = (first if first.clean is None else first.clean).features
        if why_not_cached(self, model, _timed(clean)) is None:
            erased = {m: torch.cat([batch.erased[m] for batch in batches.values()]) for m in model.modalities}
            out = TokenCache.fill(model, clean).outputs(erased)
        elif model.samplewise and len(batches) > 1:
            out = model(_stack([batch.features for batch in batches.values()]))
        else:
            return super().run(model, batches)
        return dict(zip(batches, _split(out, len(batches), len(first)), strict=True))


def why_not_cached(learning: Learning, model: Model, timed: bool) -> str | None:
    """Why the views of a batch do not share their tokens; None where they do."""
    if len(learning.views) < 2:
        return "there is one view"
    for name, view in learning.views.items():
        if view.noise is not None and not view.noise.constant:
            return f"the noise of view '{name}' does more than set steps to zero"
    return obstacle(model, timed) or (None if model.samplewise else "the fusion or the head looks across samples")


class FastModel(Model):
    """`Model` that computes the tokens of many noisy copies once, and predicts equal copies of a sample once."""

    @torch.inference_mode()
    def predict_erased(
        self, features: Streams, erased: Mapping[str, Tensor], batch_size: int, tick: Tick | None = None
    ) -> Tensor:
        """See `Model.predict_erased`."""
        if not self.samplewise or obstacle(self, _timed(features)) is not None:
            return super().predict_erased(features, erased, batch_size, tick)
        chunks = chunks_of({m: stream.zeroed() for m, stream in features.items()}, batch_size)
        parts = []
        for chunk in chunks:
            gone = {m: chunk.cut(erased[m], m, 1) for m in self.modalities}
            parts.append(self._distinct(TokenCache.fill(self, chunk.features), chunk, gone, batch_size))
            if tick is not None:
                tick(parts[-1].shape[0] * len(chunk.index))
        return torch.cat(parts, 1).index_select(1, torch.cat([chunk.index for chunk in chunks]).argsort())

    def _distinct(self, cache: TokenCache, chunk: Chunk, erased: Mapping[str, Tensor], batch_size: int) -> Tensor:
        """The predictions of all copies of a chunk, `k b c`: what a sample lost is predicted once."""
        copies, count = next(iter(erased.values())).shape[:2]
        flat = {m: steps.flatten(0, 1) for m, steps in erased.items()}
        lost = torch.cat(list(flat.values()), 1)
        sample = torch.arange(len(lost), device=lost.device) % count
        first, which = equal_copies(sample, lost)
        parts = []
        for some in first.split(batch_size):
            of = sample[some]
            cut = {m: steps[some, : max(1, int(chunk.steps[m][of].max()))] for m, steps in flat.items()}
            parts.append(cache.predict(cut, of))
        return torch.cat(parts)[which].unflatten(0, (copies, count))


def equal_copies(sample: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each set of noisy copies that are equal, and which set each copy is in.

    Sets are in the order of their samples, so that a batch of them is one sample, or two, and has next to no padding.

    Args:
        sample: Which sample each copy is of, `k`.
        lost: Which steps each copy lost, `k s`.
    """
    distinct, which = torch.cat([sample.unsqueeze(1), lost], 1).unique(dim=0, return_inverse=True)
    first = which.new_full((len(distinct),), len(lost))
    return first.scatter_reduce_(0, which, torch.arange(len(lost), device=lost.device), "amin"), which


@dataclass(frozen=True)
class Chunk:
    """Samples of like length, cut to the longest of them.

    Attributes:
        index: Their places among all samples, `k`.
        steps: How many steps each has, up to its last real one, `{m: k}`.
        features: `{m: k t_m n_m}`.
    """

    index: Tensor
    steps: Mapping[str, Tensor]
    features: Streams

    def cut(self, values: Tensor, m: str, samples: int = 0) -> Tensor:
        """Their part of values that have all samples in dimension `samples` and the steps of `m` in the next."""
        return values.index_select(samples, self.index).narrow(samples + 1, 0, self.features[m].mask.shape[1])


def chunks_of(features: Streams, size: int) -> list[Chunk]:
    """All samples in pieces of at most `size`, those of like length together."""
    steps = {m: _last_real(stream.mask) for m, stream in features.items()}
    order = torch.stack(list(steps.values())).sum(0).argsort(stable=True)
    chunks = []
    for index in order.split(size):
        own = {m: count[index] for m, count in steps.items()}
        cut = {m: max(1, int(count.max())) for m, count in own.items()}
        chunks.append(Chunk(index, own, {m: _shortened(stream.take(index), cut[m]) for m, stream in features.items()}))
    return chunks


def _shortened(stream: Stream, length: int) -> Stream:
    times = None if stream.times is None else stream.times[:, :length]
    return Stream(stream.x[:, :length], stream.mask[:, :length], times)


def _last_real(mask: Tensor) -> Tensor:
    """How many steps of each sample there are up to its last real one, `n`: padding before or between others stays."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)


def _timed(features: Streams) -> bool:
    return any(stream.times is not None for stream in features.values())


def _stack(features: list[Streams]) -> Streams:
    """Several views of one batch as one batch."""
    stacked = {}
    for m in features[0]:
        streams = [streams[m] for streams in features]
        times = [stream.times for stream in streams if stream.times is not None]
        x, mask = torch.cat([stream.x for stream in streams]), torch.cat([stream.mask for stream in streams])
        stacked[m] = Stream(x, mask, torch.cat(times) if times else None)
    return stacked


def _split(out: Outputs, views: int, size: int) -> list[Outputs]:
    """Each view's share of a pass over several; notes whose first dimension is the batch are shared out as well."""
    leaves, form = pytree.tree_flatten((out.encoded, out.generic, out.specific, out.fused, out.prediction, out.notes))

    def shares(value: Any) -> Sequence[Any]:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == views * size:
            return value.split(size)
        return [value] * views

    return [Outputs(*form.unflatten(list(share))) for share in zip(*map(shares, leaves), strict=True)]
