"""MCTN: Pham, Liang, Manzini, Morency, Póczos (2019), "Found in translation: learning robust joint representations by
cyclic translations between modalities".

A source modality is translated into a target and back; what the translator holds in between is the joint
representation, and at test time the source alone is needed. With a third modality the joint representation is
translated on ("hierarchical MCTN").

Its parts: `translation_chain` as fusion (the encoders of the translators and the network that reads the joint
representation), and the objective `translation`, which owns the decoders: they are not needed for a prediction.

The paper's text was at hand only as far as its abstract and first figure. What is here was compared with the authors'
public code and MMSA's: units, costs (mean square errors, each with weight 0.1 beside a mean absolute error of the
prediction), a way back for the first translation alone, and a second translator that encodes the states of the first
are as in both, but for the prediction's cost, which is the objective `task`'s. Other differences are in the docstrings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from mmrobust.contracts import Context, Fusion, Objective, Outputs, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError, nearest
from mmrobust.nn.attention import attention
from torch import Tensor, nn

from mmrobust_baselines.recurrent import Recurrent


def joints(source: str, targets: Iterable[str]) -> str:
    """The note that holds the joint representations of a chain of translations."""
    return f"translation {' > '.join((source, *targets))}"


def _translated(context: Context, source: str, targets: list[str] | None) -> tuple[str, ...]:
    """The targets in order: as the option has them, or as the data has them."""
    others = tuple(m for m in context.modalities if m != source)
    if targets is None:
        return others
    order = tuple(m for m in targets if m in others)
    if sorted(order) != sorted(others):
        raise OptionError(
            "targets", f"has to name all other modalities in some order ({', '.join(others)}), not {targets}"
        )
    return order


class TranslationChain(Fusion):
    """Encodes the source again and again, once for each target; the last joint representation is read by an LSTM.

    E_{S->T1} = enc(X_S), all states; E_{(S->T1)->T2} = enc(E_{S->T1}); the prediction reads
    the last one with a recurrent network, whose last state is what comes out, `b 1 hidden`. The joint representations
    go into the notes, for the objective `translation`. Other modalities than the source are never read.

    How it was read: encoders read forwards and the last state is the prediction's. Both public codes have encoders that
    also read backwards, the sum of both directions being the joint representation (`bidirectional`), and weigh the
    states of the last network by a softmax over tanh(w h + b) (`read: attention`). They translate text into vision
    first and into audio then, where data in MMSA's layout comes with audio first: `targets: [vision, audio]`.

    Args:
        context: Shapes, task and settings of the model.
        source: The modality that is translated; None for the first. It is read from the specific features, or the
            generic ones where there are no specific.
        hidden: Units of each network.
        layers: Networks one on the other in each encoder.
        targets: The other modalities in the order of translation; None for the data's. The objective
            `translation` needs the same.
        bidirectional: Whether encoders also read backwards; the joint representation is the sum.
        read: What comes out of the network that reads the last joint representation: its `last` state, or all states
            weighed by `attention`.

    Raises:
        OptionError: There is no such modality, or `targets` are not the others.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.LSTM

    def __init__(
        self,
        context: Context,
        *,
        source: str | None = None,
        hidden: int = 32,
        layers: int = 1,
        targets: list[str] | None = None,
        bidirectional: bool = False,
        read: Literal["last", "attention"] = "last",
    ) -> None:
        super().__init__(context)
        self.side = "specific" if context.specific else "generic"
        shapes = context.specific or context.generic
        self.source = source or next(iter(shapes))
        if self.source not in shapes:
            raise OptionError("source", f"there is no modality '{self.source}'{nearest(self.source, shapes)}")
        self.targets = _translated(context, self.source, targets)
        self.writes = (joints(self.source, self.targets),)
        sizes = [shapes[self.source].width, *[hidden] * (len(self.targets) - 1)]
        self.encoders = nn.ModuleList(
            Recurrent(size, hidden, layers=layers, bidirectional=bidirectional) for size in sizes
        )
        self.reader = Recurrent(hidden, hidden)
        self.weigh = nn.Sequential(nn.Linear(hidden, 1), nn.Tanh()) if read == "attention" else None
        self.bidirectional = bidirectional
        self.shape = Shape(hidden, 1)

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        stream = (specific if self.side == "specific" else generic)[self.source]
        states = []
        for encoder in self.encoders:
            stream, _ = encoder(stream)
            if self.bidirectional:
                stream = stream.map(lambda x: x.unflatten(-1, (2, -1)).sum(-2))
            states.append(stream)
        notes[self.writes[0]] = dict(zip(self.targets, states, strict=False))
        read, final = self.reader(stream)
        if self.weigh is None:
            return Stream.pooled(final[-1])
        # Scores are between -1 and 1: no step is real where the sum is zero.
        weight = self.weigh(read.x).exp() * read.mask.unsqueeze(-1)
        return Stream.pooled((weight * read.x).sum(1) / weight.sum(1).clamp(min=1e-6))


