"""Rule: an objective's loss is one finite number that trains the model, and its memory changes in `update` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmrobust import registry
from mmrobust.contracts import Objective
from mmrobust.testing.check import check
from mmrobust.testing.comparing import far, quiet_random, same, tensors, training
from mmrobust.testing.failures import Failed, NotApplicable, expecting
from mmrobust.testing.subject import Subject
from mmrobust.testing.surroundings import Inputs


def update(subject: Subject, module: Any, inputs: Inputs) -> None:
    """Takes two steps in one epoch and one in each of two more, as memory sees them."""
    given = subject.arguments(module, inputs)
    with quiet_random(1), torch.no_grad():
        for epoch in (0, 0, 1, 2):
            now = {**given, "progress": replace(given["progress"], epoch=epoch)}
            module(*now.values())
            module.update(*now.values())


@check(Objective)
def check_objective_loss(subject: Subject) -> None:
    """The loss and each figure are one finite number, with nothing, with something and with everything erased.

    Rates are drawn from 0 on, so a batch in which nothing is erased comes up sooner or later, and one NaN ends the
    run.
    """
    module, inputs = subject.ready()
    for share, erased in ((None, "a mixture"), (0.0, "nothing"), (1.0, "everything")):
        loss, figures = _result(module, subject.arguments(module, inputs, share=share))
        if set(figures) != set(module.figures):
            raise Failed(f"the figures {', '.join(module.figures) or 'none'}", f"{', '.join(figures) or 'none'}")
        for name, value in figures.items():
            if value.ndim or not value.isfinite():
                raise Failed(f"a finite figure '{name}' of shape () where {erased} is erased", f"{value}")
        if loss.ndim or not loss.isfinite():
            came = f"a tensor of shape {tuple(loss.shape)}" if loss.ndim else f"{loss.item()}"
            raise Failed(f"a finite loss of shape () where {erased} is erased", came)


@check(Objective)
def check_objective_reaches(subject: Subject) -> None:
    """The loss has a gradient for something that the model computes.

    An objective that trains nothing but itself does not change the model: its ablation shows no effect, and it is
    hard to see why.
    """
    module, inputs = subject.ready()
    update(subject, module, inputs)
    given = subject.arguments(module, inputs)
    out = given["out"]
    values = {"prediction": out.prediction, "fused": out.fused.x}
    for stage in ("encoded", "generic", "specific"):
        values |= {f"{stage} '{key}'": stream.x for key, stream in getattr(out, stage).items()}
    values = {name: value for name, value in values.items() if value.requires_grad}
    loss, _ = _result(module, given)
    gradients = torch.autograd.grad(loss, list(values.values()), allow_unused=True) if loss.requires_grad else []
    if not any(g is not None and g.any() for g in gradients):
        raise Failed(f"a gradient for one of {', '.join(values)}", "none")


@check(Objective)
def check_objective_update(subject: Subject) -> None:
    """`update` changes no parameter that the optimizer moves, nothing that the model computed; it keeps no graph.

    It runs between backward and the optimizer's step. A changed parameter would be stepped with a gradient of another
    point; a kept graph fills the memory over an epoch.
    """
    module, inputs = subject.ready()
    parameters = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    names = set(module.state_dict())
    given = subject.arguments(module, inputs)
    before = tensors(given)
    with quiet_random(1):
        module(*given.values())
        with expecting("update runs after a forward pass"), torch.no_grad():
            module.update(*given.values())
    now = dict(module.named_parameters())
    for name, parameter in ((name, now[name]) for name in parameters):
        if not torch.equal(parameters[name], parameter):
            raise Failed("update changes no parameter", f"'{name}' has changed")
    for name, value in tensors(given).items():
        if not same(before[name], value):
            raise Failed("update leaves what the model computed as it was", f"{name} has changed")
    if set(module.state_dict()) != names:
        raise Failed("the state_dict keeps its keys", f"{', '.join(sorted(set(module.state_dict()) ^ names))}")
    for name, buffer in module.named_buffers():
        if buffer.requires_grad:
            raise Failed("memory without a graph", f"buffer '{name}' requires a gradient")


@check(Objective)
def check_gradient_reversal(subject: Subject) -> None:
    """An objective with an option `grl` hands back exactly -grl times the gradient of its loss to the generic features.

    With the sign or the factor wrong, the extractor helps the adversary instead of deceiving it, and all that shows is
    a somewhat lower score. The true gradient is measured by finite differences.
    """
    subject.ready()
    if "grl" not in registry.options_of(subject.spec):
        raise NotApplicable("it has no option 'grl'")
    if subject.options.get("schedule", "constant") != "constant":
        raise NotApplicable("its strength follows a schedule")
    if subject.options.get("aim", "reverse") != "reverse":
        raise NotApplicable("its aim is not to reverse a gradient")
    whole, quarter = _reversed(subject, 1.0), _reversed(subject, 0.25)
    for one, other in zip(whole, quarter, strict=True):
        gap = far(0.25 * one, other, 1e-6)
        if gap:
            raise Failed("with grl = 0.25 exactly a quarter of the gradient with grl = 1", f"it differs by {gap}")


def _reversed(subject: Subject, strength: float) -> list[Tensor]:
    """The gradients that arrive at the generic features.

    Raises:
        Failed: They are not `-strength` times the true ones.
    """
    subject = subject.having({"grl": strength})
    module = training(subject, subject.build(), subject.inputs())
    given = subject.arguments(module, subject.inputs())
    out = given["out"]
    leaves = [stream.x.detach().requires_grad_() for stream in out.generic.values()]

    def loss(values: list[Tensor]) -> Tensor:
        generic = {key: replace(s, x=x) for (key, s), x in zip(out.generic.items(), values, strict=True)}
        changed = replace(out, generic=generic)
        return _result(module, {**given, "out": changed, "views": {**given["views"], "here": changed}})[0]

    gradients = torch.autograd.grad(loss(leaves), leaves, allow_unused=True)
    arrived = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, gradients, strict=True)]
    size = torch.stack([g.norm() for g in arrived]).norm().item()
    if not size:
        raise Failed("a gradient for the generic features", "none")
    step = 0.05 / size  # along the gradient itself, where the difference is largest and rounding disturbs it least
    with torch.no_grad():
        up, down = (loss([x + way * step * g for x, g in zip(leaves, arrived, strict=True)]).item() for way in (1, -1))
    slope = (up - down) / (2 * step) / size**2  # the true gradient over the one that arrived
    if abs(slope * strength + 1) > 0.05:
        raise Failed(f"-{strength:g} times the true gradient with grl = {strength:g}", f"{1 / slope:.3g} times")
    return arrived


def _result(module: Any, given: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of an objective and its figures."""
    result = module(*given.values())
    return result if isinstance(result, tuple) else (result, {})
