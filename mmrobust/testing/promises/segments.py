"""Rule: a fusion that joins modalities says which step belongs to whom."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmrobust.contracts import Fusion, Shape
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward
from mmrobust.testing.failures import Failed, NotApplicable
from mmrobust.testing.inputs import mapped
from mmrobust.testing.subject import Subject


@check(Fusion)
def check_segments(subject: Subject) -> None:
    """A stream that joins several ones carries `segments`, as declared, which say which step came from which.

    Heads that pool each modality on its own and figures of the attention go by them.
    """
    module, inputs = subject.ready()
    fused, shape = forward(subject, module, inputs)["fused"], module.shape
    lengths, most = (dict(of.segments) for of in (fused, shape))
    if list(lengths) != list(most):
        raise Failed(f"segments {list(most)}, as self.shape declares", f"{list(lengths)}")
    if not lengths:
        _refuse_a_join(subject, shape)
        raise NotApplicable("it joins no streams")
    if sum(lengths.values()) != fused.x.shape[1]:
        raise Failed(f"segments as long as the stream, {fused.x.shape[1]} steps", f"{lengths}")
    for name, length in lengths.items():
        if length > most[name]:
            raise Failed(f"at most {most[name]} steps of '{name}', as declared", f"{length}")
        gone = mapped(inputs, lambda key, s, name=name: replace(s, mask=s.mask & (key != name)))
        after = forward(subject, module, gone)["fused"].parts()
        for other, part in fused.parts().items():
            if other != name and not torch.equal(part.mask, after[other].mask):
                raise Failed(f"masking '{name}' masks steps of its own segment alone", f"it masks steps of '{other}'")


def _refuse_a_join(subject: Subject, shape: Shape) -> None:
    """Fails if a stream without segments is as long as several of those that came in are together."""
    context = subject.context(subject.base)
    generic, specific = list(context.generic.values()), list(context.specific.values())
    for shapes in (generic, specific, generic + specific):
        if len(shapes) > 1 and shape.length == sum(one.length for one in shapes):
            raise Failed(
                "segments, for it is as long as several streams together (Stream.join and Shape.join set them)", "none"
            )
