"""Promise: MFM's prior is matched exactly, and its encoder is the memory fusion network."""

from __future__ import annotations

import pytest
import torch
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from small import context, pooled, streams

from mmrobust_baselines.mfm import MFN, Factor, mmd_to_normal


def test_the_discrepancy_is_what_many_draws_of_the_prior_estimate() -> None:
    x = torch.randn(5, 3, dtype=torch.float64) * 2 + 1
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(2000, 3, dtype=torch.float64, generator=generator)
    k = lambda a, b: torch.exp(-torch.cdist(a, b).square() / (2 * 3.0))
    drawn = k(x, x).mean() - 2 * k(x, y).mean() + k(y, y).mean()
    assert mmd_to_normal(x, 3.0).item() == pytest.approx(drawn.item(), abs=0.01)


def test_the_discrepancy_falls_as_a_batch_comes_near_the_prior() -> None:
    z = torch.randn(1000, 4)
    assert mmd_to_normal(z, 4.0) < 0.01 < mmd_to_normal(2 * z, 4.0) < mmd_to_normal(2 * z + 2, 4.0)


def test_one_common_factor_comes_out_and_padding_holds_the_state() -> None:
    shapes = {"a": Shape(3, 4), "b": Shape(2, 4)}
    network = MFN(context(shapes, aligned=True), hidden=3, memory=4, between=5, out=6)
    assert network.shapes == {"common": Shape(6, 1)}
    given = streams(shapes, full=True)
    longer = {
        m: Stream(torch.cat([s.x, torch.zeros_like(s.x)], 1), torch.cat([s.mask, ~s.mask], 1)) for m, s in given.items()
    }
    torch.testing.assert_close(network(longer, {})["common"].x, network(given, {})["common"].x)


def test_its_lstms_are_lstms() -> None:
    shapes = {"a": Shape(3, 4)}
    network = MFN(context(shapes), hidden=3)
    reference = torch.nn.LSTM(3, 3, batch_first=True)
    for name, parameter in network.cells["a"].named_parameters():
        getattr(reference, f"{name}_l0").data = parameter.data
    x = streams(shapes, full=True)["a"].x
    final, memories = network._read([x], torch.ones(4, 4, dtype=torch.bool))
    _, (h, c) = reference(x)
    torch.testing.assert_close(final, h[0])
    torch.testing.assert_close(memories[:, -1], c[0])


def test_a_factor_needs_generic_features() -> None:
    with pytest.raises(OptionError, match="generic"):
        Factor(context(pooled(3, 3)))
