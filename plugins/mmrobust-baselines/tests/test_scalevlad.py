"""Promise: ScaleVLAD's descriptors are sums of residuals, and its clusters are k-means that keep their names."""

from __future__ import annotations

from dataclasses import replace

import torch
from mmrobust.contracts import Progress, Shape, Stream
from small import context, outputs, pooled, streams

from mmrobust_baselines.scalevlad import MultiscaleVLAD, ShiftedClustering, scaled

SHAPES = {"a": Shape(4, 5), "b": Shape(4, 3)}


def test_descriptors_are_weighted_sums_of_residuals() -> None:
    fusion = MultiscaleVLAD(context(SHAPES), scales=(1,), clusters=3, heads=2)
    given = list(streams(SHAPES).values())
    expected = torch.zeros(4, 3, 4)
    for s in given:
        for i in range(4):
            for x in s.x[i][s.mask[i]]:
                expected[i] += fusion.assign(x).softmax(-1).unsqueeze(1) * (x - fusion.centres)
    torch.testing.assert_close(fusion.aggregate(given), expected)


def test_a_step_on_a_centre_that_it_wholly_belongs_to_leaves_nothing() -> None:
    fusion = MultiscaleVLAD(context(SHAPES), scales=(1,), clusters=2, heads=2)
    with torch.no_grad():
        fusion.assign.weight.zero_()
        fusion.assign.bias.copy_(torch.tensor([1e4, 0.0]))
    on = Stream(fusion.centres[0].detach().expand(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))
    assert fusion.aggregate([on]).abs().max() == 0


def test_scales_average_real_steps_in_windows() -> None:
    x = torch.tensor([[1.0], [3.0], [5.0], [99.0]]).unsqueeze(0)
    out = scaled(Stream(x, torch.tensor([[True, True, True, False]])), 2)
    assert out.x.flatten().tolist() == [2.0, 5.0] and out.mask.all()


def test_clusters_come_with_the_next_epoch_and_keep_their_names() -> None:
    shapes = pooled(2)
    objective = ShiftedClustering(replace(context(shapes), fused=Shape(2, 1), samples=6), clusters=2)
    groups = torch.tensor([[0.0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9]])

    def see(x: torch.Tensor, epoch: int) -> None:
        out = outputs({"a": Stream.pooled(x)}, label=torch.zeros(6))
        with torch.no_grad():
            objective.update(replace(out, fused=Stream.pooled(x)), {}, Progress(epoch, torch.tensor(0.0)))

    see(groups, 0)
    assert (objective.labels == -1).all()
    see(groups + 1, 1)
    assert objective.labels.tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(objective.centres[0], groups[:3].mean(0))
    see(groups, 2)  # what was seen in epoch 1 had shifted by one, and so have the centres
    torch.testing.assert_close(objective.centres[0], groups[:3].mean(0) + 1)
    out = outputs({"a": Stream.pooled(groups)}, label=torch.zeros(6))
    assert objective(replace(out, fused=Stream.pooled(groups)), {}, Progress(2, torch.tensor(0.0))) > 0
