"""What an adversary learns from: features of a view, each with the answer that a discriminator shall give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrobust.contracts import Context, Outputs, Shape, Stream, Streams
from mmrobust.errors import OptionError

__all__ = [
    "Examples",
    "Unit",
    "common_shape",
    "detached",
    "erased_of",
    "figure_names",
    "modality_examples",
    "noise_examples",
    "specific_streams",
    "standardized",
    "which_examples",
]

#: What is one example: a modality of a sample, all its steps, or each step of it.
Unit = Literal["sample", "step"]


@dataclass(frozen=True)
class Examples:
    """Some features and their answers.

    Attributes:
        features: `n t d`; of single steps `n 1 d`.
        answer: Of each, `n`, int64.
        counts: 1 where an example counts, 0 where it is padding, `n`.
        answers: How many answers there are.
    """

    features: Stream
    answer: Tensor
    counts: Tensor
    answers: int

    def map(self, features: Stream) -> Examples:
        """The same examples with other features."""
        return replace(self, features=features)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `n` values over the examples that count; 0 where none does."""
        return (values * self.counts).sum() / self.counts.sum().clamp(min=1)

    def chance(self) -> Tensor:
        """The share of the most frequent answer: what a discriminator reaches that knows nothing; 0-d."""
        return self.members().sum(0).max() / self.counts.sum().clamp(min=1)

    def members(self) -> Tensor:
        """1 where an example that counts has an answer, `n k`."""
        answers = torch.arange(self.answers, device=self.answer.device)
        return (self.answer.unsqueeze(1) == answers).to(self.counts.dtype) * self.counts.unsqueeze(1)

    @staticmethod
    def join(parts: Sequence[Examples]) -> Examples:
        """Several sets of examples as one."""
        return Examples(
            _stack([part.features for part in parts]),
            torch.cat([part.answer for part in parts]),
            torch.cat([part.counts for part in parts]),
            parts[0].answers,
        )


def figure_names(reads_specific: bool) -> tuple[str, ...]:
    """What an adversary reports: how well the discriminator does on the NRGF, and on the MFs where it reads them."""
    names = ("accuracy", "cross_entropy", "chance")
    return (*names, *(f"mf_{name}" for name in names[:2])) if reads_specific else names


def modality_examples(streams: Streams, unit: Unit) -> Examples:
    """The features of each modality; the answer is its number.

    Args:
        streams: `{m: b t_m d}`, in the order of the modalities.
        unit: See `Unit`.
    """
    answer = [torch.full_like(stream.mask, i, dtype=torch.int64) for i, stream in enumerate(streams.values())]
    return _examples(list(streams.values()), answer, unit, max(2, len(streams)))


def noise_examples(streams: Streams, erased: Mapping[str, Tensor], unit: Unit) -> Examples:
    """The features of each modality; the answer is 1 where noise took hold of it, else 0.

    Args:
        streams: `{m: b t_m d}`.
        erased: `{m: b t_m}`.
        unit: See `Unit`; a modality of a sample was taken hold of where any of its steps was.
    """
    steps = [erased[m] if unit == "step" else erased[m].any(1, keepdim=True).expand_as(erased[m]) for m in streams]
    return _examples(list(streams.values()), [s.to(torch.int64) for s in steps], unit, 2)


def which_examples(streams: Streams, erased: Mapping[str, Tensor]) -> Examples:
    """All modalities of a sample side by side; the answer is the number of the one that noise took hold of.

    A window of no step corrupts nothing; such samples have no answer and do not count.

    Args:
        streams: `{m: b t_m d}`, of one width.
        erased: `{m: b t_m}`.
    """
    length = max(stream.x.shape[1] for stream in streams.values())
    x = torch.cat([F.pad(s.zeroed().x, (0, 0, 0, length - s.x.shape[1])) for s in streams.values()], -1)
    mask = torch.stack([F.pad(s.mask, (0, length - s.mask.shape[1])) for s in streams.values()]).any(0)
    corrupted = torch.stack([erased[m].any(1) for m in streams], 1)
    answer = corrupted.to(torch.uint8).argmax(1)
    return Examples(Stream(x, mask), answer, corrupted.any(1).to(x.dtype), len(streams))


def standardized(stream: Stream, eps: float = 1e-5) -> Stream:
    """The stream with each feature at mean 0 and variance 1 over all real steps of the batch; `b t d`, padding zero."""
    mask = stream.mask.unsqueeze(-1).to(stream.x.dtype)
    count = mask.sum().clamp(min=1)
    centred = (stream.x - (stream.x * mask).sum((0, 1)) / count) * mask
    return replace(stream, x=centred / (centred.square().sum((0, 1)) / count + eps).sqrt())


def common_shape(context: Context, shapes: Mapping[str, Shape]) -> Shape:
    """The shape that all the generic features fit into: one stream for each modality, of one width.

    Args:
        context: What mmrobust provides.
        shapes: The generic features, and others that a discriminator reads with them.

    Raises:
        OptionError: There is no generic extractor, its streams are not the modalities, or widths differ.
    """
    if set(context.generic) != set(context.modalities):
        raise OptionError("use", "needs a generic extractor that gives one stream for each modality")
    if len({shape.width for shape in shapes.values()}) != 1:
        widths = ", ".join(f"{m} {shape.width}" for m, shape in shapes.items())
        raise OptionError("use", f"its discriminator needs features of one width, but they have {widths}")
    return Shape(next(iter(shapes.values())).width, max(shape.length for shape in shapes.values()))


def specific_streams(context: Context) -> bool:
    """Whether the specific features are a stream for each modality, as wide as the generic ones."""
    widths = {shape.width for shape in (*context.generic.values(), *context.specific.values())}
    return set(context.specific) == set(context.modalities) and len(widths) == 1


def detached(streams: Streams) -> Streams:
    """The streams without their history."""
    return {key: stream.map(Tensor.detach) for key, stream in streams.items()}


def erased_of(out: Outputs) -> dict[str, Tensor]:
    """The steps of a view that noise took hold of, `{m: b t_m}`."""
    assert out.batch is not None
    return out.batch.erased


def _examples(streams: Sequence[Stream], answer: Sequence[Tensor], unit: Unit, answers: int) -> Examples:
    features = _stack(streams)
    if unit == "sample":
        every = torch.ones_like(features.mask[:, 0], dtype=features.x.dtype)
        return Examples(features, torch.cat([a[:, 0] for a in answer]), every, answers)
    length = features.mask.shape[1]
    each = torch.cat([F.pad(a, (0, length - a.shape[1])) for a in answer]).flatten()
    steps = Stream(features.x.flatten(0, 1).unsqueeze(1), features.mask.flatten().unsqueeze(1))
    return Examples(steps, each, features.mask.flatten().to(features.x.dtype), answers)


def _stack(streams: Sequence[Stream]) -> Stream:
    """Streams of one width, one under the other, padded to the longest: `b t_m d` to `(m b) t d`."""
    length = max(stream.x.shape[1] for stream in streams)
    rows = [stream.zeroed() for stream in streams]
    x = torch.cat([F.pad(s.x, (0, 0, 0, length - s.x.shape[1])) for s in rows])
    return Stream(x, torch.cat([F.pad(s.mask, (0, length - s.mask.shape[1])) for s in rows]))
