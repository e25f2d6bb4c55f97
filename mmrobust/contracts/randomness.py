"""Seeds and generators: every random number comes from the recipe's seed and a path that says what it is for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_GLOBAL = threading.RLock()  # torch's global generators belong to all threads


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(1, "noise", epoch)`; different paths give unrelated seeds."""
    text = "/".join([str(int(seed)), *map(str, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` on `device`, seeded with `derive(seed, *path)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *path))


@contextmanager
def global_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's global generators for a block, for what can draw from nothing else: dropout, initial weights.

    Afterwards they are as they were. Other threads wait at the same place, so that none draws another's numbers.

    Args:
        seed: What they are seeded with.
        device: A GPU whose generator is seeded as well.
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    with _GLOBAL, torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
