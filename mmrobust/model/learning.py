"""Learning: the views of a batch, and the objectives that read them.

A view is a noise and the objectives that are trained on what it leaves: NORM-TR has a Type-1 view and a Type-2 view
(paper, section 3.5). Views share one forward pass where every part of the model allows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmrobust.accel.token_cache import TwoValued, two_valued
from mmrobust.contracts import Batch, Noise, Objective, Outputs, Progress, Rate, Stream, Streams
from mmrobust.model.model import Model


@dataclass(frozen=True)
class View:
    """One way to look at a batch.

    Attributes:
        noise: What is added; None for the clean batch.
        rate: How much of it.
        objectives: Names of the objectives trained on it.
    """

    noise: Noise | None
    rate: Rate
    objectives: tuple[str, ...]


class Learning(nn.Module):
    """Makes the views of a batch, runs the model on them, and adds up the weighted objectives (paper, equation 9).

    Args:
        views: By name.
        objectives: By `view.objective`.
    """

    def __init__(self, views: Mapping[str, View], objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        read = {name for objective in objectives.values() for name in objective.reads}
        # A view that nobody reads is not run.
        self.views = {name: view for name, view in views.items() if view.objectives or name in read}
        # ModuleDict keys may not hold a dot.
        self.objectives = nn.ModuleDict({key.replace(".", "/"): objective for key, objective in objectives.items()})
        self.lean = all(objective.lean for objective in objectives.values())

    def losses(
        self, model: Model, batch: Batch, generator: torch.Generator, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Outputs]]:
        """The loss of one step.

        Args:
            model: What is trained.
            batch: A clean batch; padding may hold anything.
            generator: Source of the noises, on the batch's device.
            progress: How far training has come.

        Returns:
            The weighted sum; each loss before its weight, by `view.objective`; each view's outputs.
        """
        return self.compute(model, self.draw(batch.zeroed(), generator), progress)

    @torch.no_grad()
    def draw(self, batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        """The views of a clean batch: one batch for each, with its noise in it.

        Args:
            batch: A clean batch, padding zero.
            generator: Source of the noises, on the batch's device.
        """
        outline = batch.outline()

        def noisy(view: View) -> Batch:
            if view.noise is None:
                return batch
            if not (self.lean and view.noise.constant):
                return view.noise(batch, view.rate, generator)
            # Nobody but the model looks at the features, and it may need none; see `_features`.
            return replace(view.noise(outline, view.rate, generator), features={}, clean=batch)

        return {name: noisy(view) for name, view in self.views.items()}

    def compute(
        self, model: Model, batches: Mapping[str, Batch], progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Outputs]]:
        """What `losses` returns, of views that are drawn already; nothing random but dropout is left in it."""
        tokens = self.share(model, batches)
        if isinstance(tokens, TwoValued):
            views = run_views(model, batches, tokens.lean() if self.lean else tokens)
        else:
            views = run_views(model, batches)
        parts = {}
        total = torch.zeros((), device=next(iter(batches.values())).index.device)
        for key, objective in self.named_objectives():
            parts[key] = objective(views[key.split(".")[0]], views, progress)
            total = total + objective.weight * parts[key]
        return total, parts, views

    def share(self, model: Model, batches: Mapping[str, Batch]) -> TwoValued | str:
        """The tokens from which every view can pick its own, or why they must be made anew for each.

        Args:
            model: What is trained.
            batches: What `draw` made.
        """
        if len(self.views) < 2:
            return "there is one view"
        for name, view in self.views.items():
            if view.noise is not None and not view.noise.constant:
                return f"the noise of view '{name}' does more than set steps to zero"
        first = next(iter(batches.values()))
        return two_valued(model, (first if first.clean is None else first.clean).features)

    @torch.no_grad()
    def update(self, views: Mapping[str, Outputs], progress: Progress) -> None:
        """Lets every objective change its memory; once a step, after backward, before the optimizer's step."""
        for key, objective in self.named_objectives():
            objective.update(views[key.split(".")[0]], views, progress)

    def named_objectives(self) -> list[tuple[str, Objective]]:
        """Every objective by `view.objective`."""
        return [(key.replace("/", "."), module) for key, module in self.objectives.items()]  # type: ignore[misc]


def run_views(model: Model, batches: Mapping[str, Batch], tokens: TwoValued | None = None) -> dict[str, Outputs]:
    """The model's outputs for several batches of one size, in one pass where its parts allow it.

    Args:
        model: The model.
        batches: By name of the view.
        tokens: What the batches, views of one clean batch, can pick their tokens from; None to make them anew.
    """

    def run(some: Mapping[str, Batch]) -> Outputs:
        if tokens is None:
            return model(_stack([_features(batch) for batch in some.values()]))
        erased = {m: torch.cat([batch.erased[m] for batch in some.values()]) for m in model.modalities}
        return model.fuse(tokens.pick(erased))

    if not model.samplewise or len(batches) == 1:
        return {name: replace(run({name: batch}), batch=batch) for name, batch in batches.items()}
    parts = _split(run(batches), len(batches), len(next(iter(batches.values()))))
    return {name: replace(out, batch=batch) for (name, batch), out in zip(batches.items(), parts, strict=True)}


def _features(batch: Batch) -> Streams:
    """A batch's features, which `draw` left out where a constant noise says all of them."""
    if batch.clean is None or batch.features:
        return batch.features
    return {m: s.without(batch.erased[m]) for m, s in batch.clean.features.items()}


def _stack(features: list[Streams]) -> Streams:
    if len(features) == 1:
        return features[0]
    stacked = {}
    for m, first in features[0].items():
        streams = [streams[m] for streams in features]
        times = None if first.times is None else torch.cat([s.times for s in streams if s.times is not None])
        stacked[m] = Stream(torch.cat([s.x for s in streams]), torch.cat([s.mask for s in streams]), times)
    return stacked


def _split(out: Outputs, views: int, size: int) -> list[Outputs]:
    """Each view's share of a pass over several; notes whose first dimension is the batch are shared out as well."""
    leaves, form = pytree.tree_flatten((out.encoded, out.generic, out.specific, out.fused, out.prediction, out.notes))

    def shares(value: Any) -> Sequence[Any]:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == views * size:
            return value.split(size)
        return [value] * views

    return [Outputs(*form.unflatten(list(share))) for share in zip(*map(shares, leaves), strict=True)]
