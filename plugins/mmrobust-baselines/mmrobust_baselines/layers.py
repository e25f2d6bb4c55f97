"""What several of the models are made of: masked steps, alignment, Transformer stacks, perceptrons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from mmrobust.contracts import Context, Shape, Stream
from mmrobust.errors import OptionError, nearest
from mmrobust.nn.attention import attention
from mmrobust.nn.layers import MultiheadAttention
from torch import Tensor, nn

T = TypeVar("T")
N = TypeVar("N", int, float)

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}
Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "none"]


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


Reading = Literal["release", "paper"]


def sinusoids(steps: int, width: int, reading: Reading = "paper") -> Tensor:
    """Sinusoidal positions, `steps width`.

    Args:
        steps: Number of positions.
        width: Size of a step.
        reading: `paper` for those of Vaswani et al. (2017), sines and cosines in turn, counted from 0; `release` for
            those of MulT's public code: all sines before all cosines, counted from 1, zero in an odd last place.
    """
    if reading == "release":
        half = width // 2
        rate = torch.exp(torch.arange(half) * (-math.log(10000.0) / max(1, half - 1)))
        angle = torch.arange(1, steps + 1).unsqueeze(1) * rate
        return F.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, width - 2 * half))
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(steps).unsqueeze(1) * rate
    table = torch.zeros(steps, width)
    table[:, 0::2] = torch.sin(angle)
    table[:, 1::2] = torch.cos(angle)[:, : width // 2]
    return table


class Attention(MultiheadAttention):
    """Multi-head attention whose weights can be dropped in training, and that can hide later steps of the source.

    Args:
        width: Size of a step.
        heads: Attention heads.
        backend: Attention backend; not used where later steps are hidden or weights dropped.
        dropout: Share of the attention weights dropped in training.
        future: Whether a query sees all of the source. If not, query step i sees the source steps up to i plus the
            difference of the two lengths, as in MulT's public code.
    """

    def __init__(
        self, width: int, heads: int, backend: str = "auto", *, dropout: float = 0.0, future: bool = True
    ) -> None:
        super().__init__(width, width, heads, backend)
        self.dropout, self.future = nn.Dropout(dropout), future

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Maps `x` `b s d`, which attends to `source` `b t d` with real steps `mask` `b t`, to `b s d`."""
        query = rearrange(self.query(x), "b s (h d) -> b h s d", h=self.heads)
        key, value = rearrange(self.key_value(source), "b t (kv h d) -> kv b h t d", kv=2, h=self.heads)
        dropout = self.dropout.p if self.training else 0.0
        out = attend(query, key, value, mask, self.backend, dropout=dropout, future=self.future)
        return self.out(rearrange(out, "b h s d -> b s (h d)"))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    backend: str = "auto",
    *,
    dropout: float = 0.0,
    future: bool = True,
) -> Tensor:
    """Each query's weighted mean of the values, `b h s d`; zero where it sees nothing.

    Args:
        query: `b h s d`.
        key: `b h t d`.
        value: `b h t d`.
        mask: True where a key is real, `b t`; None if all are.
        backend: Attention backend; not used where later steps are hidden or weights are dropped.
        dropout: Share of the weights that is dropped.
        future: Whether query step i also sees keys later than i plus the difference of the two lengths.
    """
    if future and not dropout:
        return attention(query, key, value, mask, backend)
    s, t = query.shape[2], key.shape[2]
    seen = torch.ones(s, t, dtype=torch.bool, device=query.device)
    seen = (seen if future else seen.tril(abs(t - s))).view(1, 1, s, t)
    if mask is not None:
        seen = seen & mask[:, None, None, :]
    none = ~seen.any(-1, keepdim=True)
    scores = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).masked_fill(~(seen | none), -torch.inf)
    return (F.dropout(scores.softmax(-1), dropout) @ value).masked_fill(none, 0)


class Block(nn.Module):
    """A Transformer block with ReLU; query, keys and values go through one layer norm.

    Args:
        width: Size of a step.
        heads: Attention heads.
        ratio: Width of the feed-forward layer over `width`.
        norm: `pre` normalises what enters each half, `post` the sum after it.
        dropout: Share dropped in the feed-forward layer and on each residual branch in training.
        attention_dropout: Share of the attention weights dropped in training.
        future: Whether a query sees later steps of the source.
        backend: Attention backend.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        ratio: float = 4.0,
        norm: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        future: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.attention = Attention(width, heads, backend, dropout=attention_dropout, future=future)
        self.norm = nn.LayerNorm(width)
        self.norm_feed = nn.LayerNorm(width)
        hidden = round(width * ratio)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Maps `x` `b s d`, which attends to `source` `b t d` with real steps `mask` `b t`, to `b s d`."""
        if self.pre:
            x = x + self.dropout(self.attention(self.norm(x), self.norm(source), mask))
            return x + self.dropout(self.feed(self.norm_feed(x)))
        x = self.norm(x + self.dropout(self.attention(x, source, mask)))
        return self.norm_feed(x + self.dropout(self.feed(x)))


