"""Passes through a component, and by how much two of them differ."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmrobust.contracts import Streams
from mmrobust.testing.failures import Failed
from mmrobust.testing.surroundings import Inputs, Surroundings

if TYPE_CHECKING:
    from mmrobust.testing.subject import Subject


@dataclass
class Pass:
    """One pass forward and backward.

    Attributes:
        out: The output.
        gradients: Of every parameter, and of every input at its real steps.
    """

    out: Streams
    gradients: dict[str, Tensor]


@contextmanager
def quiet_random(seed: int) -> Iterator[None]:
    """Seeds torch's global random state inside the block and restores it after; warnings are not shown."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def forward(subject: Subject, module: Any, inputs: Inputs) -> Streams:
    """The output of one pass without gradients."""
    with torch.no_grad(), quiet_random(3):
        return subject.call(module, inputs)


def run(subject: Subject, module: Any, inputs: Inputs, around: Surroundings | None = None) -> Pass:
    """One pass forward and, where the component is trained, backward; the module's own gradients stay as they are."""
    trained = subject.kind != "noise"
    leaves = {
        (group, key): s.x.clone().requires_grad_(trained)
        for group, streams in inputs.items()
        for key, s in streams.items()
    }
    given = {
        group: {key: replace(s, x=leaves[group, key]) for key, s in streams.items()}
        for group, streams in inputs.items()
    }
    with quiet_random(3):
        out = subject.call(module, given, around)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad} if trained else {}
    wanted = [*leaves.values(), *parameters.values()]
    loss = score(out)
    values = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    gradients = {}
    for ((group, key), _), gradient in zip(leaves.items(), values, strict=False):
        if gradient is not None:
            gradients[f"{group} '{key}'"] = gradient[inputs[group][key].mask]
    for name, gradient in zip(parameters, values[len(leaves) :], strict=True):
        if gradient is not None:
            gradients[f"parameter '{name}'"] = gradient
    return Pass({key: replace(s, x=s.x.detach()) for key, s in out.items()}, gradients)


def score(out: Streams) -> Tensor:
    """A number that depends on every real value of every stream, each with its own weight, never on padding."""
    total = torch.zeros(())
    for key in sorted(out):
        real = out[key].x[out[key].mask]
        weights = torch.randn(real.shape, generator=torch.Generator().manual_seed(len(key)))
        total = total + (real * weights).sum()
    return total


def training(subject: Subject, module: Any, inputs: Inputs) -> Any:
    """Training mode without dropout, so that passes can be compared; evaluation mode if they are still random."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0  # nn.LSTM, nn.MultiheadAttention
    with torch.no_grad():
        with quiet_random(1):
            first = subject.call(module, inputs)
        with quiet_random(2):
            second = subject.call(module, inputs)
    return module.eval() if difference(first, second) else module


def difference(a: Streams, b: Streams, tolerance: float = 1e-4) -> str:
    """Where two outputs differ at real steps; empty if nowhere."""
    if set(a) != set(b):
        return f"streams {', '.join(map(repr, a))} and then {', '.join(map(repr, b))}"
    for key in a:
        if not torch.equal(a[key].mask.sum(1), b[key].mask.sum(1)):
            return f"'{key}' has {a[key].mask.sum(1).tolist()} real steps and then {b[key].mask.sum(1).tolist()}"
        gap = far(a[key].x[a[key].mask], b[key].x[b[key].mask], tolerance)
        if gap:
            return f"'{key}' differs by {gap}"
    return ""


def gradient_difference(a: Pass, b: Pass) -> str:
    """Where the gradients of the first pass and those of the second differ; empty if nowhere."""
    for name, gradient in a.gradients.items():
        if name not in b.gradients:
            return f"the gradient of {name} is gone"
        gap = far(gradient, b.gradients[name])
        if gap:
            return f"the gradient of {name} differs by {gap}"
    return ""


def require_same(expected: str, a: Pass | Streams, b: Pass | Streams) -> None:
    """Fails unless two outputs, or two passes with their gradients, are the same."""
    if isinstance(a, Pass) and isinstance(b, Pass):
        gap = difference(a.out, b.out) or gradient_difference(a, b)
    else:
        assert isinstance(a, dict) and isinstance(b, dict)
        gap = difference(a, b)
    if gap:
        raise Failed(expected, gap)


def require_finite(expected: str, passed: Pass) -> None:
    """Fails unless every gradient of a pass is finite."""
    for name, gradient in passed.gradients.items():
        if not gradient.isfinite().all():
            raise Failed(expected, f"NaN or infinity in the gradient of {name}")


def far(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> str:
    """By how much two tensors differ, relative to their size; empty where they are as good as equal."""
    if a.shape != b.shape:
        return f"shape: {tuple(a.shape)} and then {tuple(b.shape)}"
    if not a.numel():
        return ""
    if not b.isfinite().all():
        return "NaN or infinity"
    gap = (a - b).abs().max().item()
    size = a.abs().max().item()
    return f"up to {gap:.2g} (values reach {size:.2g})" if gap > tolerance * size + 1e-6 else ""


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers, NaN where the other has NaN."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def tensors(tree: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor in dicts and dataclasses (streams, batches, outputs), copied, by its path."""
    if isinstance(tree, Tensor):
        return {path: tree.detach().clone()}
    items = tree if isinstance(tree, dict) else vars(tree) if hasattr(tree, "__dataclass_fields__") else {}
    copies: dict[str, Tensor] = {}
    for name, value in items.items():
        copies |= tensors(value, f"{path}.{name}".lstrip("."))
    return copies
