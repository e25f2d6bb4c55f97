"""Scaled dot-product attention under one signature, with named backends.

`manual` is the readable reference, which every other backend has to agree with; `auto`, the default, picks by device,
number format and shape. A `use_attention` block wins over the environment's `MMROBUST_ATTENTION`, that over the
recipe's `model.attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mmrobust.nn.attention.backends import BACKENDS, HALVES, Case, weights
from mmrobust.nn.attention.choice import asked, resolve

_recorders: list[list[Tensor]] = []
_watchers: list[dict[Case, str]] = []


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, backend: str = "auto") -> Tensor:
    """Each query's weighted mean of the values.

    On a CPU it is computed in fp32 at least, also under autocast: torch's bf16 and fp16 attention is slower there, and
    less exact.

    Args:
        query: `b h s d`.
        key: `b h t d`.
        value: `b h t d`.
        mask: True where a key is real, `b t`, bool; None if all are.
        backend: `auto`, or a key of `BACKENDS`.

    Returns:
        `b h s d`, in the query's dtype; zero where a sample has no real key.

    Raises:
        UsageError: There is no such backend, or (`Unusable`) it cannot run this: the message says why.
    """
    return precisely(lambda q, k, v: _attention(q, k, v, mask, backend), query, key, value)


def precisely(f: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Calls `f`, on a CPU in fp32 at least, also under autocast; the result has the dtype of the first tensor."""
    first = tensors[0]
    if first.device.type != "cpu" or (first.dtype not in HALVES and not torch.is_autocast_enabled("cpu")):
        return f(*tensors)
    with torch.autocast("cpu", enabled=False):
        return f(*(x.float() if x.dtype in HALVES else x for x in tensors)).to(first.dtype)


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    if _recorders:
        with torch.no_grad():
            seen = weights(query, key, mask)
        for recorder in _recorders:
            recorder.append(seen)
    if torch.compiler.is_compiling():
        # No guards on lengths, and nothing cached that a trace would miss: torch chooses, also again in every graph.
        name, _ = asked(backend)
        return BACKENDS["sdpa" if name == "auto" else name].run(query, key, value, mask)
    if torch._C._are_functorch_transforms_active():
        # Torch's fused kernels have no rule for vmap: they would run one of several stacked models after the other.
        return BACKENDS["manual"].run(query, key, value, mask)
    case = Case(
        query.device.type,
        query.dtype,
        query.shape[2],
        key.shape[2],
        query.shape[3],
        mask is not None,
        wants_gradient(query, key, value),
    )
    name = resolve(backend, case)
    for watcher in _watchers:
        watcher[case] = name
    return BACKENDS[name].run(query, key, value, mask)


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether a gradient by one of them will be asked for."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


@contextmanager
def record() -> Iterator[list[Tensor]]:
    """Every attention inside the block also appends its weights, `b h s t`, to the list, in the order of the calls.

    The weights are `weights`', whatever backend runs, and cost what `manual` costs; outside of such a block nothing is
    spent on them. They are detached and stay on their device.

    Examples:
        >>> with record() as seen:
        ...     model(features)
        >>> seen[0].shape  # the first block of the fusion
    """
    seen: list[Tensor] = []
    _recorders.append(seen)
    try:
        yield seen
    finally:
        # By identity: two empty lists are equal.
        _recorders[:] = [recorder for recorder in _recorders if recorder is not seen]


@contextmanager
def watch() -> Iterator[dict[Case, str]]:
    """The cases of attention computed inside the block and the backend of each, in the order of first use."""
    seen: dict[Case, str] = {}
    _watchers.append(seen)
    try:
        yield seen
    finally:
        _watchers[:] = [watcher for watcher in _watchers if watcher is not seen]


def recording() -> bool:
    """Whether a `record` block is open: then all attention has to go through `attention`, whole batches at a time."""
    return bool(_recorders)
