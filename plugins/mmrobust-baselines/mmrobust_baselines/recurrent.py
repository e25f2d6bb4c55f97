"""LSTMs and GRUs over masked steps.

Torch's kernels read padded steps. Where a large LSTM meets a CPU, the real steps of the batch are packed instead, so
that no arithmetic is spent on padding, and the gradient is written out: input projections and the gradients of weights
are then one matrix product each, and nothing is computed for inputs that need no gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from mmrobust.contracts import Stream
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmrobust_baselines.layers import Dropout, compact, last, pick


class Packing:
    """Where the real steps of a batch stand: packed, all first steps come before all second ones, long samples first.

    Args:
        mask: True where a step is real, `b t`; padding may stand anywhere.

    Attributes:
        sizes: How many samples have a first step, a second one, ...
        source: Where each packed step, `n`, stands in `(b t)`.
        target: The same after real steps have moved to the front.
        reverse: The packed place of the step that takes its place in a sample read backwards, `n`.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        t = mask.shape[1]
        count, rows = mask.sum(1).sort(descending=True, stable=True)
        real = torch.arange(t, device=mask.device) < count.unsqueeze(1)
        step, rank = real.t().nonzero(as_tuple=True)
        row = rows[rank]
        sizes = real.sum(0)
        begin = sizes.cumsum(0) - sizes
        self.sizes: list[int] = [size for size in sizes.tolist() if size]
        self.source = row * t + (~mask).to(torch.uint8).argsort(dim=1, stable=True)[row, step]
        self.target = row * t + step
        self.reverse = begin[count[rank] - 1 - step] + rank
        some = count > 0
        self._rows, self._ends = rows[some], (begin[count - 1] + torch.arange(len(rows), device=mask.device))[some]

    def pack(self, x: Tensor) -> Tensor:
        """The real steps of `b t d`, `n d`."""
        return x.flatten(0, 1).index_select(0, self.source)

    def unpack(self, x: Tensor) -> Stream:
        """Packed steps `n d` as a stream, real steps first, zero elsewhere."""
        b, t = self.shape
        whole = x.new_zeros(b * t, x.shape[1]).index_copy(0, self.target, x)
        mask = torch.zeros(b * t, dtype=torch.bool, device=x.device).index_fill(0, self.target, True)
        return Stream(whole.view(b, t, -1), mask.view(b, t))

    def final(self, x: Tensor) -> Tensor:
        """Each sample's last packed step, `b d`; zero where it has none."""
        return x.new_zeros(self.shape[0], x.shape[1]).index_copy(0, self._rows, x.index_select(0, self._ends))


