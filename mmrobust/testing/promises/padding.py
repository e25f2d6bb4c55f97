"""Rule: padding and absent modalities do no harm."""

from __future__ import annotations

from mmrobust.contracts import Component, Noise
from mmrobust.testing.check import check
from mmrobust.testing.comparing import require_finite, require_same, run
from mmrobust.testing.failures import Failed, NotApplicable, expecting
from mmrobust.testing.inputs import gaps, mapped, padded
from mmrobust.testing.subject import Subject


@check(Component)
def check_padding(subject: Subject) -> None:
    """What stands in padding, NaN included, and how much of it there is changes nothing: no value, no gradient.

    Batches are padded to a common length. A component that reads padding makes the score of a sample depend on how
    long the others are. (Padding is set to zero wherever a component looks, so `x / x.norm()` there is 0 / 0: it is
    masked in the output and still turns every gradient into NaN.)
    """
    module, inputs = subject.ready()
    if all(s.mask.all() for streams in inputs.values() for s in streams.values()):
        raise NotApplicable("its streams have one step, so there is no padding")
    first = run(subject, module, inputs)
    expected = "more padding, with NaN in it, changes nothing"
    with expecting(expected):
        second = run(subject, module, mapped(inputs, lambda _, s: padded(s, s.x.shape[1] + 1)))
    require_finite("finite gradients where there is padding", first)
    require_same(expected, first, second)


@check(Component, Noise)
def check_missing_modality(subject: Subject) -> None:
    """A modality that is wholly masked, wholly erased, or missing in every sample gives finite values and gradients.

    At rate 1 every step of a modality is zero, and some clips have no face or no speech at all. One NaN from one such
    sample destroys the weights of the whole model.
    """
    module, inputs = subject.ready()
    for given in gaps(inputs):
        with expecting("samples without a modality work"):
            passed = run(subject, module, given)
        for key, stream in passed.out.items():
            if not stream.x.isfinite().all():
                raise Failed("finite output where a modality is missing", f"NaN or infinity in '{key}'")
        require_finite("finite gradients where a modality is missing", passed)
