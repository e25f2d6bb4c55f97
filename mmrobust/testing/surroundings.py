"""Small surroundings for one component: the context that it is built with, and random input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmrobust.contracts import (
    Batch,
    Context,
    Encoder,
    Fusion,
    GenericExtractor,
    Head,
    Outputs,
    Part,
    Shape,
    SpecificExtractor,
    Stream,
    Streams,
    Task,
)
from mmrobust.model.assemble import part_builder
from mmrobust.model.model import Model

#: Not text, audio and video: a component that knows those names fails here.
NAMES = ("speech", "face", "words", "pulse", "gaze", "breath", "skin", "heart")
LENGTH = 6
UNEQUAL = (6, 3, 8, 5)
SAMPLES = 16
WIDTH = 16

TASKS: dict[str, Task] = {
    "regression": Task("regression", 1, "regression", -3.0, 3.0),
    "classification": Task("classification", 4, "classification"),
    "multilabel": Task("multilabel", 6, "iemocap", names=("a", "b", "c")),
}

Inputs = dict[str, Streams]


@dataclass(frozen=True)
class Surroundings:
    """What stands around a component.

    Attributes:
        modalities: How many there are.
        unequal: Whether their lengths differ.
        widths: `equal`; `sides` if generic and specific features differ; `modalities` if each has its own.
        sides: Which extractors there are; `other` for both, the generic features under a key that is no modality
            (as MFM's common factor).
        pooled: Whether streams have one step.
        joined: Whether the fused stream is the modalities' steps one after the other, with segments.
        narrow: Whether the fused stream is as wide as the prediction (LMF's fusion makes the outputs itself).
        aligned: Whether step i is the same moment in every modality, and moments are known.
        task: Kind of task.
    """

    modalities: int = 3
    unequal: bool = False
    widths: Literal["equal", "sides", "modalities"] = "equal"
    sides: Literal["both", "generic", "specific", "other"] = "both"
    pooled: bool = False
    joined: bool = False
    narrow: bool = False
    aligned: bool = False
    task: Literal["regression", "classification", "multilabel"] = "regression"

    def __str__(self) -> str:
        words = {
            f"{self.modalities} modalities": True,
            self.task: True,
            "unequal lengths": self.unequal,
            f"widths that differ between {self.widths}": self.widths != "equal",
            f"{self.sides} features only": self.sides in ("generic", "specific"),
            "generic features under the key 'common'": self.sides == "other",
            "streams of one step": self.pooled,
            "a fused stream with segments": self.joined,
            "a fused stream as wide as the prediction": self.narrow,
            "aligned and timed": self.aligned,
        }
        return ", ".join(text for text, holds in words.items() if holds)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities."""
        return NAMES[: self.modalities]

    def shapes(self, width: int, own: bool) -> dict[str, Shape]:
        """A shape for each modality.

        Args:
            width: Width of the first one.
            own: Whether each has a width of its own.
        """
        lengths = [1] * 8 if self.pooled else UNEQUAL * 2 if self.unequal else [LENGTH] * 8
        return {m: Shape(width + 4 * i * own, lengths[i]) for i, m in enumerate(self.names)}

    @property
    def stages(self) -> dict[str, dict[str, Shape]]:
        """The shapes that each stage of a model has here."""
        own = self.widths == "modalities"
        specific = self.shapes(WIDTH + 8 * (self.widths == "sides"), own)
        generic = self.shapes(WIDTH, own)
        if self.sides == "other":
            generic = {"common": replace(generic[self.names[0]], length=1)}
        return {
            # Raw features are never pooled: an objective may look at them.
            "features": replace(self, pooled=False).shapes(12, own),
            "encoded": self.shapes(WIDTH, own),
            "generic": {} if self.sides == "specific" else generic,
            "specific": {} if self.sides == "generic" else specific,
        }

    @property
    def fused(self) -> Shape:
        """The shape of the fused stream."""
        if self.joined:
            return Shape.join(self.shapes(WIDTH, own=False))
        return Shape(TASKS[self.task].outputs if self.narrow else WIDTH, 1 if self.pooled else LENGTH)

    def context(self, kind: str) -> Context:
        """The context of a component of this kind."""
        order = ("encoder", "extractor", "fusion", "head")
        stage = next((i for i, name in enumerate(order) if kind.endswith(name)), len(order))
        shapes = self.stages
        context = Context(
            modalities=self.names,
            task=TASKS[self.task],
            width=WIDTH,
            features=shapes["features"],
            samples=SAMPLES,
            aligned=self.aligned,
            timed=self.aligned,
            build=part_builder,
        )
        if stage >= 1:
            context = replace(context, encoded=shapes["encoded"])
        if stage >= 2:
            context = replace(context, generic=shapes["generic"], specific=shapes["specific"])
        if stage >= 3:
            context = replace(context, fused=self.fused, input=self.fused, outputs=context.task.outputs)
        return replace(context, outputs=3) if kind == "discriminator" else context

    def inputs(self, kind: str, count: int = 6, seed: int = 0) -> Inputs:
        """Random input for a component of this kind: dicts of streams, by the name of its argument."""
        shapes = self.stages
        groups: dict[str, Mapping[str, Shape]]
        match kind:
            case "encoder" | "objective" | "noise":
                groups = {"features": shapes["features"]}
            case "generic_extractor" | "specific_extractor":
                groups = {"encoded": shapes["encoded"]}
            case "fusion":
                groups = {"generic": shapes["generic"], "specific": shapes["specific"]}
            case _:
                joined = {segment.name: Shape(self.fused.width, segment.length) for segment in self.fused.segments}
                groups = {"stream": joined or {"stream": self.fused}}
        generator = torch.Generator().manual_seed(seed)
        inputs = {
            group: {key: self._stream(key, shape, count, generator) for key, shape in inner.items()}
            for group, inner in groups.items()
        }
        if self.joined and "stream" in inputs:
            return {"stream": {"stream": Stream.join(inputs["stream"])}}
        return inputs

    def _stream(self, key: str, shape: Shape, count: int, generator: torch.Generator) -> Stream:
        steps = max(1, shape.length - 1)
        x = torch.randn(count, steps, shape.width, generator=generator)
        place = 0 if self.aligned or key not in NAMES else NAMES.index(key)
        # One sample in three is whole; the others are padded, each modality differently.
        sizes = torch.tensor([steps - (i + place) % 3 for i in range(count)]).clamp(min=1)
        times = None
        if self.aligned and key in NAMES:
            start = torch.arange(steps, dtype=torch.float32).expand(count, steps)
            times = torch.stack([start, start + 1], -1)
        return Stream(x, torch.arange(steps) < sizes.unsqueeze(1), times).zeroed()

    @cache  # noqa: B019 (small, and random numbers must not be drawn anew under vmap)
    def label(self, count: int) -> Tensor:
        """Labels of the task."""
        task = TASKS[self.task]
        generator = torch.Generator().manual_seed(7)
        if task.kind == "regression":
            return torch.rand(count, generator=generator) * 6 - 3
        if task.kind == "classification":
            return torch.arange(count) % task.outputs
        return torch.randint(2, (count, task.outputs // 2), generator=generator)


class _Layers(Encoder, GenericExtractor, SpecificExtractor):
    """A linear layer and a tanh for each stream; one that has no namesake in the input is a mean of the first."""

    def __init__(self, shapes: Mapping[str, Shape], given: Mapping[str, Shape]) -> None:
        nn.Module.__init__(self)
        self.shapes = dict(shapes)
        self.source = {key: key if key in given else next(iter(given)) for key in shapes}
        self.layers = nn.ModuleDict(
            {key: nn.Linear(given[self.source[key]].width, s.width) for key, s in shapes.items()}
        )

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        out = {key: streams[source].map(self.layers[key]).map(torch.tanh) for key, source in self.source.items()}
        return {key: Stream.pooled(s.mean()) if self.shapes[key].length == 1 else s for key, s in out.items()}


class _Fusion(Fusion):
    """The sum of a linear layer of each stream's mean."""

    def __init__(self, shape: Shape, generic: Mapping[str, Shape], specific: Mapping[str, Shape]) -> None:
        nn.Module.__init__(self)
        self.shape = shape
        self.generic = nn.ModuleDict({key: nn.Linear(s.width, shape.width) for key, s in generic.items()})
        self.specific = nn.ModuleDict({key: nn.Linear(s.width, shape.width) for key, s in specific.items()})

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        means = [layer(generic[key].mean()) for key, layer in self.generic.items()]
        means += [layer(specific[key].mean()) for key, layer in self.specific.items()]
        return Stream.pooled(torch.stack(means).sum(0))


class _Head(Head):
    """A linear layer of the mean."""

    def __init__(self, shape: Shape, outputs: int) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(shape.width, outputs)

    def forward(self, stream: Stream) -> Tensor:
        return self.linear(stream.mean())


def model_around(around: Surroundings, beside: Mapping[str, Part[Any]]) -> Model:
    """A small model for an objective to read: the kit's own plain parts, so that no other component is to blame.

    Args:
        around: The surroundings.
        beside: Real components for slots whose `notes` the objective reads.
    """
    context = around.context("objective")

    def real(slot: str, base: type[Any], context: Context) -> Any:
        return part_builder(base, beside[slot], context) if slot in beside else None

    encoder = real("encoder", Encoder, context) or _Layers(context.encoded, context.features)
    context = replace(context, encoded=encoder.shapes)
    generic = real("generic_extractor", GenericExtractor, context) or _Layers(context.generic, context.encoded)
    specific = real("specific_extractor", SpecificExtractor, context) or _Layers(context.specific, context.encoded)
    context = replace(context, generic=generic.shapes, specific=specific.shapes)
    fusion = real("fusion", Fusion, context) or _Fusion(Shape(WIDTH, 1), context.generic, context.specific)
    context = replace(context, fused=fusion.shape, input=fusion.shape)
    head = real("head", Head, context) or _Head(fusion.shape, context.task.outputs)
    return Model(around.names, encoder, generic, specific, fusion, head)


def context_of(around: Surroundings, model: Model) -> Context:
    """The context of an objective beside this model."""
    parts = model.parts
    fused: Shape = parts["fusion"].shape  # type: ignore[assignment]
    return replace(
        around.context("objective"),
        encoded=parts["encoder"].shapes,  # type: ignore[arg-type]
        generic=parts["generic"].shapes,  # type: ignore[arg-type]
        specific=parts["specific"].shapes,  # type: ignore[arg-type]
        fused=fused,
        input=fused,
    )


def views_of(
    model: Model, features: Streams, around: Surroundings, reads: tuple[str, ...], share: float | None = None
) -> dict[str, Outputs]:
    """The outputs that an objective is given: `here` is its own noisy view, the others are clean.

    What is erased depends on each sample's real steps alone, never on how much padding follows them.

    Args:
        model: The model.
        features: A clean batch's features; padding may hold anything.
        around: The surroundings.
        reads: The other views.
        share: Erase this share of every modality; None for a mixture of nothing, something and everything.
    """
    features = {m: s.zeroed() for m, s in features.items()}  # as Learning does
    count = next(iter(features.values())).x.shape[0]
    clean = Batch.fresh(features, around.label(count), torch.arange(count) % SAMPLES)
    erased, noisy = {}, {}
    for m, stream in features.items():
        place = around.names.index(m)
        shares = [(0.0, 0.6, 1.0)[(i + place) % 3] if i % 2 else 0.5 * (place == 0) for i in range(count)]
        shares = shares if share is None else [share] * count
        rank = stream.mask.cumsum(1) - 1
        limit = torch.tensor(shares).unsqueeze(1) * stream.mask.sum(1, keepdim=True)
        erased[m] = stream.mask & (rank < limit.round())
        noisy[m] = replace(stream, x=stream.x.masked_fill(erased[m].unsqueeze(-1), 0))
    batches = {"here": clean.noisy(noisy, erased)} | {name: clean for name in reads if name != "here"}
    views = {name: replace(model(batch.features), batch=batch) for name, batch in batches.items()}

    def ordered(streams: Streams) -> Streams:  # as the features came: the model itself restores the recipe's order
        keys = [m for m in features if m in streams]
        return {key: streams[key] for key in [*keys, *(k for k in reversed(streams) if k not in keys)]}

    return {
        name: replace(out, encoded=ordered(out.encoded), generic=ordered(out.generic), specific=ordered(out.specific))
        for name, out in views.items()
    }
