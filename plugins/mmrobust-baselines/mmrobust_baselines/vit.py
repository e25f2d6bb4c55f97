"""A ViT over the concatenated tokens, in NORM-TR's fusion slot: an alternative of the NORM-TR paper, section 4.7.4."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from mmrobust.errors import OptionError
from mmrobust.nn.attention import attention
from torch import Tensor, nn

from mmrobust_baselines.layers import common_width, divide, joined


class _Attention(nn.Module):
    """timm's attention layer with its projections as they are, and the recipe's attention backend between them.

    Args:
        layer: timm's `Attention`.
        backend: Attention backend.
    """

    def __init__(self, layer: Any, backend: str) -> None:
        super().__init__()
        self.qkv, self.proj, self.proj_drop = layer.qkv, layer.proj, layer.proj_drop
        self.heads, self.backend = layer.num_heads, backend

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        """`x` `b s d` attending to itself; `attn_mask` `b s` tells the real steps."""
        query, key, value = rearrange(self.qkv(x), "b s (qkv h d) -> qkv b h s d", qkv=3, h=self.heads)
        out = attention(query, key, value, attn_mask, self.backend)
        return self.proj_drop(self.proj(rearrange(out, "b h s d -> b s (h d)")))


class ViT(Fusion):
    """A vision transformer (Dosovitskiy et al., 2021) whose tokens are all steps of all streams.

    Generic and specific steps of every modality stand in one row behind a class token; each has a learnable position
    and a learnable type, which says what stream it is from. timm's blocks (pre-norm, GELU) let all tokens see each
    other, but for padding; the class token after the last block is what comes out, `b 1 d`. The NORM-TR paper says no
    more than "ViT"; that it reads the same features as NORM-TR's fusion is the natural reading.

    timm is needed: `pip install timm`. Between timm's projections runs the recipe's attention
    backend; with `attention: timm` that is timm's own layer, and `TIMM_FUSED_ATTN` switches its fused path.

    Args:
        context: Shapes, task and settings of the model.
        depth: Number of blocks.
        heads: Attention heads.
        ratio: Width of the feed-forward layers over d.
        dropout: Share dropped after attention and feed-forward layers in training.

    Raises:
        OptionError: timm is missing, streams have different widths, or `heads` does not divide theirs.
    """

    def __init__(
        self, context: Context, *, depth: int = 2, heads: int = 8, ratio: float = 4.0, dropout: float = 0.0
    ) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        width = common_width(shapes, "streams")
        divide(width, heads)
        try:
            from timm.models.vision_transformer import Block
        except (ImportError, RuntimeError, OSError) as error:  # timm imports torchvision, which fails in many ways
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise OptionError("use", f"needs timm, which cannot be imported ({why}); pip install timm") from error
        self.keys = tuple(shapes)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.ParameterDict(
            {key: nn.Parameter(torch.empty(1, shape.length, width)) for key, shape in shapes.items()}
        )
        self.types = nn.ParameterDict({key: nn.Parameter(torch.empty(1, 1, width)) for key in shapes})
        for parameter in (self.token, *self.positions.values(), *self.types.values()):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=ratio, qkv_bias=True, proj_drop=dropout) for _ in range(depth)
        )
        for block in self.blocks:
            block.attn = _Attention(block.attn, context.attention)
        self.norm = nn.LayerNorm(width)
        self.shape = Shape(width, 1)

    def _token(self, key: str, stream: Stream) -> Tensor:
        return stream.zeroed().x + self.positions[key][:, : stream.x.shape[1]] + self.types[key]

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = joined(generic, specific)
        first = streams[self.keys[0]]
        whole = torch.ones_like(first.mask[:, :1])
        x = torch.cat(
            [self.token.expand(first.x.shape[0], -1, -1), *(self._token(key, streams[key]) for key in self.keys)], 1
        )
        # The class token is always there, so that no row is without a key.
        mask = torch.cat([whole, *(streams[key].mask for key in self.keys)], 1)
        for block in self.blocks:
            x = block(x, attn_mask=mask)
        return Stream.pooled(self.norm(x[:, 0]))
