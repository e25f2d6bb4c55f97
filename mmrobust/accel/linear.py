"""Linear layers on a CPU, and which library multiplies their matrices.

Torch has two libraries for the matrix products (GEMM) of linear layers on an x86 processor: MKL, which it asks in fp32,
and oneDNN, which it asks in bf16. On processors that are not Intel's MKL leaves AVX-512 unused. On AMD's Zen 5, which
has the whole width of it, oneDNN multiplies in fp32 twice as fast (docs/speed.md), and fp32 products are given to it
there; `MMROBUST_GEMM=torch` leaves the choice to torch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from mmrobust.accel.modes import eager, enabled
from mmrobust.errors import UsageError
from mmrobust.processor import processor

__all__ = [
    "Library",
    "Linear",
    "explain_gemm",
    "gemm",
    "linear",
    "unoffered",
    "use_fast_linear",
    "use_gemm",
    "why_not_onednn",
]

Library = Literal["onednn", "torch"]

#: The family of AMD's Zen 5 as the processor reports it.
_ZEN_5 = 26

#: Multiplications below which a call of ours costs more than it gains.
SMALL = 2**22

_overrides: list[Library] = []


def _count_flops(x: Any, weight: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    return 2 * x.numel() * weight.shape[0]


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # torch's counter knows no formula for it
    flop_registry[torch.ops.mkldnn._linear_pointwise] = _count_flops


@functools.cache
def why_not_onednn() -> str | None:
    """Why linear layers in fp32 are left to torch's own choice on this machine; None where they are not."""
    if reason := unoffered():
        return reason
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "torch has no AVX-512 here, and without it both libraries are equally fast"
    reported = processor()
    vendor, family = reported.get("vendor_id"), reported.get("cpu family", "")
    if vendor == "GenuineIntel":
        return "MKL makes full use of Intel's processors"
    if vendor != "AuthenticAMD" or not family.isdecimal() or int(family) < _ZEN_5:
        return "oneDNN was measured to be faster on AMD's Zen 5 alone"
    return None


@functools.cache
def unoffered() -> str | None:
    """Why linear layers in fp32 cannot ask oneDNN at all; None where they can."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch does not offer oneDNN's products in fp32"
    return None


def gemm() -> Library:
    """Who multiplies in linear layers in fp32 on a CPU: a `use_gemm` block wins over `MMROBUST_GEMM`.

    Raises:
        UsageError: `MMROBUST_GEMM` is neither `onednn` nor `torch`, or oneDNN cannot be asked here.
    """
    if _overrides:
        return _overrides[-1]
    return _standing() if enabled() else "torch"


@functools.cache
def _standing() -> Library:
    asked = os.environ.get("MMROBUST_GEMM")
    if asked:
        return _checked(asked, "MMROBUST_GEMM")
    return "torch" if why_not_onednn() else "onednn"


def _checked(name: str, by: str) -> Library:
    if name not in ("onednn", "torch"):
        raise UsageError(f"{by}: linear layers multiply with onednn or torch, not with '{name}'")
    if name == "onednn" and (reason := unoffered()):
        raise UsageError(f"{by}: {reason}; use torch")
    return name


@contextmanager
def use_gemm(name: Library) -> Iterator[None]:
    """Linear layers inside the block multiply with this library in fp32 on a CPU.

    Args:
        name: `onednn`, or `torch` for torch's own choice.

    Raises:
        UsageError: There is no such library, or it cannot be asked here.
    """
    _overrides.append(_checked(name, "use_gemm"))
    try:
        yield
    finally:
        _overrides.pop()


def explain_gemm(device: str = "cpu", precision: str = "fp32") -> str:
    """Who multiplies in linear layers, and why; empty where there is no choice, elsewhere than in fp32 on a CPU.

    Args:
        device: Type of the device.
        precision: As `train.precision` names it.
    """
    if (device, precision) != ("cpu", "fp32"):
        return ""
    reason = why_not_onednn()
    if gemm() == "torch":
        return f"torch's own choice ({reason or 'which was asked for'})"
    return "oneDNN (MKL leaves AVX-512 unused on this processor)" if reason is None else "oneDNN (which was asked for)"


class Linear(nn.Linear):
    """`nn.Linear` whose large products in fp32 on a CPU are given to the faster library."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps `... k` to `... n`."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, of `... k`, `n k` and `n`, with the faster library."""
    if not _ours(x, weight):
        return F.linear(x, weight, bias)
    rows = (x if x.dim() == 2 else x.reshape(-1, x.shape[-1])).contiguous()
    out: Any = _Affine.apply(rows, weight, bias) if torch.is_grad_enabled() else _affine(rows, weight, bias)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], -1)


def use_fast_linear(module: nn.Module) -> None:
    """Turns every plain `nn.Linear` of a module, whoever wrote it, into a `Linear`; nothing else of it changes."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear


def _ours(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and eager()  # before what a compiler cannot trace
        and gemm() == "onednn"
        and x.dtype is weight.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() * len(weight) >= SMALL
        and x.shape[-1] == weight.shape[1]  # torch says best what is wrong
    )


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias`, of `m k`, `n k` and `n`; by torch itself where gradients or transforms go through it."""
    if torch.is_grad_enabled() or not eager():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        for_x, for_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)
        return _affine(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        g = gradients[0].contiguous()  # a number that strides alone repeat would take oneDNN a hundred times as long
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        d_x = _affine(g, weight.mT) if for_x else None
        d_weight = None
        if for_weight:  # oneDNN copies the first factor, whose steps are not where it wants them: the narrower one
            d_weight = _affine(g.mT, x.mT) if g.shape[1] <= x.shape[1] else _affine(x.mT, g.mT).mT
        return d_x, d_weight, g.sum(0) if for_bias else None
