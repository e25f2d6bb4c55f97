"""Several seeds as one model: their weights are stacked, and one pass computes the losses of all.

What each seed gives is what it gives alone, but for the order in which floats are added; dropout draws from one stream
for all, so that it has the same distribution as alone, not the same bits.

While a stack lives, the parameters and buffers of the seeds' own modules are views of it, so that a seed is validated
and saved as if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from mmrobust.contracts import Batch, Component, Outputs, Progress

__all__ = ["Stacked", "refusal", "unvmappable"]

Views = Mapping[str, Batch]


class Stacked:
    """Several seeds of one recipe as one: what `mmrobust.training.step` calls a `Trainable`.

    Args:
        modules: One for each seed; each maps `(views, progress)` to a loss, the values to report `1 n`, and outputs.
    """

    leading = 1
    # Measured with torch 2.15: traced under vmap, an autograd function's own backward is silently left out.
    uncompilable = "torch.compile would lose the gradient reversal of stacked seeds"

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules = list(modules)
        self.seeds = len(self.modules)
        self.losses, self.memories = modules[0].losses, modules[0].memories
        self.adversaries = modules[0].adversaries
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        for name, own in _tensors(modules, nn.Module.named_parameters).items():
            stacked = torch.stack([p.detach() for p in own])
            self.parameters[name] = nn.Parameter(stacked, requires_grad=own[0].requires_grad)
            for p, view in zip(own, stacked, strict=True):
                p.data, p.grad = view, None
        for name, own in _tensors(modules, nn.Module.named_buffers).items():
            self.buffers[name] = torch.stack(own)
        for number, module in enumerate(self.modules):
            for owner, leaf, name in _buffers(module):
                owner._buffers[leaf] = self.buffers[name][number]

    def __call__(
        self, views: Views, progress: Progress
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Outputs]]:
        """The sum of the seeds' losses, the values of each `k n`, the sums of adversaries' losses, the outputs `k ...`.

        Args:
            views: Those of the seeds, stacked: `k b ...`.
            progress: How far training has come.
        """

        def one(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], views: Views) -> Any:
            return functional_call(self.modules[0], {**parameters, **buffers}, (views, progress))

        run = vmap(one, randomness="different")
        total, values, opposing, outputs = run(self.parameters, self.buffers, dict(views))
        opposing = {key: loss.sum() for key, loss in opposing.items()}
        return total.sum(), values.flatten(0, 1), opposing, outputs  # no seed's loss depends on another's weights

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The stacked parameters, `k ...`, by name."""
        return iter(self.parameters.items())

    def train(self) -> None:
        """Puts every seed into training mode."""
        for module in self.modules:
            module.train()

    def gather(self, drawn: Sequence[Views]) -> Views:
        """The views of several seeds as one, `k b ...`. What views share is stacked once."""
        known: dict[tuple[int, ...], Tensor] = {}

        def stack(*leaves: Tensor) -> Tensor:
            key = tuple(map(id, leaves))
            if key not in known:
                known[key] = torch.stack(leaves)
            return known[key]

        return pytree.tree_map(stack, dict(drawn[0]), *map(dict, drawn[1:]))

    def remember(self, outputs: dict[str, Outputs], progress: Progress) -> None:
        """Lets the objectives of each seed change their memories."""
        for number, module in enumerate(self.modules):
            module.remember(pytree.tree_map(lambda x, at=number: x[at], outputs), progress)
            for owner, leaf, name in _buffers(module):
                own, stacked = owner._buffers[leaf], self.buffers[name][number]
                if own is not None and own.data_ptr() != stacked.data_ptr():  # a new tensor, not the old one changed
                    stacked.copy_(own)
                    owner._buffers[leaf] = stacked

    def norms(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of each seed's gradient, `k`."""
        parts = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
        return torch.linalg.vector_norm(parts, dim=0)

    def shorten(self, gradients: Sequence[Tensor], norms: Tensor, at: float | Tensor) -> None:
        """Scales the gradients, in place, of each seed whose norm is larger than `at`, a number or `k`."""
        share = (at / (norms + 1e-6)).clamp(max=1)
        for g in gradients:
            g.mul_(share.view(-1, *[1] * (g.dim() - 1)))

    def join(self, own: Sequence[Tensor]) -> Tensor:
        """One tensor of each seed as one, `k ...`."""
        return torch.stack(list(own))

    def split(self, tensor: Tensor) -> Sequence[Tensor]:
        """Each seed's share of a tensor `k ...`, without a copy."""
        return list(tensor)

    def release(self) -> None:
        """Gives every seed memory of its own again."""
        for module in self.modules:
            for p in module.parameters():
                p.data = p.data.clone()
            for owner, leaf, _ in _buffers(module):
                owner._buffers[leaf] = owner._buffers[leaf].clone()  # type: ignore[union-attr]


def unvmappable(part: nn.Module) -> str | None:
    """Which component in a module does not promise to run under vmap; None where all do."""
    culprit = next((m for m in part.modules() if isinstance(m, Component) and not m.vmappable), None)
    if culprit is None:
        return None
    declares = next(cls for cls in type(culprit).__mro__ if "vmappable" in vars(cls))
    return f"{declares.__name__} declares vmappable = False"


def refusal(modules: Sequence[Any], views: Sequence[Views], progress: Progress) -> Exception | None:
    """What goes wrong where these modules are stacked, tried on a few samples; nothing is changed by it.

    Args:
        modules: As `Stacked` takes them.
        views: Some drawn views for each.
        progress: How far training has come.
    """
    stack = Stacked(modules)
    try:
        total, _, _, _ = stack(stack.gather(views), progress)
        torch.autograd.grad(total, list(stack.parameters.values()), allow_unused=True)
    except Exception as error:  # a part of anyone's, doing anything
        return error
    finally:
        stack.release()
    return None


def _tensors(modules: Sequence[nn.Module], names: Callable[..., Iterator[tuple[str, Any]]]) -> dict[str, list[Any]]:
    """The same parameter or buffer of each module, by name."""
    each = [dict(names(module)) for module in modules]
    return {name: [own[name] for own in each] for name in each[0]}


def _buffers(module: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """Where each buffer lives: its module, its name there, and its whole name; one that is shared stands there once."""
    owners = dict(module.named_modules())
    places = []
    for name, _ in module.named_buffers():
        path, _, leaf = name.rpartition(".")
        places.append((owners[path], leaf, name))
    return places
