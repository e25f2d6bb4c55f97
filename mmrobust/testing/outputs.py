"""What a component returned: of the right type and shape, and as streams, so that all kinds can be compared alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Stream, Streams
from mmrobust.testing.comparing import same
from mmrobust.testing.failures import Failed
from mmrobust.testing.surroundings import Surroundings


def as_streams(kind: str, out: Any, given: Mapping[str, Any]) -> Streams:
    """What a component of this kind returned, as streams.

    Args:
        kind: Its kind. A prediction and a loss become streams of one step; a noise's `erased` become streams, too.
        out: What it returned.
        given: The arguments of the call, by name.

    Raises:
        Failed: It is of another type or shape than is due; the message says which is.
    """
    match kind:
        case "objective":
            loss = out[0] if isinstance(out, tuple) else out
            out = {"loss": Stream.pooled(_typed(loss, Tensor, "the loss").reshape(1, 1))}
        case "head" | "discriminator":
            if _typed(out, Tensor, "the output").ndim != 2:
                raise Failed("the output has the shape b c", f"{tuple(out.shape)}")
            out = {"output": Stream.pooled(out)}
        case "noise":
            check_batch(given["batch"], out)
            masks = {m: stream.mask for m, stream in out.features.items()}
            erased = {f"erased {m}": Stream(e.unsqueeze(-1).float(), masks[m]) for m, e in out.erased.items()}
            out = {**out.features, **erased}
        case "fusion":
            out = {"fused": out}
    for key, stream in _typed(out, dict, "the output").items():
        x, mask = _typed(stream, Stream, f"'{key}'").x, stream.mask
        if x.ndim != 3 or not x.is_floating_point():
            raise Failed(f"'{key}' is float, of shape b t d", f"{tuple(x.shape)}, {x.dtype}")
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            expected = f"the mask of '{key}' is bool, of shape {tuple(x.shape[:2])}"
            raise Failed(expected, f"{tuple(mask.shape)}, {mask.dtype}")
    return out


def check_batch(batch: Batch, out: Any) -> None:
    """Fails unless `out`, with noise, is a batch like `batch`, without."""
    _typed(out, Batch, "the noisy batch")
    names = ", ".join(batch.features)
    if set(out.features) != set(batch.features) or set(out.erased) != set(batch.features):
        raise Failed(f"features and erased of {names}", f"{', '.join(out.features)} and {', '.join(out.erased)}")
    for m, stream in batch.features.items():
        after, erased = out.features[m], out.erased[m]
        for what, value, expected in (("x", after.x, stream.x), ("`erased`", erased, stream.mask)):
            if value.shape != expected.shape or value.dtype != expected.dtype:
                raise Failed(
                    f"{what} of '{m}' of shape {tuple(expected.shape)}, {expected.dtype}",
                    f"{tuple(value.shape)}, {value.dtype}",
                )
        if not torch.equal(after.mask, stream.mask):
            raise Failed(f"'{m}' keeps its mask", "the mask has changed; erased steps stay real")
    for what, value, expected in (("label", out.label, batch.label), ("index", out.index, batch.index)):
        if not same(value, expected):
            raise Failed(f"`{what}` of the batch stays", "it has changed")


def check_streams(kind: str, out: Streams, around: Surroundings, count: int) -> None:
    """Fails unless `out` is made of finite streams of `count` samples."""
    samples = 1 if kind == "objective" else count
    for key, stream in out.items():
        if len(stream.x) != samples:
            raise Failed(f"'{key}' has {samples} samples with {around}", f"shape {tuple(stream.x.shape)}")
        if not stream.x[stream.mask].isfinite().all():
            raise Failed(f"'{key}' is finite with {around}", "NaN or infinity")


def _typed(value: Any, wanted: type, what: str) -> Any:
    """The value, if it is of the type that is due.

    Raises:
        Failed: It is of another type; the message says how to make the right one.
    """
    if isinstance(value, wanted):
        return value
    came = f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        came = f"a Tensor of shape {tuple(value.shape)}"
        if wanted is Stream:
            came += "; Stream.pooled(x) makes a stream of x, `b d`, and Stream(x, mask) of x, `b t d`"
    raise Failed(f"{what} is a {wanted.__name__}", came)
