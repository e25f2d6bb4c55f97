"""LMF: Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency (2018), "Efficient low-rank multimodal fusion with
modality-specific factors".
"""

from __future__ import annotations

from typing import Any

import torch
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from torch import Tensor, nn

from mmrobust_baselines.layers import Reading, joined


class LowRank(Fusion):
    """Low-rank multimodal fusion: TFN's product contracted with a weight tensor that is never formed.

    The weights W = sum_i (x)_m w_m^(i) of rank r decompose, and so does the output: h = sum_i (o)_m (w_m^(i) . z_m),
    z_m = [x_m; 1], with (x) the outer and (o) the elementwise product.
    The bias b of h = W . Z + b is kept. Streams of more steps are averaged first. Gives `b 1 out`.

    With `reading: release`, what the authors trained, the r terms are weighed by one more vector (which the factors
    could absorb), and all of these begin by Xavier's normal rule; with `paper` the terms are summed, and since it does
    not say how factors begin, they are drawn so that h has the variance of a product of the inputs' mean squares,
    whatever the rank and the widths are.

    Args:
        context: Shapes, task and settings of the model.
        rank: Number r of terms; the paper searches 1 to 16.
        out: Width of the output; None for the number of outputs of the task, so that the head is `given`.
        reading: `release` or `paper`, see above.
    """

    def __init__(
        self, context: Context, *, rank: int = 4, out: int | None = None, reading: Reading = "release"
    ) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        self.out = out or context.task.outputs
        # Each factor is `r d+1 h`.
        self.factors = nn.ParameterDict(
            {key: nn.Parameter(torch.empty(rank, shape.width + 1, self.out)) for key, shape in shapes.items()}
        )
        self.weights = nn.Parameter(torch.empty(1, rank)) if reading == "release" else None
        for factor in self.factors.values():
            if self.weights is not None:
                nn.init.xavier_normal_(factor)
            else:
                nn.init.normal_(factor, std=factor.shape[1] ** -0.5 * rank ** (-0.5 / len(self.factors)))
        if self.weights is not None:
            nn.init.xavier_normal_(self.weights)
        self.bias = nn.Parameter(torch.zeros(self.out))
        self.shape = Shape(self.out, 1)

    def contract(self, vectors: dict[str, Tensor]) -> Tensor:
        """h, `b out`, from the vectors `b d_m`."""
        product: Tensor | None = None
        for key, factor in self.factors.items():
            x = vectors[key]
            z = torch.cat([x, x.new_ones(x.shape[0], 1)], 1)
            projected = torch.einsum("bd,rdh->brh", z, factor)
            product = projected if product is None else product * projected
        assert product is not None
        if self.weights is not None:
            product = self.weights.view(1, -1, 1) * product
        return product.sum(1) + self.bias

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = joined(generic, specific)
        return Stream.pooled(self.contract({key: streams[key].mean() for key in self.factors}))
