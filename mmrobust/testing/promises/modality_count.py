"""Promises `minimum` and `maximum`: how many modalities there may be; and their order, which changes nothing."""

from __future__ import annotations

from dataclasses import replace

from mmrobust.contracts import Component, Noise
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward, require_same
from mmrobust.testing.failures import NotApplicable, expecting
from mmrobust.testing.outputs import check_streams
from mmrobust.testing.subject import Subject, evaluated


@check(Component, Noise)
def check_modality_counts(subject: Subject) -> None:
    """One, two, three and four modalities work, or `minimum` and `maximum` say which do.

    RML has two modalities and an ablation over modalities has one; a component that takes three for granted has to
    say so before the data is read.
    """
    subject.ready()
    low, high = subject.counts
    for count in [n for n in (1, 2, 3, 4) if low <= n <= high]:
        around = replace(subject.base, modalities=count)
        promised = f"minimum = {low} and maximum = {getattr(subject.cls, 'maximum', None)}"
        with expecting(f"{count} modalities work, as {promised} say"):
            module = evaluated(subject.build(around))
            check_streams(subject.kind, subject.call(module, subject.inputs(around), around), around, count=6)


@check(Component, Noise)
def check_modality_order(subject: Subject) -> None:
    """The order of the modalities' dict changes nothing.

    A component that goes by the dict's order gives other numbers when somebody lists the modalities differently, or
    loads a checkpoint beside a file with another order. Go by the keys that the context names.
    """
    module, inputs = subject.ready()
    if all(len(streams) < 2 for streams in inputs.values()):
        raise NotApplicable("there is only one stream")
    turned = {group: dict(reversed(streams.items())) for group, streams in inputs.items()}
    expected = "the same output for dicts in any order"
    with expecting(expected):
        after = forward(subject, module, turned)
    require_same(expected, forward(subject, module, inputs), after)
