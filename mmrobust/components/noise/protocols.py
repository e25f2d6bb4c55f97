"""Published test protocols, drawn as their authors draw them, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmrobust.components.noise.corruption import chosen
from mmrobust.components.noise.erasing import vectors
from mmrobust.contracts import Batch, Context, Noise, Rate, draw_rate
from mmrobust.errors import OptionError, nearest

SEED = 1111


class Missing(Noise):
    """Missing steps whose masks are drawn once for a whole split, from a seed that the protocol fixes.

    NumPy's legacy generator draws one number for each step of each sample, in the order of the split, over the full
    padded length; a step is dropped unless its number is above the rate. A higher rate thus drops the same steps and
    more. The text's first and last real step (the tokens [CLS] and [SEP]) are always kept. The rate is the share of the
    other real steps that are dropped, on average.

    Args:
        context: What mmrobust provides.
        seeds: Seed of each modality.
        text: Which modality is the text; None for the one that is called so, if any.
        modalities: Which modalities are hit; None for all.
        fill: What stands in a dropped step, a vector for a modality; zeros for those it does not name.

    Raises:
        OptionError: There is no such modality, or a vector has another width than its modality.
    """

    def __init__(
        self,
        context: Context,
        *,
        seeds: Mapping[str, int],
        text: str | None,
        modalities: list[str] | None,
        fill: Mapping[str, list[float]] | None,
    ) -> None:
        super().__init__(context)
        if text is not None and text not in context.modalities:
            raise OptionError("text", f"there is no modality '{text}'{nearest(text, context.modalities)}")
        self.chosen = chosen(context, modalities)
        self.text = "text" if text is None else text
        self.vectors = vectors(context, fill or {})
        self.constant = not self.vectors
        self.fixed = True
        self.lengths = {m: shape.length for m, shape in context.features.items()}
        self._random = {m: np.random.RandomState(seeds[m]) for m in self.chosen}
        self._drawn = {m: np.empty((0, self.lengths[m])) for m in self.chosen}

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        features = dict(batch.features)
        erased = {m: torch.zeros_like(stream.mask) for m, stream in features.items()}
        for m in self.chosen:
            stream = features[m]
            numbers = self._numbers(m, batch.index.cpu())[:, : stream.mask.shape[1]].to(stream.mask.device)
            gone = stream.mask & ~(numbers > self.rates(rate, len(batch), generator).unsqueeze(1))
            if m == self.text:
                place = stream.mask.cumsum(1)
                gone &= (place > 1) & (place < place[:, -1:])
            erased[m] = gone
            where, vector = gone.unsqueeze(-1), self.vectors.get(m)
            x = stream.x.masked_fill(where, 0) if vector is None else vector.to(stream.x).where(where, stream.x)
            features[m] = replace(stream, x=x)
        return batch.noisy(features, erased)

    def rates(self, rate: Rate, count: int, generator: torch.Generator) -> Tensor:
        """Each sample's rate, `b`, float64."""
        if isinstance(rate, tuple):
            return draw_rate(rate, count, generator).double()
        return torch.full((count,), rate, dtype=torch.float64, device=generator.device)

    def expected(self, rate: float) -> dict[str, float] | None:
        """None with a text: the two tokens that are kept are a larger share of a shorter one."""
        if self.text in self.chosen:
            return None
        return {m: rate if m in self.chosen else 0.0 for m in self.modalities}

    def _numbers(self, m: str, index: Tensor) -> Tensor:
        """The numbers of some samples, `b t`. Rows are drawn in the split's order, so its size is not needed."""
        more = int(index.max()) + 1 - len(self._drawn[m])
        if more > 0:
            drawn = self._random[m].uniform(size=(more, self.lengths[m]))
            self._drawn[m] = np.concatenate([self._drawn[m], drawn])
        return torch.from_numpy(self._drawn[m][index.numpy()])


class TFRNet(Missing):
    """The missing steps of TFR-Net (Yuan et al., 2021), bit for bit: a mask of its own for each modality.

    NumPy's legacy generator draws one number for each step of each sample, in the order of the split, over the full
    padded length; a step is dropped unless its number is above the rate. Seeds are 111 for text, 1111 for audio and
    11111 for vision. The text's first and last real step ([CLS] and [SEP]) are always kept; the rate is the share of
    the other real steps that are dropped, on average. Nothing else is random: every draw at a rate is the same.

    TFR-Net trains anew at each rate (0, 0.1, ..., 1) and drops tokens before BERT, where a dropped one becomes [UNK].
    Features that were computed before hold no [UNK]: dropped ones become zero, or what `fill` says.

    Args:
        context: What mmrobust provides.
        seeds: Seed of each modality, by its name; 1111 for those that it does not name. None for TFR-Net's.
        text: Which modality is the text; None for the one that is called so, if any.
        modalities: Which modalities are hit; None for all.
        fill: What stands in a dropped step, a vector for a modality; zeros for those it does not name.

    Raises:
        OptionError: There is no such modality, a vector has another width than its modality, or a seed is none.
    """

    def __init__(
        self,
        context: Context,
        *,
        seeds: dict[str, int] | None = None,
        text: str | None = None,
        modalities: list[str] | None = None,
        fill: dict[str, list[float]] | None = None,
    ) -> None:
        known = {"text": 111, "audio": 1111, "vision": 11111}
        if seeds is not None:
            chosen(context, seeds, "seeds")
            known = seeds
        super().__init__(
            context,
            seeds={m: _seed("seeds", known.get(m, SEED)) for m in context.modalities},
            text=text,
            modalities=modalities,
            fill=fill,
        )


