"""TFR-Net: Yuan, Li, Xu, Yu (2021), "Transformer-based feature reconstruction network for robust multimodal sentiment
analysis".

Its parts: `intra_inter` as encoder (a convolution, then Transformers within and between modalities);
`temporal_attention` as generic extractor, which feeds the reconstruction alone; `gate_encoder` as fusion; an MLP head;
and the objective `feature_reconstruction` in a view with `frame_drop`.

One part is not the release's: in place of `temporal_attention` it has Transformers whose "sequence" is the batch and
whose features are the time steps, so that a sample's reconstruction depends on the samples before it in the batch. The
prediction does not read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from mmrobust.contracts import (
    Context,
    Encoder,
    Fusion,
    GenericExtractor,
    Objective,
    Outputs,
    Progress,
    Shape,
    Stream,
    Streams,
)
from mmrobust.errors import OptionError
from mmrobust.nn.layers import MultiheadAttention
from torch import Tensor, nn

from mmrobust_baselines.encoders import convolution
from mmrobust_baselines.layers import Reading, Transformer, by_name, compact, divide
from mmrobust_baselines.misa import central_moment_discrepancy
from mmrobust_baselines.recurrent import Recurrent


class IntraInter(Encoder):
    """Each modality attends to itself and to every other: convolution, positions, Transformers.

    Maps `{m: b t_m n_m}` to `{m: b t_m M*n}`. H_m = Conv1D(U_m) + PE; H_{m->m} is H_m through a Transformer,
    H_{k->m} through a crossmodal one whose keys and values are H_k; H'_m is all of them side by side.

    The Transformers are MulT's. With `reading: release`, what the authors trained, they hide later steps and have the
    positions of MulT's public code; with `paper` they do not (see `mult.CrossmodalPairs`).

    Args:
        context: Shapes, task and settings of the model.
        kernel: Steps that the convolution sees, for all modalities or by name (1 for those left out); odd.
        depth: Blocks of each Transformer.
        heads: Attention heads; must divide `model.width`.
        input_dropout: Share of the features dropped before the convolution in training, for all modalities or by name.
        dropout: Share dropped in the feed-forward layers and on each residual branch in training.
        attention_dropout: Share of the attention weights dropped in training, for all or by the source's name; where a
            modality attends to itself, that of the first.
        embed_dropout: Share of the positioned input dropped in training.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: `kernel` is even, or `heads` does not divide the width.
    """

    def __init__(
        self,
        context: Context,
        *,
        kernel: int | dict[str, int] = 3,
        depth: int = 3,
        heads: int = 6,
        input_dropout: float | dict[str, float] = 0.0,
        dropout: float = 0.0,
        attention_dropout: float | dict[str, float] = 0.0,
        embed_dropout: float = 0.0,
        reading: Reading = "release",
    ) -> None:
        super().__init__(context)
        divide(context.width, heads)
        length = max(shape.length for shape in context.features.values())
        self.modalities = context.modalities
        kernels = by_name("kernel", kernel, self.modalities, 1)
        shares = by_name("attention_dropout", attention_dropout, self.modalities, 0.0)
        self.dropout = nn.ModuleDict(
            {m: nn.Dropout(p) for m, p in by_name("input_dropout", input_dropout, self.modalities, 0.0).items()}
        )
        self.convolutions = nn.ModuleDict(
            {m: convolution(s.width, context.width, kernels[m]) for m, s in context.features.items()}
        )

        def transformer(source: str) -> Transformer:
            return Transformer(
                context.width,
                length,
                depth,
                heads,
                reading=reading,
                embed_dropout=embed_dropout,
                dropout=dropout,
                attention_dropout=shares[source],
                backend=context.attention,
            )

        self.transformers = nn.ModuleDict(
            {
                m: nn.ModuleDict({k: transformer(self.modalities[0] if k == m else k) for k in self.modalities})
                for m in self.modalities
            }
        )
        self.shapes = {m: Shape(context.width * len(self.modalities), s.length) for m, s in context.features.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        dropped = {m: streams[m].map(self.dropout[m]) for m in self.modalities}
        low = {
            m: stream.map(lambda x, m=m: self.convolutions[m](x.transpose(1, 2)).transpose(1, 2)).zeroed()
            for m, stream in dropped.items()
        }
        encoded = {}
        for m, sources in self.transformers.items():
            assert isinstance(sources, nn.ModuleDict)
            attended = [network(low[m], None if k == m else low[k]).x for k, network in sources.items()]
            encoded[m] = replace(low[m], x=torch.cat(attended, -1)).zeroed()
        return encoded


class TemporalAttention(GenericExtractor):
    """Self-attention over the steps of each modality: what erased steps are reconstructed from.

    Maps `{m: b t_m d}` to `{m: b t_m d}`, H*_m = MultiHead(H'_m, H'_m, H'_m).

    Args:
        context: Shapes, task and settings of the model.
        heads: Attention heads; must divide the encoder's width.

    Raises:
        OptionError: `heads` does not divide a width.
    """

    def __init__(self, context: Context, *, heads: int = 6) -> None:
        super().__init__(context)
        for shape in context.encoded.values():
            divide(shape.width, heads)
        self.layers = nn.ModuleDict(
            {m: MultiheadAttention(s.width, s.width, heads, context.attention) for m, s in context.encoded.items()}
        )
        self.shapes = dict(context.encoded)

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: s.map(lambda x, m=m, s=s: self.layers[m](x, x, s.mask)) for m, s in streams.items()}


class GateEncoder(Fusion):
    """The CNN gate encoder for each modality, and what they give side by side.

    A bidirectional GRU reads H'_m; a convolution over its states makes a gate g = sigmoid(Conv1D(.)) that filters
    them, step by step; what passes is put beside H'_m, goes through a layer with tanh, and the maximum over the real
    steps is kept: `b 1 M*out`.

    With `reading: release`, what the authors trained, the gate has one number for each step and filters tanh of the
    states; with `paper` it has one for each feature of a state and filters the states. The release's maximum also
    counts padding, which is left out here.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units of each direction of the GRU, and width kept, for all modalities or by name (32 for those left
            out).
        layers: GRUs one on the other; the release has 3.
        kernel: Steps that the gate sees; odd.
        dropout: Share of what is kept dropped in training.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: `kernel` is even, or there are no specific features.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.GRU

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | dict[str, int] = 32,
        layers: int = 1,
        kernel: int = 3,
        dropout: float = 0.0,
        reading: Reading = "release",
    ) -> None:
        super().__init__(context)
        if not context.specific:
            raise OptionError("use", "reads specific features; add a specific extractor, e.g. 'identity'")
        shapes, self.release = context.specific, reading == "release"
        sizes = by_name("hidden", hidden, shapes, 32)
        self.networks = nn.ModuleDict(
            {m: Recurrent(s.width, sizes[m], cell="gru", layers=layers, bidirectional=True) for m, s in shapes.items()}
        )
        self.gates = nn.ModuleDict(
            {m: convolution(2 * d, 1 if self.release else 2 * d, kernel, bias=True) for m, d in sizes.items()}
        )
        self.layers = nn.ModuleDict({m: nn.Linear(2 * sizes[m] + s.width, sizes[m]) for m, s in shapes.items()})
        self.dropout = nn.Dropout(dropout)
        self.shape = Shape(sum(sizes.values()), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        return Stream.pooled(self.dropout(torch.cat([self._encode(m, specific[m]) for m in self.layers], -1)))

    def _encode(self, modality: str, stream: Stream) -> Tensor:
        """The maximum over time of the gated states of one modality, `b d`."""
        stream = compact(stream).zeroed()
        states = self.networks[modality](stream)[0].x
        gate = torch.sigmoid(self.gates[modality](states.transpose(1, 2)).transpose(1, 2))
        passed = gate * (states.tanh() if self.release else states)
        x = torch.tanh(self.layers[modality](torch.cat([passed, stream.x], -1)))
        x = x.masked_fill(~stream.mask.unsqueeze(-1), -1).amax(1)  # tanh is never less
        return x.masked_fill(~stream.mask.any(1, keepdim=True), 0)


class FeatureReconstruction(Objective):
    """L_g: the error of features that are reconstructed where noise erased them.

    X'_m = W H*_m + b, and the loss is the smooth L1 distance to the features before any noise, on the erased steps
    alone, averaged over those of the batch; zero where nothing is erased. The sum over modalities.

    With `reading: release`, what the authors trained, the central moment discrepancy (three moments) of reconstructed
    and true features, zero where nothing was erased, is added with the factor `moments`, divided like the distance by
    the count of erased numbers; and the loss counts from the second epoch on (`wait: 1`).

    Args:
        context: Shapes, task and settings of the model.
        weights: Factor of a modality's loss, by its name; 1 for those not named.
        moments: Factor of the discrepancy in `reading: release`.
        wait: Epochs in which the loss is zero.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: The generic features are not step for step those of each modality, or `weights` names a modality
            that there is not.
    """

    def __init__(
        self,
        context: Context,
        *,
        weights: dict[str, float] | None = None,
        moments: float = 5.0,
        wait: int = 0,
        reading: Reading = "release",
    ) -> None:
        super().__init__(context)
        for m in context.modalities:
            if m not in context.generic or context.generic[m].length != context.features[m].length:
                raise OptionError("use", f"needs a generic extractor that gives a step for each step of {m}")
        self.weights = by_name("weights", weights or {}, context.modalities, 1.0)
        self.layers = nn.ModuleDict(
            {m: nn.Linear(context.generic[m].width, context.features[m].width) for m in context.modalities}
        )
        self.moments = moments if reading == "release" else 0.0
        self.wait = wait

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        clean = (out.batch.clean or out.batch).features
        losses = []
        for m, weight in self.weights.items():
            erased = out.batch.erased[m].unsqueeze(-1)
            reconstructed = torch.where(erased, self.layers[m](out.generic[m].x), 0)
            target = torch.where(erased, clean[m].x, 0)
            loss = F.smooth_l1_loss(reconstructed, target, reduction="sum")
            if self.moments:
                x, y, real = reconstructed.flatten(0, 1), target.flatten(0, 1), clean[m].mask.flatten()
                loss = loss + self.moments * central_moment_discrepancy(x, y, moments=3, mask=real)
            losses.append(weight * loss / (erased.sum() * target.shape[-1] + 1e-4))
        loss = torch.stack(losses).sum()
        return loss if progress.epoch >= self.wait else 0 * loss
