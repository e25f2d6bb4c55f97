"""Rule: a forward pass returns and notes what was declared, for one sample as for many, of any length."""

from __future__ import annotations

import torch

from mmrobust.contracts import Component, Encoder, Fusion, GenericExtractor, Noise, Shape, SpecificExtractor
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward
from mmrobust.testing.failures import Failed, NotApplicable, expecting
from mmrobust.testing.inputs import first, mapped
from mmrobust.testing.outputs import check_streams
from mmrobust.testing.subject import Subject, evaluated


@check(Component, Noise)
def check_output(subject: Subject) -> None:
    """What it returns has the shapes that it declares (a noise: those of the batch that went in), and is finite.

    The next part is built from the declared shapes; where they are wrong, a recipe that combines this component with
    another one fails far from the cause.
    """
    module = evaluated(subject.build())
    if subject.trouble is not None:
        raise subject.trouble
    if isinstance(module, Noise):
        return  # compared with the batch in every call
    out, declared = forward(subject, module, subject.inputs()), _declared(subject, module)
    if set(out) != set(declared):
        raise Failed(f"streams {', '.join(declared) or 'none'}, as declared", f"{', '.join(out) or 'none'}")
    for key, shape in declared.items():
        width, steps = out[key].x.shape[2], out[key].x.shape[1]
        if width != shape.width or steps > shape.length:
            raise Failed(
                f"'{key}' is {shape.width} wide and at most {shape.length} steps long, as declared",
                f"{width} wide and {steps} steps long",
            )


def _declared(subject: Subject, module: Component) -> dict[str, Shape]:
    """The shapes that a component declares, by the names of its streams."""
    match subject.kind:
        case "objective":
            return {"loss": Shape(1, 1)}
        case "head" | "discriminator":
            return {"output": Shape(subject.context(subject.base).outputs or 0, 1)}
        case "fusion":
            shape = getattr(module, "shape", None)
            if not isinstance(shape, Shape):
                raise Failed("self.shape, a Shape, set in __init__", repr(shape))
            return {"fused": shape}
    shapes = getattr(module, "shapes", None)
    if not isinstance(shapes, dict) or not all(isinstance(shape, Shape) for shape in shapes.values()):
        raise Failed("self.shapes, a dict of Shape, set in __init__", repr(shapes))
    if isinstance(module, Encoder) and set(shapes) != set(subject.base.names):
        raise Failed(f"streams for {', '.join(subject.base.names)}", f"self.shapes has {', '.join(shapes)}")
    return shapes


@check(Component, Noise)
def check_one_sample(subject: Subject) -> None:
    """A batch of one sample works.

    The last batch of an epoch may hold one sample, and so may a file for `mmrobust predict`; a stray `squeeze()`
    fails there, hours into a run.
    """
    module, _ = subject.ready()
    with expecting("a batch of one sample works"):
        check_streams(subject.kind, forward(subject, module, subject.inputs(count=1)), subject.base, count=1)


@check(Component)
def check_any_length(subject: Subject) -> None:
    """Any number of steps works, up to the length that the context states.

    Batches are as long as their longest sample, and a sweep leaves out what is padding in all of them.
    """
    module, inputs = subject.ready()
    for steps in (1, 2, 4):
        cut = mapped(inputs, lambda _, s, steps=steps: first(s, steps))
        with expecting(f"it works with {steps} steps"):
            check_streams(subject.kind, forward(subject, module, cut), subject.base, count=6)


@check(Encoder, GenericExtractor, SpecificExtractor, Fusion)
def check_notes(subject: Subject) -> None:
    """Each note that `writes` declares is written by every pass.

    An objective that needs it is built beside this part, and fails at the first step where it is missing.
    """
    module, inputs = subject.ready()
    if not module.writes:
        raise NotApplicable("it declares no notes")
    given = subject.arguments(module, inputs)
    with torch.no_grad():
        module(*given.values())
    missing = [name for name in module.writes if name not in given["notes"]]
    if missing:
        raise Failed(f"the notes {', '.join(module.writes)}, as `writes` declares", f"no {', '.join(missing)}")
