"""Promise: TFN is the outer product with ones appended, and LMF is TFN with weights of low rank."""

from __future__ import annotations

import pytest
import torch
from mmrobust.errors import OptionError
from small import CLASSES, context, pooled, streams

from mmrobust_baselines.lmf import LowRank
from mmrobust_baselines.tfn import TensorFusion


def with_ones(given: dict) -> list[torch.Tensor]:
    return [torch.cat([s.mean(), torch.ones(s.x.shape[0], 1)], 1) for s in given.values()]


def test_tensor_fusion_is_the_outer_product_with_ones() -> None:
    shapes = pooled(3, 2, 4)
    fusion = TensorFusion(context(shapes))
    given = streams(shapes)
    expected = torch.einsum("bi,bj,bk->bijk", *with_ones(given)).flatten(1)
    result = fusion({}, given, {})
    torch.testing.assert_close(result.x.squeeze(1), expected)
    assert result.x.shape[-1] == fusion.shape.width == 4 * 3 * 5
    assert sum(p.numel() for p in fusion.parameters()) == 0  # section 4.2: no learnable parameters


def test_a_product_too_large_is_refused() -> None:
    with pytest.raises(OptionError, match="129 x 129 x 129"):
        TensorFusion(context(pooled(128, 128, 128)))


def test_low_rank_equals_its_weight_tensor_contracted_with_tfns_product() -> None:
    shapes = pooled(3, 2, 4)
    fusion = LowRank(context(shapes, task=CLASSES), rank=5, reading="paper").double()
    given = {k: s.map(torch.Tensor.double) for k, s in streams(shapes).items()}
    weights = torch.einsum("rih,rjh,rkh->ijkh", *fusion.factors.values())
    product = torch.einsum("bi,bj,bk->bijk", *with_ones(given))
    expected = torch.einsum("bijk,ijkh->bh", product, weights) + fusion.bias
    torch.testing.assert_close(fusion({}, given, {}).x.squeeze(1), expected)


def test_with_full_rank_any_contraction_of_tfn_can_be_reached() -> None:
    shapes = pooled(2, 3, 2)
    rank = 3 * 4  # the rank of a 3 x 4 x 3 tensor is at most the product of two of its sides
    fusion = LowRank(context(shapes, task=CLASSES), rank=rank, reading="paper")
    weights = torch.randn(3, 4, 3, 3)
    a, b, c = fusion.factors.values()
    row, column = torch.arange(rank) // 4, torch.arange(rank) % 4
    a.data = torch.eye(3)[row].unsqueeze(-1).expand(-1, -1, 3).clone()
    b.data = torch.eye(4)[column].unsqueeze(-1).expand(-1, -1, 3).clone()
    c.data = weights[row, column]
    given = streams(shapes)
    product = TensorFusion(context(shapes))({}, given, {}).x.squeeze(1)
    expected = product @ weights.reshape(-1, 3) + fusion.bias
    torch.testing.assert_close(fusion({}, given, {}).x.squeeze(1), expected, atol=1e-5, rtol=1e-5)


def test_low_rank_has_the_papers_number_of_parameters() -> None:
    fusion = LowRank(context(pooled(3, 2, 4), task=CLASSES), rank=5, reading="paper")
    # Section 3.2.2: d_h x r x sum of (d_m + 1), and the bias.
    assert sum(p.numel() for p in fusion.parameters()) == 3 * 5 * (4 + 3 + 5) + 3
