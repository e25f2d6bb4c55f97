"""What flows through a model: shapes, streams, batches, splits, and what is to be predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Segment(NamedTuple):
    """The part of a joined stream that came from one of the streams that were joined.

    Attributes:
        name: The modality, or another key.
        length: How many steps it has, padding included.
    """

    name: str
    length: int


@dataclass(frozen=True)
class Shape:
    """What a stream looks like, known before any data is.

    Attributes:
        width: Size of one step.
        length: Most steps there can be; 1 means pooled.
        segments: What a joined stream consists of, each with its most steps; empty for any other stream.
    """

    width: int
    length: int
    segments: tuple[Segment, ...] = ()

    def __str__(self) -> str:
        return f"{self.length}x{self.width}"

    @staticmethod
    def join(shapes: Mapping[str, Shape]) -> Shape:
        """The shape of `Stream.join`, of streams that have one width."""
        segments = tuple(Segment(key, shape.length) for key, shape in shapes.items())
        width = next(iter(shapes.values())).width
        return Shape(width, sum(segment.length for segment in segments), segments)


@dataclass(frozen=True)
class Stream:
    """A batch of sequences and what is real in them.

    Attributes:
        x: Values, `b t d`.
        mask: True where a step is real, `b t`, bool.
        times: Start and end of each step in seconds, `b t 2`, where the data knows them.
        segments: Where several streams were joined, which steps came from which, as they are in this batch; their
            lengths add up to `t`. Empty for a stream that was not joined.
    """

    x: Tensor
    mask: Tensor
    times: Tensor | None = None
    segments: tuple[Segment, ...] = ()

    def zeroed(self) -> Stream:
        """The same stream with padding set to zero, NaN included."""
        return replace(self, x=torch.where(self.mask.unsqueeze(-1), self.x, 0))

    def without(self, steps: Tensor) -> Stream:
        """The same stream with some steps, `b t`, set to zero, NaN included."""
        return replace(self, x=torch.where(steps.unsqueeze(-1), 0, self.x))

    def take(self, index: Tensor) -> Stream:
        """The samples at `index` (`k`, int64)."""
        times = None if self.times is None else self.times.index_select(0, index)
        return replace(self, x=self.x.index_select(0, index), mask=self.mask.index_select(0, index), times=times)

    def to(self, device: torch.device | str) -> Stream:
        """The stream on another device."""
        times = None if self.times is None else self.times.to(device)
        return replace(self, x=self.x.to(device), mask=self.mask.to(device), times=times)

    def mean(self) -> Tensor:
        """Mean over the real steps, `b d`; zero where a sample has none."""
        total = self.zeroed().x.sum(1)
        return total / self.mask.sum(1, keepdim=True).clamp(min=1).to(total.dtype)

    def map(self, f: Callable[[Tensor], Tensor]) -> Stream:
        """The stream with `f` applied to its values, step for step."""
        return replace(self, x=f(self.x))

    @staticmethod
    def pooled(x: Tensor) -> Stream:
        """One real step for each sample, from `b d`."""
        return Stream(x.unsqueeze(1), torch.ones(x.shape[0], 1, dtype=torch.bool, device=x.device))

    @staticmethod
    def join(streams: Mapping[str, Stream]) -> Stream:
        """Several streams of one width, one after the other: `{key: b t d}` to `b s d`; `segments` says where each is.

        Their times are kept where all of them have times.
        """
        parts = list(streams.values())
        times = [part.times for part in parts if part.times is not None]
        return Stream(
            torch.cat([part.x for part in parts], 1),
            torch.cat([part.mask for part in parts], 1),
            torch.cat(times, 1) if len(times) == len(parts) else None,
            tuple(Segment(key, part.x.shape[1]) for key, part in streams.items()),
        )

    def parts(self) -> Streams:
        """The streams that were joined, `{key: b t d}`; empty for a stream that was not joined."""
        if not self.segments:
            return {}
        lengths = [segment.length for segment in self.segments]
        names = [segment.name for segment in self.segments]
        x, mask = self.x.split(lengths, 1), self.mask.split(lengths, 1)
        times = [None] * len(names) if self.times is None else self.times.split(lengths, 1)
        return {name: Stream(a, b, c) for name, a, b, c in zip(names, x, mask, times, strict=True)}


Streams = dict[str, Stream]


def _flatten(stream: Stream) -> tuple[list[Tensor], tuple[bool, tuple[Segment, ...]]]:
    times = [] if stream.times is None else [stream.times]
    return [stream.x, stream.mask, *times], (stream.times is not None, stream.segments)


def _unflatten(values: Iterable[Any], static: tuple[bool, tuple[Segment, ...]]) -> Stream:
    x, mask, *times = values
    return Stream(x, mask, times[0] if static[0] else None, static[1])


def _flatten_with_keys(stream: Stream) -> tuple[list[tuple[Any, Tensor]], tuple[bool, tuple[Segment, ...]]]:
    values, static = _flatten(stream)
    return list(zip(map(pytree.GetAttrKey, ("x", "mask", "times")), values, strict=False)), static


# Exported and stacked models take streams apart into tensors; what a stream is joined of is no tensor.
pytree.register_pytree_node(
    Stream,
    _flatten,
    _unflatten,
    serialized_type_name="mmrobust.Stream",
    to_dumpable_context=list,
    from_dumpable_context=lambda static: (static[0], tuple(Segment(*segment) for segment in static[1])),
    flatten_with_keys_fn=_flatten_with_keys,
)

Rate = float | tuple[float, float]


@dataclass(frozen=True)
class Task:
    """What is to be predicted.

    Attributes:
        kind: `regression` (label `b`, or `b c` for several targets, float), `classification` (label `b`, int64), or
            `multilabel`: several independent two-way decisions (label `b k`, int64 of 0 and 1; the prediction holds
            two logits for each, so `outputs` is `2k`, as in MulT's IEMOCAP).
        outputs: Width of the prediction.
        measures: The set of scores that the field reports for this data: `mosi`, `mosei`, `sims`, `iemocap`,
            `regression`, `classification` (see `mmrobust.measures`).
        low: Smallest possible label of a regression.
        high: Largest possible label of a regression.
        names: Names of the classes, decisions or several targets, where there are any.
    """

    kind: Literal["regression", "classification", "multilabel"]
    outputs: int
    measures: str
    low: float | None = None
    high: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Samples on their way into a model.

    Attributes:
        features: A stream for each modality, `b t_m n_m`.
        label: `b` (or `b k` for multilabel); None where unknown.
        index: Position of each sample in its split, `b`, int64: the key of memories.
        erased: True where added noise destroyed, degraded or moved a real step, `{m: b t_m}`, always full; never True
            in padding.
        clean: The batch before any noise; None for a batch that is clean itself.
    """

    features: Streams
    label: Tensor | None
    index: Tensor
    erased: dict[str, Tensor]
    clean: Batch | None = None

    @staticmethod
    def fresh(features: Streams, label: Tensor | None = None, index: Tensor | None = None) -> Batch:
        """A clean batch: nothing is erased yet."""
        first = next(iter(features.values()))
        if index is None:
            index = torch.arange(first.x.shape[0], device=first.x.device)
        return Batch(features, label, index, {m: torch.zeros_like(s.mask) for m, s in features.items()})

    def __len__(self) -> int:
        return self.index.shape[0]

    def zeroed(self) -> Batch:
        """This clean batch with padding set to zero, NaN included."""
        return replace(self, features={m: s.zeroed() for m, s in self.features.items()})

    def outline(self) -> Batch:
        """This batch with steps of one number, zero: all that a `constant` noise has to know."""
        zeros = lambda s: s.x.new_zeros(1, 1, 1).expand(*s.mask.shape, 1)
        features = {m: replace(s, x=zeros(s)) for m, s in self.features.items()}
        return replace(self, features=features, clean=None if self.clean is None else self.clean.outline())

    def noisy(self, features: Streams, erased: Mapping[str, Tensor]) -> Batch:
        """This batch after one more noise: `erased` is OR-ed, `clean` stays the first batch, masks stay."""
        merged = {m: self.erased[m] | (erased[m] & s.mask) for m, s in self.features.items()}
        return Batch(features, self.label, self.index, merged, self if self.clean is None else self.clean)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        move = lambda t: None if t is None else t.to(device)
        return Batch(
            {m: stream.to(device) for m, stream in self.features.items()},
            move(self.label),
            self.index.to(device),
            {m: e.to(device) for m, e in self.erased.items()},
            None if self.clean is None else self.clean.to(device),
        )


@dataclass(frozen=True)
class Outputs:
    """Everything that one forward pass gives.

    Attributes:
        encoded: U', `{m: b t_m n}`.
        generic: F_NR, `{key: b t d}`; empty where the recipe has no generic extractor.
        specific: F_M, `{key: b t d}`; empty where the recipe has no specific extractor.
        fused: What the fusion gives, `b s d`.
        prediction: `b c`.
        notes: Side values of this pass, which parts write and objectives read.
        batch: The batch that went in; set by the learning, never by the model.
    """

    encoded: Streams
    generic: Streams
    specific: Streams
    fused: Stream
    prediction: Tensor
    notes: dict[str, Any] = field(default_factory=dict)
    batch: Batch | None = None


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        epoch: Epochs finished.
        fraction: Steps done over all steps, 0 to 1, a 0-d tensor so that compiled code is not compiled anew.
        lr: The learning rate of this step, 0-d; None where nothing is trained.
    """

    epoch: int
    fraction: Tensor
    lr: Tensor | None = None


def draw_rate(rate: Rate, count: int, generator: torch.Generator) -> Tensor:
    """A rate for each sample: the number itself, or uniform between the pair's ends; `b`, float32."""
    if isinstance(rate, tuple):
        low, high = rate
        return torch.rand(count, generator=generator, device=generator.device) * (high - low) + low
    return torch.full((count,), float(rate), device=generator.device)


@dataclass(frozen=True)
class Split:
    """One split of a dataset, resident in memory as whole tensors.

    Attributes:
        features: `{m: Stream}` over all samples, in the dtype of the file.
        label: `n` or `n k`; None where unknown (prediction on new data).
        ids: A name for each sample, as the file gives it.
        redraw: Draws the features of one epoch of training, where they differ from epoch to epoch; None where not.
    """

    features: Streams
    label: Tensor | None
    ids: Sequence[str]
    redraw: Callable[[torch.Generator], Streams] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def drawn(self, generator: torch.Generator) -> Split:
        """The split as one epoch of training has it; itself where its features are always the same.

        Args:
            generator: Source of every random number, on the CPU.
        """
        return self if self.redraw is None else replace(self, features=self.redraw(generator))

    def batch(self, index: Tensor) -> Batch:
        """The samples at `index` (`b`, int64), in torch's default dtype (float32, unless someone changed it)."""
        take = lambda t: None if t is None else t.index_select(0, index)
        dtype = torch.get_default_dtype()
        features = {m: stream.take(index).map(lambda x: x.to(dtype)) for m, stream in self.features.items()}
        return Batch.fresh(features, take(self.label), index)

    def to(self, device: torch.device | str) -> Split:
        """The split on another device."""
        features = {m: stream.to(device) for m, stream in self.features.items()}
        return Split(features, None if self.label is None else self.label.to(device), self.ids)


@dataclass(frozen=True)
class Posterior:
    """The exact distribution of each sample's label, given its features.

    Attributes:
        values: The labels at which it is held, `g`: quadrature nodes of a regression, class numbers otherwise.
        weights: Probability of each value, `b g`, float64; rows sum to one.
    """

    values: Tensor
    weights: Tensor


