"""Made-up affect data of which everything is known, the best possible prediction included.

A speaker has a label. Each modality utters a sequence of steps; each step is a *word* of that modality's vocabulary
seen through Gaussian noise:

- most words are background: they are uttered with the same probability whatever the label is (the implicit noise of
  the NORM-TR paper, section 1);
- the others are informative: each has its place in a plane of polarity and intensity, and is uttered the more often
  the nearer the label lies to that place. The text's words tell polarities apart, the audio's intensities, the
  vision's both, but weakly; so no single modality suffices.

Given the label all steps are independent, and lengths are independent of the label, so the label's posterior under
any pattern of erased steps is the prior times one likelihood for each step that is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrobust.contracts import Batch, Dataset, Posterior, Shape, Split, Stream, Task
from mmrobust.contracts.randomness import generator
from mmrobust.errors import OptionError

# How sharply a modality's informative words follow polarity and intensity.
_SHARPNESS = {"text": (1.5, 0.2), "audio": (0.2, 1.5), "vision": (0.7, 0.6)}
_INFORMATIVE = 8  # informative words of each modality, evenly around the plane of polarity and intensity
_BACKGROUND = 6  # background words
_NORM = 6.0  # distance of a word's centre from the origin, in standard deviations of the noise about it


@dataclass(frozen=True)
class _Vocabulary:
    """The words of one modality: a Gaussian mixture whose weights alone depend on the label.

    Attributes:
        centres: Where each word lies, `k n`; the noise about it has unit variance in each direction.
        weights: Probability of each word given each value of the label, `g k`, float64.
        background: Probability of each word in a step that knows nothing of the label, `k`, float64.
    """

    centres: Tensor
    weights: Tensor
    background: Tensor

    def utter(self, value: Tensor, length: int, random: torch.Generator) -> Tensor:
        """Steps for labels given as positions in the grid: `n` to `n t w`."""
        word = torch.multinomial(self.weights[value], length, replacement=True, generator=random)
        return self.centres[word] + torch.randn(*word.shape, self.centres.shape[1], generator=random)

    def evidence(self, x: Tensor) -> Tensor:
        """The log of p(step | label) up to a constant of each step, `b t n` to `b t g`, float64."""
        x, centres = x.double(), self.centres.double()
        # |x - c|^2 without |x|^2, which is common to all words.
        score = (x @ centres.T - centres.square().sum(-1) / 2).softmax(-1)  # b t k
        return (score @ self.weights.T).log() - (score @ self.background).log().unsqueeze(-1)


def _sampled(stream: Stream, frames: int) -> Stream:
    """The middle step of each of so many equal segments; a shorter sample keeps all its steps."""
    real = stream.mask.sum(1, keepdim=True)
    kept = real.clamp(max=frames)
    place = torch.arange(frames)
    mask = place < kept
    step = ((place + 0.5) * real / kept).long().clamp(max=stream.x.shape[1] - 1)
    return Stream(stream.x.gather(1, step.unsqueeze(-1).expand(-1, -1, stream.x.shape[2])), mask).zeroed()


def _vocabulary(modality: str, width: int, plane: Tensor, informative: float, seed: int) -> _Vocabulary:
    random = generator(seed, "vocabulary", modality)
    count = _INFORMATIVE + _BACKGROUND
    centres = torch.randn(count, width, generator=random)
    centres = _NORM * centres / centres.norm(dim=-1, keepdim=True)
    angle = 2 * math.pi * (torch.arange(_INFORMATIVE, dtype=torch.float64) + 0.5) / _INFORMATIVE
    place = torch.stack([angle.cos(), angle.sin()], -1)
    sharpness = torch.tensor(_SHARPNESS[modality], dtype=torch.float64)
    speaking = (plane * sharpness @ place.T).softmax(-1) * informative  # g k
    silent = torch.full((_BACKGROUND,), (1 - informative) / _BACKGROUND, dtype=torch.float64)
    weights = torch.cat([speaking, silent.expand(len(plane), -1)], -1)
    # Background words, and those of strong or weak intensity, come with either sign at random: what they say is in
    # their size and not in their mean, so that averages over a sequence do not suffice.
    signed = torch.cat([place[:, 1].abs() > place[:, 0].abs(), torch.ones(_BACKGROUND, dtype=torch.bool)])
    weights = torch.cat([weights * (1 - 0.5 * signed), weights[:, signed] / 2], -1)
    centres = torch.cat([centres, -centres[signed]])
    background = weights.mean(0)
    return _Vocabulary(centres, weights, background)


class SyntheticAffect(Dataset):
    """Three modalities shaped like CMU-MOSI, with the exact limit of what can be known."""

    aligned = False

    def __init__(
        self,
        *,
        train: int = 1200,
        valid: int = 300,
        test: int = 600,
        length: int = 50,
        frames: int | None = None,
        text: int = 64,
        audio: int = 16,
        vision: int = 24,
        classes: int | None = None,
        informative: float = 0.15,
        seed: int = 0,
    ) -> None:
        """
        Args:
            train: Samples of the training split.
            valid: Samples of the validation split.
            test: Samples of the test split.
            length: Most steps of each modality.
            frames: How many of them are kept, one of each equal segment of a sample's steps; all by default. What is
                uttered stays the same whatever is kept.
            text: Width of the text features.
            audio: Width of the audio features.
            vision: Width of the vision features.
            classes: Number of classes; none for a regression on [-3, 3].
            informative: Share of steps that say something about the label.
            seed: Source of all randomness, vocabularies included.
        """
        sizes = {"train": train, "valid": valid, "test": test}
        widths = {"text": text, "audio": audio, "vision": vision}
        for name, least, value in [(k, 1, v) for k, v in (sizes | widths).items()] + [("length", 4, length)]:
            if value < least:
                raise OptionError(name, f"{value} is too small; at least {least} is needed")
        if frames is not None and not 2 <= frames <= length:
            raise OptionError("frames", f"{frames} steps cannot be kept of {length}; give 2 to {length}")
        if classes is not None and classes < 2:
            raise OptionError("classes", f"{classes} is too few; give at least 2, or leave it out for a regression")
        if not 0 < informative <= 1:
            raise OptionError("informative", f"{informative} is no share of steps; give more than 0 and at most 1")

        if classes is None:
            # MOSI's labels are means of five annotators' whole numbers: multiples of 0.2, most of them about -1.6 and
            # 1.6. On these 31 values the sum over labels is the exact integral.
            self._values = torch.arange(-15, 16, dtype=torch.float64) / 5
            bumps = [(-1.6, 0.9, 0.42), (1.6, 0.9, 0.48), (0.0, 0.5, 0.10)]
            middle, spread, share = torch.tensor(bumps, dtype=torch.float64).T
            scaled = (self._values.unsqueeze(-1) - middle) / spread
            prior = (scaled.square() / -2).exp() @ (share / spread)
            plane = torch.stack([self._values.tanh(), self._values.abs() / 1.5 - 1], -1)
            self.task = Task("regression", 1, "mosi", -3.0, 3.0)
        else:
            # Classes lie evenly on a circle of polarity and intensity, as emotions on Russell's circumplex.
            self._values = torch.arange(classes)
            prior = torch.ones(classes, dtype=torch.float64)
            angle = 2 * math.pi * (self._values.double() + 0.25) / classes
            plane = torch.stack([angle.cos(), angle.sin()], -1)
            names = tuple(f"class {c}" for c in range(classes))
            self.task = Task("classification", classes, "classification", names=names)
        self._prior = prior / prior.sum()

        self.modalities = {m: Shape(w, frames or length) for m, w in widths.items()}
        self._vocabularies = {m: _vocabulary(m, w, plane, informative, seed) for m, w in widths.items()}
        self._evidence: dict[tuple[str, str], Tensor] = {}
        self.splits = {name: self._split(name, count, length, frames, seed) for name, count in sizes.items()}
        self.notes = ("made-up data; the limit is the exact Bayes-optimal decision",)

    def _split(self, name: str, count: int, length: int, frames: int | None, seed: int) -> Split:
        random = generator(seed, "split", name)
        value = torch.multinomial(self._prior, count, replacement=True, generator=random)
        # An utterance has a duration; each modality covers most of it, in its own number of steps.
        duration = 0.25 + 0.75 * torch.rand(count, generator=random).sqrt()
        features = {}
        for m, vocabulary in self._vocabularies.items():
            steps = duration * (0.7 + 0.3 * torch.rand(count, generator=random)) * (length + 1)
            steps = steps.long().clamp(2, length)
            mask = torch.arange(length) < steps.unsqueeze(-1)
            said = Stream(vocabulary.utter(value, length, random), mask).zeroed()
            features[m] = said if frames is None else _sampled(said, frames)
        label = self._values[value] if self.task.kind == "classification" else self._values[value].float()
        return Split(features, label, tuple(f"{name}-{i}" for i in range(count)))

    def posterior(self, split: str, batch: Batch) -> Posterior | None:
        """The exact posterior of the label, given the real steps that are not erased.

        That a step is erased is itself known (zeros are never uttered) and says nothing. None for a noise that does
        something other than set steps to zero: of that, nothing is known.

        Returns:
            `values` are the 31 possible labels, or the classes.
        """
        index = batch.index.cpu()
        total = self._prior.log().expand(len(batch), -1)
        for m, stream in batch.features.items():
            clean, x = self.splits[split].features[m], stream.x.cpu()
            left = (stream.mask & ~batch.erased[m]).cpu()
            if not torch.equal(x, (clean.x[index] * left.unsqueeze(-1)).to(x.dtype)):
                return None
            if (split, m) not in self._evidence:
                chunks = [self._vocabularies[m].evidence(chunk).float() for chunk in clean.x.split(256)]
                self._evidence[split, m] = torch.cat(chunks)
            total = total + torch.einsum("btg,bt->bg", self._evidence[split, m][index].double(), left.double())
        device = batch.index.device
        return Posterior(self._values.to(device), total.softmax(-1).to(device))
