"""ALMT: Zhang, Wang, Yin, Liu, Liu, Yu (2023), "Learning language-guided adaptive hyper-modality representation for
multimodal sentiment analysis".

Its parts: `tokens` as encoder (each modality becomes a few tokens of a Transformer), `hyper_modality` as fusion, and a
linear head. There is no auxiliary loss.

The layers are the authors' public code's (github.com/Haoyu-ha/ALMT), which P-RMF and LNLN share: pre-norm attention
with a layer norm each for query, key and value, projections without bias, and learnt positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from mmrobust.contracts import Context, Encoder, Fusion, Shape, Stream, Streams
from mmrobust.errors import OptionError, nearest
from mmrobust.nn.attention import attention
from torch import Tensor, nn

from mmrobust_baselines.layers import common_width, divide


class NormedAttention(nn.Module):
    """Attention with a layer norm each for query, key and value, and projections without bias.

    Args:
        width: Size of a step.
        heads: Attention heads.
        each: Width of one head.
        backend: Attention backend.
    """

    def __init__(self, width: int, heads: int, each: int, backend: str = "auto") -> None:
        super().__init__()
        self.norm_query, self.norm_key, self.norm_value = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(width, heads * each, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * each, width)
        self.heads, self.backend = heads, backend

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Maps `x` `b s d`, which attends to `source` `b t d` with real steps `mask` `b t`, to `b s d`."""
        query = self.query(self.norm_query(x))
        key, value = self.key(self.norm_key(source)), self.value(self.norm_value(source))
        query, key, value = (rearrange(z, "b s (h d) -> b h s d", h=self.heads) for z in (query, key, value))
        return self.out(rearrange(attention(query, key, value, mask, self.backend), "b h s d -> b s (h d)"))


