"""The layer changes nothing on the way forward and turns the gradient around exactly."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.nn.gradient_reversal import ramp, reverse_gradient


@given(strength=st.floats(0, 10, width=32), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_gradient_is_exactly_minus_lambda_times(strength: float, seed: int) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    arriving = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + 1))
    y = reverse_gradient(x, strength)
    y.backward(arriving)
    assert torch.equal(y, x)
    assert x.grad is not None and torch.equal(x.grad, -torch.tensor(strength) * arriving)


@given(strength=st.floats(0, 10, width=32))
@settings(max_examples=10, deadline=None)
def test_a_strength_may_be_a_tensor_as_the_ramp_gives_it(strength: float) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    found, expected = (
        torch.autograd.grad(reverse_gradient(x, s).cos().sum(), x)[0] for s in (torch.tensor(strength), strength)
    )
    assert torch.equal(found, expected)


def test_it_runs_under_vmap_and_compile() -> None:
    x = torch.randn(5, 3)
    grad = torch.func.vmap(torch.func.grad(lambda v: (reverse_gradient(v, 2.0) ** 2).sum()))(x)
    torch.testing.assert_close(grad, -4 * x)
    compiled = torch.compile(lambda v: reverse_gradient(v, 0.5) * 3, backend="eager", fullgraph=True)
    y = x.clone().requires_grad_()
    compiled(y).sum().backward()
    torch.testing.assert_close(y.grad, torch.full_like(y, -1.5))


def test_the_ramp_is_the_one_of_ganin_and_lempitsky() -> None:
    for p in (0.0, 0.1, 0.5, 1.0):
        truth = 2 / (1 + math.exp(-10 * p)) - 1
        assert math.isclose(float(ramp(torch.tensor(p, dtype=torch.float64), 1.0)), truth, abs_tol=1e-12)
