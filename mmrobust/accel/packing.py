"""Packing: the real steps of a batch one after the other, sample by sample, so that layers spend nothing on padding."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmrobust.accel.modes import eager
from mmrobust.contracts import Stream

__all__ = ["IndexedSteps", "Packing", "Steps", "join", "rounding"]


class Steps(Protocol):
    """Steps of a batch in either form: a `Stream`, or `IndexedSteps`."""

    @property
    def x(self) -> Tensor:
        """Values, `b t d`."""
        ...

    @property
    def mask(self) -> Tensor:
        """True where a step is real, `b t`, bool."""
        ...


@dataclass(frozen=True)
class IndexedSteps:
    """Steps of a batch that are stored once, and copied to where they are wanted only when `x` is asked for.

    Attributes:
        values: What is stored, `n d`.
        index: Which row of `values` each step is, `b t`, int64; n, the row after the last, for padding, which is zero.
        mask: True where a step is real, `b t`.
    """

    values: Tensor
    index: Tensor
    mask: Tensor

    @property
    def x(self) -> Tensor:
        """All steps, `b t d`, copied anew each time."""
        values = self.values
        if not self.mask.all():
            values = torch.cat([values, values.new_zeros(1, values.shape[1])])
        return values.index_select(0, self.index.flatten()).unflatten(0, self.index.shape)


def join(parts: Sequence[Steps]) -> Steps:
    """The steps of several streams, one after the other, in the form that they have."""
    mask = torch.cat([part.mask for part in parts], 1)
    index, first = [], 0
    for part in parts:
        if not isinstance(part, IndexedSteps):
            return Stream(torch.cat([part.x for part in parts], 1), mask)
        index.append(part.index + first)
        first += len(part.values)
    values = torch.cat([part.values for part in parts if isinstance(part, IndexedSteps)])
    return IndexedSteps(values, torch.where(mask, torch.cat(index, 1), first), mask)


def rounding(count: int) -> int:
    """How many rows to add to `count`, at most a sixteenth of them, so that few numbers of rows occur.

    oneDNN compiles a kernel for every number of rows that is new to it, and packed batches bring a new one with every
    step.
    """
    return -count % (1 << max(0, count.bit_length() - 5))


class Packing:
    """Where the real steps of a batch are.

    Args:
        mask: True where a step is real, `b t`.
        packed: Leave padding out. Else `pack` and `unpack` change nothing, and padding stays in its place.

    Attributes:
        rows: Which of the `b t` steps are packed, `r`: the real ones, then a few copies of the first (`rounding`);
            None where nothing is packed.
        count: How many of the rows are real, the first ones.
    """

    def __init__(self, mask: Tensor, *, packed: bool = True) -> None:
        self.mask = mask
        self.rows: Tensor | None = None
        self.count = 0
        if packed:
            real = mask.flatten().nonzero().squeeze(1)
            self.count = len(real)
            # Copies are finite where the first row is, and no gradient arrives at them.
            self.rows = torch.cat([real, real[:1].expand(rounding(self.count))])

    @classmethod
    def choose(cls, mask: Tensor) -> Packing:
        """Packs where there is padding, on a CPU.

        A GPU would have to be waited for, and neither a compiler nor vmap knows how many steps are real.
        """
        return cls(mask, packed=mask.device.type == "cpu" and eager() and not bool(mask.all()))

    @property
    def packed(self) -> bool:
        """Whether `pack` leaves padding out."""
        return self.rows is not None

    @property
    def spare(self) -> int:
        """How many of the packed rows are copies, the last ones."""
        return 0 if self.rows is None else len(self.rows) - self.count

    @functools.cached_property
    def lengths(self) -> list[int]:
        """How many real steps each sample has, for a mask on a CPU."""
        return self.mask.sum(1).tolist()

    def pack(self, x: Tensor) -> Tensor:
        """The rows of `b t ...`: `r ...`; `x` itself where nothing is packed."""
        return x if self.rows is None else x.flatten(0, 1).index_select(0, self.rows)

    def values(self, steps: Steps) -> Tensor:
        """What `pack` gives, of steps in either form."""
        if self.rows is None or not isinstance(steps, IndexedSteps):
            return self.pack(steps.x)
        return steps.values.index_select(0, steps.index.flatten().index_select(0, self.rows))

    def steps(self, x: Tensor, mask: Tensor) -> Steps:
        """Packed rows as the steps of a batch again, whose real ones are `mask`, `b t`."""
        return Stream(x, mask) if self.rows is None else IndexedSteps(x, self.index, mask)

    @functools.cached_property
    def index(self) -> Tensor:
        """Which row each step is, `b t`; the row after the last for padding."""
        assert self.rows is not None
        index = torch.full((self.mask.numel(),), len(self.rows))
        return index.index_copy_(0, self.rows[: self.count], torch.arange(self.count)).view(self.mask.shape)

    def unpack(self, x: Tensor) -> Tensor:
        """Rows `r d` at their places in `b t d`, zero elsewhere."""
        if self.rows is None:
            return x
        empty = x.new_zeros(self.mask.numel(), x.shape[1])
        return empty.index_copy_(0, self.rows[: self.count], x[: self.count]).unflatten(0, self.mask.shape)
