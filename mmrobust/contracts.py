"""The contracts: what flows through a model, and one base class for each kind of component.

The legend of shapes, used in every docstring:

| letter | meaning |
|---|---|
| `b` | samples of a batch |
| `m` | a modality, or another key of a dict of streams |
| `t`, `t_m` | steps of a sequence, padded to a common length per modality |
| `n_m` | width of a modality's raw features |
| `n` | common width after the encoder (`model.width`) |
| `d` | width after the extractors |
| `s` | steps of the fused sequence |
| `c` | outputs: classes, or 1 for regression |

Rules that hold for every component (the conformance kit checks them):

- A sequence and its mask travel together as a `Stream`. `mask` is True where a step is real. Pooled is a stream of
  one step.
- Padding is zero when a component receives it, and whatever a component leaves in padding must change nothing later.
- `forward` is pure: memory lives in buffers and changes in `Objective.update` alone; side values go into `notes`, a
  fresh dict of one pass.
- Options are the keyword-only arguments of `__init__`, typed, with defaults. What the house provides arrives through
  the one positional argument, a `Context`.
- No component touches the global random state in `__init__` or draws from it outside `torch.nn`'s own layers; noise
  draws from the generator it is handed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mmrobust.registry.spec import Part

__all__ = [
    "Batch",
    "Component",
    "Context",
    "Dataset",
    "Discriminator",
    "Encoder",
    "Fusion",
    "GenericExtractor",
    "Head",
    "Noise",
    "Objective",
    "Outputs",
    "Part",
    "Posterior",
    "Progress",
    "Rate",
    "Shape",
    "SpecificExtractor",
    "Split",
    "Steps",
    "Stream",
    "Streams",
    "Task",
    "draw_rate",
    "eager",
]


@dataclass(frozen=True)
class Shape:
    """What a stream looks like, known before any data is.

    Attributes:
        width: Size of one step.
        length: Most steps there can be; 1 means pooled.
    """

    width: int
    length: int

    def __str__(self) -> str:
        return f"{self.length}x{self.width}"


@dataclass(frozen=True)
class Stream:
    """A batch of sequences and what is real in them.

    Attributes:
        x: Values, `b t d`.
        mask: True where a step is real, `b t`, bool.
        times: Start and end of each step in seconds, `b t 2`, where the data knows them.
    """

    x: Tensor
    mask: Tensor
    times: Tensor | None = None

    def zeroed(self) -> Stream:
        """The same stream with padding set to zero, NaN included."""
        return replace(self, x=_kept(self.x, self.mask))

    def without(self, steps: Tensor) -> Stream:
        """The same stream with some steps, `b t`, set to zero, NaN included."""
        return replace(self, x=_kept(self.x, ~steps))

    def mean(self) -> Tensor:
        """Mean over the real steps, `b d`; zero where a sample has none."""
        total = _kept(self.x, self.mask).sum(1)
        return total / self.mask.sum(1, keepdim=True).clamp(min=1).to(total.dtype)

    def map(self, f: Callable[[Tensor], Tensor]) -> Stream:
        """The stream with `f` applied to its values, step for step."""
        return replace(self, x=f(self.x))

    @staticmethod
    def pooled(x: Tensor) -> Stream:
        """One real step for each sample, from `b d`."""
        return Stream(x.unsqueeze(1), torch.ones(x.shape[0], 1, dtype=torch.bool, device=x.device))


def eager() -> bool:
    """Whether tensors have values now: neither traced for a compiler nor transformed by vmap."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    """`x` `b t d` where `mask` `b t` is True, zero elsewhere, NaN included."""
    mask = mask.unsqueeze(-1)
    # A tensor of several seeds does not tell whether it requires a gradient, and torch 2.11 has no rule for its bits.
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype not in _BITS or not eager():
        return torch.where(mask, x, 0)
    # The same without a gradient, which a CPU has in a fraction of the time.
    bits = _BITS[x.dtype]
    return x.view(bits).bitwise_and(-mask.to(bits)).view(x.dtype)


torch.export.register_dataclass(Stream, serialized_type_name="mmrobust.Stream")

Streams = dict[str, Stream]


class Steps(Protocol):
    """A batch of sequences in whatever form, a `Stream` for one; what a split fusion is handed and makes."""

    @property
    def x(self) -> Tensor:
        """Values, `b t d`."""
        ...

    @property
    def mask(self) -> Tensor:
        """True where a step is real, `b t`, bool."""
        ...


Rate = float | tuple[float, float]


@dataclass(frozen=True)
class Task:
    """What is to be predicted.

    Attributes:
        kind: `regression` (label `b`, float), `classification` (label `b`, int64), or `multilabel`: several
            independent two-way decisions (label `b k`, int64 of 0 and 1; the prediction holds two logits for each, so
            `outputs` is `2k`, as in MulT's IEMOCAP).
        outputs: Width of the prediction.
        measures: The set of scores that the field reports for this data: `mosi`, `mosei`, `sims`, `iemocap`,
            `regression`, `classification` (see `mmrobust.measures`).
        low: Smallest possible label of a regression.
        high: Largest possible label of a regression.
        names: Names of the classes or decisions, where there are any.
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
        """This batch with steps of one number, zero: enough to draw a noise that is `constant`."""
        empty = lambda s: replace(s, x=s.x.new_zeros(1, 1, 1).expand(*s.mask.shape, 1))
        clean = None if self.clean is None else self.clean.outline()
        return replace(self, features={m: empty(s) for m, s in self.features.items()}, clean=clean)

    def noisy(self, features: Streams, erased: Mapping[str, Tensor]) -> Batch:
        """This batch after one more noise: `erased` is OR-ed, `clean` stays the first batch, masks stay."""
        merged = {m: self.erased[m] | (erased[m] & s.mask) for m, s in self.features.items()}
        return Batch(features, self.label, self.index, merged, self if self.clean is None else self.clean)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        move = lambda t: None if t is None else t.to(device)
        return Batch(
            {m: Stream(s.x.to(device), s.mask.to(device), move(s.times)) for m, s in self.features.items()},
            move(self.label),
            self.index.to(device),
            {m: e.to(device) for m, e in self.erased.items()},
            None if self.clean is None else self.clean.to(device),
        )


@dataclass(frozen=True)
class Outputs:
    """Everything one forward pass made.

    Attributes:
        encoded: U', `{m: b t_m n}`.
        generic: F_NR, `{key: b t d}`; empty where the recipe has no generic extractor.
        specific: F_M, `{key: b t d}`; empty where the recipe has no specific extractor.
        fused: What the fusion made of both, `b s d`; its mean, `b 1 d`, where the head looks at nothing else.
        prediction: `b c`.
        notes: Side values of this pass, by whoever made them.
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
    """

    epoch: int
    fraction: Tensor


K = TypeVar("K", bound="Component | Noise")


@dataclass(frozen=True)
class Context:
    """What the house provides to a component; nothing of it is ever guessed.

    Attributes:
        modalities: In the recipe's order.
        task: What is to be predicted.
        width: `model.width`, the common width n.
        features: Raw shape of each modality.
        samples: Samples of the training split: the size of memories.
        aligned: True where step i of every modality is the same moment.
        timed: True where streams carry `times`.
        attention: Name of the attention backend, see `mmrobust.nn.attention`.
        encoded: Shapes after the encoder; empty before it is built.
        generic: Shapes after the generic extractor.
        specific: Shapes after the specific extractor.
        pooled: True where the head looks at the mean of the fused steps alone, so that a fusion may give that mean.
        fused: Shape after the fusion.
        input: For a head or discriminator: the shape of the stream that it reads.
        outputs: For a head or discriminator: how many numbers it must return.
        build: Set by the builder; use `make`.
    """

    modalities: tuple[str, ...]
    task: Task
    width: int
    features: Mapping[str, Shape]
    samples: int = 0
    aligned: bool = False
    timed: bool = False
    attention: str = "auto"
    encoded: Mapping[str, Shape] = field(default_factory=dict)
    generic: Mapping[str, Shape] = field(default_factory=dict)
    specific: Mapping[str, Shape] = field(default_factory=dict)
    pooled: bool = False
    fused: Shape | None = None
    input: Shape | None = None
    outputs: int | None = None
    build: Callable[[type[Any], Part[Any], Context], Any] | None = field(default=None, repr=False, compare=False)

    def make(self, kind: type[K], part: Part[K], **changes: Any) -> K:
        """Builds a component that another one holds.

        Args:
            kind: The base class of the kind, e.g. `Discriminator`.
            part: The option's value.
            **changes: Fields of the context that differ for the part, e.g. `input=Shape(...)`, `outputs=3`.
        """
        if self.build is None:
            raise RuntimeError("this context cannot build parts; make contexts with mmrobust.build.context")
        return self.build(kind, part, replace(self, **changes))


class Component(nn.Module):
    """What all trainable kinds share.

    Class attributes are promises that let the house go faster; each is checked by the conformance kit.

    Attributes:
        positionwise: Each output step depends on the same input step alone, wherever and among how many it stands, and
            no notes are written, so the part may run once on clean steps and once on the erased one.
        samplewise: A batch of 2b gives what two batches of b give (false for batch statistics, CCA, clustering).
        vmappable: Runs under `torch.func.vmap`, so that several seeds can be trained as one.
        compilable: `torch.compile` takes it as one graph.
        exportable: `torch.export` takes it, with a batch of any size.
        minimum: Fewest modalities it supports.
        maximum: Most modalities it supports; None for any number.
    """

    positionwise: ClassVar[bool] = False
    samplewise: ClassVar[bool] = True
    vmappable: ClassVar[bool] = True
    compilable: ClassVar[bool] = True
    exportable: ClassVar[bool] = True
    minimum: ClassVar[int] = 1
    maximum: ClassVar[int | None] = None

    def __init__(self, context: Context) -> None:
        super().__init__()


class Encoder(Component):
    """g: what happens to each modality before generic and specific part ways.

    Attributes:
        shapes: Shape of each stream that `forward` returns; set in `__init__`.
    """

    shapes: dict[str, Shape]

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        """Maps `{m: b t_m n_m}` to `{m: b t n}`; keys stay the modalities."""
        raise NotImplementedError


class _Extractor(Component):
    shapes: dict[str, Shape]

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        """Maps encoded streams `{m: b t n}` to `{key: b t d}`; keys may differ from the modalities."""
        raise NotImplementedError


class GenericExtractor(_Extractor):
    """F_NR: features meant to be common to the modalities and insensitive to noise (`context.encoded` is its input)."""


class SpecificExtractor(_Extractor):
    """F_M: features with each modality's own detail (`context.encoded` is its input)."""


class Fusion(Component):
    """Makes one stream of the generic and the specific ones (`context.generic`, `context.specific`).

    A fusion whose first layers look at each step alone may say so: it then has `prepare` for those layers and `attend`
    for the rest, `forward` is one after the other, and `prepared` tells the house what stands where. Noise that sets
    steps to zero costs such a fusion `attend` alone; the house prepares clean and erased steps once.

    Attributes:
        shape: Shape of the stream that `forward` returns; set in `__init__`.
        prepared: For each stream that `prepare` returns, the streams of its input whose steps stand in it one after
            the other; empty for a fusion that is not split.
    """

    shape: Shape
    prepared: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        """Maps `{key: b t d}` twice to `b s d`. One of the dicts may be empty, as the context told."""
        raise NotImplementedError

    def prepare(self, generic: Mapping[str, Steps], specific: Mapping[str, Steps]) -> Mapping[str, Steps]:
        """Maps each step of each stream alone, by its values and its place: `{name: b s w}`, as `prepared` tells.

        It may return streams. What the house hands it, and `attend`, need not be streams, but has their `x` and `mask`.
        """
        raise NotImplementedError

    def attend(self, prepared: Mapping[str, Steps], notes: dict[str, Any]) -> Stream:
        """Makes of what `prepare` returned what `forward` returns, `b s d`.

        What is padding in every sample may have been left out, and other padding may hold anything finite.
        """
        raise NotImplementedError


class Head(Component):
    """The prediction from the fused stream (`context.input`, `context.outputs`).

    Attributes:
        pools: Looks at the mean over the real steps and at nothing else, so that the fusion may give that mean.
    """

    pools: ClassVar[bool] = False

    def forward(self, stream: Stream) -> Tensor:
        """Maps `b s d` to `b c`: raw logits, or the number itself."""
        raise NotImplementedError


class Discriminator(Component):
    """The network an adversary trains (`context.input`, `context.outputs`)."""

    def forward(self, stream: Stream) -> Tensor:
        """Maps `b t d` with at most `context.input.length` steps to `b c` logits."""
        raise NotImplementedError


class Objective(Component):
    """Reads what forward passes made and returns a loss; may own parameters and state. Runs in training only.

    Attributes:
        reads: Names of other views whose outputs it needs; they run even if they list no objective.
        weight: Factor of the loss in the sum; `weight` is reserved in a recipe and set by the house.
        lean: Promises to look neither at `encoded` nor at a noisy batch's `features`, of any view. Where all of a
            recipe's objectives do, neither need be made, and both may be empty (a promise like those of `Component`).
    """

    lean: ClassVar[bool] = False
    reads: tuple[str, ...] = ()
    weight: float = 1.0

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        """The loss of one view, a scalar, before its weight.

        Args:
            out: The view that lists this objective; `out.batch` is its (noisy) batch, `out.batch.clean` the clean one.
            views: Every view of this step by name.
            progress: How far training has come.
        """
        raise NotImplementedError

    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        """Changes memory, once a step, after backward and before the optimizer's step, without gradients."""


class Noise(ABC):
    """V(U, s): destroys or degrades part of a batch.

    A noise marks every step that it takes hold of as `erased`, be it destroyed, degraded or moved; a step that is not
    marked is exactly as it was. (A marked one may come out unchanged, as a shuffled step that lands in its old place.)

    Attributes:
        constant: Marked steps become exactly zero, so that every erased step is the same token, and which they are
            depends on masks, places, rates and the generator, never on the features, so that it is drawn without them.
        fixed: Nothing depends on the generator but rates drawn from a pair: another draw at the same rate is the same
            noise, so an evaluation makes one.
        snr: For additive noise, the signal-to-noise ratio in decibels of each modality, as lowest and highest; the
            conformance kit measures it.
    """

    constant: bool = False
    fixed: bool = False
    snr: Mapping[str, tuple[float, float]] | None = None

    def __init__(self, context: Context) -> None:
        self.modalities = context.modalities

    @abstractmethod
    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        """A new batch with noise; the one given is not changed.

        Args:
            batch: Clean, or already noisy (noises compose).
            rate: How much, 0 to 1, in the noise's own unit; a pair draws a rate for each sample uniformly. 0 is the
                identity.
            generator: Source of every random number, on the batch's device.

        Returns:
            `batch.noisy(...)`: masks unchanged, `erased` OR-ed, `clean` the first batch.
        """

    def expected(self, rate: float) -> dict[str, float] | None:
        """Share of each modality's real steps that `rate` marks on average, where every sample has every modality.

        The conformance kit measures it. None where it depends on more than the rate.
        """
        return dict.fromkeys(self.modalities, rate)


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
    """

    features: Streams
    label: Tensor | None
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: Tensor) -> Batch:
        """The samples at `index` (`b`, int64), in torch's default dtype (float32, unless someone changed it)."""
        take = lambda t: None if t is None else t.index_select(0, index)
        dtype = torch.get_default_dtype()
        features = {
            m: Stream(s.x.index_select(0, index).to(dtype), s.mask.index_select(0, index), take(s.times))
            for m, s in self.features.items()
        }
        return Batch.fresh(features, take(self.label), index)

    def to(self, device: torch.device | str) -> Split:
        """The split on another device."""
        move = lambda t: None if t is None else t.to(device)
        features = {m: Stream(s.x.to(device), s.mask.to(device), move(s.times)) for m, s in self.features.items()}
        return Split(features, move(self.label), self.ids)


@dataclass(frozen=True)
class Posterior:
    """The exact distribution of each sample's label, given its features.

    Attributes:
        values: The labels at which it is held, `g`: quadrature nodes of a regression, class numbers otherwise.
        weights: Probability of each value, `b g`, float64; rows sum to one.
    """

    values: Tensor
    weights: Tensor


class Dataset(ABC):
    """Named splits, and what the task is. Options are keyword-only, as for every kind; there is no context.

    Attributes:
        splits: `train`, `valid` and `test`; at least `train`.
        modalities: Raw shape of each modality, in the order the recipe shall use by default.
        task: What is to be predicted.
        aligned: True where step i of every modality is the same moment.
        notes: What a reader of the report should know of this data (counts of replaced values, say).
    """

    splits: Mapping[str, Split]
    modalities: Mapping[str, Shape]
    task: Task
    aligned: bool = False
    notes: Sequence[str] = ()

    def posterior(self, split: str, batch: Batch) -> Posterior | None:
        """What can be known of the labels from what noise left of these samples; None where nobody knows.

        Decisions made from it are the limit that no model can pass.

        Args:
            split: The split that `batch.index` counts in.
            batch: A clean or erased batch of it.
        """
        return None
