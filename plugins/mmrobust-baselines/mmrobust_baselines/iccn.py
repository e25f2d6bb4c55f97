"""ICCN: Sun, Sarma, Sethares, Liang (2020), "Learning relationships between text, audio, and video via deep canonical
correlation for multimodal language analysis".

Its parts: recurrent or pooled encoders; `outer_cnn` as fusion, which makes text-audio and text-video features from
outer products; an MLP head; and the objective `cca`, which correlates the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from mmrobust.contracts import Context, Fusion, Objective, Outputs, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError, nearest
from torch import Tensor, nn

VIEWS = "cca views"


class OuterCNN(Fusion):
    """Convolutions over the outer product of the text with each other modality.

    H_ta = H_t (x) H_a and H_tv = H_t (x) H_v are matrices; a CNN for each turns them into vectors K_ta and K_tv; the
    prediction reads [K_ta; H_t; K_tv], `b 1 D`. The vectors go into the notes, for the objective `cca`. With two
    modalities there is one K, and its partner for the CCA is H_t. Streams of more steps are averaged first.

    The CNN is not given in full: here it has two layers of 3x3 convolutions with ReLU, the maximum over a fixed grid
    between them, so that any width fits, and a linear layer.

    Args:
        context: Shapes, task and settings of the model.
        pivot: The modality that is multiplied with every other one, the paper's text; None for the first.
        channels: Channels of the first convolution; the second has twice as many.
        grid: Rows and columns kept by the maximum.
        out: Width of each K.
        dropout: Share of the K dropped in training.

    Raises:
        OptionError: There is no such modality.
    """

    minimum = 2
    writes = (VIEWS,)

    def __init__(
        self,
        context: Context,
        *,
        pivot: str | None = None,
        channels: int = 8,
        grid: int = 8,
        out: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        self.side = "specific" if context.specific else "generic"
        shapes = context.specific or context.generic
        self.pivot = pivot or next(iter(shapes))
        if self.pivot not in shapes:
            raise OptionError("pivot", f"there is no modality '{self.pivot}'{nearest(self.pivot, shapes)}")
        others = [m for m in shapes if m != self.pivot]
        if not others:
            raise OptionError("use", "needs another modality to multiply with")
        self.networks = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Conv2d(1, channels, 3, padding=1),
                    nn.ReLU(),
                    nn.AdaptiveMaxPool2d(grid),
                    nn.Conv2d(channels, 2 * channels, 3, padding=1),
                    nn.ReLU(),
                    nn.Flatten(),
                    nn.Linear(2 * channels * grid * grid, out),
                )
                for m in others
            }
        )
        self.dropout = nn.Dropout(dropout)
        self.shape = Shape(shapes[self.pivot].width + out * len(others), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = specific if self.side == "specific" else generic
        text = streams[self.pivot].mean()
        vectors = []
        for m, network in self.networks.items():
            product = text.unsqueeze(2) * streams[m].mean().unsqueeze(1)
            vectors.append(network(product.unsqueeze(1)))
        notes[VIEWS] = vectors if len(vectors) > 1 else [vectors[0], text]
        return Stream.pooled(torch.cat([text, *map(self.dropout, vectors)], -1))


def cca_loss(x: Tensor, y: Tensor, ridge: float = 1e-3) -> Tensor:
    """Minus the sum of all canonical correlations (Andrew et al., 2013).

    The singular values of S_xx^(-1/2) S_xy S_yy^(-1/2), with covariances over the batch and `ridge` on the diagonals.
    They are those of L_x^-1 S_xy L_y^-T too, with Cholesky factors in place of the square roots.

    Args:
        x: `b d`.
        y: `b e`.
        ridge: What keeps covariances invertible.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.double(), y.double()
        x, y = x - x.mean(0), y - y.mean(0)
        count = max(1, x.shape[0] - 1)

        def whiten(z: Tensor) -> Tensor:
            covariance = z.T @ z / count + ridge * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
            return torch.linalg.cholesky(covariance)

        half = torch.linalg.solve_triangular(whiten(x), x.T @ y / count, upper=False)
        whole = torch.linalg.solve_triangular(whiten(y), half.T, upper=False)
        return -torch.linalg.svdvals(whole).sum().float()


class CCA(Objective):
    """The loss of deep CCA: text-audio and text-video features are to be correlated as much as they can.

    Minus the sum of the canonical correlations of the batch's K_ta and K_tv; with more modalities the mean over all
    pairs. It is divided by the number of correlations, so that its weight does not depend on widths (`scale: false`
    for the plain sum). The paper alternates between this loss and the task's; here they are added.

    Args:
        context: Shapes, task and settings of the model.
        ridge: What keeps covariances invertible: batches are often smaller than the vectors are wide.
        scale: Whether the loss is divided by the number of correlations, so that it lies between -1 and 0.
    """

    minimum = 2
    needs = (VIEWS,)
    vmappable = False
    compilable = False  # the decomposition breaks the graph

    def __init__(self, context: Context, *, ridge: float = 1e-3, scale: bool = True) -> None:
        super().__init__(context)
        if ridge <= 0:
            raise OptionError("ridge", f"must be greater than 0, not {ridge:g}")
        self.ridge, self.scale = ridge, scale

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        losses = []
        for x, y in combinations(out.notes[VIEWS], 2):
            most = min(x.shape[1], y.shape[1]) if self.scale else 1
            losses.append(cca_loss(x, y, self.ridge) / most)
        return torch.stack(losses).mean()
