"""Scaled dot-product attention under one signature, with named backends."""

from mmrobust.nn.attention.backends import BACKENDS, Backend, Case, manual, weights
from mmrobust.nn.attention.choice import (
    Unusable,
    asked,
    automatic,
    check,
    expected,
    explain,
    passed_over,
    resolve,
    use_attention,
)
from mmrobust.nn.attention.compute import attention, precisely, record, recording, wants_gradient, watch

__all__ = [
    "BACKENDS",
    "Backend",
    "Case",
    "Unusable",
    "asked",
    "attention",
    "automatic",
    "check",
    "expected",
    "explain",
    "manual",
    "passed_over",
    "precisely",
    "record",
    "recording",
    "resolve",
    "use_attention",
    "wants_gradient",
    "watch",
    "weights",
]
