"""Learning: the views of a batch, and the objectives that read them.

A view is a noise and the objectives that are trained on what it leaves: NORM-TR has a Type-1 view and a Type-2 view
(paper, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmrobust.contracts import Batch, Noise, Objective, Outputs, Progress, Rate, Streams
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
    """Draws the views of a batch, runs the model on them, and adds up the weighted objectives (paper, equation 9).

    Args:
        views: By name.
        objectives: By `view.objective`.
    """

    def __init__(self, views: Mapping[str, View], objectives: Mapping[str, Objective]) -> None:
        super().__init__()
        read = {name for objective in objectives.values() for name in objective.reads}
        # A view that no objective reads is not run.
        self.views = {name: view for name, view in views.items() if view.objectives or name in read}
        # ModuleDict keys may not hold a dot.
        self.objectives = nn.ModuleDict({key.replace(".", "/"): objective for key, objective in objectives.items()})

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
        total, parts, _, views = self.compute(model, self.draw(batch.zeroed(), generator), progress)
        return total, parts, views

    @torch.no_grad()
    def draw(self, batch: Batch, generator: torch.Generator) -> dict[str, Batch]:
        """The views of a clean batch: one batch for each, with its noise in it.

        Args:
            batch: A clean batch, padding zero.
            generator: Source of the noises, on the batch's device.
        """
        return {
            name: batch if view.noise is None else view.noise(batch, view.rate, generator)
            for name, view in self.views.items()
        }

    def compute(
        self, model: Model, batches: Mapping[str, Batch], progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Outputs]]:
        """The loss of one step, of views that are drawn already; nothing random but dropout is left in it.

        Args:
            model: What is trained.
            batches: The views.
            progress: How far training has come.

        Returns:
            The weighted sum, without the limited objectives; each loss before its weight, by `view.objective`; what
            objectives report beside it, by `figures`; each view's outputs.
        """
        outputs = self.run(model, batches)
        views = {name: replace(outputs[name], batch=batch) for name, batch in batches.items()}
        detached: dict[str, Outputs] = {}
        if any(objective.detached for _, objective in self.named_objectives()):
            detached = {name: replace(out, generic=self._again(model, out)) for name, out in views.items()}
        total = torch.zeros((), device=next(iter(batches.values())).index.device)
        parts: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        for key, objective in self.named_objectives():
            read = detached if objective.detached else views
            result = objective(read[key.split(".")[0]], read, progress)
            parts[key], own = result if isinstance(result, tuple) else (result, {})
            figures |= {f"{key}.{name}": own[name].detach() for name in objective.figures}
            if not objective.limited:  # the step adds the gradient of one that is
                total = total + objective.weight * parts[key]
        return total, parts, figures, views

    @staticmethod
    def _again(model: Model, out: Outputs) -> Streams:
        """F_NR of U' without its history, `{key: b t d}`: gradients end at the generic extractor."""
        return model.extract({m: stream.map(Tensor.detach) for m, stream in out.encoded.items()}, {})

    def run(self, model: Model, batches: Mapping[str, Batch]) -> dict[str, Outputs]:
        """The model's outputs for each view."""
        return {name: model(batch.features) for name, batch in batches.items()}

    @torch.no_grad()
    def update(self, views: Mapping[str, Outputs], progress: Progress) -> None:
        """Lets every objective change its memory; once a step, after backward, before the optimizer's step."""
        for key, objective in self.named_objectives():
            objective.update(views[key.split(".")[0]], views, progress)

    @property
    def figures(self) -> list[str]:
        """What objectives report beside their losses, by `view.objective.figure`."""
        return [f"{key}.{name}" for key, objective in self.named_objectives() for name in objective.figures]

    def named_objectives(self) -> list[tuple[str, Objective]]:
        """Every objective by `view.objective`."""
        return [(key.replace("/", "."), module) for key, module in self.objectives.items()]  # type: ignore[misc]
