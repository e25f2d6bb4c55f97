"""Adversaries with a trained discriminator: the second half of NORM-TR's noise-aware learning (paper, section 3.5.2).

A discriminator learns to read from the NRGF what they should not show, and a gradient reversal layer makes their
extractor hide it. What the paper leaves open is an option of the two classes; docs/normtr.md says which readings work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mmrobust.components.examples import (
    Examples,
    Unit,
    common_shape,
    detached,
    erased_of,
    figure_names,
    modality_examples,
    noise_examples,
    specific_streams,
    standardized,
    which_examples,
)
from mmrobust.contracts import Context, Discriminator, Objective, Outputs, Part, Progress, Shape, Stream, Streams
from mmrobust.errors import OptionError
from mmrobust.nn.gradient_reversal import ramp, reverse_gradient
from mmrobust.nn.layers import mlp
from mmrobust.nn.own_adam import OwnAdam

Schedule = Literal["constant", "ramp"]
Network = Callable[[Stream], Tensor]
Gate = Callable[[Tensor], Tensor]

#: A discriminator that is this much of the way from chance to certainty was not deceived.
_WON = 0.9


def remark(names: str, figures: Mapping[str, float]) -> str | None:
    """A line about an adversary that has had no effect; None where it had one.

    Args:
        names: What the discriminator names, e.g. "the modality".
        figures: Its `accuracy` and its `chance`.
    """
    accuracy, chance = figures["accuracy"], figures["chance"]
    if accuracy - chance <= _WON * (1 - chance):
        return None
    return (
        f"the discriminator names {names} of the NRGF in {accuracy:.0%} (chance {chance:.0%}): "
        "the adversary does nothing"
    )


class _Adversary(Objective):
    """What both adversaries share: a discriminator, how it learns, and how its gradient reaches the extractor."""

    adversarial = True
    names: str

    def __init__(
        self,
        context: Context,
        discriminator: Part[Discriminator],
        shape: Shape,
        outputs: int,
        *,
        unit: Unit,
        standardize: bool,
        aim: Literal["reverse", "confuse"],
        grl: float,
        schedule: Schedule,
        reach: Literal["all", "extractor"],
        steps: int,
        lr_factor: float,
    ) -> None:
        super().__init__(context)
        if lr_factor != 1 and steps < 1:
            raise OptionError("lr_factor", "needs steps of the discriminator's own; give steps as well, e.g. steps: 5")
        self.modalities = context.modalities
        self.read_specific = specific_streams(context)
        self.unit: Unit = unit
        self.standardize, self.aim, self.grl = standardize, aim, grl
        self.schedule: Schedule = schedule
        self.detached = reach == "extractor"
        self.limited = self.detached and steps > 0
        self.steps, self.lr_factor = steps, lr_factor
        read = Shape(shape.width, 1) if unit == "step" else shape
        self.discriminator = context.make(Discriminator, discriminator, input=read, outputs=outputs)
        self.adam = OwnAdam(self.discriminator) if steps else None
        self.figures = figure_names(self.read_specific)

    def generic(self, out: Outputs, views: Mapping[str, Outputs], gate: Gate) -> Examples:
        """The NRGF, through a gate that lets its gradient pass, turns it round, or stops it."""
        raise NotImplementedError

    def specific(self, out: Outputs, views: Mapping[str, Outputs]) -> Examples:
        """The MFs, which are only looked at; used where `read_specific`."""
        raise NotImplementedError

    def learned(self, out: Outputs, views: Mapping[str, Outputs]) -> Examples | None:
        """Further examples that the discriminator learns from, as they are; None for none."""
        return None

    def forward(
        self, out: Outputs, views: Mapping[str, Outputs], progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        strength = ramp(progress.fraction, self.grl) if self.schedule == "ramp" else self.grl
        confuse = self.aim == "confuse"
        nrgf = self.generic(out, views, Tensor.detach if confuse else lambda x: reverse_gradient(x, strength))
        loss, logits = self._loss(self.discriminator, nrgf, self.learned(out, views))
        if confuse:
            seen = self.generic(out, views, lambda x: x)
            frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            answers = self._logits(lambda stream: functional_call(self.discriminator, frozen, (stream,)), seen)
            loss = loss + strength * seen.mean(_to_uniform(answers))
        return loss, self._figures(logits.detach(), nrgf, out, views)

    @torch.no_grad()
    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        if self.adam is None:
            return
        assert progress.lr is not None, "steps of the discriminator's own need the learning rate"
        dtype = self.adam.mean.dtype  # what autocast made narrower is read in full
        parts = [self.generic(out, views, Tensor.detach), self.learned(out, views)]
        nrgf, others = (part and part.map(part.features.map(lambda x: x.detach().to(dtype))) for part in parts)
        assert nrgf is not None
        for _ in range(self.steps):
            loss = lambda network: self._loss(network, nrgf, others)[0]
            self.adam.step(self.discriminator, loss, self.lr_factor * progress.lr)

    def remark(self, figures: Mapping[str, float]) -> str | None:
        return remark(self.names, figures)

    def _loss(self, network: Network, nrgf: Examples, others: Examples | None) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of the discriminator, and its logits of the NRGF."""
        examples = nrgf if others is None else Examples.join([nrgf, others])
        logits = self._logits(network, examples)
        return examples.mean(_cross_entropy(logits, examples.answer)), logits[: len(nrgf.answer)]

    def _logits(self, network: Network, examples: Examples) -> Tensor:
        features = examples.features
        return network(standardized(features) if self.standardize else features)

    def _figures(
        self, logits: Tensor, nrgf: Examples, out: Outputs, views: Mapping[str, Outputs]
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            figures = {**_read(logits, nrgf), "chance": nrgf.chance()}
            if self.read_specific:
                mf = self.specific(out, views)
                own = _read(self._logits(self.discriminator, mf), mf)
                figures |= {f"mf_{name}": value for name, value in own.items()}
        return figures


class ModalityAdversary(_Adversary):
    """L_adv-1: no one shall tell from the NRGF which modality it came from (paper, equation 6).

    The discriminator D1 names the modality of a feature. It reads the NRGF through a gradient reversal layer and, if
    `pinned`, the MFs as they are; equation 6 maximises over the NRGF extractor only, so the MFs are detached. The loss
    is the mean cross-entropy over both kinds of feature.

    The paper explains the NRGF to D1 by one extra MLP for each modality. Where these stand behind the reversal they
    serve D1, which then reads which of them a feature came through: it wins without looking at the NRGF.

    Args:
        context: What mmrobust provides.
        discriminator: The network D1.
        explain: Where the extra MLPs stand: `before` the reversal, on the extractor's side; `after` it, on D1's; or
            `none`.
        explain_reads: What each of them reads: its `own` modality's NRGF, or `all` modalities' at the same step.
        pinned: Whether D1 learns from the MFs too.
        train_specific: Whether the specific extractor receives D1's gradient.
        unit: What D1 reads at once: all steps of a `sample`, or each real `step` alone.
        standardize: Whether what D1 reads is standardised over the batch.
        aim: `reverse` D1's gradient, as the paper, or `confuse` D1: the cross-entropy towards equal chances.
        grl: Strength of the gradient reversal.
        schedule: `constant`, or `ramp` from 0 as in Ganin & Lempitsky (2015).
        reach: How far the reversed gradient goes: through `all` the model, or to the `extractor` of the NRGF alone; it
            is then, where the discriminator has steps of its own, at most as long as that of the other objectives.
        steps: Steps of Adam that D1 makes by itself for each of the model's; 0 for one step of the model's optimizer.
        lr_factor: Learning rate of these steps over that of the model.

    Raises:
        OptionError: There is no generic extractor, its streams are not the modalities, widths differ, or options
            exclude each other.
    """

    minimum = 2
    names = "the modality"

    def __init__(
        self,
        context: Context,
        *,
        discriminator: Part[Discriminator] = Part("linear"),  # noqa: B008 (frozen)
        explain: Literal["before", "after", "none"] = "none",
        explain_reads: Literal["own", "all"] = "own",
        pinned: bool = True,
        train_specific: bool = False,
        unit: Unit = "sample",
        standardize: bool = False,
        aim: Literal["reverse", "confuse"] = "reverse",
        grl: float = 1.0,
        schedule: Schedule = "constant",
        reach: Literal["all", "extractor"] = "all",
        steps: int = 0,
        lr_factor: float = 1.0,
    ) -> None:
        shapes = dict(context.generic)
        if set(context.specific) == set(context.modalities) and pinned:
            shapes |= {f"specific {m}": shape for m, shape in context.specific.items()}
        shape = common_shape(context, shapes)
        if explain == "after" and aim == "confuse":
            raise OptionError("aim", "confuse has nothing to do with explaining MLPs on D1's side; set explain: none")
        super().__init__(
            context,
            discriminator,
            shape,
            len(context.modalities),
            unit=unit,
            standardize=standardize,
            aim=aim,
            grl=grl,
            schedule=schedule,
            reach=reach,
            steps=steps,
            lr_factor=lr_factor,
        )
        self.pinned, self.train_specific = pinned and self.read_specific, train_specific
        self.position, self.reads_all = explain, explain_reads == "all"
        self.limited = self.limited and explain == "none"  # the explaining MLPs learn with the model
        explained = () if explain == "none" else self.modalities
        read = shape.width * (len(self.modalities) if self.reads_all else 1)
        self.explain = nn.ModuleDict({m: mlp(read, shape.width, shape.width) for m in explained})
        if explain == "after":
            self.caution = (
                "with explain: after, D1 can win without looking: it reads which of the explaining MLPs a feature came "
                "through (explain: none hides the modality)"
            )

    def generic(self, out: Outputs, views: Mapping[str, Outputs], gate: Gate) -> Examples:
        streams = {m: out.generic[m] for m in self.modalities}
        if self.position == "before":
            streams = self._explained(streams)
        streams = {m: stream.map(gate) for m, stream in streams.items()}
        return modality_examples(self._explained(streams) if self.position == "after" else streams, self.unit)

    def _explained(self, streams: Streams) -> Streams:
        """The NRGF of each modality through its explaining MLP, `{m: b t_m d}`."""
        if not self.reads_all:
            return {m: stream.map(self.explain[m]) for m, stream in streams.items()}
        length = max(stream.x.shape[1] for stream in streams.values())
        x = torch.cat([F.pad(s.zeroed().x, (0, 0, 0, length - s.x.shape[1])) for s in streams.values()], -1)
        return {m: replace(s, x=self.explain[m](x[:, : s.x.shape[1]])) for m, s in streams.items()}

    def specific(self, out: Outputs, views: Mapping[str, Outputs]) -> Examples:
        return modality_examples({m: out.specific[m] for m in self.modalities}, self.unit)

    def learned(self, out: Outputs, views: Mapping[str, Outputs]) -> Examples | None:
        if not self.pinned:
            return None
        streams = {m: out.specific[m] for m in self.modalities}
        return modality_examples(streams if self.train_specific else detached(streams), self.unit)


class NoiseAdversary(_Adversary):
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
        negatives: Name of a view whose NRGF are further examples of `each`; it must be in the recipe.
        unit: What D2 reads at once: all steps of a `sample`, or each real `step` alone, which is erased or not.
        standardize: Whether what D2 reads is standardised over the batch.
        aim: `reverse` D2's gradient, as the paper, or `confuse` D2: the cross-entropy towards equal chances.
        grl: Strength of the gradient reversal.
        schedule: `constant`, or `ramp` from 0 as in Ganin & Lempitsky (2015).
        reach: How far the reversed gradient goes: through `all` the model, or to the `extractor` of the NRGF alone; it
            is then, where the discriminator has steps of its own, at most as long as that of the other objectives.
        steps: Steps of Adam that D2 makes by itself for each of the model's; 0 for one step of the model's optimizer.
        lr_factor: Learning rate of these steps over that of the model.

    Raises:
        OptionError: There is no generic extractor, its streams are not the modalities, widths differ, or options
            exclude each other.
    """

    names = "the noise"

    def __init__(
        self,
        context: Context,
        *,
        discriminator: Part[Discriminator] = Part("linear"),  # noqa: B008 (frozen)
        target: Literal["each", "which"] = "each",
        negatives: str | None = None,
        unit: Unit = "sample",
        standardize: bool = False,
        aim: Literal["reverse", "confuse"] = "reverse",
        grl: float = 1.0,
        schedule: Schedule = "constant",
        reach: Literal["all", "extractor"] = "all",
        steps: int = 0,
        lr_factor: float = 1.0,
    ) -> None:
        if target == "which" and (negatives or unit == "step"):
            option = "negatives" if negatives else "unit"
            raise OptionError(option, f"only target 'each' has {'negatives' if negatives else 'single steps'}")
        shape = common_shape(context, context.generic)
        each = target == "each"
        super().__init__(
            context,
            discriminator,
            shape if each else Shape(shape.width * len(context.modalities), shape.length),
            1 if each else len(context.modalities),
            unit=unit,
            standardize=standardize,
            aim=aim,
            grl=grl,
            schedule=schedule,
            reach=reach,
            steps=steps,
            lr_factor=lr_factor,
        )
        self.each, self.negatives = each, negatives
        self.reads = (negatives,) if negatives else ()

    def generic(self, out: Outputs, views: Mapping[str, Outputs], gate: Gate) -> Examples:
        side = lambda view: {m: view.generic[m].map(gate) for m in self.modalities}
        examples = self._examples(side(out), erased_of(out))
        if not self.negatives:
            return examples
        other = views[self.negatives]
        return Examples.join([examples, self._examples(side(other), erased_of(other))])

    def specific(self, out: Outputs, views: Mapping[str, Outputs]) -> Examples:
        return self._examples({m: out.specific[m] for m in self.modalities}, erased_of(out))

    def _examples(self, streams: Streams, erased: Mapping[str, Tensor]) -> Examples:
        if self.each:
            return noise_examples(streams, {m: erased[m] for m in self.modalities}, self.unit)
        return which_examples(streams, {m: erased[m] for m in self.modalities})


def _cross_entropy(logits: Tensor, answer: Tensor) -> Tensor:
    """Of each example, `n`; one logit `n 1` is that of the answer 1, otherwise each answer has one."""
    if logits.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], answer.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, answer, reduction="none")


def _to_uniform(logits: Tensor) -> Tensor:
    """The cross-entropy of each example towards equal chances for every answer, `n`."""
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    return -logits.log_softmax(-1).mean(-1)


def _read(logits: Tensor, examples: Examples) -> dict[str, Tensor]:
    """How well a discriminator does on some examples."""
    named = (logits[:, 0] > 0).to(torch.int64) if logits.shape[-1] == 1 else logits.argmax(-1)
    right = (named == examples.answer).to(logits.dtype)
    return {
        "accuracy": examples.mean(right),
        "cross_entropy": examples.mean(_cross_entropy(logits, examples.answer)),
    }
