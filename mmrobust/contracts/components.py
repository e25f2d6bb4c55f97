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
- Options are the keyword-only arguments of `__init__`, typed, with defaults. What mmrobust provides arrives through
  the one positional argument, a `Context`.
- No component touches the global random state in `__init__` or draws from it outside `torch.nn`'s own layers; noise
  draws from the generator it is handed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mmrobust.contracts.data import (
    Batch,
    Outputs,
    Posterior,
    Progress,
    Rate,
    Shape,
    Split,
    Stream,
    Streams,
    Task,
)
from mmrobust.registry.spec import Part

K = TypeVar("K", bound="Component | Noise")


@dataclass(frozen=True)
class Context:
    """What a component is given when it is built; nothing of it is ever guessed.

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
            raise RuntimeError("this context cannot build parts; make contexts with mmrobust.model.assemble.context")
        return self.build(kind, part, replace(self, **changes))


class Component(nn.Module):
    """What all trainable kinds share.

    Class attributes are promises, which the conformance kit checks. None of them is required. A component that
    keeps one is faster (`accel/`), or can be exported.

    Attributes:
        positionwise: Each output step depends on the same input step alone, wherever and among how many it stands, and
            no notes are written, so the part may run once on clean steps and once on the erased one.
        samplewise: A batch of 2b gives what two batches of b give (false for batch statistics, CCA, clustering).
        vmappable: Runs under `torch.func.vmap`, so that several seeds can be trained as one.
        compilable: `torch.compile` takes it as one graph.
        exportable: `torch.export` takes it, with a batch of any size.
        minimum: Fewest modalities it supports.
        maximum: Most modalities it supports; None for any number.
        writes: Keys of `notes` that its `forward` sets, for an objective that needs them.
    """

    positionwise: ClassVar[bool] = False
    samplewise: ClassVar[bool] = True
    vmappable: ClassVar[bool] = True
    compilable: ClassVar[bool] = True
    exportable: ClassVar[bool] = True
    minimum: ClassVar[int] = 1
    maximum: ClassVar[int | None] = None
    writes: tuple[str, ...] = ()

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
    """One stream from the generic and the specific ones (`context.generic`, `context.specific`).

    A fusion whose output steps belong to modalities says so by the stream's `segments` (`Stream.join` sets them).

    Attributes:
        shape: Shape of the stream that `forward` returns, with its segments; set in `__init__`.
    """

    shape: Shape

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        """Maps `{key: b t d}` twice to `b s d`. One of the dicts may be empty, as the context says."""
        raise NotImplementedError


class Head(Component):
    """The prediction from the fused stream (`context.input`, `context.outputs`).

    A batch may have fewer steps than `context.input.length`; its `segments` say which of them belong to whom.
    """

    def forward(self, stream: Stream) -> Tensor:
        """Maps `b s d` to `b c`: raw logits, or the number itself."""
        raise NotImplementedError


class Discriminator(Component):
    """The network an adversary trains (`context.input`, `context.outputs`)."""

    def forward(self, stream: Stream) -> Tensor:
        """Maps `b t d` with at most `context.input.length` steps to `b c` logits."""
        raise NotImplementedError


class Objective(Component):
    """Reads what forward passes give and returns a loss; may own parameters and state. Runs in training only.

    Attributes:
        reads: Names of other views whose outputs it needs; they run even if they list no objective.
        needs: Keys of `notes` that it reads; a part of the model has to name each in its `writes`.
        weight: Factor of the loss in the sum; `weight` is reserved in a recipe and set by the builder.
        figures: Names of the scalars that `forward` returns beside its loss, to be logged; empty for none.
        adversarial: It works against the other objectives; training logs the norm of its gradient on the generic
            extractor, and of theirs.
        detached: It gets generic features (in `out` and `views`) that were computed again from U' without the history
            of U': its gradient moves the generic extractor, and nothing before it.
        limited: Its gradient moves the generic extractor alone, and is scaled down where it is longer than that of the
            other objectives. Such an objective owns nothing that the optimizer trains.
        caution: What a user should know of the options that were chosen, in one line; empty for nothing.
    """

    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    figures: tuple[str, ...] = ()
    adversarial: bool = False
    detached: bool = False
    limited: bool = False
    caution: str = ""

    def forward(
        self, out: Outputs, views: Mapping[str, Outputs], progress: Progress
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss of one view, a scalar, before its weight; or the loss and a scalar for each name in `figures`.

        Args:
            out: The view that lists this objective; `out.batch` is its (noisy) batch, `out.batch.clean` the clean one.
            views: Every view of this step by name.
            progress: How far training has come.
        """
        raise NotImplementedError

    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        """Changes memory, once a step, after backward and before the optimizer's step, without gradients.

        Memory is buffers, and parameters that require no gradient (a network with an optimizer of its own).
        """

    def remark(self, figures: Mapping[str, float]) -> str | None:
        """What a user should know at the end of training, in one line; None for nothing.

        Args:
            figures: The mean of each of `figures` over the last epoch.
        """
        return None


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
        """What can be known of the labels from what noise left of these samples; None where it is not known.

        Decisions made from it are the limit that no model can pass.

        Args:
            split: The split that `batch.index` counts in.
            batch: A clean or erased batch of it.
        """
        return None
