"""Where a training runs: its device, what of the data lies on it, and how its numbers become the same every time."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmrobust.contracts import Context, Split, Stream
from mmrobust.contracts.randomness import global_seed
from mmrobust.errors import Problem, RecipeError
from mmrobust.processor import processor

if TYPE_CHECKING:
    from mmrobust.recipe import Recipe

__all__ = ["choose_device", "deterministic", "resident", "slow_precision"]

#: What an x86 processor must have for a number format to be faster than fp32, as Linux names it.
_NATIVE = {"bf16": {"avx512_bf16", "amx_bf16"}, "fp16": {"avx512_fp16", "amx_fp16"}}


def choose_device(recipe: Recipe) -> torch.device:
    """The device that the recipe's `train.device` means here; `auto` is a GPU where there is one.

    Raises:
        RecipeError: There is no such device.
    """
    name = recipe.train.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # streams, graphs and waiting are of the current one
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        message = f"there is no device '{name}' here ({cause}); use auto, cpu or cuda"
        raise RecipeError(Problem(message, recipe.where("train", "device"))) from error
    return device


def slow_precision(precision: str, device: torch.device) -> str | None:
    """Says so where a number format is known to be emulated, many times slower than fp32; None otherwise."""
    if device.type != "cpu" or precision not in _NATIVE or platform.machine() not in ("x86_64", "AMD64"):
        return None
    flags = processor().get("flags")
    if flags is None or _NATIVE[precision] & set(flags.split()):
        return None
    return f"this processor only imitates {precision}: train.precision=fp32 will be many times faster"


def resident(split: Split, context: Context, device: torch.device) -> Split:
    """The split on the device, with the modalities that the model reads and no others, padding zero."""

    def without_padding(stream: Stream) -> Stream:
        clean = not ((stream.x != 0).any(-1) & ~stream.mask).any()
        return stream if clean else stream.zeroed()  # a copy, of what may be gigabytes

    return replace(split, features={m: without_padding(split.features[m]) for m in context.modalities}).to(device)


@contextmanager
def deterministic(device: torch.device, seed: int, lenient: bool = False) -> Iterator[None]:
    """Seeds what dropout draws from, and asks a GPU for deterministic kernels; afterwards all is as it was.

    Args:
        device: Where the block runs.
        seed: Of what dropout draws.
        lenient: Let kernels run that have no deterministic form. Torch's fused attention takes its faster form then,
            which is not deterministic either.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    with global_seed(seed, device):
        if device.type == "cuda":
            torch.use_deterministic_algorithms(True, warn_only=lenient)
            memory.fill_uninitialized_memory = False  # a kernel for almost every tensor
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            memory.fill_uninitialized_memory = filled
