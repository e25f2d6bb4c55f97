"""Noises, V(U, s): what destroys or degrades part of a batch. `docs/noise.md` has a table of them all."""

from mmrobust.components.noise.additive import Babble, Gaussian, Spikes
from mmrobust.components.noise.composed import OneOf, Sequence
from mmrobust.components.noise.corruption import Corruption
from mmrobust.components.noise.erasing import FeatureDropout, FrameDrop, ModalityDrop, WindowErase
from mmrobust.components.noise.protocols import LNLN, MMSA, TFRNet
from mmrobust.components.noise.sensor import Quantization, Saturation
from mmrobust.components.noise.timing import Freeze, Shuffle, TimeShift

__all__ = [
    "LNLN",
    "MMSA",
    "Babble",
    "Corruption",
    "FeatureDropout",
    "FrameDrop",
    "Freeze",
    "Gaussian",
    "ModalityDrop",
    "OneOf",
    "Quantization",
    "Saturation",
    "Sequence",
    "Shuffle",
    "Spikes",
    "TFRNet",
    "TimeShift",
    "WindowErase",
]
