"""PMR: Lv, Chen, Huang, Duan, Lin (2021), "Progressive modality reinforcement for human multimodal emotion recognition
from unaligned multimodal sequences".

Its parts: a temporal convolution as encoder (`conv1d`), `message_hub` as fusion, an MLP head.

The paper's text was not at hand when this was written; what is here follows its abstract and the descriptions of later
papers: a message hub holds a common message; in each layer, reinforcement units let the message reinforce each modality
and each modality reinforce the message, progressively; a unit weighs crossmodal against own attention by a gate.
"""

from __future__ import annotations

from typing import Any

import torch
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from mmrobust.nn.layers import MultiheadAttention
from torch import Tensor, nn

from mmrobust_baselines.heads import Pool, pooled
from mmrobust_baselines.layers import Dropout, Transformer, common_width, divide, joined, sinusoids


class ReinforcementUnit(nn.Module):
    """MRU: a target is reinforced by a source, as far as what the source says matters.

    With normalised inputs: A = crossmodal attention from target to source, S = self-attention of the target,
    g = sigmoid(W [A; S] + b), target + g A + (1 - g) S, then a feed-forward layer; both with residual connections.

    Args:
        width: Size of a step.
        heads: Attention heads.
        ratio: Width of the feed-forward layer over `width`.
        dropout: Share dropped on each residual branch in training.
        backend: Attention backend.
    """

    def __init__(self, width: int, heads: int, ratio: float, dropout: float, backend: str) -> None:
        super().__init__()
        self.norm_target, self.norm_source = nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross = MultiheadAttention(width, width, heads, backend)
        self.own = MultiheadAttention(width, width, heads, backend)
        self.gate = nn.Linear(2 * width, width)
        self.norm_feed = nn.LayerNorm(width)
        hidden = round(width * ratio)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = Dropout(dropout)

    def forward(self, target: Stream, source: Stream) -> Tensor:
        """The target `b s d` after hearing the source `b t d`."""
        x = self.norm_target(target.x)
        heard = self.cross(x, self.norm_source(source.x), source.mask)
        own = self.own(x, x, target.mask)
        gate = torch.sigmoid(self.gate(torch.cat([heard, own], -1)))
        y = target.x + self.dropout(gate * heard + (1 - gate) * own)
        return y + self.dropout(self.feed(self.norm_feed(y)))


class MessageHub(Fusion):
    """Layers of reinforcement between all modalities and a common message.

    The message begins as all low-level features, one after the other. In each layer every modality is reinforced by
    the message, and the message by every modality (the mean of what each makes of it); then each modality goes through
    a Transformer of its own, and the last real steps, side by side, are what comes out, `b 1 M*d`.

    Args:
        context: What the house provides.
        depth: Number of layers.
        self_depth: Blocks of each modality's last Transformer.
        heads: Attention heads.
        ratio: Width of the feed-forward layers over d.
        dropout: Share dropped on each residual branch in training.
        pool: `last` for the last real step, or `mean`.

    Raises:
        OptionError: Streams have different widths, or `heads` does not divide theirs.
    """

    def __init__(
        self,
        context: Context,
        *,
        depth: int = 4,
        self_depth: int = 1,
        heads: int = 8,
        ratio: float = 4.0,
        dropout: float = 0.0,
        pool: Pool = "last",
    ) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        width = common_width(shapes, "streams")
        divide(width, heads)
        self.keys = tuple(shapes)
        length = max(shape.length for shape in shapes.values())
        self.register_buffer("positions", sinusoids(length, width), persistent=False)

        def units(last: bool) -> nn.ModuleDict:
            # Nobody hears the message after the last layer.
            both = {} if last else {f"from_{k}": k for k in shapes}
            names = [*(f"to_{k}" for k in shapes), *both]
            return nn.ModuleDict(
                {name: ReinforcementUnit(width, heads, ratio, dropout, context.attention) for name in names}
            )

        self.layers = nn.ModuleList(units(i == depth - 1) for i in range(depth))
        self.selves = nn.ModuleDict(
            {
                k: Transformer(
                    width, length, self_depth, heads, ratio=ratio, dropout=dropout, backend=context.attention
                )
                for k in shapes
            }
        )
        self.pool: Pool = pool
        self.shape = Shape(width * len(shapes), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        positions = self.get_buffer("positions")
        given = joined(generic, specific)
        streams = {k: given[k].map(lambda x: x + positions[: x.shape[1]]) for k in self.keys}
        message = Stream(
            torch.cat([s.x for s in streams.values()], 1), torch.cat([s.mask for s in streams.values()], 1)
        )
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            reinforced = {k: Stream(layer[f"to_{k}"](s, message), s.mask) for k, s in streams.items()}
            heard = [layer[f"from_{k}"](message, s) for k, s in reinforced.items() if f"from_{k}" in layer]
            streams = reinforced
            message = message if not heard else Stream(torch.stack(heard).mean(0), message.mask)
        found = [pooled(Stream(self.selves[k](s.x, None, s.mask), s.mask), self.pool) for k, s in streams.items()]
        return Stream.pooled(torch.cat(found, -1))
