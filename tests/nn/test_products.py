"""Promise: attention as matrix products is the written-out form, however it is cut and whatever of it is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmrobust.accel.varlen_attention import ragged
from mmrobust.nn.attention import attention, products, record, watch
from mmrobust.nn.attention.products import NARROW, bmm, packed


def inputs(s: int, t: int, d: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    made = [torch.randn(4, n, 3, d, dtype=torch.float64, generator=random) for n in (s, t, t)]
    return [x.transpose(1, 2).requires_grad_() for x in made]


@pytest.mark.parametrize("at_a_time", [1, 50, 2**20])  # one head, a last piece that is smaller, all at once
@pytest.mark.parametrize("kept", [0, 2**24])  # weights are computed again, or kept
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "whole"])
@pytest.mark.parametrize("d", [NARROW - 1, NARROW])
@pytest.mark.parametrize(("s", "t"), [(4, 5), (1, 6), (5, 1)])
def test_it_equals_the_written_out_form_and_so_do_its_gradients(
    s: int, t: int, d: int, masked: bool, kept: int, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "AT_A_TIME", at_a_time)
    monkeypatch.setattr(products, "KEPT", kept)
    tried = inputs(s, t, d)
    mask = torch.rand(4, t, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    if mask is not None:
        mask[1], mask[2] = True, False  # one sample hears everything, one nothing
    results = []
    for backend in ("bmm", "manual"):
        out = attention(tried[0], tried[1], tried[2], mask, backend)
        results.append([out, *torch.autograd.grad(out.sin().sum(), tried)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 2**24])
def test_its_gradients_are_those_of_finite_differences(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "KEPT", kept)
    mask = torch.tensor([[True, False, True]] * 4)
    assert torch.autograd.gradcheck(lambda *x: bmm(*x, mask), inputs(2, 3, 2))
    rows = [x[0].transpose(0, 1).detach().requires_grad_() for x in inputs(5, 6, 2)]
    assert torch.autograd.gradcheck(lambda *x: packed(*x, [2, 0, 3], [1, 3, 2]), rows)


def test_training_with_narrow_heads_of_any_length_takes_it_and_a_wide_one_query_does_not() -> None:
    for s, t, d, name in [(40, 300, NARROW - 1, "bmm"), (40, 300, NARROW, "sdpa"), (1, 20, NARROW, "sdpa")]:
        with watch() as cases:
            attention(*inputs(s, t, d))
        assert list(cases.values()) == [name]


def test_samples_that_attend_one_after_the_other_are_watched_and_take_it_too() -> None:
    query, key, value = (torch.randn(n, 2, 16, requires_grad=True) for n in (40, 50, 50))
    with watch() as cases:
        out = ragged(query, key, value, [10, 30], [20, 30])
    (case,) = cases
    assert cases[case] == "bmm" and (case.queries, case.keys) == (30, 30)
    assert "OfSamples" in str(out.grad_fn)
    with record() as seen, watch() as cases:  # of each sample alone
        ragged(query, key, value, [10, 30], [20, 30])
    assert len(seen) == len(cases) == 2


def test_samples_that_are_too_long_for_the_cache_are_cut_by_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrobust.accel.varlen_attention.AT_A_TIME", 500)
    query, key, value = (torch.randn(n, 2, 8, dtype=torch.float64, requires_grad=True) for n in (40, 50, 50))
    with watch() as cases:
        out = ragged(query, key, value, [10, 30], [20, 30])
    assert set(cases.values()) == {"bmm"} and len(cases) == 2
    torch.testing.assert_close(out, packed(query, key, value, [10, 30], [20, 30]))


@pytest.mark.parametrize("form", ["whole", "packed"])
def test_a_backward_pass_may_be_started_under_autocast(form: str) -> None:
    tried = [torch.randn(1, 2, 9, 16, requires_grad=True) for _ in range(3)]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            if form == "whole":
                out = attention(tried[0], tried[1], tried[2], None, "bmm")
            else:
                out = ragged(*(x[0].transpose(0, 1) for x in tried), [4, 5], [4, 5], "bmm")
            found.append(torch.autograd.grad(out.square().sum(), tried))
    for plain, under in zip(*found, strict=True):
        torch.testing.assert_close(plain, under)
