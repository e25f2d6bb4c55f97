"""Which backend runs: what was asked for, what can run, and what `auto` takes, with its reasons."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from mmrobust.errors import UsageError, nearest
from mmrobust.nn.attention.backends import BACKENDS, Case

# Innermost last. A plain list, because torch.compile of torch 2.11 cannot trace a context variable.
_overrides: list[str] = []

class Unusable(UsageError):
    """The backend that was asked for cannot run here."""


@contextmanager
def use_attention(backend: str) -> Iterator[None]:
    """Every attention inside the block uses `backend`, whatever recipe and environment say.

    Raises:
        UsageError: There is no such backend.
    """
    _overrides.append(known(backend))
    try:
        yield
    finally:
        _overrides.pop()


def known(backend: str) -> str:
    """The name itself, if there is such a backend (or it is `auto`).

    Raises:
        UsageError: There is not; the message names the nearest one.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"there is no attention backend '{backend}'{nearest(backend, ['auto', *BACKENDS])}")
    return backend


def asked(backend: str = "auto") -> tuple[str, str]:
    """What is asked for and by whom: a `use_attention` block wins over `MMROBUST_ATTENTION`, that over the recipe.

    Args:
        backend: The recipe's.

    Returns:
        The name, which may be `auto`, and `a use_attention block`, `MMROBUST_ATTENTION` or `the recipe`.

    Raises:
        UsageError: There is no such backend.
    """
    if _overrides:
        return _overrides[-1], "a use_attention block"
    if name := os.environ.get("MMROBUST_ATTENTION"):
        return known(name), "MMROBUST_ATTENTION"
    return known(backend), "the recipe"


def resolve(backend: str, case: Case) -> str:
    """The backend that runs a case; never `auto`.

    Args:
        backend: The recipe's, which a `use_attention` block or the environment overrides.
        case: What is to be computed.

    Raises:
        UsageError: There is no such backend.
        Unusable: It cannot run the case; with the reason, and what can.
    """
    name, by = asked(backend)
    return automatic(case) if name == "auto" else _insist(name, by, case)


@functools.lru_cache(4096)
def _insist(name: str, by: str, case: Case) -> str:
    if reason := BACKENDS[name].why_not(case):
        rest = [other for other, b in BACKENDS.items() if b.why_not(case) is None]
        usable = ", ".join(["auto", *rest[:-1]]) + f" or {rest[-1]}"
        raise Unusable(f"attention backend '{name}', which {by} asks for, cannot be used: {reason}; use {usable}")
    return name


def automatic(case: Case) -> str:
    """What `auto` takes: torch's `scaled_dot_product_attention`, which picks one of its kernels by itself.

    On a CPU that is its FlashAttention kernel, the fastest that was measured (docs/speed.md); on a GPU torch's choice
    was not yet measured.
    """
    return "sdpa"


def passed_over(case: Case) -> dict[str, str]:
    """Why `auto` does not take each of the others."""
    # Whether timm can be imported takes seconds to find out and is not the reason; `doctor` says it.
    sure = lambda name: name == "timm" and "timm" not in sys.modules
    return {
        name: (None if sure(name) else backend.why_not(case)) or _slower(name, case)
        for name, backend in BACKENDS.items()
        if name != automatic(case)
    }


def _slower(name: str, case: Case) -> str:
    """Why a backend that could run is not taken."""
    if case.device != "cpu":
        if name == "manual":
            return "writes all weights to memory"
        if name == "timm":
            return "calls what sdpa calls"
        return "sdpa takes it where torch expects it to be faster (not yet measured here)"
    if name == "manual":
        return "is the written-out reference, and measured slower"
    return {
        "flash": "is what sdpa takes on a CPU",
        "timm": "calls what sdpa calls, after copying query, key and value into one tensor",
        "flex": "compiles for each shape (tens of seconds) and is no faster on a CPU",
    }[name]


def expected(device: str, precision: str) -> Case:
    """What is known of the case from a recipe's settings, before there is a model.

    Args:
        device: `train.device`.
        precision: `train.precision`.
    """
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        kind = device.partition(":")[0]
    formats = {"bf16": torch.bfloat16, "fp16": torch.float16}
    # On a CPU attention is computed in fp32, see `attention`.
    return Case(kind, torch.float32 if kind == "cpu" else formats.get(precision, torch.float32))


def explain(backend: str, cases: Iterable[Case]) -> list[str]:
    """Which backend runs each of some cases, and why not another one: a line, and lines with the reasons.

    Args:
        backend: The recipe's.
        cases: What is to be computed.

    Raises:
        UsageError: As `resolve`.
    """
    name, by = asked(backend)
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(resolve(backend, case), []).append(case)
    lines = []
    for chosen, group in groups.items():
        largest = max(group, key=lambda case: (case.queries or 0) * (case.keys or 0))
        more = f", and {len(group) - 1} smaller" if len(group) > 1 else ""
        lines.append(f"{chosen} ({'auto' if name == 'auto' else by}) for {largest}{more}")
        reasons: dict[str, list[str]] = {}
        for other, reason in passed_over(largest).items() if name == "auto" else ():
            reasons.setdefault(reason, []).append(other)
        lines += [f"   not {', '.join(others)}: {reason}" for reason, others in reasons.items()]
    return lines or ["none is computed"]


def check(backend: str, case: Case) -> None:
    """Refuses a recipe's backend before anything is built, as far as it can be known.

    Nothing is refused where the environment or a block overrides the recipe.

    Args:
        backend: The recipe's.
        case: What is known, see `expected`.

    Raises:
        UsageError: There is no such backend.
        Unusable: It cannot run on this device or in this number format.
    """
    known(backend)
    name, by = asked(backend)
    if by == "the recipe" and name != "auto":
        _insist(name, by, case)
