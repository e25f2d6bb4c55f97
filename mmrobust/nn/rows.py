"""The real steps of a batch, packed: one after the other, sample by sample, so that nothing is spent on padding."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Rows", "eager"]


def eager() -> bool:
    """Whether tensors have values now: neither traced for a compiler nor transformed by vmap."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


class Rows:
    """Where the real steps of a batch are.

    Args:
        mask: True where a step is real, `b t`; None where all are.
        packed: Whether they are packed; else every step, padding too, stays where it is.
    """

    def __init__(self, mask: Tensor | None = None, *, packed: bool = True) -> None:
        self.mask = mask
        self.places = mask.flatten().nonzero().squeeze(1) if packed and mask is not None else None

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

    @functools.cached_property
    def lengths(self) -> list[int]:
        """How many steps of each sample are real; for a mask on a CPU."""
        assert self.mask is not None
        return self.mask.sum(1).tolist()

    def pack(self, x: Tensor) -> Tensor:
        """The real steps `r d` of `b t d`."""
        return x if self.places is None else x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        """Real steps `r d` at their places in `b t d`, zero elsewhere."""
        if self.mask is None or self.places is None:
            return x
        empty = x.new_zeros(self.mask.numel(), x.shape[1])
        return empty.index_copy_(0, self.places, x).unflatten(0, self.mask.shape)

    def mean(self, x: Tensor) -> Tensor:
        """The mean of each sample's real steps, `b d`, of what `pack` gives; zero where a sample has none."""
        if self.mask is None:
            return x.mean(1)
        count = self.mask.sum(1)
        if self.places is None:
            share = self.mask.to(x.dtype) / count.clamp(min=1).unsqueeze(1)
            return (share.unsqueeze(1) @ x).squeeze(1)
        first = count.cumsum(0) - count
        return F.embedding_bag(torch.arange(len(x)), x, first, mode="mean")
