"""ScaleVLAD: Luo, Ji, Huang, Wang, Ji, Li (2021), "ScaleVLAD: improving multimodal sentiment analysis via multi-scale
fusion of locally descriptors".

Its parts: a Transformer for each modality as encoder (`transformer`; pre-computed text features go in, in place of a
fine-tuned language model); `multiscale_vlad` as fusion, with an MLP head; and the objective `shifted_clustering`.

The paper's full text was not at hand, and no code of it is public, as far as we know; what is here follows its
abstract (shared vectors of locally aggregated descriptors at several scales, Transformer backbones, a Transformer over
the aggregated features and a linear layer, a self-supervised shifted clustering loss that keeps fused features of
samples apart) and NetVLAD (Arandjelović et al., 2016). How it was read, for the abstract does not say:

- scales are means over windows; centres are shared by scales as well as modalities; NetVLAD normalises the whole
  descriptor once more, here the linear layer is followed by layer normalisation;
- the Transformer also reads the mean of each modality, and the head is an MLP over all its tokens;
- the shifted clustering is k-means with pseudo-labels from epoch to epoch, in the manner of DeepCluster (Caron et al.,
  2018), but with centres that go on from those of the epoch before;
- the scales 1, 2, 3 and 10, the numbers of clusters, the loss' weight, sizes and the learning rate could not be
  compared with the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmrobust.contracts import Context, Encoder, Fusion, Objective, Outputs, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError
from mmrobust.nn.layers import CrossBlock
from torch import Tensor, nn

from mmrobust_baselines.layers import Transformer, common_width, compact, divide, joined


class TransformerEncoder(Encoder):
    """A linear layer to the common width and a Transformer encoder for each modality.

    Maps `{m: b t_m n_m}` to `{m: b t_m n}`; sinusoidal positions, pre-norm blocks.

    Args:
        context: Shapes, task and settings of the model.
        depth: Blocks of each Transformer.
        heads: Attention heads; must divide `model.width`.
        ratio: Width of the feed-forward layers over the common width.
        dropout: Share dropped on each residual branch in training.

    Raises:
        OptionError: `heads` does not divide the width.
    """

    def __init__(
        self, context: Context, *, depth: int = 1, heads: int = 4, ratio: float = 4.0, dropout: float = 0.0
    ) -> None:
        super().__init__(context)
        divide(context.width, heads)
        self.layers = nn.ModuleDict({m: nn.Linear(s.width, context.width) for m, s in context.features.items()})
        self.networks = nn.ModuleDict(
            {
                m: Transformer(
                    context.width, s.length, depth, heads, ratio=ratio, dropout=dropout, backend=context.attention
                )
                for m, s in context.features.items()
            }
        )
        self.shapes = {m: Shape(context.width, s.length) for m, s in context.features.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: self.networks[m](stream.map(self.layers[m])) for m, stream in streams.items()}


def scaled(stream: Stream, scale: int) -> Stream:
    """The mean of the real steps in each window of `scale` steps, `b ceil(t/scale) d`; a stream of real steps first."""
    if scale == 1:
        return stream
    x, real = stream.zeroed().x, stream.mask
    more = -x.shape[1] % scale
    x = F.pad(x, (0, 0, 0, more)).unflatten(1, (-1, scale)).sum(2)
    count = F.pad(real, (0, more)).unflatten(1, (-1, scale)).sum(2)
    return Stream(x / count.clamp(min=1).unsqueeze(-1), count > 0)


class MultiscaleVLAD(Fusion):
    """Residuals to shared clusters, gathered from all modalities at several scales.

    At scale r every modality is averaged over windows of r steps. With K centres c_k shared by all modalities and
    scales, step x belongs to cluster k with a_k(x) = softmax_k(w_k x + b_k); at each scale
    V_k = sum over steps of all modalities of a_k(x) (x - c_k), each V_k is brought to length one, all K go through one
    linear layer and layer normalisation to one vector. These, and the mean of each modality, are tokens of a
    Transformer; side by side they are what comes out, `b 1 (R + M)d`.

    Args:
        context: Shapes, task and settings of the model.
        scales: Window lengths R.
        clusters: Number K of shared centres.
        depth: Blocks of the Transformer.
        heads: Attention heads.
        dropout: Share dropped on each residual branch in training.

    Raises:
        OptionError: Streams have different widths, `heads` does not divide theirs, or a scale is below 1.
    """

    def __init__(
        self,
        context: Context,
        *,
        scales: tuple[int, ...] = (1, 2, 3, 10),
        clusters: int = 8,
        depth: int = 1,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        shapes = joined(context.generic, context.specific)
        width = common_width(shapes, "streams")
        divide(width, heads)
        if not scales or min(scales) < 1:
            raise OptionError("scales", f"has to be window lengths of at least 1, not {list(scales)}")
        self.keys, self.scales = tuple(shapes), tuple(scales)
        self.assign = nn.Linear(width, clusters)
        self.centres = nn.Parameter(torch.randn(clusters, width) * width**-0.5)
        self.gather = nn.Linear(clusters * width, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            CrossBlock(width, width, heads, dropout=dropout, backend=context.attention) for _ in range(depth)
        )
        self.shape = Shape(width * (len(scales) + len(shapes)), 1)

    def aggregate(self, streams: list[Stream]) -> Tensor:
        """V of steps from all modalities, `b k d`, before normalisation."""
        x = torch.cat([s.zeroed().x for s in streams], 1)
        real = torch.cat([s.mask for s in streams], 1)
        a = self.assign(x).softmax(-1) * real.unsqueeze(-1)
        # sum_i a_ik (x_i - c_k), without forming the differences.
        return torch.einsum("btk,btd->bkd", a, x) - a.sum(1).unsqueeze(-1) * self.centres

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        given = joined(generic, specific)
        streams = [compact(given[key]).zeroed() for key in self.keys]
        tokens = []
        for scale in self.scales:
            v = F.normalize(self.aggregate([scaled(s, scale) for s in streams]), dim=-1, eps=1e-6)
            tokens.append(self.norm(self.gather(v.flatten(1))))
        x = torch.stack([*tokens, *(s.mean() for s in streams)], 1)
        for block in self.blocks:
            x = block(x, x, None)
        return Stream.pooled(x.flatten(1))


class ShiftedClustering(Objective):
    """Cross-entropy of the cluster in which a sample was after the last epoch, predicted from its fused feature.

    The fused feature of every training sample is remembered. When an epoch ends, k-means starts from the centres of
    the epoch before (so that clusters shift and keep their names; the first time from samples spread over the memory),
    and each sample's cluster becomes its pseudo-label for the next epoch; a linear layer is trained to name it,
    with cross-entropy. Before there are clusters the loss is zero.

    Args:
        context: Shapes, task and settings of the model.
        clusters: Number of clusters.
        rounds: Rounds of k-means at the end of an epoch.
    """

    memory: Tensor
    seen: Tensor
    centres: Tensor
    labels: Tensor
    epoch: Tensor

    def __init__(self, context: Context, *, clusters: int = 10, rounds: int = 10) -> None:
        super().__init__(context)
        assert context.fused is not None
        if clusters < 2:
            raise OptionError("clusters", f"must be at least 2, not {clusters}")
        width = context.fused.width
        self.rounds = rounds
        self.linear = nn.Linear(width, clusters)
        self.register_buffer("memory", torch.zeros(context.samples, width))
        self.register_buffer("seen", torch.zeros(context.samples, dtype=torch.bool))
        self.register_buffer("centres", torch.zeros(clusters, width))
        self.register_buffer("labels", torch.full((context.samples,), -1, dtype=torch.int64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        label = self.labels[out.batch.index]
        some = (label >= 0).to(out.prediction.dtype)
        loss = F.cross_entropy(self.linear(out.fused.mean()), label.clamp(min=0), reduction="none")
        return (loss * some).sum() / some.sum().clamp(min=1)

    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        assert out.batch is not None
        if progress.epoch > int(self.epoch) and bool(self.seen.any()):
            self._cluster()
            self.epoch.fill_(progress.epoch)
        self.memory[out.batch.index] = out.fused.mean().to(self.memory.dtype)
        self.seen[out.batch.index] = True

    def _cluster(self) -> None:
        x = self.memory[self.seen]
        if bool((self.labels < 0).all()):
            start = torch.linspace(0, len(x) - 1, len(self.centres), device=x.device).round().long()
            self.centres.copy_(x[start])
        for _ in range(self.rounds):
            member = F.one_hot(torch.cdist(x, self.centres).argmin(1), len(self.centres)).to(x.dtype)
            count = member.sum(0).unsqueeze(1)
            # A cluster that has lost all its members stays where it was.
            self.centres.copy_(torch.where(count > 0, member.T @ x / count.clamp(min=1), self.centres))
        self.labels[self.seen] = torch.cdist(x, self.centres).argmin(1)
