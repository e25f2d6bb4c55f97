"""EMT-DLFR: Sun, Lian, Liu, Tao (2023), "Efficient multimodal transformer with dual-level feature restoration for
robust multimodal sentiment analysis".

Its parts: an LSTM for audio and vision as encoder; `mutual_promotion` as fusion, in which utterance vectors of all
modalities, the global context, and the steps of each modality promote each other at linear cost; an MLP head; and the
objectives `attraction` (of the two views, by SimSiam) and `local_reconstruction` in a view with noise, beside a view
without.

Compared with the authors' public code (github.com/sunlicai/EMT-DLFR). What is not as there, and why: the vector of the
text is the mean of pre-computed features where it is fine-tuned BERT's first token, and BERT's later tokens are the
steps there; incomplete text there has unknown tokens, here steps of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from mmrobust.contracts import Context, Fusion, Objective, Outputs, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError, nearest
from torch import Tensor, nn

from mmrobust_baselines.layers import BatchNorm, attend, by_name, divide, last, sinusoids

LOCAL, UTTERANCES = "promoted steps", "utterance vectors"


class ContextAttention(nn.Module):
    """Pre-norm attention to a context, or to itself, with projections without bias; adds nothing to its input.

    Args:
        width: Size of a step.
        heads: Attention heads.
        dropout: Share of the weights dropped in training.
        crossed: Whether it has a context, with a layer norm of its own.
        backend: Attention backend.
    """

    def __init__(self, width: int, heads: int, dropout: float, crossed: bool, backend: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width) if crossed else None
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.heads, self.dropout, self.backend = heads, nn.Dropout(dropout), backend

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """Maps `x` `b s d`, which attends to `context` `b t d` (None for `x`) with real steps `mask`, to `b s d`."""
        x = self.norm(x)
        source = x if context is None or self.norm_context is None else self.norm_context(context)
        query = rearrange(self.query(x), "b s (h d) -> b h s d", h=self.heads)
        key, value = rearrange(self.key_value(source), "b t (kv h d) -> kv b h t d", kv=2, h=self.heads)
        dropout = self.dropout.p if self.training else 0.0
        out = attend(query, key, value, mask, self.backend, dropout=dropout)
        return self.out(rearrange(out, "b h s d -> b s (h d)"))


class PromotionUnit(nn.Module):
    """Half a mutual promotion unit: x attends to a context, then to itself, then goes through a gated layer.

    Args:
        width: Size of a step.
        heads: Attention heads.
        ratio: Width of the feed-forward layer over `width`.
        attention_dropout: Share of the attention weights dropped in training.
        dropout: Share of the feed-forward layer's output dropped in training.
        backend: Attention backend.
    """

    def __init__(
        self, width: int, heads: int, ratio: int, attention_dropout: float, dropout: float, backend: str
    ) -> None:
        super().__init__()
        self.cross = ContextAttention(width, heads, attention_dropout, True, backend)
        self.own = ContextAttention(width, heads, attention_dropout, False, backend)
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * ratio * width)
        self.feed = nn.Sequential(nn.Linear(ratio * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor | None, context: Tensor, context_mask: Tensor | None) -> Tensor:
        """Maps `x` `b s d` with real steps `mask`, and `context` `b t d` with real steps `context_mask`, to `b s d`."""
        x = x + self.cross(x, context, context_mask)
        x = x + self.own(x, None, mask)
        value, gate = self.gated(self.norm(x)).chunk(2, -1)
        return x + self.feed(value * F.gelu(gate))


class MutualPromotion(Fusion):
    """Global context and local steps of each modality promote each other, layer by layer.

    The global context is one vector for each modality, `b M d`. In each layer the steps of every modality attend to it,
    and it attends to them; of the M contexts that come of this, a softmax over u tanh(W z + b) makes one. Utterance
    vectors and the last context, side by side, are the output, `b 1 D`. The promoted steps and the vectors go into the
    notes, for `local_reconstruction` and `attraction`. Attention costs as much as there are steps, not their square,
    between modalities.

    Args:
        context: Shapes, task and settings of the model.
        width: Width d of context and steps.
        depth: Number of layers.
        heads: Attention heads.
        ratio: Width of the feed-forward layers over d.
        share: Whether one promotion unit serves both directions, all modalities and all layers, as in the authors'
            settings for CMU-MOSI.
        pool: The utterance vector of a modality: its `last` real step, or the `mean`, for all or by name.
        attention_dropout: Share of the attention weights dropped in training.
        dropout: Share of the feed-forward layers' output dropped in training.

    Raises:
        OptionError: `heads` does not divide the width, or `pool` names a modality that there is not.
    """

    def __init__(
        self,
        context: Context,
        *,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        ratio: int = 4,
        share: bool = True,
        pool: Literal["last", "mean"] | dict[str, Literal["last", "mean"]] = "last",
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        self.side = "specific" if context.specific else "generic"
        shapes = context.specific or context.generic
        divide(width, heads)
        self.keys = tuple(shapes)
        self.pools = {m: pool if isinstance(pool, str) else pool.get(m, "last") for m in self.keys}
        if not isinstance(pool, str):
            for m in pool:
                if m not in self.keys and not set(self.keys) <= set(pool):
                    raise OptionError("pool", f"there is no modality '{m}'{nearest(m, self.keys)}")
        length = max(shape.length for shape in shapes.values())
        self.register_buffer("positions", sinusoids(length, width), persistent=False)
        self.equal = nn.ModuleDict(
            {m: nn.Identity() if s.width == width else nn.Linear(s.width, width, bias=False) for m, s in shapes.items()}
        )
        together = width * len(shapes)

        def unit() -> PromotionUnit:
            return PromotionUnit(width, heads, ratio, attention_dropout, dropout, context.attention)

        def score() -> nn.Sequential:
            return nn.Sequential(nn.Linear(together, together), nn.Tanh(), nn.Linear(together, 1))

        count = 1 if share else depth
        self.units = nn.ModuleList(
            nn.ModuleDict({f"{way}_{m}": unit() for way in ("steps", "context") for m in self.keys})
            if not share
            else nn.ModuleDict({"all": unit()})
            for _ in range(count)
        )
        self.scores = nn.ModuleList(score() for _ in range(count))
        self.depth, self.share = depth, share
        self.writes = (LOCAL, UTTERANCES)
        self.shape = Shape(sum(s.width for s in shapes.values()) + together, 1)

    def _unit(self, layer: int, way: str, modality: str) -> PromotionUnit:
        units = self.units[0 if self.share else layer]
        assert isinstance(units, nn.ModuleDict)
        unit = units["all" if self.share else f"{way}_{modality}"]
        assert isinstance(unit, PromotionUnit)
        return unit

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = specific if self.side == "specific" else generic
        positions = self.get_buffer("positions")
        vectors = {m: last(streams[m]) if self.pools[m] == "last" else streams[m].mean() for m in self.keys}
        whole = torch.stack([self.equal[m](vectors[m]) for m in self.keys], 1)  # b M d
        local = {m: self.equal[m](streams[m].x) + positions[: streams[m].x.shape[1]] for m in self.keys}
        for i in range(self.depth):
            contexts = []
            for m in self.keys:
                x, mask = local[m], streams[m].mask
                local[m] = self._unit(i, "steps", m)(x, mask, whole, None)
                contexts.append(self._unit(i, "context", m)(whole, None, x, mask).flatten(1))
            stacked = torch.stack(contexts, 1)  # b M (M d)
            weight = self.scores[0 if self.share else i](stacked).softmax(1)
            whole = (weight * stacked).sum(1).unflatten(1, (len(self.keys), -1))
        notes[LOCAL] = {m: Stream(local[m], streams[m].mask) for m in self.keys}
        notes[UTTERANCES] = vectors | {"context": whole.flatten(1)}
        return Stream.pooled(torch.cat([*vectors.values(), whole.flatten(1)], -1))


class Attraction(Objective):
    """L_attra: vectors of the two views attract each other, as in SimSiam (Chen and He, 2021).

    For the utterance vector of each modality and for the global context: z = norm(W v), p = predictor(z), and the loss
    is minus the mean of cos(p_noisy, z_clean) and cos(p_clean, z_noisy), where no gradient goes into z; summed over the
    vectors. Norms are over the batch.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Hidden units of the predictors, by the modality's name or `context`. For those left out
            half the width, a third for the context.
        complete: Name of the view without noise.

    Raises:
        OptionError: `hidden` names what there is not, or there are no utterance vectors (see `needs`).
    """

    samplewise = False
    vmappable = False
    needs = (UTTERANCES,)

    def __init__(self, context: Context, *, hidden: dict[str, int] | None = None, complete: str = "complete") -> None:
        super().__init__(context)
        assert context.fused is not None
        widths = {m: s.width for m, s in (context.specific or context.generic).items()}
        widths["context"] = context.fused.width - sum(widths.values())
        if widths["context"] <= 0:
            raise OptionError(
                "use", "needs a fusion whose output is the vectors and a context, as 'mutual_promotion' gives"
            )
        sizes = by_name("hidden", hidden or {}, widths, 0)
        self.projectors = nn.ModuleDict(
            {k: nn.Sequential(nn.Linear(d, d), BatchNorm(d, affine=False)) for k, d in widths.items()}
        )
        self.predictors = nn.ModuleDict(
            {k: _predictor(d, sizes[k] or max(1, d // (3 if k == "context" else 2))) for k, d in widths.items()}
        )
        self.complete, self.reads = complete, (complete,)

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        noisy, clean = out.notes[UTTERANCES], views[self.complete].notes[UTTERANCES]
        losses = []
        for key, projector in self.projectors.items():
            z_noisy, z_clean = projector(noisy[key]), projector(clean[key])
            p_noisy, p_clean = self.predictors[key](z_noisy), self.predictors[key](z_clean)
            one = F.cosine_similarity(p_noisy, z_clean.detach(), 1).mean()
            other = F.cosine_similarity(p_clean, z_noisy.detach(), 1).mean()
            losses.append(-(one + other) / 2)
        return torch.stack(losses).sum()


def _predictor(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden, bias=False), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, width))


class LocalReconstruction(Objective):
    """L_recon: the error of the features that noise erased, reconstructed from the promoted steps by a linear layer.

    The smooth L1 distance to the features before any noise, on the erased steps alone, averaged over those of the
    batch; zero where nothing is erased. The sum over modalities.

    Args:
        context: Shapes, task and settings of the model.
        width: Width d of the fusion's steps.

    Raises:
        OptionError: The encoder or extractor does not keep a step for each step of a modality.
    """

    needs = (LOCAL,)

    def __init__(self, context: Context, *, width: int = 128) -> None:
        super().__init__(context)
        shapes = context.specific or context.generic
        for m in context.modalities:
            if m not in shapes or shapes[m].length != context.features[m].length:
                raise OptionError("use", f"needs a step for each step of {m}")
        self.layers = nn.ModuleDict({m: nn.Linear(width, context.features[m].width) for m in context.modalities})

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        clean = (out.batch.clean or out.batch).features
        losses = []
        for m, layer in self.layers.items():
            erased = out.batch.erased[m].unsqueeze(-1)
            reconstructed = torch.where(erased, layer(out.notes[LOCAL][m].x), 0)
            target = torch.where(erased, clean[m].x, 0)
            count = erased.sum() * target.shape[-1] + 1e-6
            losses.append(F.smooth_l1_loss(reconstructed, target, reduction="sum") / count)
        return torch.stack(losses).sum()
