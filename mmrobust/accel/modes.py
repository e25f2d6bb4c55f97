"""Whether anything is made faster at all, and what can be asked of tensors at this moment."""

from __future__ import annotations

import os

import torch

__all__ = ["eager", "enabled"]


def enabled() -> bool:
    """False where `MMROBUST_ACCEL=off` asks for the plain form of everything."""
    return os.environ.get("MMROBUST_ACCEL", "on").lower() not in ("off", "0", "false", "no")


def eager() -> bool:
    """Whether tensors have values now: neither traced for a compiler nor transformed by vmap."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
