"""Every backend gives what the reference gives, and never a NaN."""

from __future__ import annotations

import pytest
import torch

from mmrobust.errors import UsageError
from mmrobust.nn import attention as module
from mmrobust.nn.attention import BACKENDS, attention, record, resolve, use_attention, weights


def inputs(s: int, t: int, d: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, n, d, generator=g, dtype=dtype, requires_grad=True) for n in (s, t, t)]


def masks(t: int) -> torch.Tensor:
    mask = torch.ones(3, t, dtype=torch.bool)
    mask[1, t // 2 :] = False
    mask[2] = False
    return mask


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize(("s", "t", "d"), [(5, 5, 8), (1, 7, 5), (6, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_the_formula_forward_and_backward(
    backend: str, s: int, t: int, d: int, dtype: torch.dtype, masked: bool
) -> None:
    mask = masks(t) if masked else None
    exact = inputs(s, t, d)
    query, key, value = exact
    scores = query @ key.transpose(-1, -2) / d**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    truth = scores.softmax(-1).nan_to_num(0) @ value
    some = slice(0, 2) if masked else slice(None)  # the third sample has no key: its formula has no gradient
    truth[some].square().sum().backward()

    tried = [x.detach().to(dtype).requires_grad_() for x in exact]
    out = attention(tried[0], tried[1], tried[2], mask, backend)
    out.square().sum().backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2}[dtype]
    torch.testing.assert_close(out.double(), truth, atol=tolerance, rtol=tolerance)
    for x, y in zip(tried, exact, strict=True):
        assert x.grad is not None and y.grad is not None
        torch.testing.assert_close(x.grad.double()[some], y.grad[some], atol=4 * tolerance, rtol=4 * tolerance)
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_sample_without_keys_gives_zero_and_finite_gradients(backend: str) -> None:
    query, key, value = inputs(4, 6, 8, torch.float32)
    out = attention(query, key, value, masks(6), backend)
    out.sum().backward()
    assert (out[2] == 0).all()
    for x in (query, key, value):
        assert x.grad is not None and x.grad.isfinite().all()
        if x is not query:
            assert (x.grad[2] == 0).all()


def test_weights_are_a_distribution_over_the_real_keys() -> None:
    query, key, _ = inputs(4, 6, 8)
    told = weights(query, key, masks(6))
    torch.testing.assert_close(told.sum(-1)[:2], torch.ones_like(told.sum(-1)[:2]))
    assert (told[1, ..., 3:] == 0).all() and (told[2] == 0).all()


def test_a_block_wins_over_the_environment_and_that_over_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("manual") == "manual" and resolve("auto") in BACKENDS
    monkeypatch.setenv("MMROBUST_ATTENTION", "sdpa")
    assert resolve("manual") == "sdpa"
    with use_attention("manual"):
        assert resolve("sdpa") == "manual"
    assert resolve("manual") == "sdpa"


def test_an_unknown_backend_is_told_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"there is no attention backend 'sdqa'; did you mean 'sdpa'\?"):
        module.check("sdqa")
    monkeypatch.setenv("MMROBUST_ATTENTION", "manuel")
    with pytest.raises(UsageError, match="did you mean 'manual'"):
        resolve()


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_weights_are_recorded_inside_a_block_alone_and_make_the_output(backend: str) -> None:
    query, key, value = inputs(4, 6, 8)
    with record() as outer:
        first = attention(query, key, value, masks(6), backend)
        with record() as inner:
            attention(query, key, value, None, backend)
    attention(query, key, value, None, backend)
    assert len(outer) == 2 and len(inner) == 1
    assert not outer[0].requires_grad
    torch.testing.assert_close(outer[0] @ value, first)
    torch.testing.assert_close(inner[0], weights(query, key, None))
