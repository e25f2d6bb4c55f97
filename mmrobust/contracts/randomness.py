"""Seeds and generators: every random number comes from the recipe's seed and a path that says what it is for."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(1, "noise", epoch)`; different paths give unrelated seeds."""
    text = "/".join([str(int(seed)), *map(str, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` on `device`, seeded with `derive(seed, *path)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *path))
