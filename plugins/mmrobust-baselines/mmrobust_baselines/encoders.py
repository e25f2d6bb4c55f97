"""Encoders that several models share: recurrent, pooled, convolutional."""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmrobust.contracts import Context, Encoder, Shape, Stream, Streams
from mmrobust.errors import OptionError
from torch import nn

from mmrobust_baselines.layers import ACTIVATIONS, Activation, BatchNorm, by_name, perceptron
from mmrobust_baselines.recurrent import Recurrent


class LSTM(Encoder):
    """An LSTM (or GRU) for each modality; gives its last state as one step, or all states.

    Maps `{m: b t_m n_m}` to `{m: b 1 n}`, or to `{m: b t_m n}`. The text network of TFN and LMF (128 units and one
    linear layer, in TFN), the sequence networks of LF-LSTM, MISA (stacked, bidirectional, the final states of all
    layers side by side, states' weights orthogonal at first: `stacked: true`) and Self-MM.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units of each direction, for all modalities or by name; None for `model.width`, `input` for as many as
            the modality has features (as MISA's release has them).
        layers: Networks one on the other.
        bidirectional: Whether each also reads backwards.
        out: Width after one more linear layer, for all modalities or by name; None for none, so that states go on as
            they are.
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
        hidden: int | dict[str, int] | Literal["input"] | None = None,
        layers: int = 1,
        bidirectional: bool = False,
        out: int | dict[str, int] | None = None,
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
        outs = {} if out is None else by_name("out", out, context.features, context.width)
        if hidden == "input":
            sizes = {m: shape.width for m, shape in context.features.items()}
        else:
            sizes = by_name("hidden", hidden or context.width, context.features, context.width)
        for m, shape in context.features.items():
            units, out = sizes[m], outs.get(m)
            network = Recurrent(shape.width, units, cell=cell, layers=layers, bidirectional=bidirectional, norm=stacked)
            width = network.width * (layers if stacked else 1)
            after: list[nn.Module] = [nn.Linear(width, out), ACTIVATIONS[activation]()] if out else []
            after += [nn.LayerNorm(out or width)] if norm else []
            if stacked:  # MISA's release begins so
                network.orthogonal()
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

    Maps `{m: b t_m n_m}` to `{m: b 1 n}`. TFN has three hidden layers of 32 ReLU units. The release normalises the mean
    over the batch first, which no paper states (`norm: batch`); layer normalisation (`before`) does not tie samples
    together.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Width of the layers, for all modalities or by name; None for `model.width`.
        depth: Number of layers; 0 for the mean itself.
        norm: Whether the mean is normalised over the `batch`, or by layer (`before`), or what comes out by layer
            (`after`, as in MISA's release).
        dropout: Share of the normalised mean dropped in training.
    """

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | dict[str, int] | None = None,
        depth: int = 3,
        norm: Literal["batch", "before", "after", "none"] = "before",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        sizes = by_name("hidden", hidden or context.width, context.features, context.width)
        self.shapes = {m: Shape(sizes[m] if depth else s.width, 1) for m, s in context.features.items()}
        first: dict[str, type[nn.Module]] = {"batch": BatchNorm, "before": nn.LayerNorm}
        self.networks = nn.ModuleDict(
            {
                m: nn.Sequential(
                    first.get(norm, nn.Identity)(shape.width),
                    *perceptron(shape.width, sizes[m], depth, dropout=dropout),
                    nn.LayerNorm(self.shapes[m].width) if norm == "after" else nn.Identity(),
                )
                for m, shape in context.features.items()
            }
        )
        if norm == "batch":
            self.samplewise = self.vmappable = False  # type: ignore[misc]

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: Stream.pooled(self.networks[m](stream.mean())) for m, stream in streams.items()}


def convolution(width: int, out: int, kernel: int, bias: bool = False) -> nn.Conv1d:
    """A convolution of `b d t` over time that keeps the number of steps.

    Raises:
        OptionError: `kernel` is not odd.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise OptionError("kernel", f"must be odd, so that steps keep their places, not {kernel}")
    return nn.Conv1d(width, out, kernel, padding=kernel // 2, bias=bias)


class Conv1d(Encoder):
    """One convolution over time for each modality, to the common width (MulT).

    Maps `{m: b t_m n_m}` to `{m: b t_m n}`. Steps keep their number: beyond the ends there are zeros, which the
    papers leave open.

    Args:
        context: Shapes, task and settings of the model.
        kernel: Steps that a convolution sees, for all modalities or by name (1 for those left out); odd.
        bias: Whether it has a bias.
        dropout: Share of the features dropped before it in training, for all modalities or by name.

    Raises:
        OptionError: `kernel` is even.
    """

    def __init__(
        self,
        context: Context,
        *,
        kernel: int | dict[str, int] = 3,
        bias: bool = False,
        dropout: float | dict[str, float] = 0.0,
    ) -> None:
        super().__init__(context)
        sizes = by_name("kernel", kernel, context.features, 1)
        shares = by_name("dropout", dropout, context.features, 0.0)
        self.layers = nn.ModuleDict(
            {m: convolution(shape.width, context.width, sizes[m], bias) for m, shape in context.features.items()}
        )
        self.dropout = nn.ModuleDict({m: nn.Dropout(share) for m, share in shares.items()})
        self.shapes = {m: Shape(context.width, shape.length) for m, shape in context.features.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {
            m: stream.map(lambda x, m=m: self.layers[m](self.dropout[m](x).transpose(1, 2)).transpose(1, 2)).zeroed()
            for m, stream in streams.items()
        }
