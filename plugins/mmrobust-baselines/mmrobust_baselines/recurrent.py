"""LSTMs and GRUs over masked steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from mmrobust.contracts import Stream
from torch import Tensor, nn

from mmrobust_baselines.layers import compact, last, pick


class Recurrent(nn.Module):
    """A stack of LSTMs or GRUs that reads the real steps only, wherever the padding is.

    Args:
        width: Size of a step.
        hidden: Size of the state of one direction.
        cell: `lstm` or `gru`.
        layers: Number of networks, each reads the states of the one before.
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
        network = nn.LSTM if cell == "lstm" else nn.GRU
        self.width = hidden * (2 if bidirectional else 1)
        sizes = [width, *[self.width] * (layers - 1)]
        self.ahead = nn.ModuleList(network(size, hidden, batch_first=True) for size in sizes)
        self.back = nn.ModuleList(network(size, hidden, batch_first=True) for size in sizes if bidirectional)
        self.norms = nn.ModuleList(nn.LayerNorm(self.width) if norm else nn.Identity() for _ in sizes[1:])
        self.dropout = nn.Dropout(dropout)

    def orthogonal(self) -> None:
        """Sets the weights of all states to orthogonal matrices."""
        for name, weight in self.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(weight)

    def forward(self, stream: Stream) -> tuple[Stream, list[Tensor]]:
        """Reads `b t d`.

        Returns:
            The states of the last layer, `b t h`, real steps first; and for each layer its final state, `b h`: both
            directions side by side, each after all real steps; zero where a sample has none.
        """
        # In fp32 or float64 also under autocast: CPUs have no bf16 kernel for some sizes.
        with torch.autocast(stream.x.device.type, enabled=False):
            stream = compact(stream if stream.x.dtype == torch.float64 else stream.map(Tensor.float)).zeroed()
            finals = []
            for i in range(len(self.ahead)):
                if i:
                    stream = stream.map(self.norms[i - 1]).map(self.dropout).zeroed()
                stream, final = self._layer(i, stream)
                finals.append(final)
            return stream, finals

    def _layer(self, i: int, stream: Stream) -> tuple[Stream, Tensor]:
        """States `b t h` and final state `b h` of layer `i`, which reads a compact stream."""
        # What a network reads after the last real step cannot change the states before it.
        states = stream.map(lambda x: self.ahead[i](x)[0])
        final = last(states)
        if self.back:
            reverse = backwards(stream).map(lambda x: self.back[i](x)[0])
            final = torch.cat([final, last(reverse)], -1)
            states = states.map(lambda x: torch.cat([x, backwards(reverse).x], -1))
        return states.zeroed(), final


def backwards(stream: Stream) -> Stream:
    """A compact stream with its real steps in reverse order; applied twice it is the identity."""
    place = torch.arange(stream.mask.shape[1], device=stream.mask.device)
    count = stream.mask.sum(1, keepdim=True)
    order = torch.where(place < count, count - 1 - place, place)
    return replace(stream, x=pick(stream.x, order))
