"""What several of the models are made of: masked steps, alignment, Transformer stacks, perceptrons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from mmrobust.contracts import Context, Shape, Stream
from mmrobust.errors import OptionError
from mmrobust.nn.layers import MultiheadAttention
from torch import Tensor, nn

T = TypeVar("T")

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}
Activation = Literal["relu", "tanh", "sigmoid", "none"]


def joined(generic: Mapping[str, T], specific: Mapping[str, T]) -> dict[str, T]:
    """Generic and specific entries in one dict; keys are `generic_<key>` and `specific_<key>`."""
    return {f"generic_{k}": v for k, v in generic.items()} | {f"specific_{k}": v for k, v in specific.items()}


def common_width(shapes: Mapping[str, Shape], what: str) -> int:
    """The one width that all have.

    Raises:
        OptionError: They differ.
    """
    widths = {shape.width for shape in shapes.values()}
    if len(widths) != 1:
        widths_of = ", ".join(f"{key} {shape.width}" for key, shape in shapes.items())
        raise OptionError("use", f"needs {what} of one width, but they have {widths_of}")
    return widths.pop()


def divide(width: int, heads: int, option: str = "heads") -> None:
    """Checks that heads divide a width.

    Raises:
        OptionError: They do not.
    """
    if heads < 1 or width % heads:
        right = ", ".join(str(h) for h in range(1, min(width, 32) + 1) if width % h == 0)
        raise OptionError(option, f"{heads} does not divide the width {width}; {right} do")


def pick(x: Tensor, steps: Tensor) -> Tensor:
    """The steps `b s` of `b t d`, `b s d`."""
    return x.gather(1, steps.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def last(stream: Stream) -> Tensor:
    """The last real step, `b d`; zero where a sample has none."""
    place = torch.arange(stream.mask.shape[1], device=stream.mask.device)
    end = torch.where(stream.mask, place, 0).amax(1, keepdim=True)
    x = pick(stream.x, end).squeeze(1)
    return x.masked_fill(~stream.mask.any(1, keepdim=True), 0)


def compact(stream: Stream) -> Stream:
    """The same steps with the real ones first, in their order."""
    order = (~stream.mask).to(torch.uint8).argsort(dim=1, stable=True)
    return replace(
        stream,
        x=pick(stream.x, order),
        mask=stream.mask.gather(1, order),
        times=None if stream.times is None else pick(stream.times, order),
    )


Unaligned = Literal["refuse", "stretch"]


class Align(nn.Module):
    """Gives all streams the same steps, for models that read the modalities step by step.

    Where the data is aligned, nothing happens. Otherwise `stretch` resamples each stream in relative time: step j of
    s is the mean of the real steps from the fraction j/s to (j+1)/s of its length, s being the shortest stream's
    length. With two streams of k and n real steps this is what averaging down to word level does when nothing but
    order is known.

    Args:
        shapes: What comes in.
        aligned: Whether the data is aligned.
        unaligned: What to do if not.

    Raises:
        OptionError: The data is not aligned, and `unaligned` is `refuse`.
    """

    def __init__(self, shapes: Mapping[str, Shape], aligned: bool, unaligned: Unaligned) -> None:
        super().__init__()
        self.through = len(shapes) == 1 or (aligned and len({s.length for s in shapes.values()}) == 1)
        if not self.through and unaligned == "refuse":
            raise OptionError(
                "unaligned", "reads the modalities step by step, and these are not aligned; set unaligned: stretch"
            )
        self.keys = tuple(shapes)
        self.steps = min(shape.length for shape in shapes.values())

    def forward(self, streams: Mapping[str, Stream]) -> tuple[list[Tensor], Tensor]:
        """The values of each stream, `b s d_m`, in the order of the shapes, and their common mask, `b s`."""
        if self.through:
            return [streams[k].zeroed().x for k in self.keys], torch.stack([streams[k].mask for k in self.keys]).any(0)
        values = [stretch(streams[k], self.steps) for k in self.keys]
        some = torch.stack([streams[k].mask.any(1) for k in self.keys]).any(0)
        return values, some.unsqueeze(1).expand(-1, self.steps)


def stretch(stream: Stream, steps: int) -> Tensor:
    """The real steps resampled to `steps` by averaging in relative time, `b s d`; zero where a sample has none."""
    x = stream.zeroed().x
    count = stream.mask.sum(1).to(x.dtype).view(-1, 1, 1)
    rank = (stream.mask.cumsum(1) - 1).to(x.dtype).unsqueeze(1)  # b 1 t
    each = count / steps
    place = torch.arange(steps, device=x.device, dtype=x.dtype).view(1, -1, 1)
    overlap = torch.minimum(rank + 1, (place + 1) * each) - torch.maximum(rank, place * each)
    overlap = overlap.clamp(min=0) * stream.mask.unsqueeze(1)
    return torch.bmm((overlap / each.clamp(min=1e-9)).to(x.dtype), x)


def sinusoids(steps: int, width: int) -> Tensor:
    """The positional encoding of Vaswani et al. (2017), `steps width`."""
    place = torch.arange(steps).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(steps, width)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)[:, : width // 2]
    return table


class Block(nn.Module):
    """A pre-norm Transformer block with ReLU; query, keys and values go through one layer norm.

    Args:
        width: Size of a step.
        heads: Attention heads.
        ratio: Width of the feed-forward layer over `width`.
        dropout: Share dropped on each residual branch in training.
        backend: Attention backend.
    """

    def __init__(self, width: int, heads: int, ratio: float, dropout: float, backend: str) -> None:
        super().__init__()
        self.attention = MultiheadAttention(width, width, heads, backend)
        self.norm = nn.LayerNorm(width)
        self.norm_feed = nn.LayerNorm(width)
        hidden = round(width * ratio)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Maps `x` `b s d`, which attends to `source` `b t d` with real steps `mask` `b t`, to `b s d`."""
        x = x + self.dropout(self.attention(self.norm(x), self.norm(source), mask))
        return x + self.dropout(self.feed(self.norm_feed(x)))


