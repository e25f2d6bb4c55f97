"""P-RMF: Zhu, Hu, Wang, Yang, Tang, An (2025), "Proxy-driven robust multimodal sentiment analysis with incomplete
data".

Its parts: ALMT's `tokens` as encoder; `proxy_modality` as fusion, which describes each modality by a normal
distribution, makes a proxy of their means as far as each is certain, and lets it attend to all of them; an MLP head;
and the objectives `proxy_variational` and LNLN's `token_reconstruction` in a view with noise, beside a view without.

Read in a copy of the public code (github.com/1579364808/PRD-Net, folder P-RMF) and in the paper's abstract. What is not
as there, and why:

- there the gradient of the prediction into the proxy is reversed, though no discriminator reads the proxy, so that the
  distributions are trained to make predictions worse; here it is not (`reading: release` for that);
- there the modalities are weighed by exp(1 / sigma) over its sum, which overflows where a sigma is below .012; here by
  the softmax of 1 / sigma, which is the same number;
- there the networks of the reconstruction are left out of the optimizer, here they are trained;
- there padding is attended to, here it is not;
- there the best epoch of each measure is chosen on the test split, here on the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from mmrobust.contracts import Context, Fusion, Objective, Outputs, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError
from mmrobust.nn.attention import attention
from mmrobust.nn.gradient_reversal import reverse_gradient
from torch import Tensor, nn

from mmrobust_baselines.almt import TokenTransformer
from mmrobust_baselines.layers import Reading, common_width, divide

DISTRIBUTIONS = "distributions of tokens"


class Distribution(nn.Module):
    """Mean and logarithm of the variance of each token: a layer, a Transformer, and a linear layer for either.

    Args:
        width: Size of a token.
        length: Number of tokens.
        depth: Blocks of the Transformer.
        heads: Attention heads.
        **options: Those of `almt.TokenBlock`.
    """

    def __init__(self, width: int, length: int, depth: int, heads: int, **options: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.network = TokenTransformer(width, length, depth, heads, **options)
        self.mean, self.log_variance = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, stream: Stream) -> tuple[Tensor, Tensor]:
        """Maps `b t d` to mean and log variance, each `b t d` and between -10 and 10."""
        x = self.network(torch.relu(self.layer(stream.x)), stream.mask)[-1]
        return self.mean(x).clamp(-10, 10), self.log_variance(x).clamp(-10, 10)


class ProxyAttention(nn.Module):
    """Attention of the proxy, with one head, to the tokens of a modality.

    Args:
        width: Size of a token.
        backend: Attention backend.
    """

    def __init__(self, width: int, backend: str) -> None:
        super().__init__()
        self.norm_proxy, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.backend = backend

    def forward(self, proxy: Tensor, stream: Stream) -> Tensor:
        """Maps the proxy `b s d`, which attends to `b t d`, to `b s d`."""
        query, x = self.query(self.norm_proxy(proxy)).unsqueeze(1), self.norm(stream.x)
        key, value = self.key(x).unsqueeze(1), self.value(x).unsqueeze(1)
        return self.out(attention(query, key, value, stream.mask, self.backend).squeeze(1))


class ProxyModality(Fusion):
    """A proxy of all modalities, weighed by how certain each is, attends to them; gives `b 1 d`.

    With the tokens of modality m distributed as N(mu_m, sigma_m^2), each number of the proxy is
    p = sum_m w_m mu_m, w = softmax over m of 1 / sigma_m. In each of `depth` rounds through one layer,
    p' = p + sum_m w_m Attention_m(p, h_m) and p'' = p' + W norm(p'). The mean of its tokens is the output.
    The distributions go into the notes.

    Args:
        context: Shapes, task and settings of the model.
        distribution_depth: Blocks of the Transformer behind each distribution.
        depth: Rounds through the layer.
        heads: Attention heads of the Transformers.
        each: Width of one head.
        dropout: Share of W's output dropped in training.
        reading: `paper`, or `release` to reverse the gradient of the prediction into the proxy.

    Raises:
        OptionError: Streams differ in width or in number of tokens, or `heads` does not divide the width.
    """

    def __init__(
        self,
        context: Context,
        *,
        distribution_depth: int = 2,
        depth: int = 4,
        heads: int = 8,
        each: int = 64,
        dropout: float = 0.0,
        reading: Reading = "paper",
    ) -> None:
        super().__init__(context)
        self.side = "specific" if context.specific else "generic"
        shapes = context.specific or context.generic
        width = common_width(shapes, "streams")
        divide(width, heads)
        lengths = {shape.length for shape in shapes.values()}
        if len(lengths) != 1:
            raise OptionError("use", "needs streams of one number of tokens, as the encoder 'tokens' gives")
        (length,) = lengths
        options = {"each": each, "backend": context.attention}
        self.distributions = nn.ModuleDict(
            {m: Distribution(width, length, distribution_depth, heads, **options) for m in shapes}
        )
        self.attentions = nn.ModuleDict({m: ProxyAttention(width, context.attention) for m in shapes})
        self.norm, self.layer, self.dropout = nn.LayerNorm(width), nn.Linear(width, width), nn.Dropout(dropout)
        self.depth, self.release = depth, reading == "release"
        self.writes = (DISTRIBUTIONS,)
        self.shape = Shape(width, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = specific if self.side == "specific" else generic
        notes[DISTRIBUTIONS] = {m: network(streams[m]) for m, network in self.distributions.items()}
        means, log_variances = (torch.stack(list(z)) for z in zip(*notes[DISTRIBUTIONS].values(), strict=True))
        weights = dict(zip(self.distributions, (-log_variances / 2).exp().softmax(0), strict=True))
        proxy = (torch.stack(list(weights.values())) * means).sum(0)
        x = reverse_gradient(proxy) if self.release else proxy
        for _ in range(self.depth):
            x = x + torch.stack([w * self.attentions[m](x, streams[m]) for m, w in weights.items()]).sum(0)
            x = x + self.dropout(self.layer(self.norm(x)))
        any_real = torch.stack([streams[m].mask for m in self.distributions]).any(0)
        return Stream.pooled(Stream(x, any_real).mean())


class Draw(nn.Module):
    """A draw of a normal distribution in training, as dropout draws; its mean in evaluation."""

    def forward(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Maps mean and log variance, `b t d`, to `b t d`."""
        return mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean


class ProxyVariational(Objective):
    """L_kl: the distributions behind the proxy are those of a variational autoencoder, and near each other.

    For each modality the mean square error of its tokens without noise, decoded from a draw of its distribution, plus
    the divergence from N(0, 1); and the divergence of each pair of distributions; all over the number of modalities.
    Where the public code has an order of the pairs, later from earlier in (first, last, ..., second), so here.

    Args:
        context: Shapes, task and settings of the model.
        depth: Blocks of each decoder's Transformer.
        heads: Attention heads.
        each: Width of one head.
        complete: Name of the view without noise.
    """

    needs = (DISTRIBUTIONS,)

    def __init__(
        self, context: Context, *, depth: int = 2, heads: int = 8, each: int = 64, complete: str = "complete"
    ) -> None:
        super().__init__(context)
        self.side = "specific" if context.specific else "generic"
        shapes = context.specific or context.generic
        self.layers = nn.ModuleDict({m: nn.Linear(s.width, s.width) for m, s in shapes.items()})
        self.networks = nn.ModuleDict(
            {
                m: TokenTransformer(s.width, s.length, depth, heads, each=each, backend=context.attention)
                for m, s in shapes.items()
            }
        )
        self.out = nn.ModuleDict({m: nn.Linear(s.width, s.width) for m, s in shapes.items()})
        self.draw = Draw()
        first, *others = shapes
        self.pairs = tuple(combinations((first, *reversed(others)), 2))
        self.complete, self.reads = complete, (complete,)

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        distributions = out.notes[DISTRIBUTIONS]
        view = views[self.complete]
        complete = view.specific if self.side == "specific" else view.generic
        terms = []
        for m, (mean, log_variance) in distributions.items():
            decoded = self._decode(m, self.draw(mean, log_variance))
            terms.append(F.mse_loss(decoded, complete[m].x))
            standard = torch.zeros_like(mean)
            terms.append(divergence(mean, log_variance, standard, standard))
        terms += [divergence(*distributions[b], *distributions[a]) for a, b in self.pairs]
        return torch.stack(terms).sum() / len(distributions)

    def _decode(self, modality: str, x: Tensor) -> Tensor:
        """The tokens of a modality, `b t d`, from a draw of their distribution."""
        return self.out[modality](self.networks[modality](torch.relu(self.layers[modality](x)))[-1])


def divergence(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """The mean over all numbers of the Kullback-Leibler divergence of one normal distribution from another."""
    ratio = (log_variance - other_log_variance).exp()
    distance = (mean - other_mean).square() / other_log_variance.exp()
    return (ratio + distance - 1 - (log_variance - other_log_variance)).mean() / 2
