"""Variations of an input: with holes, with more padding, and in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmrobust.contracts import Stream
from mmrobust.testing.surroundings import Inputs


def mapped(inputs: Inputs, f: Callable[[str, Stream], Stream]) -> Inputs:
    """The input with `f(key, stream)` in place of each stream, and of each part of a joined one."""

    def of(key: str, stream: Stream) -> Stream:
        parts = {name: f(name, part) for name, part in stream.parts().items()}
        return Stream.join(parts) if parts else f(key, stream)

    return {group: {key: of(key, s) for key, s in streams.items()} for group, streams in inputs.items()}


def gaps(inputs: Inputs) -> list[Inputs]:
    """The input with each modality masked or erased in some samples; then without it in all samples."""
    keys = list(
        dict.fromkeys(k for streams in inputs.values() for key, s in streams.items() for k in s.parts() or [key])
    )

    def holes(stream: Stream, masked: Tensor, erased: Tensor) -> Stream:
        gone = (masked | erased).view(-1, 1, 1)
        return replace(stream, x=stream.x.masked_fill(gone, 0), mask=stream.mask & ~masked.view(-1, 1))

    def mixed(key: str, stream: Stream) -> Stream:
        i = keys.index(key)
        return holes(stream, sample == 2 * i % count, (sample == (2 * i + 1) % count) | (sample == count - 1))

    count = len(next(s for streams in inputs.values() for s in streams.values()).x)
    sample = torch.arange(count)
    nothing = mapped(inputs, lambda _, s: holes(s, sample == 0, sample < 0))  # one sample without any modality
    missing = [
        mapped(inputs, lambda key, s, one=one: holes(s, (sample >= 0) & (key == one), sample < 0)) for one in keys
    ]
    return [mapped(inputs, mixed), nothing, *missing]


def padded(stream: Stream, length: int) -> Stream:
    """The stream with NaN wherever it is not real, padded to `length` steps."""
    more = length - stream.x.shape[1]
    pad = nn.functional.pad
    mask = pad(stream.mask, (0, more))
    x = pad(stream.x, (0, 0, 0, more)).masked_fill(~mask.unsqueeze(-1), float("nan"))
    return replace(stream, x=x, mask=mask, times=None if stream.times is None else pad(stream.times, (0, 0, 0, more)))


def rows(stream: Stream, part: slice) -> Stream:
    """Some of the stream's samples."""
    times = None if stream.times is None else stream.times[part]
    return replace(stream, x=stream.x[part], mask=stream.mask[part], times=times)


def first(stream: Stream, steps: int) -> Stream:
    """The first steps of the stream."""
    times = None if stream.times is None else stream.times[:, :steps]
    return replace(stream, x=stream.x[:, :steps], mask=stream.mask[:, :steps], times=times)
