"""Encoders that several models share: recurrent, pooled, convolutional."""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmrobust.contracts import Context, Encoder, Shape, Stream, Streams
from mmrobust.errors import OptionError
from torch import nn

from mmrobust_baselines.layers import ACTIVATIONS, Activation, perceptron
from mmrobust_baselines.recurrent import Recurrent


class LSTM(Encoder):
    """An LSTM (or GRU) for each modality; gives its last state as one step, or all states.

    Maps `{m: b t_m n_m}` to `{m: b 1 n}`, or to `{m: b t_m n}`. The text network of TFN and LMF (128 units and one
    linear layer, in TFN), the sequence networks of LF-LSTM, MISA (stacked, bidirectional, the final states
    of all layers side by side: `stacked: true`) and Self-MM.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units of each direction; None for `model.width`, `input` for as many as the modality has features (as
            MISA's release has them).
        layers: Networks one on the other.
        bidirectional: Whether each also reads backwards.
        out: Width after one more linear layer; None for none, so that states go on as they are.
        activation: What follows that layer.
        norm: Whether what comes out is layer-normalised.
        pool: `last` for the state after the last real step, `mean` of all states, or `none` for all states.
        stacked: Whether the final states of all layers go on, side by side, and not only the last layer's.
        cell: `lstm` or `gru`.
        dropout: Share of the output dropped in training.

    Raises:
        OptionError: `stacked` without `pool: last`.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.LSTM

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | Literal["input"] | None = None,
        layers: int = 1,
        bidirectional: bool = False,
        out: int | None = None,
        activation: Activation = "none",
        norm: bool = False,
        pool: Literal["last", "mean", "none"] = "last",
        stacked: bool = False,
        cell: Literal["lstm", "gru"] = "lstm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        if stacked and pool != "last":
            raise OptionError("stacked", f"there is one final state for each layer only with pool: last, not {pool}")
        self.networks = nn.ModuleDict()
        self.after = nn.ModuleDict()
        self.shapes = {}
        for m, shape in context.features.items():
            units = shape.width if hidden == "input" else hidden or context.width
            network = Recurrent(shape.width, units, cell=cell, layers=layers, bidirectional=bidirectional, norm=stacked)
            width = network.width * (layers if stacked else 1)
            after: list[nn.Module] = [nn.Linear(width, out), ACTIVATIONS[activation]()] if out else []
            after += [nn.LayerNorm(out or width)] if norm else []
            self.networks[m] = network
            self.after[m] = nn.Sequential(*after, nn.Dropout(dropout))
            self.shapes[m] = Shape(out or width, shape.length if pool == "none" else 1)
        self.pool, self.stacked = pool, stacked

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        encoded = {}
        for m, stream in streams.items():
            states, finals = self.networks[m](stream)
            if self.pool == "mean":
                states = Stream.pooled(states.mean())
            elif self.pool == "last":
                states = Stream.pooled(torch.cat(finals, -1) if self.stacked else finals[-1])
            encoded[m] = states.map(self.after[m])
        return encoded


class PooledMLP(Encoder):
    """The mean of the real steps through a perceptron: the audio and vision networks of TFN and LMF.

    Maps `{m: b t_m n_m}` to `{m: b 1 n}`. TFN has three hidden layers of 32 ReLU units. Public code normalises the
    mean over the batch first, which no paper states and which would tie samples together; here it is layer-normalised
    (`norm`), so that features of very different sizes do no harm.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Width of the layers; None for `model.width`.
        depth: Number of layers; 0 for the mean itself.
        norm: Whether the mean is layer-normalised (`before`), or what comes out (`after`, as in MISA's release).
        dropout: Share dropped before each layer in training.
    """

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | None = None,
        depth: int = 3,
        norm: Literal["before", "after", "none"] = "before",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        hidden = hidden or context.width
        self.networks = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.LayerNorm(shape.width) if norm == "before" else nn.Identity(),
                    *perceptron(shape.width, hidden, depth, dropout),
                    nn.LayerNorm(hidden if depth else shape.width) if norm == "after" else nn.Identity(),
                )
                for m, shape in context.features.items()
            }
        )
        self.shapes = {m: Shape(hidden if depth else shape.width, 1) for m, shape in context.features.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: Stream.pooled(self.networks[m](stream.mean())) for m, stream in streams.items()}


class Conv1d(Encoder):
    """One convolution over time for each modality, to the common width (MulT).

    Maps `{m: b t_m n_m}` to `{m: b t_m n}`. Steps keep their number: beyond the ends there are zeros, which the
    papers leave open.

    Args:
        context: Shapes, task and settings of the model.
        kernel: Steps that a convolution sees; odd.
        bias: Whether it has a bias.
        dropout: Share of the features dropped before it in training.

    Raises:
        OptionError: `kernel` is even.
    """

    def __init__(self, context: Context, *, kernel: int = 3, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__(context)
        if kernel < 1 or kernel % 2 == 0:
            raise OptionError("kernel", f"must be odd, so that steps keep their places, not {kernel}")
        self.layers = nn.ModuleDict(
            {
                m: nn.Conv1d(shape.width, context.width, kernel, padding=kernel // 2, bias=bias)
                for m, shape in context.features.items()
            }
        )
        self.dropout = nn.Dropout(dropout)
        self.shapes = {m: Shape(context.width, shape.length) for m, shape in context.features.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {
            m: stream.map(lambda x, m=m: self.layers[m](self.dropout(x).transpose(1, 2)).transpose(1, 2)).zeroed()
            for m, stream in streams.items()
        }