class TokenBlock(nn.Module):
    """A pre-norm Transformer block of `NormedAttention` and a feed-forward layer with GELU.

    Args:
        width: Size of a step, and of the feed-forward layer.
        heads: Attention heads.
        each: Width of one head.
        dropout: Share dropped in the feed-forward layer in training.
        backend: Attention backend.
    """

    def __init__(self, width: int, heads: int, each: int = 64, dropout: float = 0.0, backend: str = "auto") -> None:
        super().__init__()
        self.attention = NormedAttention(width, heads, each, backend)
        self.norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Maps `x` `b s d`, which attends to `source` `b t d` with real steps `mask` `b t`, to `b s d`."""
        x = x + self.attention(x, source, mask)
        return x + self.feed(self.norm(x))


class TokenTransformer(nn.Module):
    """Blocks over learnt tokens and the steps of a sequence, with learnt positions.

    Args:
        width: Size of a step.
        length: Most steps of the sequence.
        depth: Number of blocks.
        heads: Attention heads.
        tokens: Number of tokens before the sequence; 0 for none.
        **options: Those of `TokenBlock`.
    """

    def __init__(self, width: int, length: int, depth: int, heads: int, tokens: int = 0, **options: Any) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, tokens + length, width))
        self.tokens = nn.Parameter(torch.zeros(1, tokens, width)) if tokens else None
        self.blocks = nn.ModuleList(TokenBlock(width, heads, **options) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """What goes into the first block, and what each block gives, `b (tokens + t) d`, from `x` `b t d`.

        Args:
            x: The sequence.
            mask: Its real steps, `b t`; None for all.
        """
        if self.tokens is not None:
            x = torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1)
            if mask is not None:
                mask = torch.cat([mask.new_ones(mask.shape[0], self.tokens.shape[1]), mask], 1)
        states = [x + self.positions[:, : x.shape[1]]]
        for block in self.blocks:
            states.append(block(states[-1], states[-1], mask))
        return states


def all_real(x: Tensor) -> Stream:
    """A stream of `x` `b t d` without padding."""
    return Stream(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


class Tokens(Encoder):
    """Each modality as a few tokens: a linear layer, then a Transformer over learnt tokens and the steps.

    Maps `{m: b t_m n_m}` to `{m: b tokens n}`. Padding is not attended to, as it is in the public code.

    Args:
        context: Shapes, task and settings of the model.
        tokens: Number of tokens of each modality.
        depth: Blocks of each Transformer.
        heads: Attention heads.
        each: Width of one head.
        dropout: Share dropped in the feed-forward layers in training.
    """

    def __init__(
        self,
        context: Context,
        *,
        tokens: int = 8,
        depth: int = 1,
        heads: int = 8,
        each: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        options = {"each": each, "dropout": dropout, "backend": context.attention}
        self.layers = nn.ModuleDict({m: nn.Linear(s.width, context.width) for m, s in context.features.items()})
        self.networks = nn.ModuleDict(
            {
                m: TokenTransformer(context.width, s.length, depth, heads, tokens, **options)
                for m, s in context.features.items()
            }
        )
        self.count = tokens
        self.shapes = {m: Shape(context.width, tokens) for m in context.features}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {
            m: all_real(self.networks[m](self.layers[m](s.x), s.mask)[-1][:, : self.count]) for m, s in streams.items()
        }


class HyperLayer(nn.Module):
    """One step of hyper-modality learning: language asks every other modality, and the hyper-modality takes the sum.

    h_hyper' = norm(h_hyper) + W sum_m Attention(h_language, h_m, h_m), each input under a layer norm of its own.

    Args:
        width: Size of a step.
        heads: Attention heads.
        others: Names of the modalities besides language.
        backend: Attention backend.
    """

    def __init__(self, width: int, heads: int, others: Sequence[str], backend: str) -> None:
        super().__init__()
        self.norm_language, self.norm_hyper = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norms = nn.ModuleDict({m: nn.LayerNorm(width) for m in others})
        self.query = nn.Linear(width, width, bias=False)
        self.keys = nn.ModuleDict({m: nn.Linear(width, width, bias=False) for m in others})
        self.values = nn.ModuleDict({m: nn.Linear(width, width, bias=False) for m in others})
        self.out = nn.Linear(width, width)
        self.heads, self.backend = heads, backend

    def forward(self, hyper: Tensor, language: Tensor, others: Mapping[str, Stream]) -> Tensor:
        """The hyper-modality `b s d` after the language `b s d` has attended to the others, `{m: b t d}`."""
        split = lambda z: rearrange(z, "b s (h d) -> b h s d", h=self.heads)
        query = split(self.query(self.norm_language(language)))
        total = torch.zeros_like(query)
        for m, norm in self.norms.items():
            x = norm(others[m].x)
            key, value = split(self.keys[m](x)), split(self.values[m](x))
            total = total + attention(query, key, value, others[m].mask, self.backend)
        return self.norm_hyper(hyper) + self.out(rearrange(total, "b h s d -> b s (h d)"))


class LanguageGuided(nn.Module):
    """Language at several scales guides a hyper-modality, and language then reads it.

    Args:
        width: Size of a step.
        length: Tokens of the language.
        depth: Steps of hyper-modality learning; the language's Transformer has one block less.
        fusion_depth: Blocks in which language reads the hyper-modality.
        heads: Attention heads.
        others: Names of the modalities besides language.
        **options: Those of `TokenBlock`.
    """

    def __init__(
        self,
        width: int,
        length: int,
        depth: int,
        fusion_depth: int,
        heads: int,
        others: Sequence[str],
        **options: Any,
    ) -> None:
        super().__init__()
        # The public code begins with ones, whose layer norm is zero and passes no gradient to its own weights.
        self.hyper = nn.Parameter(1 + 1e-4 * torch.randn(1, length, width))
        self.language = TokenTransformer(width, length, depth - 1, heads, **options)
        self.layers = nn.ModuleList(
            HyperLayer(width, heads, others, options.get("backend", "auto")) for _ in range(depth)
        )
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions_source = nn.Parameter(torch.randn(1, length + 1, width))
        self.positions_target = nn.Parameter(torch.randn(1, length + 1, width))
        self.blocks = nn.ModuleList(TokenBlock(width, heads, **options) for _ in range(fusion_depth))

    def forward(self, language: Stream, others: Mapping[str, Stream]) -> Stream:
        """Maps language `b s d` and the others `{m: b t d}` to `b 1+s d`: a class token, then the language's steps."""
        states = self.language(language.x, language.mask)
        hyper = self.hyper[:, : language.x.shape[1]].expand_as(language.x)
        for layer, state in zip(self.layers, states, strict=True):
            hyper = layer(hyper, state, others)
        x, source = self._with_token(states[-1], self.positions_target), self._with_token(hyper, self.positions_source)
        mask = torch.cat([torch.ones_like(language.mask[:, :1]), language.mask], 1)
        for block in self.blocks:
            x = block(x, source, mask)
        return Stream(x, mask)

    def _with_token(self, x: Tensor, positions: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + positions[:, : x.shape[1] + 1]


def guiding(context: Context, language: str | None, heads: int) -> tuple[str, str, tuple[str, ...]]:
    """The side that a fusion reads, the modality that guides it, and the others, in the data's order.

    Raises:
        OptionError: There is no such modality, no other one, widths differ, or `heads` does not divide them.
    """
    side = "specific" if context.specific else "generic"
    shapes = context.specific or context.generic
    language = language or next(iter(shapes))
    if language not in shapes:
        raise OptionError("language", f"there is no modality '{language}'{nearest(language, shapes)}")
    others = tuple(m for m in shapes if m != language)
    if not others:
        raise OptionError("use", "needs another modality for language to attend to")
    divide(common_width(shapes, "streams"), heads)
    return side, language, others


class HyperModality(Fusion):
    """Adaptive hyper-modality learning, and the fusion of language with it.

    Tokens of ones become the hyper-modality in `depth` steps, in each of which language at another scale (its tokens,
    and what each block of a Transformer makes of them) attends to every other modality; then language, behind a class
    token, attends to the hyper-modality in `fusion_depth` blocks. The class token comes out, `b 1 d`, or with `pool:
    mean` the mean of the others, as in LNLN.

    How it was read: the public code normalises the hyper-modality before each step and adds to what is normalised.

    Args:
        context: Shapes, task and settings of the model.
        language: The modality that guides; None for the first. It is read from the specific features, or the generic
            ones where there are no specific.
        depth: Steps of hyper-modality learning.
        fusion_depth: Blocks in which language reads the hyper-modality.
        heads: Attention heads.
        each: Width of one head in Transformers; in hyper-modality learning it is the width over the heads.
        pool: `class` for the class token, or `mean` of the language's steps.

    Raises:
        OptionError: There is no such modality, no other one, widths differ, or `heads` does not divide them.
    """

    minimum = 2

    def __init__(
        self,
        context: Context,
        *,
        language: str | None = None,
        depth: int = 3,
        fusion_depth: int = 2,
        heads: int = 8,
        each: int = 64,
        pool: Literal["class", "mean"] = "class",
    ) -> None:
        super().__init__(context)
        self.side, self.language, self.others = guiding(context, language, heads)
        shape = (context.specific or context.generic)[self.language]
        options = {"each": each, "backend": context.attention}
        self.guided = LanguageGuided(shape.width, shape.length, depth, fusion_depth, heads, self.others, **options)
        self.pool = pool
        self.shape = Shape(shape.width, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = specific if self.side == "specific" else generic
        fused = self.guided(streams[self.language], {m: streams[m] for m in self.others})
        return Stream.pooled(fused.x[:, 0] if self.pool == "class" else steps(fused).mean())


def steps(fused: Stream) -> Stream:
    """What `LanguageGuided` gives without its class token, `b s d`."""
    return Stream(fused.x[:, 1:], fused.mask[:, 1:])