class MMSA(Missing):
    """The missing steps of MMSA (Mao et al., 2022), bit for bit: TFR-Net's with one seed, so that aligned modalities
    lose the same steps.

    NumPy's legacy generator draws one number for each step of each sample, in the order of the split, over the full
    padded length; a step is dropped unless its number is above the rate. The text's first and last real step ([CLS] and
    [SEP]) are always kept; the rate is the share of the other real steps that are dropped, on average. Nothing else is
    random: every draw at a rate is the same.

    MMSA trains and tests at rate 0.2 and drops tokens before BERT, where a dropped one becomes [UNK]. Features that
    were computed before hold no [UNK]: dropped ones become zero, or what `fill` says.

    Args:
        context: What mmrobust provides.
        seed: Seed of every modality.
        text: Which modality is the text; None for the one that is called so, if any.
        modalities: Which modalities are hit; None for all.
        fill: What stands in a dropped step, a vector for a modality; zeros for those it does not name.

    Raises:
        OptionError: There is no such modality, a vector has another width than its modality, or the seed is none.
    """

    def __init__(
        self,
        context: Context,
        *,
        seed: int = SEED,
        text: str | None = None,
        modalities: list[str] | None = None,
        fill: dict[str, list[float]] | None = None,
    ) -> None:
        seeds = dict.fromkeys(context.modalities, _seed("seed", seed))
        super().__init__(context, seeds=seeds, text=text, modalities=modalities, fill=fill)


class LNLN(Missing):
    """The missing steps of LNLN (Zhang et al., 2024), bit for bit in a test: MMSA's, with a scheme for training.

    NumPy's legacy generator draws one number for each step of each sample, in the order of the split, over the full
    padded length; a step is dropped unless its number is above the rate. The text's first and last real step ([CLS] and
    [SEP]) are always kept; the rate is the share of the other real steps that are dropped, on average. Nothing else is
    random: every draw at a rate is the same.

    In a test the rates are 0, 0.1, ..., 0.9, and what is reported is the plain mean over them. In training, with
    `rate: [0, 1]` and `clean: 0.5`, each modality of half of the samples is left alone and of the others has a rate
    from U(0, 1), drawn anew each time; the numbers that are compared with it stay, as in LNLN. (There exactly half of a
    split is left alone, here each sample with probability one half.) Tokens are dropped before BERT, where a dropped
    one becomes [UNK]. Features that were computed before hold no [UNK]: dropped ones become zero, or what `fill` says.

    Args:
        context: What mmrobust provides.
        seed: Seed of every modality.
        clean: Share of samples of which a modality is left alone; for training.
        text: Which modality is the text; None for the one that is called so, if any.
        modalities: Which modalities are hit; None for all.
        fill: What stands in a dropped step, a vector for a modality; zeros for those it does not name.

    Raises:
        OptionError: There is no such modality, a vector has another width than its modality, the seed is none, or
            `clean` is not between 0 and 1.
    """

    def __init__(
        self,
        context: Context,
        *,
        seed: int = SEED,
        clean: float = 0.0,
        text: str | None = None,
        modalities: list[str] | None = None,
        fill: dict[str, list[float]] | None = None,
    ) -> None:
        seeds = dict.fromkeys(context.modalities, _seed("seed", seed))
        super().__init__(context, seeds=seeds, text=text, modalities=modalities, fill=fill)
        if not 0 <= clean <= 1:
            raise OptionError("clean", f"{clean:g} is no share of samples; give 0 to 1")
        self.clean = clean
        self.fixed = clean == 0

    def rates(self, rate: Rate, count: int, generator: torch.Generator) -> Tensor:
        drawn = super().rates(rate, count, generator)
        if self.clean == 0:
            return drawn
        alone = torch.rand(count, generator=generator, device=generator.device) < self.clean
        # Below every number that NumPy draws, 0 included: at rate 0 its step would go.
        return drawn.masked_fill(alone, -1)

    def expected(self, rate: float) -> dict[str, float] | None:
        known = super().expected(rate)
        return known and {m: share * (1 - self.clean) for m, share in known.items()}


def _seed(option: str, seed: int) -> int:
    """What NumPy's legacy generator takes.

    Raises:
        OptionError: It does not take this.
    """
    if not 0 <= seed < 2**32:
        raise OptionError(option, f"{seed} is no seed of NumPy's; give 0 to {2**32 - 1}")
    return seed
