"""Discriminators: the networks that adversarial objectives train."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.linalg import matrix_norm

from mmrobust.contracts import Context, Discriminator, Shape, Stream
from mmrobust.errors import OptionError

Pool = Literal["flatten", "mean"]


class _Discriminator(Discriminator):
    """What both discriminators share: how a sequence becomes one vector, and how a linear layer is bounded."""

    def __init__(self, context: Context, pool: Pool, spectral: bool) -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        self.pool: Pool = pool
        self.spectral = spectral
        self.shape: Shape = context.input
        self.width = context.input.width * (context.input.length if pool == "flatten" else 1)

    def read(self, stream: Stream) -> Tensor:
        """One vector for each sample: the mean of the real steps, `b d`, or all steps in a row, `b (t d)`."""
        if self.pool == "mean":
            return stream.mean()
        x = stream.zeroed().x
        return rearrange(F.pad(x, (0, 0, 0, self.shape.length - x.shape[1])), "b t d -> b (t d)")

    def apply_layer(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """The layer, with `spectral` divided by its largest singular value; maps `b i` to `b o`."""
        if not self.spectral:
            return layer(x)
        largest = matrix_norm(layer.weight, 2).clamp(min=1e-6)
        return F.linear(x, layer.weight / largest, layer.bias)


class Linear(_Discriminator):
    """One fully connected layer, as both discriminators of NORM-TR (paper, section 3.5.2).

    Maps `b t d` to `b c`. The paper's features have the shape `(T N/2)` for each modality, so all steps in a row are
    what the layer reads by default; with modalities of different lengths, zeros would fill the shorter ones and give
    them away, and `pool: mean` is right.

    Args:
        context: What mmrobust provides.
        pool: `flatten` for all steps in a row, `mean` for the mean of the real ones.
        spectral: Whether the layer is divided by its largest singular value (Miyato et al., 2018).
    """

    def __init__(self, context: Context, *, pool: Pool = "flatten", spectral: bool = False) -> None:
        super().__init__(context, pool, spectral)
        assert context.outputs is not None
        self.linear = nn.Linear(self.width, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        return self.apply_layer(self.linear, self.read(stream))


class MLP(_Discriminator):
    """A perceptron with hidden layers: a stronger adversary than the paper's.

    Maps `b t d` to `b c`; each hidden layer is followed by a Leaky ReLU.

    Args:
        context: What mmrobust provides.
        hidden: Width of the hidden layers.
        depth: How many hidden layers.
        pool: `flatten` for all steps in a row, `mean` for the mean of the real ones.
        spectral: Whether each layer is divided by its largest singular value (Miyato et al., 2018).
        dropout: Share of hidden values dropped in training.

    Raises:
        OptionError: There is no hidden layer.
    """

    def __init__(
        self,
        context: Context,
        *,
        hidden: int = 128,
        depth: int = 2,
        pool: Pool = "flatten",
        spectral: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context, pool, spectral)
        assert context.outputs is not None
        if depth < 1:
            raise OptionError("depth", f"{depth} hidden layers are no perceptron; give at least 1, or use 'linear'")
        widths = [self.width] + [hidden] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        x = self.read(stream)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            x = self.dropout(F.leaky_relu(self.apply_layer(layer, x), 0.01))
        return self.apply_layer(self.linear, x)
