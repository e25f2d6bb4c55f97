"""LNLN: Zhang, Wang, Yu (2024), "Towards robust multimodal sentiment analysis with incomplete data".

Its parts: ALMT's `tokens` as encoder; `dominant_correction` as fusion, which estimates how complete language is, puts a
proxy made of the other modalities in its place as far as it is not, and fuses as ALMT does; a linear head; and the
objectives `completeness`, `effectiveness` and `token_reconstruction` in a view with noise, beside a view without.

Compared with the authors' public code (github.com/Haoyu-ha/LNLN). What is not as there, and why:

- there the gradient of every loss is reversed on its way into the proxy, the task's too, so that the proxy's generator
  is trained to make predictions worse; here only the discriminator's is (`reading: release` for all);
- there half of the samples are complete and the others lose a share of steps drawn for each modality alone, and the
  completeness of language is one minus that share; here the noise is the recipe's, and completeness is the share of
  real steps that it left;
- there padding is attended to, here it is not;
- there the best epoch of each measure is chosen on the test split, here on the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmrobust.contracts import Context, Fusion, Objective, Outputs, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError, nearest
from mmrobust.nn.gradient_reversal import reverse_gradient
from torch import Tensor, nn

from mmrobust_baselines.almt import LanguageGuided, TokenTransformer, all_real, guiding, steps
from mmrobust_baselines.layers import Reading


def completeness_of(language: str) -> str:
    """The note that holds how complete a modality is thought to be, `b 1`."""
    return f"completeness of {language}"


def corrected(language: str) -> str:
    """The note that holds the corrected tokens of a modality, `b s d`, the gradient into their proxy reversed."""
    return f"corrected {language}"


class DominantCorrection(Fusion):
    """Language corrected by a proxy as far as it is incomplete, then fused as ALMT fuses it; gives `b 1 d`.

    A Transformer with one token and a perceptron estimate the completeness w of language from its steps. Another
    Transformer makes the proxy h_p, as many tokens as language has steps, from learnt ones and the other modalities'.
    h_d = (1 - w) h_p + w h_language takes the place of language in `almt.LanguageGuided`; the mean of its steps is the
    output. Completeness and corrected tokens go into the notes.

    Args:
        context: Shapes, task and settings of the model.
        language: The dominant modality; None for the first. It is read from the specific features, or the generic ones
            where there are no specific.
        correction_depth: Blocks of the Transformers for completeness and proxy.
        depth: Steps of hyper-modality learning.
        fusion_depth: Blocks in which language reads the hyper-modality.
        heads: Attention heads.
        each: Width of one head in Transformers; in hyper-modality learning it is the width over the heads.
        grl: Strength of the gradient reversal on the proxy.
        reading: `paper` reverses the discriminator's gradient on the proxy, `release` that of every loss.

    Raises:
        OptionError: There is no such modality, no other one, widths differ, or `heads` does not divide them.
    """

    minimum = 2

    def __init__(
        self,
        context: Context,
        *,
        language: str | None = None,
        correction_depth: int = 2,
        depth: int = 3,
        fusion_depth: int = 2,
        heads: int = 8,
        each: int = 64,
        grl: float = 1.0,
        reading: Reading = "paper",
    ) -> None:
        super().__init__(context)
        self.side, self.language, self.others = guiding(context, language, heads)
        shapes = context.specific or context.generic
        width, length = shapes[self.language].width, shapes[self.language].length
        options = {"each": each, "backend": context.attention}
        self.check = TokenTransformer(width, length, correction_depth, heads, 1, **options)
        self.completeness = nn.Sequential(
            nn.Linear(width, width // 2), nn.LeakyReLU(0.1), nn.Linear(width // 2, 1), nn.Sigmoid()
        )
        self.proxy_tokens = nn.Parameter(torch.ones(1, length, width))
        self.lengths = {m: shapes[m].length for m in (self.language, *self.others)}
        sources = sum(self.lengths.values())
        self.proxy = TokenTransformer(width, sources, correction_depth, heads, length, **options)
        self.guided = LanguageGuided(width, length, depth, fusion_depth, heads, self.others, **options)
        self.grl, self.release = grl, reading == "release"
        self.writes = (completeness_of(self.language), corrected(self.language))
        self.shape = Shape(width, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = specific if self.side == "specific" else generic
        language, others = streams[self.language], {m: streams[m] for m in self.others}
        w = self.completeness(self.check(language.x, language.mask)[-1][:, 0])
        proxy = self._proxy(language, others)
        reversed_proxy = reverse_gradient(proxy, self.grl)
        mix = lambda p: (1 - w.unsqueeze(-1)) * p + w.unsqueeze(-1) * language.x
        notes[self.writes[0]], notes[self.writes[1]] = w, mix(reversed_proxy)
        whole = Stream(mix(reversed_proxy if self.release else proxy), language.mask)
        return Stream.pooled(steps(self.guided(whole, others)).mean())

    def _proxy(self, language: Stream, others: Mapping[str, Stream]) -> Tensor:
        """As many tokens as language has steps, `b s d`, made of the other modalities."""
        start = self.proxy_tokens.expand(len(language.x), -1, -1)
        full = {m: padded(s, self.lengths[m]) for m, s in others.items()}  # a step's position is then its own
        x = torch.cat([start, *(s.x for s in full.values())], 1)
        mask = torch.cat([all_real(start).mask, *(s.mask for s in full.values())], 1)
        return self.proxy(x, mask)[-1][:, : language.x.shape[1]]


def padded(stream: Stream, length: int) -> Stream:
    """The stream with padding up to `length` steps."""
    more = length - stream.x.shape[1]
    return Stream(F.pad(stream.x, (0, 0, 0, more)), F.pad(stream.mask, (0, more)))


def _language(context: Context, language: str | None) -> str:
    language = language or context.modalities[0]
    if language not in context.modalities:
        raise OptionError("language", f"there is no modality '{language}'{nearest(language, context.modalities)}")
    return language


class Completeness(Objective):
    """L_cc: the mean square error of the estimated completeness of language.

    The truth is the share of its real steps that noise has not touched; 1 where a sample has none.

    Args:
        context: Shapes, task and settings of the model.
        language: The dominant modality of the fusion; None for the first.

    Raises:
        OptionError: There is no such modality.
    """

    minimum = 2

    def __init__(self, context: Context, *, language: str | None = None) -> None:
        super().__init__(context)
        self.language = _language(context, language)
        self.needs = (completeness_of(self.language),)

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        real = out.batch.features[self.language].mask.sum(1)
        share = out.batch.erased[self.language].sum(1) / real.clamp(min=1)
        estimate = out.notes[self.needs[0]]
        return F.mse_loss(estimate, (1 - share).to(estimate.dtype).unsqueeze(1))


class Effectiveness(Objective):
    """L_adv: cross-entropy of a discriminator that tells corrected tokens of language from those of complete language.

    The fusion has reversed the gradient into the proxy, so that corrected tokens come to look complete.

    Args:
        context: Shapes, task and settings of the model.
        language: The dominant modality of the fusion; None for the first.
        hidden: Hidden units of the discriminator.
        complete: Name of the view without noise.

    Raises:
        OptionError: There is no such modality.
    """

    minimum = 2

    def __init__(
        self, context: Context, *, language: str | None = None, hidden: int = 64, complete: str = "complete"
    ) -> None:
        super().__init__(context)
        self.language, self.complete = _language(context, language), complete
        self.needs, self.reads = (corrected(self.language),), (complete,)
        self.side = "specific" if context.specific else "generic"
        width = (context.specific or context.generic)[self.language].width
        self.network = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, 2))

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        view = views[self.complete]
        complete = (view.specific if self.side == "specific" else view.generic)[self.language]
        tokens = torch.cat([out.notes[self.needs[0]], complete.x])  # 2b s d
        label = torch.ones(len(tokens), tokens.shape[1], dtype=torch.int64, device=tokens.device)
        label[len(complete.x) :] = 0
        error = F.cross_entropy(self.network(tokens).flatten(0, 1), label.flatten(), reduction="none")
        real = torch.cat([complete.mask, complete.mask]).flatten()
        return (error * real).sum() / real.sum().clamp(min=1)


class TokenReconstruction(Objective):
    """L_rec: the tokens of the complete view, reconstructed from those of the noisy view.

    A Transformer for each modality; the mean square error over the tokens of all modalities. The tokens of the complete
    view receive a gradient too, as in the public code.

    Args:
        context: Shapes, task and settings of the model.
        depth: Blocks of each Transformer.
        heads: Attention heads.
        each: Width of one head.
        complete: Name of the view without noise.
    """

    def __init__(
        self, context: Context, *, depth: int = 2, heads: int = 8, each: int = 64, complete: str = "complete"
    ) -> None:
        super().__init__(context)
        self.networks = nn.ModuleDict(
            {
                m: TokenTransformer(s.width, s.length, depth, heads, each=each, backend=context.attention)
                for m, s in context.encoded.items()
            }
        )
        self.complete = complete
        self.reads = (complete,)

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        total, count = [], []
        for m, network in self.networks.items():
            noisy, target = out.encoded[m], views[self.complete].encoded[m]
            error = (network(noisy.x, noisy.mask)[-1] - target.x).square().mean(-1)
            total.append((error * noisy.mask).sum())
            count.append(noisy.mask.sum())
        return torch.stack(total).sum() / torch.stack(count).sum().clamp(min=1)
