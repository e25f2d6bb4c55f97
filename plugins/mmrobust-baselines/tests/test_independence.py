"""Promise: CCA and HSIC are what their definitions say."""

from __future__ import annotations

import pytest
import torch
from small import PROGRESS, context, outputs, pooled, streams

from mmrobust_baselines.fdmer import Consistency, hilbert_schmidt
from mmrobust_baselines.iccn import CCA, VIEWS, OuterCNN, cca_loss


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_linearly_related_views_have_a_cca_loss_of_minus_their_rank(rank: int) -> None:
    x = torch.randn(50, 3, dtype=torch.float64)
    mixing = torch.randn(3, rank, dtype=torch.float64) @ torch.randn(rank, 4, dtype=torch.float64)
    assert cca_loss(x, x @ mixing, 1e-9).item() == pytest.approx(-rank, abs=1e-4)


def test_one_canonical_correlation_is_pearsons() -> None:
    x, y = torch.randn(2, 40, 1, dtype=torch.float64).unbind(0)
    y = y + 0.5 * x
    pearson = torch.corrcoef(torch.cat([x, y], 1).T)[0, 1]
    assert cca_loss(x, y, 1e-9).item() == pytest.approx(-pearson.abs().item(), abs=1e-5)


def test_canonical_correlations_do_not_depend_on_coordinates() -> None:
    x, y = torch.randn(30, 3, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    turned = cca_loss(x @ torch.randn(3, 3, dtype=torch.float64) + 5, y, 1e-9)
    assert turned.item() == pytest.approx(cca_loss(x, y, 1e-9).item(), abs=1e-4)


def test_the_fusion_hands_its_vectors_to_the_loss() -> None:
    shapes = pooled(4, 3, 5)
    fusion = OuterCNN(context(shapes), channels=2, grid=3, out=6)
    given = streams(shapes, 12)
    out = outputs(given)
    fused = fusion({}, given, out.notes)
    assert fused.x.shape == (12, 1, 4 + 6 + 6) and [v.shape for v in out.notes[VIEWS]] == [(12, 6), (12, 6)]
    loss = CCA(context(shapes))(out, {}, PROGRESS)
    assert -1 <= loss.item() <= 0
    torch.testing.assert_close(loss, cca_loss(*out.notes[VIEWS]) / 6)


def test_hsic_is_its_trace_form_and_zero_without_correlation() -> None:
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    r = torch.eye(6, dtype=torch.float64) - 1 / 6
    expected = torch.trace(r @ x @ x.T @ r @ y @ y.T) / 25
    torch.testing.assert_close(hilbert_schmidt(x, y), expected)
    a = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    b = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert hilbert_schmidt(a, b).item() == 0 and hilbert_schmidt(a, a).item() == pytest.approx(16 / 9)


def test_consistent_features_are_alike_up_to_a_rotation() -> None:
    shapes = pooled(4, 4)
    given = streams(shapes)
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    same = {"a": given["a"], "b": given["a"].map(lambda x: 2 * x @ turn)}
    objective = Consistency(context(shapes, generic=shapes))
    assert objective(outputs(given, generic=same), {}, PROGRESS).item() == pytest.approx(0, abs=1e-10)
    assert objective(outputs(given, generic=given), {}, PROGRESS).item() > 0.01
