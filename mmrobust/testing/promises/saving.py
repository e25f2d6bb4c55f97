"""Rule: what a component has learned is in its state_dict."""

from __future__ import annotations

import torch
from safetensors.torch import load, save

from mmrobust.contracts import Component
from mmrobust.testing.check import check
from mmrobust.testing.comparing import difference, forward, quiet_random
from mmrobust.testing.failures import Failed, explained
from mmrobust.testing.promises.objective import update
from mmrobust.testing.subject import Subject


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
    try:
        stored = save({name: value.contiguous() for name, value in module.state_dict().items()})
    except Exception as error:
        raise Failed("a state_dict of separate tensors that safetensors can hold", explained(error)) from error
    fresh = subject.build(seed=9).eval()
    try:
        fresh.load_state_dict(load(stored))
    except Exception as error:
        raise Failed("a fresh component takes the state_dict", explained(error)) from error
    gap = difference(forward(subject, module, inputs), forward(subject, fresh, inputs))
    if gap:
        raise Failed("the same output after saving and loading", gap + "; is there a tensor that is not in the state?")
