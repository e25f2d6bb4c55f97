"""Attention of several models at once, under `torch.func.vmap`.

Torch's fused kernels have no rule for `vmap` on a CPU, nor for their backward passes on a GPU, and would run one model
after the other. But attention treats each sample alone: models times samples are just more samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmrobust.contracts import eager
from mmrobust.nn.attention.backends import BACKENDS, manual


def together(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, name: str) -> Tensor:
    """What the backend `name` gives, with the models of an enclosing `vmap` in one call."""
    return _Together.apply(query, key, value, mask, name)


class _Together(torch.autograd.Function):
    """Attention with its own rule for `vmap`.

    A gradient taken outside of `vmap` is the backend's own; one taken inside (`vmap` of `grad`) is `manual`'s.
    """

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, name: str) -> Tensor:
        return _run(query, key, value, mask, name)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, mask, _ = inputs
        ctx.save_for_backward(*tensors, mask)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, mask = ctx.saved_tensors
        pull = torch.func.vjp(lambda q, k, v: manual(q, k, v, mask), query, key, value)[1]
        return *pull(*gradients), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        *tensors, name = inputs
        count = info.batch_size
        folded: list[Any] = [
            None if x is None else (x.expand(count, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)
            for x, dim in zip(tensors, in_dims, strict=False)
        ]
        # Another transform around this one is treated in the same way.
        out = (_run if eager() else together)(*folded, name)  # pyright: ignore[reportCallIssue]
        return out.unflatten(0, (count, -1)), 0


def _run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, name: str) -> Tensor:
    return BACKENDS[name].run(query, key, value, mask)
