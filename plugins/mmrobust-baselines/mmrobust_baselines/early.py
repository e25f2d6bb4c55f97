"""EF-LSTM: one LSTM over all modalities' features, side by side at each step."""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from torch import nn

from mmrobust_baselines.layers import Align, Unaligned, joined
from mmrobust_baselines.recurrent import Recurrent


class EarlyLSTM(Fusion):
    """Early fusion: an LSTM over the concatenation of all features at each step; gives its last state, `b 1 h`.

    The baseline of, e.g., Williams et al. (2018), "Recognizing emotions in video using multimodal DNN feature fusion",
    x_t = [x_t^1; ...; x_t^M]. It has no one paper; that of MMSA (Mao et al., 2022) normalises the concatenation (each
    step over the batch there, which would count padding; by layer here), stacks LSTMs, and reads the last state. Needs
    aligned modalities; how others are resampled is `unaligned` (MMSA learns a linear map between step numbers, which
    cannot see padding).

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units.
        layers: LSTMs one on the other.
        dropout: Share dropped between layers in training.
        norm: Whether the concatenation is normalised by `layer` or `none`.
        unaligned: `refuse`, or `stretch` to one number of steps in relative time.

    Raises:
        OptionError: The modalities are not aligned, and `unaligned` is `refuse`.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.LSTM

    def __init__(
        self,
        context: Context,
        *,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        norm: Literal["layer", "none"] = "layer",
        unaligned: Unaligned = "refuse",
    ) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        self.align = Align(shapes, context.aligned, unaligned)
        width = sum(shape.width for shape in shapes.values())
        self.norm = nn.LayerNorm(width) if norm == "layer" else nn.Identity()
        self.network = Recurrent(width, hidden, layers=layers, dropout=dropout)
        self.shape = Shape(hidden, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        values, mask = self.align(joined(generic, specific))
        _, finals = self.network(Stream(self.norm(torch.cat(values, -1)), mask))
        return Stream.pooled(finals[-1])
