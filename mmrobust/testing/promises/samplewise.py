"""Promise `samplewise`: a sample's output does not depend on the others of its batch."""

from __future__ import annotations

from mmrobust.contracts import Discriminator, Encoder, Fusion, GenericExtractor, Head, SpecificExtractor
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward, require_same, training
from mmrobust.testing.inputs import mapped, rows
from mmrobust.testing.subject import Subject


@check(Encoder, GenericExtractor, SpecificExtractor, Fusion, Head, Discriminator, promise="samplewise")
def check_samplewise(subject: Subject) -> None:
    """A batch gives each sample what any other batch gives it.

    Views then share one forward pass; with batch statistics in it, each view would be normalised by the other's noise.
    """
    module, inputs = subject.ready()
    training(subject, module, inputs)
    whole = forward(subject, module, inputs)
    for part in (slice(0, 2), slice(2, 6)):
        alone = forward(subject, module, mapped(inputs, lambda _, s, part=part: rows(s, part)))
        require_same("the same output in a smaller batch", {key: rows(s, part) for key, s in whole.items()}, alone)
