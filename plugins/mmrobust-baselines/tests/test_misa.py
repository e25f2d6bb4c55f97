"""Promise: MISA's objectives are what its equations say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from small import PROGRESS, context, outputs, pooled, streams

from mmrobust_baselines.misa import CMD, Difference, Reconstruction, SharedDense, SixTokens, central_moment_discrepancy


def test_cmd_of_equal_batches_is_zero() -> None:
    x = torch.rand(6, 4)
    assert central_moment_discrepancy(x, x).item() == 0
    assert central_moment_discrepancy(x, x[torch.randperm(6)]).item() < 1e-6


def test_cmd_matches_moments_worked_out_by_hand() -> None:
    # Means 1/2 and 1/4; second central moments 1/4 and 1/16; third 0 and 0 (both are symmetric about their means).
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    y = torch.tensor([[0.0], [0.5]], dtype=torch.float64)
    assert central_moment_discrepancy(x, y, 1).item() == pytest.approx(1 / 4)
    assert central_moment_discrepancy(x, y, 2).item() == pytest.approx(1 / 4 + 3 / 16)
    assert central_moment_discrepancy(x, y, 3).item() == pytest.approx(1 / 4 + 3 / 16)
    # A skewed one: 0, 0, 3/4 has mean 1/4, second moment 1/8, third 1/32.
    z = torch.tensor([[0.0], [0.0], [0.75]], dtype=torch.float64)
    assert central_moment_discrepancy(y, z, 3).item() == pytest.approx(0 + 1 / 16 + 1 / 32)


def test_the_similarity_loss_is_the_mean_over_pairs() -> None:
    shapes = pooled(4, 4, 4)
    given = streams(shapes)
    loss = CMD(context(shapes, generic=shapes))(outputs(given, generic=given), {}, PROGRESS)
    x = [s.mean() for s in given.values()]
    pairs = [central_moment_discrepancy(x[i], x[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(loss, sum(pairs) / 3)


def test_orthogonal_features_have_no_difference_loss_and_equal_ones_have_the_most() -> None:
    shapes = {"a": Shape(4, 1)}
    signs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    one = {"a": Stream.pooled(torch.cat([signs[:, :1], torch.zeros(4, 3)], 1))}
    two = {"a": Stream.pooled(torch.cat([torch.zeros(4, 3), signs[:, 1:]], 1))}
    loss = Difference(context(shapes, generic=shapes), reduce="sum")
    assert loss(outputs(one, generic=two), {}, PROGRESS).item() == pytest.approx(0, abs=1e-9)
    assert loss(outputs(one, generic=one), {}, PROGRESS).item() == pytest.approx(
        16, rel=1e-4
    )  # (sum of four ones) squared


def test_reconstruction_is_the_mean_square_error_of_the_encoded_streams() -> None:
    shapes = {"a": Shape(4, 3), "b": Shape(4, 5)}
    loss = Reconstruction(context(shapes, generic=shapes))
    given, shared = streams(shapes), streams(shapes, seed=1)
    expected = 0.0
    for m, stream in given.items():
        decoded = loss.decoders[m](stream.x + shared[m].x)
        expected += (decoded - stream.x)[stream.mask].square().mean() / 2
    torch.testing.assert_close(loss(outputs(given, generic=shared), {}, PROGRESS), expected)


def test_tokens_attend_to_each_other_and_keep_their_places() -> None:
    shapes = pooled(4, 4)
    fusion = SixTokens(context(shapes, generic=shapes), heads=2)
    given, shared = streams(shapes), streams(shapes, seed=1)
    out = fusion(shared, given, {})
    assert out.x.shape == (4, 1, 16)
    other = fusion(shared, {**given, "a": given["a"].map(lambda x: x + 1)}, {})
    assert ((out.x - other.x).abs().view(4, 4, 4).amax(-1) > 0).all()  # the change reaches every token


def test_generic_features_are_needed() -> None:
    shapes = pooled(4, 4)
    for objective in (CMD, Difference, Reconstruction):
        with pytest.raises(OptionError, match="generic"):
            objective(context(shapes))
    with pytest.raises(OptionError, match="a 4, b 5"):
        SharedDense(replace(context(pooled(4, 5)), width=4))
