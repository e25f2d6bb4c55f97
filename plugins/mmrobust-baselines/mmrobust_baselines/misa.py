"""MISA: Hazarika, Zimmermann, Poria (2020), "MISA: modality-invariant and -specific representations for multimodal
sentiment analysis".

Its parts: an encoder that gives one vector u_m for each modality (`lstm` with `stacked: true`; fine-tuned BERT is
replaced by the mean of pre-computed text features); a shared encoder h_m^c = E_c(u_m) as generic extractor; private
encoders h_m^p = E_p(u_m) as specific extractor; a Transformer layer over the 2M vectors as fusion; and three
objectives: similarity (CMD), difference and reconstruction, added to the task with the weights alpha, beta and gamma.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import torch
from mmrobust.contracts import (
    Context,
    Fusion,
    GenericExtractor,
    Objective,
    Outputs,
    Progress,
    Shape,
    SpecificExtractor,
    Stream,
    Streams,
)
from mmrobust.errors import OptionError
from torch import Tensor, nn

from mmrobust_baselines.layers import ACTIVATIONS, Activation, Block, common_width, divide, joined


class SharedDense(GenericExtractor):
    """E_c: one linear layer and a sigmoid, shared by all modalities.

    Maps `{m: b t_m n}` to `{m: b t_m d}`. The sigmoid keeps features in [0, 1], the interval that CMD presumes.

    Args:
        context: Shapes, task and settings of the model.
        out: Width d; None for the input's.
        activation: What follows the layer.

    Raises:
        OptionError: The encoder left the modalities in different widths.
    """

    positionwise = True

    def __init__(self, context: Context, *, out: int | None = None, activation: Activation = "sigmoid") -> None:
        super().__init__(context)
        width = common_width(context.encoded, "encoded streams")
        self.layer = nn.Sequential(nn.Linear(width, out or width), ACTIVATIONS[activation]())
        self.shapes = {m: Shape(out or width, shape.length) for m, shape in context.encoded.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: stream.map(self.layer) for m, stream in streams.items()}


class PrivateDense(SpecificExtractor):
    """E_p: one linear layer and a sigmoid for each modality.

    Maps `{m: b t_m n}` to `{m: b t_m d}`.

    Args:
        context: Shapes, task and settings of the model.
        out: Width d; None for the input's.
        activation: What follows the layer.
    """

    positionwise = True

    def __init__(self, context: Context, *, out: int | None = None, activation: Activation = "sigmoid") -> None:
        super().__init__(context)
        self.layers = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(shape.width, out or shape.width), ACTIVATIONS[activation]())
                for m, shape in context.encoded.items()
            }
        )
        self.shapes = {m: Shape(out or shape.width, shape.length) for m, shape in context.encoded.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: stream.map(self.layers[m]) for m, stream in streams.items()}


class SixTokens(Fusion):
    """A Transformer layer over all shared and private vectors, which are then put side by side.

    M = [h_l^c, h_v^c, h_a^c, h_l^p, h_v^p, h_a^p] attends to itself and is concatenated. Gives `b 1 2M*d`. Streams of
    more steps are averaged first. There are no positions: each token has its own place in the concatenation. The paper
    is silent about normalisation; in the release it is Vaswani's (`norm: post`), with ReLU, and the feed-forward layer
    is 16 times as wide as d.

    Args:
        context: Shapes, task and settings of the model.
        heads: Attention heads; the public release has 2.
        depth: Number of layers.
        ratio: Width of the feed-forward layer over d.
        norm: `pre` or `post` normalisation.
        dropout: Share of the attention weights, in the feed-forward layer and on each residual branch dropped in
            training.

    Raises:
        OptionError: Streams have different widths, or `heads` does not divide theirs.
    """

    def __init__(
        self,
        context: Context,
        *,
        heads: int = 2,
        depth: int = 1,
        ratio: float = 4.0,
        norm: Literal["pre", "post"] = "post",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        width = common_width(shapes, "streams")
        divide(width, heads)
        self.keys = tuple(shapes)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                ratio=ratio,
                norm=norm,
                dropout=dropout,
                attention_dropout=dropout,
                backend=context.attention,
            )
            for _ in range(depth)
        )
        self.shape = Shape(width * len(shapes), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = joined(generic, specific)
        x = torch.stack([streams[key].mean() for key in self.keys], 1)
        for block in self.blocks:
            x = block(x, x, None)
        return Stream.pooled(x.flatten(1))


def central_moment_discrepancy(x: Tensor, y: Tensor, moments: int = 5, mask: Tensor | None = None) -> Tensor:
    """CMD_K of two batches of vectors in [0, 1] (Zellinger et al., 2017).

    |E(x) - E(y)| + sum over k from 2 to K of |C_k(x) - C_k(y)|, where C_k is the k-th central moment of each
    coordinate and |.| the Euclidean norm; the interval's length, 1, divides each term to the power k.

    Args:
        x: `b d`.
        y: `b d`.
        moments: K.
        mask: The vectors that count, `b`; None for all.
    """

    def mean(z: Tensor) -> Tensor:
        return z.mean(0) if mask is None else (z * mask.unsqueeze(1)).sum(0) / mask.sum().clamp(min=1)

    mean_x, mean_y = mean(x), mean(y)
    gaps = [mean_x - mean_y]
    for k in range(2, moments + 1):
        gaps.append(mean((x - mean_x) ** k) - mean((y - mean_y) ** k))
    return torch.linalg.vector_norm(torch.stack(gaps), dim=-1).sum()


class CMD(Objective):
    """L_sim: shared features of all modalities have the same moments.

    The mean of CMD_K over all pairs of modalities, on the batch's pooled generic features. The paper's K is 5.

    Args:
        context: Shapes, task and settings of the model.
        moments: Highest moment K.

    Raises:
        OptionError: There are fewer than two generic streams, or their widths differ.
    """

    minimum = 2

    def __init__(self, context: Context, *, moments: int = 5) -> None:
        super().__init__(context)
        if len(context.generic) < 2:
            raise OptionError("use", "compares generic streams, and there are fewer than two; add a generic extractor")
        if moments < 1:
            raise OptionError("moments", f"must be at least 1, not {moments}")
        common_width(context.generic, "generic features")
        self.pairs = tuple(combinations(context.generic, 2))
        self.moments = moments

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        pooled = {key: stream.mean() for key, stream in out.generic.items()}
        losses = [central_moment_discrepancy(pooled[a], pooled[b], self.moments) for a, b in self.pairs]
        return torch.stack(losses).mean()


def _directions(stream: Stream) -> Tensor:
    """Vectors with mean zero over the batch and length one, `b d`; the length passes no gradient."""
    x = stream.mean()
    x = x - x.mean(0)
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True).detach() + 1e-6)


class Difference(Objective):
    """L_diff: shared and private features, and private ones of different modalities, are orthogonal.

    The sum over modalities of |H_c^T H_p|_F^2, and over pairs of modalities of |H_p1^T H_p2|_F^2, where rows of H are
    the batch's vectors with mean zero and length one. The paper sums over the d x d products; the public release
    takes their mean, and its weight of 0.3 belongs to that, so the mean is the default (`reduce`). As in the
    release, no gradient goes through the lengths; the paper says nothing of it.

    Args:
        context: Shapes, task and settings of the model.
        reduce: `mean` or `sum` over the products.

    Raises:
        OptionError: Generic or specific features are not there for each modality.
    """

    def __init__(self, context: Context, *, reduce: Literal["mean", "sum"] = "mean") -> None:
        super().__init__(context)
        _need_both(context)
        self.modalities = context.modalities
        self.reduce = reduce

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        shared = {m: _directions(out.generic[m]) for m in self.modalities}
        private = {m: _directions(out.specific[m]) for m in self.modalities}
        products = [shared[m].T @ private[m] for m in self.modalities]
        products += [private[a].T @ private[b] for a, b in combinations(self.modalities, 2)]
        squares = [p.square().mean() if self.reduce == "mean" else p.square().sum() for p in products]
        return torch.stack(squares).sum()


class Reconstruction(Objective):
    """L_recon: the error of encoded features reconstructed from shared and private ones.

    u'_m = D(h_m^c + h_m^p), and the loss is the mean over modalities of |u_m - u'_m|^2 / d. The target is the encoded
    vector, not the raw features, and receives a gradient as well, as in the public release. D is one linear layer
    for each modality, as there; the paper writes one D.

    Args:
        context: Shapes, task and settings of the model.

    Raises:
        OptionError: Generic or specific features are not there for each modality, or their shapes differ.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        _need_both(context)
        for m in context.modalities:
            shapes = (context.generic[m], context.specific[m])
            if shapes[0] != shapes[1] or shapes[0].length != context.encoded[m].length:
                raise OptionError(
                    "use",
                    f"adds generic and specific features step by step, but of {m} they are {shapes[0]} and {shapes[1]}",
                )
        self.decoders = nn.ModuleDict(
            {m: nn.Linear(context.generic[m].width, context.encoded[m].width) for m in context.modalities}
        )

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        losses = []
        for m, decoder in self.decoders.items():
            decoded = decoder(out.generic[m].x + out.specific[m].x)
            error = (decoded - out.encoded[m].x).square().mean(-1)
            real = out.encoded[m].mask
            losses.append((error * real).sum() / real.sum().clamp(min=1))
        return torch.stack(losses).mean()


def _need_both(context: Context) -> None:
    for side, shapes in (("generic", context.generic), ("specific", context.specific)):
        if set(shapes) != set(context.modalities):
            raise OptionError("use", f"needs a {side} extractor that gives one stream for each modality")