class Decoder(nn.Module):
    """A GRU that attends to the joint representation and reads its own last output.

    The authors' decoder is an LSTM cell that attends by a linear layer on each state beside its own and reads no
    output; MMSA's is an LSTM over one step at a time, which reads the true last step, at test time too.

    Args:
        joint: Width of the joint representation.
        hidden: Units.
        out: Width of a step of the target.
        backend: Attention backend.
    """

    def __init__(self, joint: int, hidden: int, out: int, backend: str) -> None:
        super().__init__()
        self.cell = nn.GRUCell(joint + out, hidden)
        self.query = nn.Linear(hidden, joint)
        self.out = nn.Linear(hidden, out)
        self.backend = backend

    def forward(self, joint: Stream, steps: int) -> Tensor:
        """The first `steps` steps of the target, `b t d`."""
        source = joint.zeroed().x.unsqueeze(1)
        b = source.shape[0]
        state = source.new_zeros(b, self.cell.hidden_size)
        x = source.new_zeros(b, self.out.out_features)
        outputs = []
        for _ in range(steps):
            query = self.query(state).view(b, 1, 1, -1)
            attended = attention(query, source, source, joint.mask, self.backend).view(b, -1)
            state = self.cell(torch.cat([attended, x], -1), state)
            x = self.out(state)
            outputs.append(x)
        return torch.stack(outputs, 1)


class Translation(Objective):
    """L_t and L_c: what the translators make of the targets, and of the source on the way back.

    Each joint representation is decoded into its target, and the first translation is encoded and decoded back into
    the source (cyclic); the costs are mean square errors over the real steps of the features before any noise. The
    loss is the sum of L_t over targets plus `cycle` times L_c.

    How it was read: decoders attend to the joint representation and read their own last output in training as at test
    time; the way back has networks of its own, for modalities differ in width, where both public codes pad all of them
    with zeros to the widest and go back through the same encoder and decoder; only the first translation is cyclic, as
    in both.

    Args:
        context: Shapes, task and settings of the model.
        hidden: Units of the decoders.
        cycle: Factor of L_c.
        source: The modality that the fusion translates; None for the first.
        targets: The other modalities in the fusion's order of translation; None for the data's.

    Raises:
        OptionError: There is no such modality, or `targets` are not the others.
    """

    minimum = 2
    vmappable = False
    compilable = False  # a loop over as many steps as there are

    def __init__(
        self,
        context: Context,
        *,
        hidden: int = 32,
        cycle: float = 1.0,
        source: str | None = None,
        targets: list[str] | None = None,
    ) -> None:
        super().__init__(context)
        assert context.fused is not None
        self.source = source or context.modalities[0]
        if self.source not in context.modalities:
            raise OptionError(
                "source", f"there is no modality '{self.source}'{nearest(self.source, context.modalities)}"
            )
        joint = context.fused.width
        order = _translated(context, self.source, targets)
        self.needs = (joints(self.source, order),)
        width = {m: context.features[m].width for m in context.modalities}
        self.decoders = nn.ModuleDict({m: Decoder(joint, hidden, width[m], context.attention) for m in order})
        self.back = Recurrent(width[order[0]], joint)
        self.home = Decoder(joint, hidden, width[self.source], context.attention)
        self.cycle = cycle

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        clean = (out.batch.clean or out.batch).features
        encoded = out.notes[self.needs[0]]
        loss = torch.zeros((), device=out.prediction.device)
        for i, (m, decoder) in enumerate(self.decoders.items()):
            decoded = decoder(encoded[m], clean[m].x.shape[1])
            loss = loss + _error(decoded, clean[m])
            if i == 0:
                back, _ = self.back(Stream(decoded, clean[m].mask))
                source = clean[self.source]
                loss = loss + self.cycle * _error(self.home(back, source.x.shape[1]), source)
        return loss


def _error(decoded: Tensor, target: Stream) -> Tensor:
    """Mean square error over real steps."""
    error = (decoded - target.x).square().mean(-1)
    return (error * target.mask).sum() / target.mask.sum().clamp(min=1)
