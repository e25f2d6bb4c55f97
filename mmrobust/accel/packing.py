"""The real steps of a batch, packed: one after the other, sample by sample, so that nothing is spent on padding."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrobust.contracts import Steps, Stream, eager

__all__ = ["Kept", "Rows", "joined", "spare"]


def spare(count: int) -> int:
    """How many rows to add to `count`, so that few numbers of rows occur: at most a sixteenth of them.

    oneDNN makes a kernel for every number of rows that it has not met (docs/speed.md), and packed batches would bring
    new ones with every step. It is done on every CPU, so that dropout draws alike everywhere.
    """
    return -count % (1 << max(0, count.bit_length() - 5))


class Rows:
    """Where the real steps of a batch are.

    Args:
        mask: True where a step is real, `b t`; None where all are.
        packed: Whether they are packed, and after them a few more that are nobody's (`spare`); else every step,
            padding too, stays where it is.

    Attributes:
        places: Where the packed ones are among `b t`; None where they are not packed.
        count: How many of those are real, the first ones.
    """

    def __init__(self, mask: Tensor | None = None, *, packed: bool = True) -> None:
        self.mask = mask
        self.places: Tensor | None = None
        self.count = 0
        if packed and mask is not None:
            real = mask.flatten().nonzero().squeeze(1)
            self.count = len(real)
            # Another copy of the first, which is finite if it is, and whose gradient is zero as nobody reads it.
            self.places = torch.cat([real, real[:1].expand(spare(self.count))])

    @classmethod
    def where(cls, mask: Tensor | None) -> Rows:
        """Packed where there is padding, on a CPU; elsewhere, and where tensors have no values yet, all steps stay.

        A GPU would have to be waited for, and neither a compiler nor vmap knows how many steps are real.
        """
        if mask is None or mask.device.type != "cpu" or not eager():
            return cls(mask, packed=False)
        return cls() if mask.all() else cls(mask)

    @property
    def packed(self) -> bool:
        """Whether `pack` leaves padding out."""
        return self.places is not None

    @property
    def spare(self) -> int:
        """How many of the packed steps are nobody's, the last ones."""
        return 0 if self.places is None else len(self.places) - self.count

    @functools.cached_property
    def lengths(self) -> list[int]:
        """How many of the packed steps each sample has, for a mask on a CPU."""
        assert self.mask is not None
        return self.mask.sum(1).tolist()

    def pack(self, x: Tensor) -> Tensor:
        """The real steps of `b t d`, and a few more: `r d`."""
        return x if self.places is None else x.flatten(0, 1).index_select(0, self.places)

    def of(self, steps: Steps) -> Tensor:
        """What `pack` gives, of a batch in whatever form; all, `b t d`, where they are not packed."""
        if self.places is None or not isinstance(steps, Kept):
            return self.pack(steps.x)
        return steps.values.index_select(0, steps.places.flatten().index_select(0, self.places))

    def keep(self, x: Tensor, mask: Tensor) -> Steps:
        """What `pack` gives as the steps of a batch again, whose real ones are `mask`, `b t`."""
        return Stream(x, mask) if self.places is None else Kept(x, self.order, mask)

    @functools.cached_property
    def order(self) -> Tensor:
        """Which of the packed steps each step is, `b t`; for padding, the place after the last."""
        assert self.mask is not None and self.places is not None
        order = torch.full((self.mask.numel(),), len(self.places))
        return order.index_copy_(0, self.places[: self.count], torch.arange(self.count)).view(self.mask.shape)

    def unpack(self, x: Tensor) -> Tensor:
        """Real steps of `r d` at their places in `b t d`, zero elsewhere."""
        if self.mask is None or self.places is None:
            return x
        places = self.places
        if len(places) > self.count:
            x, places = x[: self.count], places[: self.count]
        empty = x.new_zeros(self.mask.numel(), x.shape[1])
        return empty.index_copy_(0, places, x).unflatten(0, self.mask.shape)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of each sample's real steps, `b d`, of what `pack` gives; zero where a sample has none."""
        if self.mask is None:
            return x.mean(1)
        count = self.mask.sum(1)
        if self.places is None:
            return (self.mask.to(x.dtype).unsqueeze(1) @ x).squeeze(1) / count.clamp(min=1).unsqueeze(1)
        first = count.cumsum(0) - count
        return F.embedding_bag(torch.arange(self.count), x, first, mode="mean")


@dataclass(frozen=True)
class Kept:
    """Steps of a batch that are kept once and copied to where they are wanted when somebody wants them.

    Padding is nobody's step, so that a sample that is not finite spoils no other.

    Attributes:
        values: What is kept, `n d`.
        places: Which of them each step is, `b s`, int64; n, the place after the last, for padding that is zero.
        mask: True where a step is real, `b s`.
    """

    values: Tensor
    places: Tensor
    mask: Tensor

    @property
    def x(self) -> Tensor:
        """All steps, `b s d`, copied anew each time."""
        values = self.values
        if not self.mask.all():
            values = torch.cat([values, values.new_zeros(1, values.shape[1])])
        return values.index_select(0, self.places.flatten()).unflatten(0, self.places.shape)


def joined(parts: Sequence[Steps]) -> Steps:
    """The steps of several streams, one after the other."""
    mask = torch.cat([part.mask for part in parts], 1)
    places, first = [], 0
    for part in parts:
        if not isinstance(part, Kept):
            return Stream(torch.cat([part.x for part in parts], 1), mask)
        places.append(part.places + first)
        first += len(part.values)
    values = torch.cat([part.values for part in parts if isinstance(part, Kept)])
    return Kept(values, torch.where(mask, torch.cat(places, 1), first), mask)
