"""The one seam: a freshly assembled model and its learning are given their fast forms."""

from __future__ import annotations

from torch import nn

from mmrobust.accel.cross_attention import FastCrossAttention
from mmrobust.accel.linear import explain_gemm, use_fast_linear
from mmrobust.accel.modes import enabled
from mmrobust.accel.views import FastLearning, FastModel, why_not_cached
from mmrobust.components.fusion import CrossAttention
from mmrobust.model.learning import Learning
from mmrobust.model.model import Model

__all__ = ["accelerate"]

_FAST: dict[type[nn.Module], type[nn.Module]] = {
    CrossAttention: FastCrossAttention,
    Model: FastModel,
    Learning: FastLearning,
}


def accelerate(model: Model, learning: Learning, *, timed: bool, device: str, precision: str) -> tuple[str, ...]:
    """Exchanges every part that has a fast form for it, in place: same parameters, same numbers, sooner.

    A part of another class, a subclass too, stays what it is. `MMROBUST_ACCEL=off` leaves everything as it is.

    Args:
        model: The model.
        learning: Its views and objectives.
        timed: Whether steps carry their times.
        device: Type of the device that training runs on.
        precision: As `train.precision` names it.

    Returns:
        What was done and what was not, with the reason, a line each; nothing where all is left as it is.

    Raises:
        UsageError: `MMROBUST_GEMM` asks for what is not there.
    """
    if not enabled():
        return ()
    for module in (model, learning):
        use_fast_linear(module)
        for part in module.modules():
            if type(part) in _FAST:
                part.__class__ = _FAST[type(part)]
    reason = why_not_cached(learning, model, timed)
    shared = f"computed anew for each view: {reason}" if reason else f"computed once for {len(learning.views)} views"
    gemm = explain_gemm(device, precision)
    return (f"tokens: {shared}", *([f"linear layers: {gemm}"] if gemm else []))
