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

from mmrobust_baselines.layers import Align, Reading, Unaligned, by_name, compact
from mmrobust_baselines.recurrent import Recurrent


class MFN(GenericExtractor):
    """Q(Z_y | X): the memory fusion network of Zadeh et al. (2018), "Memory fusion network for multi-view sequential
    learning", which the paper takes as its multimodal encoder.

    Maps `{m: b t_m n_m}` to `{common: b 1 out}`. A system of LSTMs reads all modalities step by step; attention over
    their memories at two steps, c' = softmax(D_a([c_{t-1}; c_t])) [c_{t-1}; c_t], picks what interacts, and a gated
    memory keeps it: u_t = g1 u_{t-1} + g2 tanh(D_u(c')), with gates g = sigmoid(D_g([c'; u_{t-1}])) that read the
    memory, as in the authors' public code (`reading: release`), or g = sigmoid(D_g(c')) (`paper`). Z_y is a linear
    layer over all last states and the last u. Steps where every modality is padded leave all states as they are.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units of each modality's LSTM, for all or by name (64 for those left out).
        memory: Size of u.
        between: Hidden units of the four small networks, for all or by name (64 for those left out): `attention`,
            `candidate`, `keep`, `take`.
        out: Width of Z_y; None for `model.width`.
        dropout: Share of those hidden units dropped in training, for all or by name.
        unaligned: For modalities that are not aligned: `refuse`, or `stretch` to one number of steps in relative time.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: The modalities are not aligned, and `unaligned` is `refuse`.
    """

    vmappable = False
    compilable = False  # a loop over as many steps as there are

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | dict[str, int] = 64,
        memory: int = 64,
        between: int | dict[str, int] = 64,
        out: int | None = None,
        dropout: float | dict[str, float] = 0.0,
        unaligned: Unaligned = "refuse",
        reading: Reading = "release",
    ) -> None:
        super().__init__(context)
        self.align = Align(context.encoded, context.aligned, unaligned)
        self.sizes = by_name("hidden", hidden, context.encoded, 64)
        self.cells = nn.ModuleDict({m: nn.LSTMCell(s.width, self.sizes[m]) for m, s in context.encoded.items()})
        self.release = reading == "release"
        both = 2 * sum(self.sizes.values())
        gate = both + (memory if self.release else 0)
        sizes = {"attention": (both, both), "candidate": (both, memory), "keep": (gate, memory), "take": (gate, memory)}
        units = by_name("between", between, sizes, 64, "network")
        shares = by_name("dropout", dropout, sizes, 0.0, "network")
        self.networks = nn.ModuleDict(
            {name: _network(size, units[name], out, shares[name]) for name, (size, out) in sizes.items()}
        )
        width = out or context.width
        self.out = nn.Linear(sum(self.sizes.values()) + memory, width)
        self.memory = memory
        self.shapes = {"common": Shape(width, 1)}

    def _read(self, values: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Last states, `b M*h`, and memories after each step, `b t M*h`."""
        finals, memories = [], []
        for x, (m, cell) in zip(values, self.cells.items(), strict=True):
            h = c = x.new_zeros(x.shape[0], self.sizes[m])
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
        attended = both * self.networks["attention"](both).softmax(-1)
        new = torch.tanh(self.networks["candidate"](attended))
        u = torch.zeros_like(new[:, 0])
        for t, real in enumerate(mask.unsqueeze(-1).unbind(1)):
            read = torch.cat([attended[:, t], u], -1) if self.release else attended[:, t]
            keep, take = torch.sigmoid(self.networks["keep"](read)), torch.sigmoid(self.networks["take"](read))
            u = torch.where(real, keep * u + take * new[:, t], u)
        return {"common": Stream.pooled(self.out(torch.cat([final, u], -1)))}


def _network(width: int, hidden: int, out: int, dropout: float, last: bool = False) -> nn.Sequential:
    """Two linear layers with ReLU and dropout between them, and a ReLU after the `last` one if it is True."""
    layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out)]
    return nn.Sequential(*layers, nn.ReLU()) if last else nn.Sequential(*layers)


class FactorLSTM(SpecificExtractor):
    """Q(Z_am | X_m): an LSTM and a linear layer for each modality.

    Maps `{m: b t_m n_m}` to `{m: b 1 out}`.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units, for all modalities or by name (64 for those left out).
        out: Width of Z_am, for all modalities or by name; None for as many as units.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.LSTM

    def __init__(
        self,
        context: Context,
        *,
        hidden: int | dict[str, int] = 64,
        out: int | dict[str, int] | None = None,
    ) -> None:
        super().__init__(context)
        units = by_name("hidden", hidden, context.encoded, 64)
        widths = units if out is None else by_name("out", out, context.encoded, 64)
        self.networks = nn.ModuleDict({m: Recurrent(s.width, units[m]) for m, s in context.encoded.items()})
        self.out = nn.ModuleDict({m: nn.Linear(units[m], widths[m]) for m in context.encoded})
        self.shapes = {m: Shape(widths[m], 1) for m in context.encoded}

    def forward(self, streams: Streams, notes: dict[str, Any]) -> Streams:
        return {m: Stream.pooled(self.out[m](self.networks[m](stream)[1][-1])) for m, stream in streams.items()}


class Factor(Fusion):
    """F_y = G_y(Z_y): a perceptron over the generic features alone.

    Gives `b 1 out`. Several generic streams, or streams of more steps, are averaged over steps and put side by side. In
    the release a ReLU follows the last layer (`reading: release`).

    Args:
        context: Shapes, task and settings of the model.
        out: Width of F_y.
        dropout: Share of hidden values dropped in training.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: There is no generic extractor.
    """

    def __init__(self, context: Context, *, out: int = 64, dropout: float = 0.0, reading: Reading = "release") -> None:
        super().__init__(context)
        if not context.generic:
            raise OptionError("use", "makes the factor of generic features; add a generic extractor, e.g. 'mfn'")
        self.keys = tuple(context.generic)
        width = sum(shape.width for shape in context.generic.values())
        self.network = _network(width, out, out, dropout, reading == "release")
        self.shape = Shape(out, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        return Stream.pooled(self.network(torch.cat([generic[key].mean() for key in self.keys], -1)))


class Generative(Objective):
    """The error of each modality reconstructed from its own factor and the common one: c_X(X_m, F_m(F_am, F_y)).

    F_am = G_am(Z_am) is a perceptron over the specific features; F_m is an LSTM of as many units as [F_am; F_y] has
    numbers, and a linear layer. The paper says "LSTM decoder": with `reading: paper` it reads [F_am; F_y] at each step;
    with `release`, what the authors trained, it reads that once and then its own last state, and a ReLU follows the
    last layer of G_am. The cost is the mean square error over the real steps of the features before any noise; the loss
    is the sum over modalities.

    Args:
        context: Shapes, task and settings of the model.
        factor: Width of each F_am, for all modalities or by name (32 for those left out).
        dropout: Share of G_am's hidden values dropped in training, for all modalities or by name.
        weights: Factor of a modality's cost, by its name; 1 for those not named.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: There are no specific features for each modality, or `weights` names one that there is not.
    """

    vmappable = False
    compilable = False  # a loop over as many steps as there are

    def __init__(
        self,
        context: Context,
        *,
        factor: int | dict[str, int] = 32,
        dropout: float | dict[str, float] = 0.0,
        weights: dict[str, float] | None = None,
        reading: Reading = "release",
    ) -> None:
        super().__init__(context)
        if set(context.specific) != set(context.modalities):
            raise OptionError("use", "needs a specific extractor that gives one stream for each modality")
        assert context.fused is not None
        self.weights = by_name("weights", weights or {}, context.modalities, 1.0)
        sizes = by_name("factor", factor, context.modalities, 32)
        shares = by_name("dropout", dropout, context.modalities, 0.0)
        self.release = reading == "release"
        self.factors = nn.ModuleDict(
            {m: _network(context.specific[m].width, d, d, shares[m], self.release) for m, d in sizes.items()}
        )
        both = {m: d + context.fused.width for m, d in sizes.items()}
        self.decoders = nn.ModuleDict({m: nn.LSTMCell(d, d) for m, d in both.items()})
        self.out = nn.ModuleDict({m: nn.Linear(d, context.features[m].width) for m, d in both.items()})

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        clean = (out.batch.clean or out.batch).features
        common = out.fused.mean()
        losses = []
        for m, weight in self.weights.items():
            target = compact(clean[m])
            both = torch.cat([self.factors[m](out.specific[m].mean()), common], -1)
            states = self._decode(m, both, target.x.shape[1])
            error = (self.out[m](states) - target.x).square().mean(-1)
            losses.append(weight * (error * target.mask).sum() / target.mask.sum().clamp(min=1))
        return torch.stack(losses).sum()

    def _decode(self, modality: str, factors: Tensor, steps: int) -> Tensor:
        """The decoder's states, `b t d`, from both factors, `b d`."""
        h = c = torch.zeros_like(factors)
        states: list[Tensor] = []
        for _ in range(steps):
            read = states[-1] if states and self.release else factors
            h, c = self.decoders[modality](read, (h, c))
            states.append(h)
        return torch.stack(states, 1)


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
    kernel. The paper does not give the kernel: with `reading: release` it is the public code's, exp(-|x - y|^2 / d^2);
    with `paper` its variance is the number d of dimensions, as Tolstikhin et al. (2018), appendix, suggest. The release
    draws as many samples of the prior as the batch has; here their expectation is exact, which is what those samples
    estimate.

    Args:
        context: Shapes, task and settings of the model.
        bandwidth: Factor of the kernel's variance.
        reading: `release` or `paper`, see above.

    Raises:
        OptionError: `bandwidth` is not positive.
    """

    def __init__(self, context: Context, *, bandwidth: float = 1.0, reading: Reading = "release") -> None:
        super().__init__(context)
        if bandwidth <= 0:
            raise OptionError("bandwidth", f"must be greater than 0, not {bandwidth:g}")
        self.bandwidth, self.release = bandwidth, reading == "release"

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        streams = [*out.generic.values(), *out.specific.values()]
        return torch.stack([mmd_to_normal(s.mean(), self._variance(s.x.shape[-1])) for s in streams]).sum()

    def _variance(self, width: int) -> float:
        return self.bandwidth * (width**2 / 2 if self.release else width)
