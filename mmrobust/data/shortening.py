"""From the steps of a file to the steps of a model: the first ones, frames of segments, or means of segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmrobust.contracts import Stream
from mmrobust.data.tables import Array, chunks

Reduce = Literal["truncate", "segments", "random_segments", "mean", "mean_std"]
WHOLE = ("random_segments", "mean", "mean_std")  # these read all steps of a sample, not chosen ones


@dataclass
class Steps:
    """Sequences of one modality of one split on their way to a model.

    Attributes:
        x: `n t w`, float16 or float32, writable.
        mask: `n t`.
        times: `n t 2`, or None.
    """

    x: Array
    mask: Array
    times: Array | None = None

    def clear_padding(self) -> None:
        """Sets padding to zero."""
        for chunk in chunks(len(self.x)):
            self.x[chunk][~self.mask[chunk]] = 0

    def stream(self) -> Stream:
        """The same as tensors."""
        times = None if self.times is None else torch.from_numpy(np.ascontiguousarray(self.times))
        return Stream(torch.from_numpy(self.x), torch.from_numpy(np.ascontiguousarray(self.mask)), times)


def bounds(real: Array, length: int) -> tuple[Array, Array]:
    """First step of each of `length` equal segments of a sample with `real` steps, and of the one after it, `n length`.

    A sample that is no longer keeps each step as a segment of its own.
    """
    k = np.arange(length)
    real = real[:, None]
    begin = np.where(real > length, (k * real) // length, k)
    end = np.where(real > length, ((k + 1) * real) // length, k + 1)
    return begin, end


def select(steps: Steps, length: int, how: Reduce) -> Steps:
    """At most `length` real steps of each sample: the first ones, or the middle one of each equal segment."""
    x, mask, times = steps.x, steps.mask, steps.times
    if x.shape[1] > length:
        real = mask.sum(1)
        chosen = np.arange(length)
        if how != "truncate":
            middle = ((2 * chosen + 1) * real[:, None]) // (2 * length)
            chosen = np.where(real[:, None] > length, middle, chosen)
        # Real steps first, in their order, whatever side the padding is on.
        order = np.argsort(~mask, axis=1, kind="stable")
        chosen = np.take_along_axis(order, np.broadcast_to(chosen, (len(x), length)), 1)
        short = np.empty((len(x), length, x.shape[2]), x.dtype)
        for chunk in chunks(len(x)):
            short[chunk] = np.take_along_axis(x[chunk], chosen[chunk, :, None], 1)
        x, mask = short, np.arange(length) < real[:, None]
        times = None if times is None else np.take_along_axis(times, chosen[:, :, None], 1)
    elif x.shape[1] < length:
        room = [(0, 0), (0, length - x.shape[1])]
        x, mask = np.pad(x, [*room, (0, 0)]), np.pad(mask, room)
        times = None if times is None else np.pad(times, [*room, (0, 0)])
    kind = x.dtype if x.dtype in (np.float16, np.float32) else np.dtype(np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is counted
        x = np.require(x, kind, ["C", "W"])
    return Steps(x, np.ascontiguousarray(mask), times)


def pool(steps: Steps, length: int, deviation: bool) -> Steps:
    """The mean of each of `length` equal segments of a sample, and beside it the deviation if that is wanted.

    Args:
        steps: `n t w`, padding zero.
        length: Most segments; a sample that has no more steps keeps each.
        deviation: Whether the standard deviation follows the mean, so that a step is `2 w` wide.
    """
    steps = packed(steps)
    real = steps.mask.sum(1)
    begin, end = bounds(real, length)
    width = steps.x.shape[2]
    out = np.zeros((len(steps.x), length, width * (2 if deviation else 1)), np.float32)
    size = np.maximum(end - begin, 1)[..., None]
    for chunk in chunks(len(steps.x), 64):
        x = steps.x[chunk].astype(np.float64)
        mean = _between(x, begin[chunk], end[chunk]) / size[chunk]
        out[chunk, :, :width] = mean
        if deviation:
            square = _between(np.square(x), begin[chunk], end[chunk]) / size[chunk]
            out[chunk, :, width:] = np.sqrt(np.maximum(square - np.square(mean), 0))
    mask = np.arange(length) < real[:, None]
    out[~mask] = 0
    times = steps.times
    if times is not None:
        last = np.clip(end - 1, 0, steps.x.shape[1] - 1)
        first = np.clip(begin, 0, steps.x.shape[1] - 1)
        ends = (np.take_along_axis(times[..., 0], first, 1), np.take_along_axis(times[..., 1], last, 1))
        times = np.where(mask[..., None], np.stack(ends, -1), 0).astype(np.float32)
    return Steps(out, mask, times)


def _packed(mask: Array) -> bool:
    return bool((mask == (np.arange(mask.shape[1]) < mask.sum(1)[:, None])).all())


def _between(x: Array, begin: Array, end: Array) -> Array:
    """Sums over the steps from `begin` to `end`, `n t w` and `n s` twice to `n s w`."""
    running = np.concatenate([np.zeros_like(x[:, :1]), np.cumsum(x, 1)], 1)
    most = x.shape[1]
    return np.take_along_axis(running, np.minimum(end, most)[..., None], 1) - np.take_along_axis(
        running, np.minimum(begin, most)[..., None], 1
    )


def packed(steps: Steps) -> Steps:
    """The same with real steps first, in their order."""
    if _packed(steps.mask):
        return steps
    order = np.argsort(~steps.mask, axis=1, kind="stable")
    times = None if steps.times is None else np.take_along_axis(steps.times, order[..., None], 1)
    return Steps(np.take_along_axis(steps.x, order[..., None], 1), np.take_along_axis(steps.mask, order, 1), times)


def draw(stream: Stream, length: int, generator: torch.Generator) -> Stream:
    """One step of each of `length` equal segments of a sample, drawn uniformly; a shorter sample keeps all its steps.

    Args:
        stream: `n t w`, real steps first.
        length: Most steps, `s`.
        generator: Source of the draw, on the CPU.

    Returns:
        `n s w`.
    """
    real = stream.mask.sum(1, keepdim=True)
    k = torch.arange(length)
    within = torch.rand(len(real), length, generator=generator, dtype=torch.float64)
    chosen = torch.where(real > length, ((k + within) * real / length).long(), k).clamp(max=stream.x.shape[1] - 1)
    return _gather(stream, chosen, k < real)


def middle(stream: Stream, length: int) -> Stream:
    """The middle step of each of `length` equal segments, `n t w` to `n s w`; real steps stand first."""
    real = stream.mask.sum(1, keepdim=True)
    k = torch.arange(length)
    chosen = torch.where(real > length, (2 * k + 1) * real // (2 * length), k).clamp(max=stream.x.shape[1] - 1)
    return _gather(stream, chosen, k < real)


def _gather(stream: Stream, chosen: Tensor, mask: Tensor) -> Stream:
    x = stream.x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, stream.x.shape[2]))
    times = None if stream.times is None else stream.times.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 2))
    return Stream(x, mask, times).zeroed()
