"""Layers that look at each step alone, without the padding: only real steps go through them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Rows", "eager"]


def eager() -> bool:
    """Whether tensors have values now: neither traced for a compiler nor transformed by vmap."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


class Rows:
    """The real steps of a batch, one after the other, so that no arithmetic is spent on padding.

    Args:
        mask: True where a step is real, `b t`; None for all steps, left where they are.
    """

    def __init__(self, mask: Tensor | None = None) -> None:
        self.mask = mask
        self.places = None if mask is None else mask.flatten().nonzero().squeeze(1)

    @classmethod
    def where(cls, mask: Tensor | None) -> Rows:
        """Rows of a mask on a CPU; elsewhere, and where tensors have no values yet, all steps stay.

        A GPU would have to be waited for, and neither a compiler nor vmap knows how many steps are real.
        """
        if mask is None or mask.device.type != "cpu" or not eager() or mask.all():
            return cls()
        return cls(mask)

    def pack(self, x: Tensor) -> Tensor:
        """The real steps `r d` of `b t d`."""
        return x if self.places is None else x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        """Real steps `r d` at their places in `b t d`, zero elsewhere."""
        if self.mask is None or self.places is None:
            return x
        empty = x.new_zeros(self.mask.numel(), x.shape[1])
        return empty.index_copy_(0, self.places, x).unflatten(0, self.mask.shape)
