"""RAVEN: Wang, Shen, Liu, Liang, Zadeh, Morency (2019), "Words can shift: dynamically adjusting word representations
using nonverbal behaviors".

Its one part is the fusion `word_shift`; encoder `none`, specific extractor `identity`, an MLP head. There is no
auxiliary loss.

The paper's equations were at hand as others have noted them down, and the authors' public code; they contradict each
other, see `WordShift`.
"""

from __future__ import annotations

from typing import Any

import torch
from mmrobust.contracts import Context, Fusion, Shape, Stream, Streams
from mmrobust.errors import OptionError, nearest
from torch import Tensor, nn

from mmrobust_baselines.layers import compact
from mmrobust_baselines.recurrent import Recurrent


def windows(words: Stream, other: Stream, most: int) -> tuple[Tensor, Tensor]:
    """Which steps of another modality are uttered during each word.

    Where both streams know their times, a step belongs to every word that it overlaps. Otherwise word i of n takes
    the steps that overlap the fraction i/n to (i+1)/n of the other modality: of aligned modalities that is one each.

    Args:
        words: `b s d`, real steps first.
        other: `b t e`, real steps first.
        most: Steps at most for a word; more are thinned out evenly.

    Returns:
        Places in the other modality, `b s most`, and which of them are real, `b s most`.
    """
    if words.times is not None and other.times is not None:
        begin, end = words.times.unbind(-1)
        first, last = other.times.unbind(-1)
    else:
        begin, end = _fractions(words.mask)
        first, last = _fractions(other.mask)
    # Fractions such as 1/3 and 2/6 need not be equal in floating point; a thousandth of a step is no overlap.
    tolerance = 1e-3 * (last - first).unsqueeze(1)
    overlap = (last.unsqueeze(1) > begin.unsqueeze(2) + tolerance) & (first.unsqueeze(1) + tolerance < end.unsqueeze(2))
    overlap = overlap & words.mask.unsqueeze(2) & other.mask.unsqueeze(1)  # b s t
    count = overlap.sum(2, keepdim=True)
    start = overlap.to(torch.uint8).argmax(2, keepdim=True)
    place = torch.arange(most, device=count.device)
    thinned = torch.where(count > most, place * count // most, place)
    real = place < count.clamp(max=most)
    return torch.where(real, start + thinned, 0), real


def _fractions(mask: Tensor) -> tuple[Tensor, Tensor]:
    count = mask.sum(1, keepdim=True).clamp(min=1).double()
    place = torch.arange(mask.shape[1], device=mask.device)
    return place / count, (place + 1) / count


class WordShift(Fusion):
    """Words are shifted by the nonverbal behaviour that goes with them, and an LSTM reads the shifted words.

    For each word i and nonverbal modality m, an LSTM reads the steps uttered during the word to h_m (nonverbal
    sub-networks). Gates w_m = sigmoid(W [h_m; e] + b) weigh them, h = sum_m w_m (U_m h_m) + b (gated
    modality-mixing network), and e' = e + a h with a = min(|e| / |h| beta, 1) (multimodal shifting). The last state of
    an LSTM over e' comes out, `b 1 hidden`. All words of a batch are read at once.

    How it was read: w_m is one number for each word and modality, in the public code too. Where data is not timed and
    not aligned, words are spread evenly over the other modalities, a reading that the paper, which has word-level
    times, does not need. The paper's embeddings e go through an LSTM as they are; so here, in their own width.

    The equations are the paper's. The authors' public code differs: w_m has no sigmoid; the shift is
    beta |e| h / max(|h|, 1), so that short shifts grow with the word; no gradient goes through the shift, so that gates
    and nonverbal networks stay as they began; nonverbal steps go through dropout and a linear layer first (audio is
    also normalised over the batch); dropout is on nonverbal steps and shifted words, not on the output.

    Args:
        context: Shapes, task and settings of the model.
        words: The modality whose steps are words; None for the first.
        hidden: Units of the LSTM over shifted words.
        nonverbal: Units of each nonverbal LSTM.
        beta: How far a word may be shifted, as a share of its length.
        most: Nonverbal steps at most for a word; more are thinned out evenly.
        dropout: Share of the output dropped in training.

    Raises:
        OptionError: There is no such modality.
    """

    vmappable = False
    compilable = False  # torch.compile does not take nn.LSTM
    exportable = False  # how many steps a window has depends on the data

    def __init__(
        self,
        context: Context,
        *,
        words: str | None = None,
        hidden: int = 64,
        nonverbal: int = 32,
        beta: float = 1.0,
        most: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(context)
        self.side = "specific" if context.specific else "generic"
        shapes = context.specific or context.generic
        self.words = words or next(iter(shapes))
        if self.words not in shapes:
            raise OptionError("words", f"there is no modality '{self.words}'{nearest(self.words, shapes)}")
        if most < 1:
            raise OptionError("most", f"must be at least 1, not {most}")
        width = shapes[self.words].width
        others = [m for m in shapes if m != self.words]
        self.networks = nn.ModuleDict({m: Recurrent(shapes[m].width, nonverbal) for m in others})
        self.gates = nn.ModuleDict({m: nn.Linear(nonverbal + width, 1) for m in others})
        self.mix = nn.ModuleDict({m: nn.Linear(nonverbal, width, bias=False) for m in others})
        self.bias = nn.Parameter(torch.zeros(width)) if others else None
        self.reader = Recurrent(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.beta, self.most = beta, most
        self.shape = Shape(hidden, 1)

    def shift(self, streams: Streams) -> Stream:
        """The shifted words, `b s d`."""
        words = compact(streams[self.words]).zeroed()
        if self.bias is None:
            return words
        e = words.x
        h = self.bias.expand_as(e)
        for m, network in self.networks.items():
            other = compact(streams[m]).zeroed()
            place, real = windows(words, other, self.most)
            longest = max(1, int(real.sum(2).max()))  # most windows are far shorter than `most`
            place, real = place[..., :longest], real[..., :longest]
            b, s, k = place.shape
            index = place.reshape(b, s * k, 1).expand(-1, -1, other.x.shape[-1])
            steps = other.x.gather(1, index).reshape(b * s, k, -1)
            behaviour = network(Stream(steps, real.reshape(b * s, k)))[1][-1].reshape(b, s, -1)
            weight = torch.sigmoid(self.gates[m](torch.cat([behaviour, e], -1)))
            h = h + weight * self.mix[m](behaviour)
        a = (_length(e) / _length(h).clamp(min=1e-6) * self.beta).clamp(max=1)
        return Stream(e + a * h, words.mask).zeroed()

    def forward(self, generic: Streams, specific: Streams, notes: dict[str, Any]) -> Stream:
        shifted = self.shift(specific if self.side == "specific" else generic)
        return Stream.pooled(self.dropout(self.reader(shifted)[1][-1]))


def _length(x: Tensor) -> Tensor:
    """The Euclidean length of each vector, `... d` to `... 1`."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)
