"""Linear layers on a CPU, and which library multiplies their matrices.

Torch has two libraries for the matrix products (GEMM) of linear layers on an x86 processor: MKL, which it asks in fp32,
and oneDNN, which it asks in bf16. On processors that are not Intel's MKL leaves AVX-512 unused, and oneDNN multiplies
in fp32 about twice as fast (docs/speed.md). There the house asks oneDNN; `MMROBUST_GEMM=torch` leaves the choice to
torch.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrobust.errors import UsageError
from mmrobust.nn.rows import eager

__all__ = ["Gemm", "Linear", "explain_gemm", "gemm", "linear", "quicken", "unoffered", "use_gemm", "why_not_onednn"]

Gemm = Literal["onednn", "torch"]

#: Multiplications below which a call of ours costs more than it gains.
SMALL = 2**22

_overrides: list[Gemm] = []


@functools.cache
def why_not_onednn() -> str | None:
    """Why linear layers in fp32 are left to torch's own choice on this machine; None where they are not."""
    if reason := unoffered():
        return reason
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "torch has no AVX-512 here, and without it both libraries are equally fast"
    if (vendor := _vendor()) in (None, "GenuineIntel"):
        return "MKL makes full use of Intel's processors" if vendor else "it is not known who made this processor"
    return None


@functools.cache
def unoffered() -> str | None:
    """Why linear layers in fp32 cannot ask oneDNN at all; None where they can."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch does not offer oneDNN's products in fp32"
    return None


def _vendor() -> str | None:
    """Who made the processor, as Linux tells it."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    with suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^vendor_id\s*:\s*(\S+)", told, re.MULTILINE):
            return found[1]
    return None


def gemm() -> Gemm:
    """Who multiplies in linear layers in fp32 on a CPU: a `use_gemm` block wins over `MMROBUST_GEMM`.

    Raises:
        UsageError: `MMROBUST_GEMM` is neither `onednn` nor `torch`, or oneDNN cannot be asked here.
    """
    return _overrides[-1] if _overrides else _standing()


@functools.cache
def _standing() -> Gemm:
    asked = os.environ.get("MMROBUST_GEMM")
    if asked:
        return _checked(asked, "MMROBUST_GEMM")
    return "torch" if why_not_onednn() else "onednn"


def _checked(name: str, by: str) -> Gemm:
    if name not in ("onednn", "torch"):
        raise UsageError(f"{by}: linear layers multiply with onednn or torch, not with '{name}'")
    if name == "onednn" and (reason := unoffered()):
        raise UsageError(f"{by}: {reason}; use torch")
    return name


@contextmanager
def use_gemm(name: Gemm) -> Iterator[None]:
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


def explain_gemm() -> str:
    """Who multiplies in linear layers in fp32 on this CPU, and why."""
    taken = gemm()
    if taken == "torch":
        return f"torch's own choice ({why_not_onednn() or 'MMROBUST_GEMM'})"
    return "oneDNN (MKL leaves AVX-512 unused on this processor)" if why_not_onednn() is None else "oneDNN"


class Linear(nn.Linear):
    """`nn.Linear` whose large products in fp32 on a CPU are given to the faster library."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps `... k` to `... n`."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, of `... k`, `n k` and `n`, with the faster library."""
    if not _ours(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out: Any = _Affine.apply(rows, weight, bias) if torch.is_grad_enabled() else _affine(rows, weight, bias)
    return out.view(*x.shape[:-1], -1)


def quicken(module: nn.Module) -> None:
    """Turns every plain `nn.Linear` of a module, whoever wrote it, into a `Linear`; nothing else of it changes."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear


def _ours(x: Tensor, weight: Tensor) -> bool:
    return (
        gemm() == "onednn"
        and eager()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype is weight.dtype is torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() * len(weight) >= SMALL
    )


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias`, of `m k`, `n k` and `n`; where a gradient of it may be asked for, by torch's own means."""
    if torch.is_grad_enabled() or x.numel() * len(weight) < SMALL:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
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
