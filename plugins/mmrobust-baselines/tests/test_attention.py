"""Promise: attention with narrow heads is the house's attention, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from mmrobust.nn.attention import record, watch

from mmrobust_baselines import attention
from mmrobust_baselines.attention import WIDE, attend

HEADS, WIDTH = 3, 15


def projections(s: int, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    query, key_value = torch.randn(4, s, WIDTH).double(), torch.randn(4, t, 2 * WIDTH).double()
    return query.requires_grad_(), key_value.requires_grad_()


@pytest.mark.parametrize("scores", [1, 50, 2**16])  # one head at a time, a last group that is smaller, all at once
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("s", "t"), [(4, 5), (1, 6), (5, 1)])
def test_it_equals_the_written_out_form_and_so_do_its_gradients(
    s: int, t: int, masked: bool, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SCORES", scores)
    query, key_value = projections(s, t)
    mask = torch.rand(4, t) < 0.6 if masked else None
    if mask is not None:
        mask[1], mask[2] = True, False  # one sample hears everything, one nothing
    results = []
    for backend in ("auto", "manual"):
        out = attend(query, key_value, mask, HEADS, backend)
        assert ("_Narrow" in str(out.grad_fn) or "Masked" in str(out.grad_fn)) == (backend == "auto")
        results.append([out, *torch.autograd.grad(out.sin().sum(), (query, key_value))])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_its_gradient_is_that_of_finite_differences() -> None:
    mask = torch.tensor([[True, False, True]] * 4)
    assert torch.autograd.gradcheck(lambda q, kv: attend(q, kv, mask, HEADS, "auto"), projections(2, 3))


def test_the_house_s_attention_is_taken_for_wide_heads_other_backends_and_onlookers() -> None:
    query, key_value = projections(4, 5)
    assert not attention._here(torch.randn(1, 2, 2 * WIDE, requires_grad=True), 2, "auto")
    assert attention._here(query, HEADS, "auto") and not attention._here(query, HEADS, "sdpa")
    assert not attention._here(query.detach(), HEADS, "auto")
    with record() as weights, watch() as cases:
        attend(query, key_value, None, HEADS, "auto")
    assert len(weights) == len(cases) == 1
