"""Rule: a component works with whatever stands around it, or refuses with an `OptionError` that says what it needs."""

from __future__ import annotations

from dataclasses import replace

from mmrobust.contracts import Component, Fusion, Head, Noise, Objective
from mmrobust.testing.check import check
from mmrobust.testing.failures import NotApplicable
from mmrobust.testing.subject import Subject
from mmrobust.testing.surroundings import TASKS, Surroundings


@check(Component, Noise)
def check_unequal_lengths(subject: Subject) -> None:
    """Modalities of different lengths work, or are refused by an OptionError.

    Unaligned MOSI has 50, 375 and 500 steps. A component that stacks modalities has to say that it needs equal
    lengths, in words that say what to do, not with a traceback.
    """
    subject.try_in(replace(subject.base, unequal=True))


@check(Component, Noise)
def check_unequal_widths(subject: Subject) -> None:
    """Streams of different widths work, or are refused by an OptionError.

    With `encoder: none` each modality keeps its own width, and the extractors' widths are two options of a recipe.
    """
    two_sides = issubclass(subject.cls, Fusion | Objective) and subject.base.sides == "both"
    widths = ("modalities", "sides") if two_sides else ("modalities",)
    _each(subject, [replace(subject.base, widths=each) for each in widths])


@check(Fusion, Objective)
def check_one_side(subject: Subject) -> None:
    """Generic or specific features alone work, or are refused by an OptionError.

    Ablations take one extractor away (`generic_extractor: none`); the other dict is then empty.
    """
    _each(subject, [replace(subject.base, sides=side) for side in ("generic", "specific")])


@check(Fusion, Objective)
def check_other_keys(subject: Subject) -> None:
    """Generic features under a key that is no modality work, or are refused by an OptionError.

    MFM has one common factor instead of a stream for each modality; keys come from `context.generic`, not from
    `context.modalities`.
    """
    subject.try_in(replace(subject.base, sides="other"))


@check(Component)
def check_pooled(subject: Subject) -> None:
    """Streams of one step work, or are refused by an OptionError.

    Pooled features (the last state of an LSTM, one vector for a clip) are streams of one step.
    """
    subject.try_in(replace(subject.base, pooled=True))


@check(Head)
def check_joined(subject: Subject) -> None:
    """A stream with segments and one without both work, or are refused by an OptionError.

    A fusion either joins the modalities' steps, which its `segments` name, or makes other steps of them.
    """
    subject.try_in(replace(subject.base, joined=not subject.base.joined))


@check(Head, Objective)
def check_tasks(subject: Subject) -> None:
    """Regression, classification and several yes-or-no decisions work, or are refused by an OptionError.

    MOSI, RML and IEMOCAP are one of each, and one recipe is used for all of them.
    """
    _each(subject, [replace(subject.base, task=task) for task in TASKS if task != subject.base.task])


def _each(subject: Subject, variants: list[Surroundings]) -> None:
    """Tries each variant; not applicable only where all are refused."""
    refused = []
    for around in variants:
        try:
            subject.try_in(around)
        except NotApplicable as error:
            refused.append(error)
    if len(refused) == len(variants):
        raise refused[0]
