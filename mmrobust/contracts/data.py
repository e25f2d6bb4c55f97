"""What flows through a model: shapes, streams, batches, splits, and what is to be predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor


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


