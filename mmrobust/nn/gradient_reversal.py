"""The gradient reversal layer of Ganin & Lempitsky (2015), "Unsupervised domain adaptation by backpropagation"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, strength: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength * gradients[0], None


def reverse_gradient(x: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    """`x` itself; its gradient is exactly `-strength` times the one that arrives.

    Args:
        x: Any shape.
        strength: lambda of the paper; a number or a 0-d tensor.
    """
    if not isinstance(strength, Tensor):  # filled where it is wanted: a number that is copied makes a GPU wait
        strength = torch.full((), strength, dtype=x.dtype, device=x.device)
    return _Reverse.apply(x, strength.to(x.device, x.dtype))  # type: ignore[return-value]


def ramp(fraction: Tensor, strength: float = 1.0, gamma: float = 10.0) -> Tensor:
    """The schedule of Ganin & Lempitsky (2015), section 4.2: `strength * (2 / (1 + exp(-gamma p)) - 1)`.

    Args:
        fraction: p, how much of training is done, 0 to 1, 0-d.
        strength: What it grows to.
        gamma: How fast.
    """
    return strength * torch.tanh(gamma * fraction / 2)  # the same function, written without overflow
