"""A one-file plugin: an objective with two memories, one changed in place and one made anew."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import mmrobust
from mmrobust.contracts import Context, Objective, Outputs, Progress


@mmrobust.register("objective", "recall")
class Recall(Objective):
    """How far a sample's prediction is from the mean of what it was before."""

    memory: Tensor
    mean: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.register_buffer("memory", torch.zeros(context.samples, context.task.outputs))
        self.register_buffer("mean", torch.zeros(context.task.outputs))

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        return (out.prediction - self.memory[out.batch.index] - self.mean).square().mean()

    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        assert out.batch is not None
        index = out.batch.index
        self.memory[index] = (0.5 * self.memory[index] + 0.5 * out.prediction).to(self.memory.dtype)
        self.mean = 0.9 * self.mean + 0.1 * out.prediction.mean(0)
