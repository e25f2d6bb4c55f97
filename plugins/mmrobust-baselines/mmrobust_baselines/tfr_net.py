"""TFR-Net: Yuan, Li, Xu, Yu (2021), "Transformer-based feature reconstruction network for robust multimodal sentiment
analysis".

Its parts: `intra_inter` as encoder (a convolution, then Transformers within and between modalities);
`temporal_attention` as generic extractor, which feeds the reconstruction alone; `gate_encoder` as fusion; an MLP head;
and the objective `feature_reconstruction` in a view with `frame_drop`.
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

from mmrobust_baselines.layers import Transformer, compact, divide, joined
from mmrobust_baselines.recurrent import Recurrent


class IntraInter(Encoder):
    """Each modality attends to itself and to every other: convolution, positions, Transformers.

    Maps `{m: b t_m n_m}` to `{m: b t_m M*n}`. H_m = Conv1D(U_m) + PE; H_{m->m} is H_m through a Transformer,
    H_{k->m} through a crossmodal one whose keys and values are H_k; H'_m is all of them side by side.

    The Transformers are MulT's pre-norm ones; kernels differ between modalities in the release (1, 5 and 3 steps),
    where one option serves all here.

    Args:
        context: Shapes, task and settings of the model.
        kernel: Steps that the convolution sees; odd.
        depth: Blocks of each Transformer.
        heads: Attention heads; must divide `model.width`.
        dropout: Share dropped on each residual branch in training.
        embed_dropout: Share of the positioned input dropped in training.

    Raises:
        OptionError: `kernel` is even, or `heads` does not divide the width.
    """

    def __init__(
        self,
        context: Context,
        *,
        kernel: int = 3,
        depth: int = 3,
        heads: int = 6,
        dropout: float = 0.0,
        embed_dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        if kernel < 1 or kernel % 2 == 0:
            raise OptionError("kernel", f"must be odd, so that steps keep their places, not {kernel}")
        divide(context.width, heads)
        length = max(shape.length for shape in context.features.values())
        self.modalities = context.modalities
        self.convolutions = nn.ModuleDict(
            {
                m: nn.Conv1d(s.width, context.width, kernel, padding=kernel // 2, bias=False)
                for m, s in context.features.items()
            }
        )

        def transformer() -> Transformer:
            return Transformer(
                context.width,
                length,
                depth,
                heads,
                dropout=dropout,
                embed_dropout=embed_dropout,
                backend=context.attention,
            )

        self.transformers = nn.ModuleDict(
            {m: nn.ModuleDict({k: transformer() for k in self.modalities}) for m in self.modalities}
        )
        self.shapes = {m: Shape(context.width * len(self.modalities), s.length) for m, s in context.features.items()}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        low = {
            m: streams[m].map(lambda x, m=m: self.convolutions[m](x.transpose(1, 2)).transpose(1, 2)).zeroed()
            for m in self.modalities
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

    How it was read: the gate has a number for each feature of a state; the release's has one for each step.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units of each direction of the GRU.
        layers: GRUs one on the other; the release has 3.
        kernel: Steps that the gate sees; odd.
        out: Width kept for each modality; None for `hidden`.
        dropout: Share of it dropped in training.

    Raises:
        OptionError: `kernel` is even, or there are no specific features.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.GRU

    def __init__(
        self,
        context: Context,
        *,
        hidden: int = 32,
        layers: int = 1,
        kernel: int = 3,
        out: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        if kernel < 1 or kernel % 2 == 0:
            raise OptionError("kernel", f"must be odd, so that steps keep their places, not {kernel}")
        if not context.specific:
            raise OptionError("use", "reads specific features; add a specific extractor, e.g. 'identity'")
        shapes = joined({}, context.specific)
        size = out or hidden
        self.networks = nn.ModuleDict(
            {k: Recurrent(s.width, hidden, cell="gru", layers=layers, bidirectional=True) for k, s in shapes.items()}
        )
        self.gates = nn.ModuleDict({k: nn.Conv1d(2 * hidden, 2 * hidden, kernel, padding=kernel // 2) for k in shapes})
        self.layers = nn.ModuleDict({k: nn.Linear(2 * hidden + s.width, size) for k, s in shapes.items()})
        self.dropout = nn.Dropout(dropout)
        self.shape = Shape(size * len(shapes), 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        streams = joined({}, specific)
        return Stream.pooled(self.dropout(torch.cat([self._encode(key, streams[key]) for key in self.layers], -1)))

    def _encode(self, key: str, stream: Stream) -> Tensor:
        stream = compact(stream).zeroed()
        states, _ = self.networks[key](stream)
        gate = torch.sigmoid(self.gates[key](states.x.transpose(1, 2)).transpose(1, 2))
        x = torch.tanh(self.layers[key](torch.cat([gate * states.x, stream.x], -1)))
        x = x.masked_fill(~stream.mask.unsqueeze(-1), -1).amax(1)  # tanh is never less
        return x.masked_fill(~stream.mask.any(1, keepdim=True), 0)


class FeatureReconstruction(Objective):
    """L_g: the error of features that are reconstructed where noise erased them.

    X'_m = W H*_m + b, and the loss is the smooth L1 distance to the features before any noise, on the erased steps
    alone, averaged over those of the batch; zero where nothing is erased. The sum over modalities. The release adds a
    cosine similarity between the text of complete and incomplete samples, which the paper does not have.

    Args:
        context: Shapes, task and settings of the model.
        weights: Factor of a modality's loss, by its name; 1 for those not named.

    Raises:
        OptionError: The generic features are not step for step those of each modality, or `weights` names a modality
            that there is not.
    """

    def __init__(self, context: Context, *, weights: dict[str, float] | None = None) -> None:
        super().__init__(context)
        for m in context.modalities:
            if m not in context.generic or context.generic[m].length != context.features[m].length:
                raise OptionError("use", f"needs a generic extractor that gives a step for each step of {m}")
        unknown = [m for m in weights or {} if m not in context.modalities]
        if unknown:
            raise OptionError("weights", f"there is no modality '{unknown[0]}'")
        self.layers = nn.ModuleDict(
            {m: nn.Linear(context.generic[m].width, context.features[m].width) for m in context.modalities}
        )
        self.weights = {m: (weights or {}).get(m, 1.0) for m in context.modalities}

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        clean = out.batch.clean or out.batch
        losses = []
        for m, weight in self.weights.items():
            error = F.smooth_l1_loss(self.layers[m](out.generic[m].x), clean.features[m].x, reduction="none").mean(-1)
            erased = out.batch.erased[m]
            losses.append(weight * (error * erased).sum() / erased.sum().clamp(min=1))
        return torch.stack(losses).sum()
