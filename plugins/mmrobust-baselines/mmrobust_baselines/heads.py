"""Heads: perceptrons over the fused stream."""

from __future__ import annotations

from typing import Literal

import torch
from mmrobust.contracts import Context, Head, Stream
from mmrobust.errors import OptionError
from torch import Tensor, nn

from mmrobust_baselines.layers import Activation, BatchNorm, last, perceptron, read_width

Pool = Literal["mean", "last"]


def pooled(stream: Stream, pool: Pool) -> Tensor:
    """One vector for each sample, `b d`."""
    return stream.mean() if pool == "mean" else last(stream)


class MLP(Head):
    """A perceptron over the pooled stream.

    Maps `b s d` to `b c`.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Width of the hidden layers; None for the input's.
        depth: Number of hidden layers.
        dropout: Share of the pooled stream dropped in training.
        between: Share dropped after each hidden layer in training.
        activation: What follows each hidden layer.
        norm: Whether the pooled stream is normalised over the batch first, as in TFR-Net's release.
        bounded: Whether a regression is squeezed into the labels' range by a sigmoid, as in TFN; other
            tasks, and regressions without a known range, are left alone.
        pool: `mean` of the real steps, or the `last` one.
    """

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | None = None,
        depth: int = 1,
        dropout: float = 0.0,
        between: float = 0.0,
        activation: Activation = "relu",
        norm: bool = False,
        bounded: bool = False,
        pool: Pool = "mean",
    ) -> None:
        super().__init__(context)
        width, outputs = read_width(context)
        self.norm = BatchNorm(width) if norm else nn.Identity()
        self.hidden = perceptron(width, hidden or width, depth, dropout=dropout, between=between, activation=activation)
        self.linear = nn.Linear((hidden or width) if depth else width, outputs)
        self.pool: Pool = pool
        task = context.task
        if norm:
            self.samplewise = self.vmappable = False  # type: ignore[misc]
        self.range = None
        if bounded and task.kind == "regression" and task.low is not None and task.high is not None:
            self.range = (task.low, task.high)

    def forward(self, stream: Stream) -> Tensor:
        y = self.linear(self.hidden(self.norm(pooled(stream, self.pool))))
        if self.range is None:
            return y
        low, high = self.range
        return low + (high - low) * torch.sigmoid(y)


class ResidualMLP(Head):
    """A two-layer perceptron added to its input, then one linear layer: the head of MulT's public release.

    Maps `b s d` to `b c`. The paper says "passed through fully-connected layers".

    Args:
        context: Shapes, task and settings of the model.
        dropout: Share of hidden values dropped in training.
        pool: `mean` of the real steps, or the `last` one.
    """

    def __init__(self, context: Context, *, dropout: float = 0.0, pool: Pool = "mean") -> None:
        super().__init__(context)
        width, outputs = read_width(context)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.linear = nn.Linear(width, outputs)
        self.pool: Pool = pool

    def forward(self, stream: Stream) -> Tensor:
        x = pooled(stream, self.pool)
        return self.linear(x + self.hidden(x))


class Given(Head):
    """The fused stream is the prediction already: for fusions that emit the outputs, as LMF's.

    Maps `b s c` to `b c`.

    Args:
        context: Shapes, task and settings of the model.

    Raises:
        OptionError: The fused stream has another width than the prediction.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        width, outputs = read_width(context)
        if width != outputs:
            raise OptionError("use", f"the fusion gives {width} numbers and the task needs {outputs}; use another head")

    def forward(self, stream: Stream) -> Tensor:
        return stream.mean()