class Transformer(nn.Module):
    """Scaled input, sinusoidal positions, blocks, a last layer norm: the encoder of MulT.

    Args:
        width: Size of a step.
        length: Most steps of query or source.
        depth: Number of blocks.
        heads: Attention heads.
        ratio: Width of the feed-forward layer over `width`.
        dropout: Share dropped on each residual branch in training.
        embed_dropout: Share of the positioned input dropped in training.
        backend: Attention backend.
    """

    positions: Tensor

    def __init__(
        self,
        width: int,
        length: int,
        depth: int,
        heads: int,
        *,
        ratio: float = 4.0,
        dropout: float = 0.0,
        embed_dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, ratio, dropout, backend) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(embed_dropout)
        self.scale = width**0.5
        self.register_buffer("positions", sinusoids(length, width), persistent=False)

    def forward(self, query: Stream, source: Stream | None = None) -> Stream:
        """Maps `query` `b s d`, which attends to `source` `b t d` or, without one, to itself, to `b s d`."""
        x = self._embed(query)
        key_value = None if source is None else self._embed(source)
        mask = query.mask if source is None else source.mask
        for block in self.blocks:
            x = block(x, x if key_value is None else key_value, mask)
        return replace(query, x=self.norm(x))

    def _embed(self, stream: Stream) -> Tensor:
        return self.dropout(self.scale * stream.x + self.positions[: stream.x.shape[1]])


def perceptron(width: int, hidden: int, depth: int, dropout: float, activation: Activation = "relu") -> nn.Sequential:
    """`depth` layers of one width: dropout, linear, activation."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Dropout(dropout), nn.Linear(width if i == 0 else hidden, hidden), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def read_width(context: Context) -> tuple[int, int]:
    """Width of what a head reads, and how many numbers it must return."""
    assert context.input is not None and context.outputs is not None
    return context.input.width, context.outputs
