"""Objectives that train nothing, or the wrong way."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmrobust.contracts import Outputs, Progress
from mmrobust.nn.gradient_reversal import reverse_gradient
from tests.testing.broken.good import GoodAdversary, GoodObjective, caught_by


@caught_by("check_objective_loss")
class MeanOfTheErased(GoodObjective):
    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        assert out.batch is not None
        erased = torch.cat([e.flatten() for e in out.batch.erased.values()]).float()
        return super().forward(out, views, progress) * (erased.sum() / erased.sum())


@caught_by("check_objective_reaches")
class TrainsItselfAlone(GoodObjective):
    def forward(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> Tensor:
        streams = out.generic if self.generic else out.specific
        guesses = [layer(streams[key].mean().detach()) for key, layer in self.layers.items()]
        return torch.stack(guesses).square().mean() + out.prediction.detach().square().mean()


@caught_by("check_objective_update")
class UpdatesParameters(GoodObjective):
    def update(self, out: Outputs, views: Mapping[str, Outputs], progress: Progress) -> None:
        for parameter in self.parameters():
            parameter.mul_(0.9)


@caught_by("check_gradient_reversal")
class ForgetsToReverse(GoodAdversary):
    def reverse(self, x: Tensor) -> Tensor:
        return x * self.grl


@caught_by("check_gradient_reversal")
class ReversesTwice(GoodAdversary):
    def reverse(self, x: Tensor) -> Tensor:
        return reverse_gradient(reverse_gradient(x, self.grl), self.grl)
