"""Rule: every parameter is trained, and what is learned is saved."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from mmrobust.contracts import Component
from mmrobust.testing.check import check
from mmrobust.testing.comparing import forward, quiet_random, require_finite, require_same, run, training
from mmrobust.testing.failures import Failed, expecting
from mmrobust.testing.inputs import gaps
from mmrobust.testing.promises.objective import update
from mmrobust.testing.subject import Subject


@check(Component)
def check_gradients(subject: Subject) -> None:
    """Every parameter receives a gradient, and so does something that came in.

    A parameter without one is never trained: a layer that was built and forgotten, or a `detach()` too many. The run
    looks well and the score is that of another model.
    """
    module, inputs = subject.ready()
    training(subject, module, inputs)
    if subject.kind == "objective":
        update(subject, module, inputs)  # memory that starts at zero may hide something, too
    with torch.no_grad(), quiet_random(11):
        for parameter in module.parameters():
            if not parameter.any():  # a zero initialisation may hide what lies before it, until the first step
                parameter.add_(0.05 * torch.randn_like(parameter))
    require_finite("finite gradients", run(subject, module, inputs))
    alive: set[str] = set()
    dead: list[str] = []
    for given in (inputs, *gaps(inputs)):
        gradients = run(subject, module, given).gradients
        alive |= {name for name, gradient in gradients.items() if gradient.any()}
        dead = [n for n, p in module.named_parameters() if p.requires_grad and f"parameter '{n}'" not in alive]
        if not dead:
            break
    if dead:
        raise Failed("a gradient for every parameter", f"none for {', '.join(map(repr, dead))}")
    reaches = any(not name.startswith("parameter") for name in alive)
    if subject.kind != "objective" and not reaches and subject.call(module, inputs):
        raise Failed("a gradient for at least one input", "none: training stops here")


@check(Component)
def check_state(subject: Subject) -> None:
    """The state_dict goes through safetensors and gives the same output in a fresh component.

    Checkpoints are safetensors. What is not in the state_dict (a random tensor kept as a plain attribute, say) is
    lost on saving: the evaluation of a loaded checkpoint then scores like an untrained model.
    """
    module, inputs = subject.ready()
    if subject.kind == "objective":
        update(subject, module, inputs)
    with torch.no_grad(), quiet_random(5):
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # as training would
    with expecting("a state_dict of separate tensors that safetensors can hold"):
        stored = save({name: value.contiguous() for name, value in module.state_dict().items()})
    fresh = subject.build(seed=9).eval()
    with expecting("a fresh component takes the state_dict"):
        fresh.load_state_dict(load(stored))
    expected = "the same output after saving and loading; is there a tensor that is not in the state_dict?"
    require_same(expected, forward(subject, module, inputs), forward(subject, fresh, inputs))
