"""Two models that are nothing like NORM-TR, as a one-file plugin: the proof that the contracts hold more than one.

The first is a tensor fusion network (Zadeh et al., 2017) over recurrent encoders, trained with a momentum memory of
unimodal labels as Self-MM (Yu et al., 2021) has: no generic features, pooled streams, a memory indexed by sample. The
second translates one modality into the next as MCTN (Pham et al., 2019): no encoder, side values in the notes, an
objective on them, and a fusion that is not samplewise. Both are cut down to what strains the contracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import mmrobust
from mmrobust.contracts import (
    Context,
    Encoder,
    Fusion,
    Head,
    Objective,
    Outputs,
    Progress,
    Shape,
    Stream,
    Streams,
)


@mmrobust.register("encoder", "pooled_gru")
class PooledGRU(Encoder):
    """Reads each modality to its last real step; gives one step."""

    vmappable = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.grus = nn.ModuleDict(
            {m: nn.GRU(s.width, context.width, batch_first=True) for m, s in context.features.items()}
        )
        self.shapes = {m: Shape(context.width, 1) for m in context.features}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        out = {}
        for m, stream in streams.items():
            states, _ = self.grus[m](stream.x)
            last = stream.mask.sum(1).clamp(min=1) - 1
            out[m] = Stream.pooled(states[torch.arange(len(last)), last] * stream.mask.any(1, keepdim=True))
        return out


@mmrobust.register("fusion", "tiny_tensor")
class TinyTensor(Fusion):
    """The outer product of all streams with a one appended to each."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        shapes = [*context.generic.values(), *context.specific.values()]
        if any(shape.length != 1 for shape in shapes):
            raise ValueError("needs pooled streams")
        size = 1
        for shape in shapes:
            size *= shape.width + 1
        self.shape = Shape(size, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        product: Tensor | None = None
        for stream in (*generic.values(), *specific.values()):
            x = torch.cat([stream.x[:, 0], stream.x.new_ones(stream.x.shape[0], 1)], 1)
            product = x if product is None else torch.einsum("bi,bj->bij", product, x).flatten(1)
        assert product is not None
        return Stream.pooled(product)


@mmrobust.register("objective", "unimodal_labels")
class UnimodalLabels(Objective):
    """A label of its own for each modality and sample, moved a little after every step."""

    memory: Tensor
    seen: Tensor

    def __init__(self, context: Context, *, momentum: float = 0.9) -> None:
        super().__init__(context)
        self.momentum = momentum
        self.modalities = context.modalities
        self.heads = nn.ModuleDict({m: nn.Linear(s.width, 1) for m, s in context.specific.items()})
        self.register_buffer("memory", torch.zeros(context.samples, len(self.modalities)))
        self.register_buffer("seen", torch.zeros(context.samples, dtype=torch.int64))

    def _predict(self, out: Outputs) -> Tensor:
        return torch.cat([self.heads[m](out.specific[m].x[:, 0]) for m in self.modalities], 1)

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        return (self._predict(out) - self.memory[out.batch.index]).square().mean()

    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        assert out.batch is not None and out.batch.label is not None
        index = out.batch.index
        target = out.batch.label.unsqueeze(1).expand(-1, len(self.modalities))
        self.memory[index] = self.momentum * self.memory[index] + (1 - self.momentum) * target
        self.seen[index] += 1


@mmrobust.register("fusion", "translation")
class Translation(Fusion):
    """Translates the first modality into each of the others; the joint state is what the prediction is made of."""

    samplewise = False  # it centres the joint state over the batch
    vmappable = False
    minimum = 2

    def __init__(self, context: Context, *, hidden: int = 8) -> None:
        super().__init__(context)
        source, *targets = context.specific
        self.source, self.targets = source, targets
        self.read = nn.GRU(context.specific[source].width, hidden, batch_first=True)
        self.write = nn.ModuleDict({m: nn.Linear(hidden, context.specific[m].width) for m in targets})
        self.shape = Shape(hidden, context.specific[source].length)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        source = specific[self.source]
        states, _ = self.read(source.x)
        states = states - states.mean(0, keepdim=True)
        notes["translations"] = {m: self.write[m](states[:, -1]) for m in self.targets}
        return Stream(states, source.mask)


@mmrobust.register("objective", "translation_error")
class TranslationError(Objective):
    """How far the translations are from the mean step of the clean target."""

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        clean = out.batch if out.batch.clean is None else out.batch.clean
        errors = [(x - clean.features[m].mean()).square().mean() for m, x in out.notes["translations"].items()]
        return torch.stack(errors).mean()


@mmrobust.register("head", "last_step")
class LastStep(Head):
    """A linear layer on the last real step."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        self.linear = nn.Linear(context.input.width, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        last = stream.mask.sum(1).clamp(min=1) - 1
        return self.linear(stream.x[torch.arange(len(last)), last])
