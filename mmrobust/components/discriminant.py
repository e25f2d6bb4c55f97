"""Adversaries whose discriminator is linear and at its optimum, in closed form: nothing is trained against anything.

Equations 6 and 7 of the paper are a game between an extractor and a discriminator of one linear layer. The best linear
discriminator of some groups of features is known: Fisher's discriminant. How well it does is the ratio of the
determinants of total and within-group scatter (Wilks' lambda), and the extractor lowers its logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrobust.components.adversary import remark
from mmrobust.components.examples import (
    Examples,
    Unit,
    common_shape,
    erased_of,
    figure_names,
    modality_examples,
    noise_examples,
    specific_streams,
)
from mmrobust.contracts import Context, Objective, Outputs, Progress
from mmrobust.errors import OptionError

__all__ = ["ModalityDiscriminant", "NoiseDiscriminant", "separation"]


def separation(examples: Examples, ridge: float) -> tuple[Tensor, dict[str, Tensor]]:
    """How well the best linear discriminant tells groups apart: `log det(total) - log det(within)`, 0 for not at all.

    Args:
        examples: Whose answers are the groups; the steps of each are averaged first.
        ridge: Share of the mean variance that is added to the scatter within, so that few examples of many features
            are not told apart by chance.

    Returns:
        The separation, 0-d, and the `accuracy`, `cross_entropy` and `chance` of that discriminant on these examples.
    """
    x = examples.features.mean()
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # determinants in bf16 are noise
    counts = examples.counts.to(x.dtype).unsqueeze(1)
    total = counts.sum().clamp(min=1)
    member = examples.members().to(x.dtype)
    share = member.sum(0) / total
    x = (x - (x * counts).sum(0) / total) * counts
    means = (member.T @ x) / member.sum(0).clamp(min=1).unsqueeze(1)
    rest = x - member @ means
    within = rest.T @ rest / total
    eye = torch.eye(len(within), dtype=x.dtype, device=x.device)
    within = within + (ridge * (x.square().sum() / total / len(within)) + 1e-6) * eye
    solved = torch.linalg.solve_ex(within, means.T)[0]  # d k
    spread = means @ solved
    root = share.sqrt()
    # det(within + means' share means) / det(within), by the matrix determinant lemma: a determinant of k x k.
    small = torch.eye(len(share), dtype=x.dtype, device=x.device) + root.unsqueeze(1) * spread * root
    loss = 2 * torch.linalg.cholesky_ex(small)[0].diagonal().log().sum()
    with torch.no_grad():
        logits = x @ solved - spread.diagonal() / 2 + share.clamp(min=1e-12).log()
        right = (logits.argmax(1) == examples.answer).to(x.dtype)
        entropy = F.cross_entropy(logits, examples.answer, reduction="none")
        figures = {
            "accuracy": examples.mean(right),
            "cross_entropy": examples.mean(entropy),
            "chance": share.max(),
        }
    return loss, figures


class _Discriminant(Objective):
    """What both share; a subclass says which groups are to be told apart."""

    adversarial = True
    detached = True
    limited = True
    names: str

    def __init__(self, context: Context, unit: Unit, ridge: float) -> None:
        super().__init__(context)
        if ridge <= 0:
            raise OptionError("ridge", f"must be more than 0, not {ridge}")
        common_shape(context, context.generic)
        self.modalities = context.modalities
        self.unit: Unit = unit
        self.ridge = ridge
        self.read_specific = specific_streams(context)
        self.figures = figure_names(self.read_specific)

    def examples(self, out: Outputs, side: str) -> Examples:
        """The features of one side, `generic` or `specific`, and their groups."""
        raise NotImplementedError

    def forward(
        self, out: Outputs, views: Mapping[str, Outputs], progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = separation(self.examples(out, "generic"), self.ridge)
        if self.read_specific:
            with torch.no_grad():
                _, own = separation(self.examples(out, "specific"), self.ridge)
            figures |= {name: own[name.removeprefix("mf_")] for name in self.figures if name.startswith("mf_")}
        return loss, figures

    def remark(self, figures: Mapping[str, float]) -> str | None:
        return remark(self.names, figures)


class ModalityDiscriminant(_Discriminant):
    """L_adv-1 with the best linear D1 in closed form: the extractor makes the NRGF of all modalities alike.

    Its gradient moves the NRGF extractor alone, and is at most as long as that of the other objectives.

    Args:
        context: What mmrobust provides.
        unit: What D1 reads at once: each real `step`, or the mean of a `sample`'s.
        ridge: Share of the mean variance that is added to the scatter within a modality.

    Raises:
        OptionError: There is no generic extractor, its streams are not the modalities, or widths differ.
    """

    minimum = 2
    names = "the modality"

    def __init__(self, context: Context, *, unit: Unit = "step", ridge: float = 0.01) -> None:
        super().__init__(context, unit, ridge)

    def examples(self, out: Outputs, side: str) -> Examples:
        return modality_examples({m: getattr(out, side)[m] for m in self.modalities}, self.unit)


class NoiseDiscriminant(_Discriminant):
    """L_adv-2 with the best linear D2 in closed form: the extractor makes erased steps and real ones alike.

    Its gradient moves the NRGF extractor alone, and is at most as long as that of the other objectives.

    Args:
        context: What mmrobust provides.
        unit: What D2 reads at once: each real `step`, or the mean of a `sample`'s.
        ridge: Share of the mean variance that is added to the scatter within a group.

    Raises:
        OptionError: There is no generic extractor, its streams are not the modalities, or widths differ.
    """

    names = "the noise"

    def __init__(self, context: Context, *, unit: Unit = "step", ridge: float = 0.01) -> None:
        super().__init__(context, unit, ridge)

    def examples(self, out: Outputs, side: str) -> Examples:
        streams = {m: getattr(out, side)[m] for m in self.modalities}
        return noise_examples(streams, erased_of(out), self.unit)
