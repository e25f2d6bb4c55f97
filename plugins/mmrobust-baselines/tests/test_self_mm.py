"""Promise: Self-MM's generated labels follow its equations 7 to 14, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from mmrobust.contracts import Outputs, Stream
from small import CLASSES, PROGRESS, context, outputs, pooled, streams

from mmrobust_baselines.self_mm import UnimodalLabels

SHAPES = pooled(4, 3)


def objective_and_outputs(labels: torch.Tensor, **changes: object) -> tuple[UnimodalLabels, Outputs]:
    described = context(SHAPES, **changes)  # type: ignore[arg-type]
    objective = UnimodalLabels(replace(described, fused=replace(SHAPES["a"], width=7)), hidden=5, reading="paper")
    return objective, outputs(streams(SHAPES, len(labels)), label=labels)


def test_labels_begin_as_the_multimodal_ones_and_weigh_nothing() -> None:
    y = torch.tensor([1.0, -2.0, 0.5, -0.5])
    objective, out = objective_and_outputs(y)
    assert objective(out, {}, PROGRESS).item() == 0
    with torch.no_grad():
        objective.update(out, {}, PROGRESS)
    assert torch.equal(objective.labels[:4], y.view(4, 1, 1).expand(4, 2, 1))
    assert objective.seen.tolist() == [1] * 4 + [0] * 12


def test_the_second_time_labels_move_as_the_paper_says() -> None:
    y = torch.tensor([1.0, -2.0, 0.5, -0.5])
    objective, out = objective_and_outputs(y)
    with torch.no_grad():
        objective.update(out, {}, PROGRESS)
        moved = {m: Stream(s.x + 0.3, s.mask) for m, s in out.specific.items()}
        later = replace(out, specific=moved, fused=out.fused.map(lambda x: x * 1.5))

        def relative(memory: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            positive, negative = memory[[0, 2]].mean(0), memory[[1, 3]].mean(0)
            far = lambda c: (x - c).square().sum(-1) / x.shape[-1] ** 0.5
            return (far(negative) - far(positive)) / (far(positive) + objective.epsilon)

        def star(m: str, x: torch.Tensor) -> torch.Tensor:
            weight, bias = objective.layers[m].parameters()
            return F.relu(F.linear(x, weight, bias))

        whole = relative(out.fused.mean(), later.fused.mean())
        expected = []
        for m in SHAPES:
            own = relative(star(m, out.specific[m].mean()), star(m, moved[m].mean()))
            new = y + (own - whole) / 2 * (y + whole) / (whole + objective.epsilon)  # equation 13's closed form
            # Not exactly: the paper's two forms agree up to its epsilon.
            expected.append(1 / 3 * y + 2 / 3 * new.clamp(-3, 3))  # i = 2
        objective.update(later, {}, PROGRESS)
    torch.testing.assert_close(objective.labels[:4, :, 0], torch.stack(expected, 1), atol=1e-3, rtol=1e-3)
    assert objective(later, {}, PROGRESS) > 0


def test_labels_of_classes_stay_distributions() -> None:
    objective, out = objective_and_outputs(torch.tensor([0, 1, 2, 1]), task=CLASSES)
    for _ in range(3):
        with torch.no_grad():
            objective.update(out, {}, PROGRESS)
        out = replace(out, fused=out.fused.map(lambda x: x * 1.5))
    assert (objective.labels[:4] >= 0).all()
    torch.testing.assert_close(objective.labels[:4].sum(-1), torch.ones(4, 2))
    assert objective(out, {}, PROGRESS) > 0


def test_without_positives_labels_stay() -> None:
    y = torch.tensor([-1.0, -2.0, -0.5, -0.5])
    objective, out = objective_and_outputs(y)
    with torch.no_grad():
        objective.update(out, {}, PROGRESS)
        objective.update(out, {}, PROGRESS)
    assert torch.equal(objective.labels[:4, 0, 0], y)
