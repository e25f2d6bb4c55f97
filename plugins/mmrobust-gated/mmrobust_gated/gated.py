"""A fusion with a gate for each stream, which sees all streams."""

from typing import Any

import torch
from torch import nn

from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams


class Gated(Fusion):
    """The Gated Multimodal Unit of Arevalo et al. (2017), "Gated Multimodal Units for Information Fusion", section 3.

    With x_i the mean of stream i over its real steps, h_i = tanh(W_i x_i), z_i = sigmoid(V_i [x_1, ..., x_k]), and the
    result is the sum of z_i * h_i: every gate sees all streams. Returns one step, `b 1 d`. (For two modalities the paper
    also ties the gates, z and 1 - z.)

    Args:
        context: Shapes, modalities and the task.
        width: Width d of the result.
    """

    def __init__(self, context: Context, *, width: int = 64) -> None:
        super().__init__(context)
        shapes = _both(context.generic, context.specific)
        total = sum(shape.width for shape in shapes.values())
        self.project = nn.ModuleDict({key: nn.Linear(shape.width, width) for key, shape in shapes.items()})
        self.gate = nn.ModuleDict({key: nn.Linear(total, width) for key in shapes})
        self.shape = Shape(width, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = _both(generic, specific)
        means = {key: streams[key].mean() for key in self.project}
        everything = torch.cat(list(means.values()), -1)
        gated = [self.project[key](x).tanh() * self.gate[key](everything).sigmoid() for key, x in means.items()]
        return Stream.pooled(torch.stack(gated).sum(0))


def _both(generic: Any, specific: Any) -> dict[str, Any]:
    return {f"generic_{k}": v for k, v in generic.items()} | {f"specific_{k}": v for k, v in specific.items()}
