"""Objectives: what a view is trained for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrobust.contracts import Context, Discriminator, Objective, Outputs, Part, Progress, Shape, Stream
from mmrobust.errors import OptionError
from mmrobust.nn.gradient_reversal import ramp, reverse_gradient
from mmrobust.nn.layers import mlp

Schedule = Literal["constant", "ramp"]


def _common_shape(shapes: Mapping[str, Shape], what: str) -> Shape:
    if len({shape.width for shape in shapes.values()}) != 1:
        widths = ", ".join(f"{m} {shape.width}" for m, shape in shapes.items())
        raise OptionError("use", f"its discriminator needs {what} of one width, but they have {widths}")
    return Shape(next(iter(shapes.values())).width, max(shape.length for shape in shapes.values()))


def _strength(grl: float, schedule: Schedule, progress: Progress) -> float | Tensor:
    return ramp(progress.fraction, grl) if schedule == "ramp" else grl


class TaskLoss(Objective):
    """L_er: how wrong the prediction is (paper, equation 8).

    Cross-entropy for classes, squared error for a regression; several yes-or-no decisions are cross-entropies over
    two logits each, as MulT trains on IEMOCAP. The paper's equation 9 has one L_er and does not say which input it
    reads; here each view that lists `task` is trained for it. List it in one view only, or in a view without noise,
    for the other readings.

    Args:
        context: What mmrobust provides.
        loss: `auto` for the paper's, or `mse`, `mae`, `huber` for a regression.
        regression: What `auto` is for a regression, for recipes that serve every task.
        smoothing: Label smoothing of the cross-entropy.

    Raises:
        OptionError: A regression loss for a task that is none.
    """

    def __init__(
        self,
        context: Context,
        *,
        loss: Literal["auto", "mse", "mae", "huber"] = "auto",
        regression: Literal["mse", "mae", "huber"] = "mse",
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(context)
        self.kind = context.task.kind
        if loss != "auto" and self.kind != "regression":
            raise OptionError("loss", f"'{loss}' is for a regression, and this task is a {self.kind}; leave it at auto")
        self.loss = regression if loss == "auto" else loss
        self.smoothing = smoothing

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None and out.batch.label is not None
        label = out.batch.label
        if self.kind == "regression":
            functions = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss}
            # In fp32 at least: bf16 would round the labels.
            dtype = torch.promote_types(out.prediction.dtype, torch.float32)
            return functions[self.loss](out.prediction.squeeze(-1).to(dtype), label.to(dtype))
        logits = out.prediction
        if self.kind == "multilabel":
            logits, label = logits.reshape(-1, 2), label.reshape(-1)
        return F.cross_entropy(logits, label, label_smoothing=self.smoothing)


class ModalityAdversary(Objective):
    """L_adv-1: no one shall tell from the NRGF which modality it came from (paper, equation 6).

    The discriminator D1 reads the MFs as they are and the NRGF through a gradient reversal layer and one extra
    perceptron for each modality, and names the modality. Equation 6 minimises over D1 and maximises over the NRGF
    extractor only, so the MFs are detached by default (`train_specific` lets D1's gradient into their extractor, the
    other reading). The loss is the mean cross-entropy over all samples, modalities and both kinds of feature.

    Args:
        context: What mmrobust provides.
        discriminator: The network D1.
        explain: The extra network for each modality that makes the NRGF "compatible" with D1: the paper's `mlp`, or
            `none`.
        grl: Strength of the gradient reversal.
        schedule: `constant`, or `ramp` from 0 as in Ganin & Lempitsky (2015).
        train_specific: Whether the specific extractor receives D1's gradient.

    Raises:
        OptionError: There is no generic extractor, its streams are not the modalities, or widths differ.
    """

    minimum = 2
    def __init__(
        self,
        context: Context,
        *,
        discriminator: Part[Discriminator] = Part("linear"),  # noqa: B008 (frozen)
        explain: Literal["mlp", "none"] = "mlp",
        grl: float = 1.0,
        schedule: Schedule = "constant",
        train_specific: bool = False,
    ) -> None:
        super().__init__(context)
        self.modalities = context.modalities
        if set(context.generic) != set(context.modalities):
            raise OptionError("use", "needs a generic extractor that gives one stream for each modality")
        self.read_specific = set(context.specific) == set(context.modalities)
        shapes = dict(context.generic)
        if self.read_specific:
            shapes |= {f"specific {m}": shape for m, shape in context.specific.items()}
        shape = _common_shape(shapes, "features")
        explained = self.modalities if explain == "mlp" else ()
        self.explain = nn.ModuleDict({m: mlp(shape.width, shape.width, shape.width) for m in explained})
        self.discriminator = context.make(Discriminator, discriminator, input=shape, outputs=len(self.modalities))
        self.grl, self.train_specific = grl, train_specific
        self.schedule: Schedule = schedule

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        strength = _strength(self.grl, self.schedule, progress)
        streams = []
        for m in self.modalities:
            stream = out.generic[m].map(lambda x: reverse_gradient(x, strength))
            streams.append(stream.map(self.explain[m]) if m in self.explain else stream)
            if self.read_specific:
                streams.append(out.specific[m].map(lambda x: x if self.train_specific else x.detach()))
        logits = torch.cat([self.discriminator(stream) for stream in streams])
        modality = torch.arange(len(self.modalities), device=logits.device)
        return F.cross_entropy(logits, modality.repeat_interleave(len(logits) // len(modality)))


class NoiseAdversary(Objective):
    """L_adv-2: no one shall tell from the NRGF whether its modality was corrupted (paper, equation 7).

    The discriminator D2 reads the NRGF through a gradient reversal layer. Equation 7's label says which modality is
    corrupted, its text asks of each whether it is noisy: with `target: each`, one yes-or-no for each modality serves
    both, and the untouched modalities of the same samples are the negatives (`negatives` adds the NRGF of another
    view, e.g. one without noise). With `target: which`, D2 reads all modalities side by side and names the corrupted
    one.

    Args:
        context: What mmrobust provides.
        discriminator: The network D2.
        target: `each` or `which`.
        negatives: Name of a view whose NRGF are further negatives of `each`; it must be in the recipe.
        grl: Strength of the gradient reversal.
        schedule: `constant`, or `ramp` from 0 as in Ganin & Lempitsky (2015).

    Raises:
        OptionError: There is no generic extractor, its streams are not the modalities, or widths differ.
    """

    def __init__(
        self,
        context: Context,
        *,
        discriminator: Part[Discriminator] = Part("linear"),  # noqa: B008 (frozen)
        target: Literal["each", "which"] = "each",
        negatives: str | None = None,
        grl: float = 1.0,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(context)
        self.modalities = context.modalities
        if set(context.generic) != set(context.modalities):
            raise OptionError("use", "needs a generic extractor that gives one stream for each modality")
        if negatives and target == "which":
            raise OptionError("negatives", "only target 'each' has negatives")
        shape = _common_shape(context.generic, "generic features")
        self.target, self.negatives = target, negatives
        self.reads = (negatives,) if negatives else ()
        if target == "each":
            self.discriminator = context.make(Discriminator, discriminator, input=shape, outputs=1)
        else:
            beside = Shape(shape.width * len(self.modalities), shape.length)
            self.discriminator = context.make(Discriminator, discriminator, input=beside, outputs=len(self.modalities))
        self.grl = grl
        self.schedule: Schedule = schedule

    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        strength = _strength(self.grl, self.schedule, progress)
        reverse = lambda x: reverse_gradient(x, strength)
        corrupted = torch.stack([out.batch.erased[m].any(1) for m in self.modalities], 1)
        if self.target == "which":
            return self._which({m: out.generic[m].map(reverse) for m in self.modalities}, corrupted)
        streams = [out.generic[m].map(reverse) for m in self.modalities]
        if self.negatives:
            other = views[self.negatives]
            assert other.batch is not None
            streams += [other.generic[m].map(reverse) for m in self.modalities]
            more = torch.stack([other.batch.erased[m].any(1) for m in self.modalities], 1)
            corrupted = torch.cat([corrupted, more], 1)
        logits = torch.cat([self.discriminator(stream) for stream in streams], 1)
        return F.binary_cross_entropy_with_logits(logits, corrupted.to(logits.dtype))

    def _which(self, generic: Mapping[str, Stream], corrupted: Tensor) -> Tensor:
        length = max(stream.x.shape[1] for stream in generic.values())
        pad = lambda t: F.pad(t, (0, 0, 0, length - t.shape[1]))
        x = torch.cat([pad(stream.x) for stream in generic.values()], -1)
        mask = torch.stack([F.pad(s.mask, (0, length - s.mask.shape[1])) for s in generic.values()]).any(0)
        logits = self.discriminator(Stream(x, mask))
        # A window of no step corrupts nothing; such samples have no answer and are left out of the mean.
        some = corrupted.any(1).to(logits.dtype)
        loss = F.cross_entropy(logits, corrupted.to(torch.uint8).argmax(1), reduction="none")
        return (loss * some).sum() / some.sum().clamp(min=1)
