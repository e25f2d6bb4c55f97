"""Small components that hold everything: each broken one differs from one of these in a single thing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmrobust import contracts
from mmrobust.contracts import (
    Batch,
    Context,
    Dataset,
    Encoder,
    Fusion,
    Head,
    Noise,
    Objective,
    Outputs,
    Posterior,
    Progress,
    Rate,
    Shape,
    Split,
    Stream,
    Streams,
    Task,
    draw_rate,
)
from mmrobust.nn.gradient_reversal import reverse_gradient
from mmrobust.registry.spec import KINDS

BROKEN: list[tuple[str, str, type]] = []
"""Each broken component: its kind, the check that catches it, and its class."""


def caught_by(check: str, kind: str | None = None) -> Callable[[type], type]:
    """Lists a broken component, which fails this check and no other."""

    def decorate(cls: type) -> type:
        own = kind or next(k for k, base in KINDS.items() if issubclass(cls, getattr(contracts, base)))
        BROKEN.append((own, check, cls))
        return cls

    return decorate


class GoodFusion(Fusion):
    """A linear layer of each stream's mean, summed: holds everything."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.modalities = context.modalities
        shapes = {f"generic_{key}": shape for key, shape in context.generic.items()}
        shapes |= {f"specific_{key}": shape for key, shape in context.specific.items()}
        self.layers = nn.ModuleDict({key: nn.Linear(shape.width, 8) for key, shape in shapes.items()})
        self.shape = Shape(8, 1)

    def means(self, generic: Streams, specific: Streams) -> list[Tensor]:
        sides = {f"generic_{key}": s for key, s in generic.items()} | {f"specific_{k}": s for k, s in specific.items()}
        return [layer(self.mean(sides[key])) for key, layer in self.layers.items()]

    def mean(self, stream: Stream) -> Tensor:
        return stream.mean()

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        return Stream.pooled(self.change(torch.stack(self.means(generic, specific)).sum(0)))

    def change(self, x: Tensor) -> Tensor:
        return x


class GoodJoin(Fusion):
    """The steps of the specific streams (or the generic ones), one after the other: holds everything."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        shapes = dict(context.specific) or dict(context.generic)
        self.layers = nn.ModuleDict({key: nn.Linear(shape.width, 8) for key, shape in shapes.items()})
        self.shape = Shape.join({key: replace(shape, width=8) for key, shape in shapes.items()})

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = specific or generic
        return Stream.join({key: streams[key].map(layer) for key, layer in self.layers.items()})


class GoodEncoder(Encoder):
    """A linear layer for each modality: holds everything."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.shapes = {m: Shape(context.width, s.length) for m, s in context.features.items()}
        self.layers = nn.ModuleDict({m: nn.Linear(s.width, context.width) for m, s in context.features.items()})

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: s.map(self.layers[m]).map(self.change) for m, s in streams.items()}

    def change(self, x: Tensor) -> Tensor:
        return x


class GoodHead(Head):
    """A linear layer of the mean: holds everything."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert context.input is not None and context.outputs is not None
        self.linear = nn.Linear(context.input.width, context.outputs)

    def forward(self, stream: Stream) -> Tensor:
        return self.linear(stream.mean())


class GoodObjective(Objective):
    """The distance of a layer of every generic stream to the prediction."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        shapes = dict(context.generic) or dict(context.specific)
        self.generic = bool(context.generic)
        self.layers = nn.ModuleDict({key: nn.Linear(shape.width, 1) for key, shape in shapes.items()})

    def mean(self, stream: Stream) -> Tensor:
        return stream.mean()

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        streams = out.generic if self.generic else out.specific
        guesses = [layer(self.mean(streams[key])) for key, layer in self.layers.items()]
        return torch.stack(guesses).square().mean() + out.prediction.square().mean()


class GoodAdversary(GoodObjective):
    """The same behind a gradient reversal.

    Args:
        context: The context.
        grl: Factor of the reversed gradient.
    """

    def __init__(self, context: Context, *, grl: float = 1.0) -> None:
        super().__init__(context)
        self.grl = grl

    def reverse(self, x: Tensor) -> Tensor:
        return reverse_gradient(x, self.grl)

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        streams = out.generic if self.generic else out.specific
        guesses = [layer(streams[key].map(self.reverse).mean()) for key, layer in self.layers.items()]
        return torch.stack(guesses).square().mean()


class GoodNoise(Noise):
    """Drops single steps: holds everything."""

    constant = True

    def share(self, rate: Rate, count: int, generator: torch.Generator) -> Tensor:
        return draw_rate(rate, count, generator)

    def uniform(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(mask.shape, generator=generator)

    def order(self, batch: Batch) -> tuple[str, ...]:
        return self.modalities

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        features, erased = {}, {}
        for m in self.order(batch):
            stream = batch.features[m]
            share = self.share(rate, len(batch), generator)
            erased[m] = self.uniform(stream.mask, generator) < share.unsqueeze(1)
            features[m] = self.destroyed(stream, erased[m] & stream.mask, rate)
        return self.result(batch, features, erased)

    def destroyed(self, stream: Stream, gone: Tensor, rate: Rate) -> Stream:
        return Stream(stream.x.masked_fill(gone.unsqueeze(-1), 0), stream.mask, stream.times)

    def result(self, batch: Batch, features: Streams, erased: dict[str, Tensor]) -> Batch:
        return batch.noisy(features, erased)


class GoodData(Dataset):
    """Ten samples in each split: holds everything."""

    def __init__(self) -> None:
        self.modalities = {"a": Shape(3, 4), "b": Shape(2, 5)}
        self.task = Task("classification", 3, "classification", names=("x", "y", "z"))
        generator = torch.Generator().manual_seed(1)
        self.splits = {name: self.split(name, generator) for name in self.names()}
        self.change()

    def names(self) -> tuple[str, ...]:
        return ("train", "valid", "test")

    def split(self, name: str, generator: torch.Generator | None) -> Split:
        features = {}
        for m, shape in self.modalities.items():
            x = torch.randn(10, shape.length, shape.width, generator=generator)
            features[m] = Stream(x, torch.arange(shape.length) < (torch.arange(10) % 3 + 2).unsqueeze(1)).zeroed()
        return Split(features, torch.arange(10) % 3, [f"{name}_{i}" for i in range(10)])

    def change(self) -> None:
        pass

    def posterior(self, split: str, batch: Batch) -> Posterior | None:
        values = torch.arange(3)
        left = torch.stack(
            [(s.zeroed().x * ~batch.erased[m].unsqueeze(-1)).sum((1, 2)) for m, s in batch.features.items()]
        )
        weights = torch.softmax(left.sum(0).double().unsqueeze(1) * values, 1)
        return Posterior(values, weights)