class _LSTM(torch.autograd.Function):
    """The states of an LSTM over packed steps, from zero, and their gradient by backpropagation through time.

    Equations as in `torch.nn.LSTM`: gates i, f, g, o; c = f c + i g; h = o tanh(c).
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        """States `n h`, from the inputs' share of the gates, `n 4h`, and the states' weight, `4h h`."""
        h = weight.shape[1]
        gates = projected.clone()
        states, cells, squashed = (gates.new_empty(len(gates), h) for _ in range(3))
        start, before = 0, None
        for size in sizes:
            here = slice(start, start + size)
            g, c = gates[here], cells[here]
            if before is not None:
                g.addmm_(states[before : before + size], weight.t())
            g[:, : 2 * h].sigmoid_()
            g[:, 2 * h : 3 * h].tanh_()
            g[:, 3 * h :].sigmoid_()
            i, f, new, o = g.chunk(4, 1)
            torch.mul(i, new, out=c)
            if before is not None:
                c.addcmul_(f, cells[before : before + size])
            torch.tanh(c, out=squashed[here])
            torch.mul(o, squashed[here], out=states[here])
            before, start = start, start + size
        ctx.save_for_backward(gates, weight, states, cells, squashed)
        ctx.sizes = sizes
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        gates, weight, states, cells, squashed = ctx.saved_tensors
        sizes = ctx.sizes
        h = weight.shape[1]
        d_states, d_gates = gradients[0].clone(), torch.empty_like(gates)
        d_next: Tensor | None = None  # of the cells, from the step after
        heard = []
        start = len(gates)
        for k in reversed(range(len(sizes))):
            start -= sizes[k]
            here = slice(start, start + sizes[k])
            i, f, new, o = gates[here].chunk(4, 1)
            d_i, d_f, d_new, d_o = d_gates[here].chunk(4, 1)
            squash = squashed[here]
            d_cell = torch.addcmul(o, o * squash, squash, value=-1).mul_(d_states[here])  # dh o (1 - tanh(c)^2)
            if d_next is not None:
                d_cell[: len(d_next)] += d_next
            torch.mul(d_states[here], squash, out=d_o)
            torch.mul(d_cell, new, out=d_i)
            torch.mul(d_cell, i, out=d_new)
            d_new.mul_(1 - new * new)
            if k:
                before = slice(start - sizes[k - 1], start - sizes[k - 1] + sizes[k])
                torch.mul(d_cell, cells[before], out=d_f)
                d_next = d_cell * f
                heard.append(states[before])
            else:
                before = None
                d_f.zero_()
            for d, gate in ((d_gates[here, : 2 * h], gates[here, : 2 * h]), (d_o, o)):
                d.mul_(gate * (1 - gate))
            if before is not None:
                d_states[before].addmm_(d_gates[here], weight)
        if not heard:
            return d_gates, torch.zeros_like(weight), None
        return d_gates, d_gates[sizes[0] :].t() @ torch.cat(heard[::-1]), None


def _packed(network: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
    """The states of one LSTM over packed steps `n d`, `n h`."""
    assert isinstance(network, nn.LSTM)
    weight_in, weight, bias_in, bias = network._flat_weights
    return _LSTM.apply(torch.addmm(bias_in + bias, x, weight_in.t()), weight, sizes)  # type: ignore[return-value]


#: Samples x units x (features + units) from which packing pays. Measured at 50 steps, 25 to 50 of them real: 0.3x of
#: torch's speed at 26 thousand, equal at two million, 1.5x to 2.2x above three.
_LARGE = 2_000_000


class Recurrent(nn.Module):
    """A stack of LSTMs or GRUs that reads real steps alone, wherever padding stands.

    Args:
        width: Size of a step.
        hidden: Size of the state of one direction.
        cell: `lstm` or `gru`.
        layers: How many, one on the other.
        bidirectional: Whether each layer also reads backwards; states are then `2 * hidden` wide.
        dropout: Share dropped between layers in training.
        norm: Whether states are layer-normalised between layers.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        make = nn.LSTM if cell == "lstm" else nn.GRU
        self.width = hidden * (2 if bidirectional else 1)
        sizes = [width, *[self.width] * (layers - 1)]
        self.ahead = nn.ModuleList(make(size, hidden, batch_first=True) for size in sizes)
        self.back = nn.ModuleList(make(size, hidden, batch_first=True) for size in sizes if bidirectional)
        self.norms = nn.ModuleList(nn.LayerNorm(self.width) if norm else nn.Identity() for _ in sizes[1:])
        self.dropout = Dropout(dropout)

    def forward(self, stream: Stream) -> tuple[Stream, list[Tensor]]:
        """Reads `b t d`.

        Returns:
            The states of the last layer, `b t h`, real steps first; and for each layer the final state, `b h` (both
            directions side by side, each after all real steps; zero where a sample has none).
        """
        # In fp32 whatever autocast says: CPUs have no bfloat16 kernel for some sizes.
        with torch.autocast(stream.x.device.type, enabled=False):
            stream = stream if stream.x.dtype == torch.float64 else stream.map(Tensor.float)
            return self._packed(stream) if self._large(stream.x) else self._padded(stream)

    def _large(self, x: Tensor) -> bool:
        first = self.ahead[0]
        if not isinstance(first, nn.LSTM) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return x.shape[0] * first.hidden_size * (first.input_size + first.hidden_size) >= _LARGE

    def _packed(self, stream: Stream) -> tuple[Stream, list[Tensor]]:
        packing = Packing(stream.mask)
        x, finals = packing.pack(stream.x), []
        for i, ahead in enumerate(self.ahead):
            if i:
                x = self.dropout(self.norms[i - 1](x))
            states = _packed(ahead, x, packing.sizes)
            final = packing.final(states)
            if self.back:
                reverse = _packed(self.back[i], x.index_select(0, packing.reverse), packing.sizes)
                final = torch.cat([final, packing.final(reverse)], -1)
                states = torch.cat([states, reverse.index_select(0, packing.reverse)], -1)
            x = states
            finals.append(final)
        return packing.unpack(x), finals

    def _padded(self, stream: Stream) -> tuple[Stream, list[Tensor]]:
        stream = compact(stream).zeroed()
        finals = []
        for i, ahead in enumerate(self.ahead):
            if i:
                stream = stream.map(lambda x, i=i: self.dropout(self.norms[i - 1](x))).zeroed()
            states = replace(stream, x=ahead(stream.x)[0])
            final = last(states)
            if self.back:
                reverse = replace(stream, x=self.back[i](backwards(stream).x)[0])
                final = torch.cat([final, last(reverse)], -1)
                states = replace(states, x=torch.cat([states.x, backwards(reverse).x], -1))
            stream = states.zeroed()
            finals.append(final)
        return stream, finals


def backwards(stream: Stream) -> Stream:
    """A compact stream with its real steps in reverse; applied twice it is the identity."""
    place = torch.arange(stream.mask.shape[1], device=stream.mask.device)
    count = stream.mask.sum(1, keepdim=True)
    order = torch.where(place < count, count - 1 - place, place)
    return replace(stream, x=pick(stream.x, order))
