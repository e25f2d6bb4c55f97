"""PMR: Lv, Chen, Huang, Duan, Lin (2021), "Progressive modality reinforcement for human multimodal emotion recognition
from unaligned multimodal sequences".

Its parts: a temporal convolution as encoder (`conv1d`), `message_hub` as fusion, an MLP head.

The paper's text was not at hand, and we know no public code of the authors; what is here follows the abstract
and was compared with two reimplementations by others. Both agree with it that the message begins as all modalities one
after the other, that a layer reinforces first each modality by the message and then the message by each reinforced
modality; one has the gate between crossmodal and own attention as it is here, the other's unit was not to be seen.

How it was read, where they differ from this or from each other:

- a unit adds its result to the target, as MulT's blocks do, and normalises first; the one unit that was seen has no
  such residual and normalises afterwards;
- the message is the mean of its versions, one for each modality (`update: mean`). Both have learnt
  weights, a softmax over modalities, and a feed-forward layer after it: `update: attention`. One of them
  has left it for a plain sum;
- every unit has parameters of its own, as in one of them; the other shares one unit throughout;
- each modality goes through a Transformer of its own and the last steps come out side by side, as MulT's do. One of
  them puts the message and all modalities one after the other through one Transformer, and takes its very last step;
  the other returns the modalities without the message.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from mmrobust.nn.layers import MultiheadAttention
from torch import Tensor, nn

from mmrobust_baselines.heads import Pool, pooled
from mmrobust_baselines.layers import Transformer, common_width, divide, joined, sinusoids


class ReinforcementUnit(nn.Module):
    """MRU: a target is reinforced by a source, as far as a gate lets it through.

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
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: Stream, source: Stream) -> Tensor:
        """Maps the target `b s d`, which attends to the source `b t d`, to `b s d`."""
        x = self.norm_target(target.x)
        crossed = self.cross(x, self.norm_source(source.x), source.mask)
        own = self.own(x, x, target.mask)
        gate = torch.sigmoid(self.gate(torch.cat([crossed, own], -1)))
        y = target.x + self.dropout(gate * crossed + (1 - gate) * own)
        return y + self.dropout(self.feed(self.norm_feed(y)))


class MessageUpdate(nn.Module):
    """One message from those that the modalities have reinforced: z = sum_m w_m z_m, and a feed-forward layer.

    w_m is one number for each sample, the softmax over modalities of u tanh(W z + b), z the mean of z_m's real steps.

    Args:
        width: Size of a step.
        ratio: Width of the feed-forward layer over `width`.
        dropout: Share dropped on the residual branch in training.
    """

    def __init__(self, width: int, ratio: float, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
        self.norm = nn.LayerNorm(width)
        hidden = round(width * ratio)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, messages: list[Tensor], mask: Tensor) -> Tensor:
        """Maps one message of each modality, `b t d`, with real steps `mask` `b t`, to one, `b t d`."""
        weight = torch.stack([self.score(Stream(z, mask).mean()) for z in messages]).softmax(0)  # m b 1
        z = (weight.unsqueeze(2) * torch.stack(messages)).sum(0)
        return z + self.dropout(self.feed(self.norm(z)))


class MessageHub(Fusion):
    """Layers of reinforcement between all modalities and a common message.

    The message begins as all low-level features, one after the other. In each layer every modality is reinforced by
    the message, and the message by every modality (`update` says how one message comes of several); then each modality
    goes through a Transformer of its own, and the last real steps, side by side, are what comes out, `b 1 M*d`.

    Args:
        context: Shapes, task and settings of the model.
        depth: Number of layers.
        self_depth: Blocks of each modality's last Transformer.
        heads: Attention heads.
        ratio: Width of the feed-forward layers over d.
        dropout: Share dropped on each residual branch in training.
        pool: `last` for the last real step, or `mean`.
        update: The message is the `mean` of the modalities' versions of it, or their sum weighed by `attention`.

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
        update: Literal["mean", "attention"] = "mean",
    ) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        width = common_width(shapes, "streams")
        divide(width, heads)
        self.keys = tuple(shapes)
        length = max(shape.length for shape in shapes.values())
        self.register_buffer("positions", sinusoids(length, width), persistent=False)

        def units(last: bool) -> nn.ModuleDict:
            # No modality reads the message after the last layer.
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
        # One less than layers: no modality reads the message after the last.
        self.updates = nn.ModuleList(
            MessageUpdate(width, ratio, dropout) for _ in range(depth - 1 if update == "attention" else 0)
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
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleDict)
            reinforced = {k: Stream(layer[f"to_{k}"](s, message), s.mask) for k, s in streams.items()}
            messages = [layer[f"from_{k}"](message, s) for k, s in reinforced.items() if f"from_{k}" in layer]
            streams = reinforced
            if messages:
                one = self.updates[i](messages, message.mask) if self.updates else torch.stack(messages).mean(0)
                message = Stream(one, message.mask)
        return Stream.pooled(torch.cat([pooled(self.selves[k](s), self.pool) for k, s in streams.items()], -1))