class Transformer(nn.Module):
    """Scaled input, sinusoidal positions, pre-norm blocks, a last layer norm: the encoder of MulT.

    Args:
        width: Size of a step.
        length: Most steps of query or source.
        depth: Number of blocks.
        heads: Attention heads.
        reading: Of the positions and of who sees what: `paper`, or `release` for those of MulT's public code, which
            hides later steps (see `sinusoids` and `Attention`), gives no position to a step whose first number is
            exactly zero, as those of padding and of erased steps are, and begins with Xavier's uniform weights.
        embed_dropout: Share of the positioned input dropped in training.
        **options: Those of `Block`.
    """

    positions: Tensor

    def __init__(
        self,
        width: int,
        length: int,
        depth: int,
        heads: int,
        *,
        reading: Reading = "paper",
        embed_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        future = reading == "paper"
        self.blocks = nn.ModuleList(Block(width, heads, future=future, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(embed_dropout)
        self.scale, self.release = width**0.5, reading == "release"
        self.register_buffer("positions", sinusoids(length, width, reading), persistent=False)
        if reading == "release":
            self.apply(_xavier)

    def forward(self, query: Stream, source: Stream | None = None) -> Stream:
        """Maps `query` `b s d`, which attends to `source` `b t d` or, without one, to itself, to `b s d`."""
        x = self._embed(query)
        key_value = None if source is None else self._embed(source)
        mask = query.mask if source is None else source.mask
        for block in self.blocks:
            x = block(x, x if key_value is None else key_value, mask)
        return replace(query, x=self.norm(x))

    def _embed(self, stream: Stream) -> Tensor:
        positions = self.positions[: stream.x.shape[1]]
        if self.release:
            positions = positions * (stream.x[..., :1] != 0)
        return self.dropout(self.scale * stream.x + positions)


def _xavier(module: nn.Module) -> None:
    """Weights of linear layers by Xavier's uniform rule, biases zero; queries, keys and values as one matrix."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, Attention):
        bound = (6 / (4 * module.query.in_features)) ** 0.5
        for layer in (module.query, module.key_value):
            nn.init.uniform_(layer.weight, -bound, bound)


class BatchNorm(nn.BatchNorm1d):
    """Torch's batch normalisation of `b d`, which a batch of one sample passes as in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def perceptron(
    width: int, hidden: int, depth: int, *, dropout: float = 0.0, between: float = 0.0, activation: Activation = "relu"
) -> nn.Sequential:
    """`depth` linear layers of one width, each with its activation.

    Args:
        width: Size of the input.
        hidden: Size of every layer.
        depth: Number of layers.
        dropout: Share of the input dropped in training.
        between: Share dropped after each activation in training.
        activation: What follows each layer.
    """
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for i in range(depth):
        layers += [nn.Linear(hidden if i else width, hidden), ACTIVATIONS[activation](), nn.Dropout(between)]
    return nn.Sequential(*layers)


def by_name(
    option: str, value: N | Mapping[str, N], names: Iterable[str], default: N, what: str = "modality"
) -> dict[str, N]:
    """One number for each modality, from one for all or a dict; `default` for those that a dict does not name.

    A dict may also name modalities that the model leaves out, as long as it names all that it has.

    Args:
        option: The option's name, for errors.
        value: What the recipe says.
        names: The modalities, or whatever else has a number.
        default: Number of those that the dict leaves out.
        what: What the names are, for errors.

    Raises:
        OptionError: The dict names a modality that there is not, and leaves out one that there is.
    """
    names = tuple(names)
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    for name in value:
        if name not in names and not set(names) <= set(value):
            raise OptionError(option, f"there is no {what} '{name}'{nearest(name, names)}")
    return {name: value.get(name, default) for name in names}


def read_width(context: Context) -> tuple[int, int]:
    """Width of what a head reads, and how many numbers it must return."""
    assert context.input is not None and context.outputs is not None
    return context.input.width, context.outputs
