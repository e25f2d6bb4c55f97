"""MFM: Tsai, Liang, Zadeh, Morency, Salakhutdinov (2019), "Learning factorized multimodal representations".

A multimodal discriminative factor F_y = G_y(Z_y) says what the label is, modality-specific generative factors
F_am = G_am(Z_am) say what else the data looks like: Y = D(F_y), X_m = F_m(F_am, F_y). Encoders Q(Z_y | X)
and Q(Z_am | X_m) are deterministic, and the objective is the sum of the label's loss, the
reconstruction's and MMD(Q_Z, P_Z) with P_Z = N(0, I).

Its parts: `mfn` as generic extractor, whose one stream `common` is Z_y; `factor_lstm` as specific extractor (Z_am);
`factor` as fusion (F_y); an MLP head (D); and the objectives `generative` and `mmd`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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

from mmrobust_baselines.layers import Align, Unaligned, compact
from mmrobust_baselines.recurrent import Recurrent


class MFN(GenericExtractor):
    """Q(Z_y | X): the memory fusion network of Zadeh et al. (2018), "Memory fusion network for multi-view sequential
    learning", which the paper takes as its multimodal encoder.

    Maps `{m: b t_m n_m}` to `{common: b 1 out}`. A system of LSTMs reads all modalities step by step; attention over
    their memories at two steps, a = softmax(D_a([c_{t-1}; c_t])) (MFN), picks what interacts, and a
    gated memory keeps it: u_t = g1 u_{t-1} + g2 tanh(D_u(c')), with c' the attended memories and gates
    g = sigmoid(D_g(c')). Z_y is a linear layer over all last states and the last u. Steps where
    every modality is padded leave all states as they are.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units of each modality's LSTM.
        memory: Size of u.
        between: Hidden units of each of the four small networks D.
        out: Width of Z_y; None for `model.width`.
        dropout: Share of those hidden units dropped in training.
        unaligned: For modalities that are not aligned: `refuse`, or `stretch` to one number of steps in relative time.

    Raises:
        OptionError: The modalities are not aligned, and `unaligned` is `refuse`.
    """

    vmappable = False
    compilable = False  # a loop over as many steps as there are

    def __init__(
        self,
        context: Context,
        *,
        hidden: int = 64,
        memory: int = 64,
        between: int = 64,
        out: int | None = None,
        dropout: float = 0.0,
        unaligned: Unaligned = "refuse",
    ) -> None:
        super().__init__(context)
        self.align = Align(context.encoded, context.aligned, unaligned)
        self.cells = nn.ModuleDict({m: nn.LSTMCell(s.width, hidden) for m, s in context.encoded.items()})
        both = 2 * hidden * len(self.cells)

        def network(size: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(both, between), nn.ReLU(), nn.Dropout(dropout), nn.Linear(between, size))

        self.attend = network(both)
        self.propose, self.retain, self.update = network(memory), network(memory), network(memory)
        width = out or context.width
        self.out = nn.Linear(hidden * len(self.cells) + memory, width)
        self.hidden = hidden
        self.shapes = {"common": Shape(width, 1)}

    def _read(self, values: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Last states, `b M*h`, and memories after each step, `b t M*h`."""
        finals, memories = [], []
        for x, cell in zip(values, self.cells.values(), strict=True):
            h = c = x.new_zeros(x.shape[0], self.hidden)
            steps = []
            for t, real in enumerate(mask.unsqueeze(-1).unbind(1)):
                new_h, new_c = cell(x[:, t], (h, c))
                h, c = torch.where(real, new_h, h), torch.where(real, new_c, c)
                steps.append(c)
            finals.append(h)
            memories.append(torch.stack(steps, 1))
        return torch.cat(finals, -1), torch.cat(memories, -1)

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        values, mask = self.align(streams)
        final, memories = self._read(values, mask)
        before = torch.cat([torch.zeros_like(memories[:, :1]), memories[:, :-1]], 1)
        both = torch.cat([before, memories], -1)
        attended = both * self.attend(both).softmax(-1)
        new = torch.tanh(self.propose(attended))
        keep, take = torch.sigmoid(self.retain(attended)), torch.sigmoid(self.update(attended))
        u = torch.zeros_like(new[:, 0])
        for t, real in enumerate(mask.unsqueeze(-1).unbind(1)):
            u = torch.where(real, keep[:, t] * u + take[:, t] * new[:, t], u)
        return {"common": Stream.pooled(self.out(torch.cat([final, u], -1)))}


class FactorLSTM(SpecificExtractor):
    """Q(Z_am | X_m): an LSTM and a linear layer for each modality.

    Maps `{m: b t_m n_m}` to `{m: b 1 out}`.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units.
        out: Width of Z_am; None for `model.width`.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.LSTM

    def __init__(self, context: Context, *, hidden: int = 64, out: int | None = None) -> None:
        super().__init__(context)
        width = out or context.width
        self.networks = nn.ModuleDict({m: Recurrent(s.width, hidden) for m, s in context.encoded.items()})
        self.out = nn.ModuleDict({m: nn.Linear(hidden, width) for m in context.encoded})
        self.shapes = {m: Shape(width, 1) for m in context.encoded}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: Stream.pooled(self.out[m](self.networks[m](stream)[1][-1])) for m, stream in streams.items()}


class Factor(Fusion):
    """F_y = G_y(Z_y): a perceptron over the generic features alone.

    Gives `b 1 out`. Several generic streams, or streams of more steps, are averaged over steps and put side by side.

    Args:
        context: Shapes, task and settings of the model.
        out: Width of F_y.
        dropout: Share of hidden values dropped in training.

    Raises:
        OptionError: There is no generic extractor.
    """

    def __init__(self, context: Context, *, out: int = 64, dropout: float = 0.0) -> None:
        super().__init__(context)
        if not context.generic:
            raise OptionError("use", "makes the factor of generic features; add a generic extractor, e.g. 'mfn'")
        self.keys = tuple(context.generic)
        width = sum(shape.width for shape in context.generic.values())
        self.network = nn.Sequential(nn.Linear(width, out), nn.ReLU(), nn.Dropout(dropout), nn.Linear(out, out))
        self.shape = Shape(out, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        return Stream.pooled(self.network(torch.cat([generic[key].mean() for key in self.keys], -1)))


class Generative(Objective):
    """The error of each modality reconstructed from its own factor and the common one: c_X(X_m, F_m(F_am, F_y)).

    F_am = G_am(Z_am) is a perceptron over the specific features; F_m is an LSTM that reads [F_am; F_y] at each step,
    and a linear layer (the paper says "LSTM decoder"; the release feeds the decoder its own last state instead). The
    cost is the mean square error over the real steps of the features before any noise; the loss is the sum over
    modalities.

    Args:
        context: Shapes, task and settings of the model.
        factor: Width of each F_am.
        hidden: Units of the decoders.
        weights: Factor of a modality's cost, by its name; 1 for those not named.

    Raises:
        OptionError: There are no specific features for each modality, or `weights` names one that there is not.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.LSTM

    def __init__(
        self, context: Context, *, factor: int = 32, hidden: int = 64, weights: dict[str, float] | None = None
    ) -> None:
        super().__init__(context)
        if set(context.specific) != set(context.modalities):
            raise OptionError("use", "needs a specific extractor that gives one stream for each modality")
        unknown = [m for m in weights or {} if m not in context.modalities]
        if unknown:
            raise OptionError("weights", f"there is no modality '{unknown[0]}'")
        assert context.fused is not None
        both = factor + context.fused.width
        self.factors = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(context.specific[m].width, factor), nn.ReLU(), nn.Linear(factor, factor))
                for m in context.modalities
            }
        )
        self.decoders = nn.ModuleDict({m: Recurrent(both, hidden) for m in context.modalities})
        self.out = nn.ModuleDict({m: nn.Linear(hidden, context.features[m].width) for m in context.modalities})
        self.weights = {m: (weights or {}).get(m, 1.0) for m in context.modalities}

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        clean = out.batch.clean or out.batch
        common = out.fused.mean()
        losses = []
        for m, weight in self.weights.items():
            target = clean.features[m]
            both = torch.cat([self.factors[m](out.specific[m].mean()), common], -1)
            steps = replace(target, x=both.unsqueeze(1).expand(-1, target.x.shape[1], -1))
            states, _ = self.decoders[m](steps)
            error = (self.out[m](states.x) - compact(target).x).square().mean(-1)
            losses.append(weight * (error * states.mask).sum() / states.mask.sum().clamp(min=1))
        return torch.stack(losses).sum()


def mmd_to_normal(x: Tensor, variance: float) -> Tensor:
    """The squared maximum mean discrepancy of a batch `b d` and N(0, I), under exp(-|x - y|^2 / (2 variance)).

    Both expectations over the prior have closed forms, so nothing is drawn: E_y k(x, y) =
    (v / (v + 1))^(d/2) exp(-|x|^2 / (2 (v + 1))), and E_{y,y'} k(y, y') = (v / (v + 2))^(d/2).
    """
    d = x.shape[-1]
    own = torch.exp(-torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * variance)).mean()
    cross = (variance / (variance + 1)) ** (d / 2) * torch.exp(-x.square().sum(-1) / (2 * (variance + 1))).mean()
    prior = (variance / (variance + 2)) ** (d / 2)
    return own - 2 * cross + prior


class MMD(Objective):
    """MMD(Q_Z, P_Z): latent variables are to look like N(0, I).

    The sum over all streams of generic and specific features, pooled, of the squared discrepancy under a Gaussian
    kernel. The paper does not give the kernel; its variance here is the number of dimensions, as Tolstikhin et al.
    (2018), appendix, suggest. The release draws as many samples of the prior as the batch has; here their expectation
    is exact, which is what those samples estimate.

    Args:
        context: Shapes, task and settings of the model.
        bandwidth: Variance of the kernel over the number of dimensions.

    Raises:
        OptionError: `bandwidth` is not positive.
    """

    def __init__(self, context: Context, *, bandwidth: float = 1.0) -> None:
        super().__init__(context)
        if bandwidth <= 0:
            raise OptionError("bandwidth", f"must be greater than 0, not {bandwidth:g}")
        self.bandwidth = bandwidth

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        streams = [*out.generic.values(), *out.specific.values()]
        return torch.stack([mmd_to_normal(s.mean(), self.bandwidth * s.x.shape[-1]) for s in streams]).sum()
