"""Rule: a forward pass depends on its input alone, and changes nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mmrobust.contracts import Component, Noise
from mmrobust.testing.check import check
from mmrobust.testing.comparing import far, quiet_random, same, tensors
from mmrobust.testing.failures import Failed
from mmrobust.testing.subject import Subject


@check(Component, Noise)
def check_pure(subject: Subject) -> None:
    """A call changes nothing: no input, no buffer, no attribute of the component.

    Views share one forward pass or not, gradients are accumulated or not; memory that changes in `forward` counts
    differently each time, and a tensor kept on the module keeps a whole batch's graph in memory. Side values go into
    `notes`; an objective's memory changes in `update`; running statistics of torch's batch norms are exempt.
    """
    module, inputs = subject.ready()
    if isinstance(module, nn.Module):
        module.train()
    state, attributes = _state(module), _attributes(module)
    given = subject.arguments(module, inputs)
    seen = {name: value for name, value in given.items() if name != "notes"}
    before = tensors(seen)
    with quiet_random(1), torch.set_grad_enabled(subject.kind == "objective"):
        module(*given.values())
    after = tensors(seen)
    for name, value in before.items():
        if name not in after or not same(value, after[name]):
            raise Failed("the input is left as it was", f"{name} has changed")
    for name in after.keys() - before.keys():
        raise Failed("the input is left as it was", f"{name} has appeared")
    for name, value in _state(module).items():
        if not same(state[name], value):
            raise Failed("no buffer changes in forward", f"'{name}' has changed")
    for name, value in _attributes(module).items():
        if attributes.get(name) != value:
            raise Failed("no attribute of the component changes in a call", f"'{name}' has changed")


def _state(module: Any) -> dict[str, torch.Tensor]:
    """The state_dict, copied, without the running statistics of batch norms."""
    if not isinstance(module, nn.Module):
        return {}
    exempt = {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for name, _ in part.named_buffers(recurse=False)
    }
    return {name: value.clone() for name, value in module.state_dict().items() if name not in exempt}


def _attributes(module: Any) -> dict[str, object]:
    """What hangs on a component and its parts besides parameters, buffers and parts, by identity."""
    own = {"_parameters", "_buffers", "_modules", "training"}
    return {
        f"{path}.{name}".lstrip("."): (id(value), len(value) if isinstance(value, list | dict | set) else 0)
        for path, part in (module.named_modules() if isinstance(module, nn.Module) else [("", module)])
        for name, value in vars(part).items()
        if name not in own
    }


@check(Component, Noise)
def check_deterministic(subject: Subject) -> None:
    """In evaluation mode the same input (and generator) gives the same output bit for bit; no global number is drawn.

    Otherwise evaluating a checkpoint twice gives two scores, and neither can be reproduced.
    """
    module, inputs = subject.ready()
    with torch.no_grad():
        with quiet_random(1):
            first = subject.call(module, inputs)
            drawn = torch.initial_seed() != 1 or not torch.equal(
                torch.get_rng_state(), torch.Generator().manual_seed(1).get_state()
            )
        with quiet_random(2):
            second = subject.call(module, inputs)
    for key in first:
        if not torch.equal(first[key].x, second[key].x):
            gap = far(first[key].x, second[key].x, 0) or "the last bits"
            raise Failed("the same output twice", f"'{key}' differs by {gap}")
    if drawn:
        raise Failed("no number is drawn from the global random state", "it has moved on")
