"""Promise: whichever library multiplies, a linear layer gives the same numbers, gradients and weights to save."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from mmrobust.accel import linear
from mmrobust.accel.linear import Linear, explain_gemm, gemm, use_fast_linear, use_gemm, why_not_onednn
from mmrobust.errors import UsageError
from mmrobust.model.assemble import build

offered = pytest.mark.skipif(
    linear.unoffered() is not None, reason="this torch does not offer oneDNN's products in fp32"
)

#: Rows, inputs, outputs: more outputs than inputs and fewer, odd ones, rows that oneDNN pads, narrow inputs.
SIZES = [(384, 128, 128), (301, 77, 190), (190, 190, 130), (2000, 130, 17), (5000, 5, 200)]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of the products that were given to oneDNN."""
    seen: list[tuple[int, ...]] = []

    class Spy:
        @staticmethod
        def _linear_pointwise(x: Tensor, weight: Tensor, *more: object) -> Tensor:
            seen.append((*x.shape, len(weight)))
            return real(x, weight, *more)

    real = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops, "mkldnn", Spy)
    return seen


def of(size: tuple[int, int, int], bias: bool = True) -> tuple[Linear, Tensor]:
    random = torch.Generator().manual_seed(0)
    rows, inputs, outputs = size
    layer = Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=random))
    return layer, torch.randn(rows, inputs, generator=random)


def both(layer: nn.Module, x: Tensor, weight: Tensor | None = None) -> list[Tensor]:
    """The output, and the gradients by input and parameters of a sum of it that is weighted."""
    x = x.clone().requires_grad_()
    out = layer(x)
    told = out.detach().cos() if weight is None else weight
    return [out, *torch.autograd.grad((out * told).sum(), [x, *layer.parameters()])]


@offered
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_are_those_in_float64(
    size: tuple[int, int, int], bias: bool, called: list[tuple[int, ...]]
) -> None:
    layer, x = of(size, bias)
    exact = both(copy.deepcopy(layer).double(), x.double())
    for name in ("onednn", "torch"):
        with use_gemm(name):
            found = both(layer, x, exact[0].detach().cos().float())
        for one, expected in zip(found, exact, strict=True):
            # Relative to the largest: a sum of that many numbers of one size is off by its own rounding alone.
            assert (one - expected).abs().max() <= 3e-6 * expected.abs().max(), name
    assert len(called) == 3


@offered
def test_small_products_stay_with_torch(called: list[tuple[int, ...]]) -> None:
    layer, x = of((16, 128, 128))
    with use_gemm("onednn"):
        both(layer, x)
    assert not called


@offered
def test_steps_of_samples_may_stand_in_any_form(called: list[tuple[int, ...]]) -> None:
    layer, x = of((480, 128, 100))
    forms = [x.view(4, 120, 128), x.view(2, 3, 80, 128), x.T.contiguous().T, x[:1].expand(4, 120, 128)]
    with use_gemm("onednn"):
        for form in forms:
            torch.testing.assert_close(layer(form), nn.functional.linear(form, layer.weight, layer.bias))
        out = layer(x)
        # What a sum hands back is one number, repeated by its strides.
        given = torch.autograd.grad(out.sum(), [layer.weight])[0]
    assert len(called) == len(forms) + 2
    torch.testing.assert_close(given, x.sum(0).expand_as(given), rtol=1e-5, atol=1e-4)


@offered
def test_only_what_is_wanted_is_computed(called: list[tuple[int, ...]]) -> None:
    layer, x = of((384, 128, 128))
    with use_gemm("onednn"):
        layer(x).sum().backward()  # features have no gradient
        assert len(called) == 2 and layer.weight.grad is not None
        layer.requires_grad_(False)
        called.clear()
        (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), [x])
        assert len(called) == 2
    torch.testing.assert_close(gradient, layer.weight.sum(0).expand_as(gradient))


@offered
def test_gradients_of_gradients() -> None:
    layer, x = of((384, 128, 128))
    results = []
    for name in ("onednn", "torch"):
        with use_gemm(name):
            x = x.detach().requires_grad_()
            (first,) = torch.autograd.grad(layer(x).tanh().sum(), [x], create_graph=True)
            results.append(torch.autograd.grad(first.square().sum(), [x, layer.weight]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@offered
@pytest.mark.parametrize("asked", [True, False])
def test_elsewhere_it_is_torchs(asked: bool, called: list[tuple[int, ...]]) -> None:
    layer, x = of((384, 128, 128))
    linear._standing.cache_clear()  # as in a process whose first step is compiled
    why_not_onednn.cache_clear()
    with use_gemm("onednn") if asked else nullcontext():
        torch.compile(layer, backend="eager", fullgraph=True)(x)
        torch.export.export(nn.Sequential(layer), (x,), strict=True)
        torch.export.export(nn.Sequential(layer), (x,), strict=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        copy.deepcopy(layer).double()(x.double())
        torch.func.vmap(layer)(x.view(3, 128, 128))
    assert not called


@offered
def test_many_gradients_at_once(called: list[tuple[int, ...]]) -> None:
    layer, x = of((384, 128, 128))
    with use_gemm("onednn"):
        out = layer(x)
        rows = torch.randn(2, *out.shape, generator=torch.Generator().manual_seed(1))
        (many,) = torch.autograd.grad(out, [layer.weight], rows, is_grads_batched=True, retain_graph=True)
        single = [torch.autograd.grad(out, [layer.weight], row, retain_graph=True)[0] for row in rows]
    torch.testing.assert_close(many, torch.stack(single), rtol=1e-4, atol=1e-3)


@offered
def test_weights_may_change_before_a_gradient_that_does_not_need_them() -> None:
    layer, x = of((384, 128, 128))
    with use_gemm("onednn"):
        out = layer(x)
        with torch.no_grad():
            layer.weight.zero_()
        (gradient,) = torch.autograd.grad(out.sum(), [layer.weight])
    torch.testing.assert_close(gradient, x.sum(0).expand_as(gradient), rtol=1e-5, atol=1e-4)


@offered
def test_widths_that_do_not_fit_are_told_by_torch() -> None:
    layer, _ = of((384, 128, 128))
    with use_gemm("onednn"), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.zeros(384, 160))


@offered
def test_in_inference_mode() -> None:
    layer, x = of((384, 128, 128))
    with use_gemm("onednn"), torch.inference_mode():
        found = layer(x)
    torch.testing.assert_close(found, nn.functional.linear(x, layer.weight, layer.bias))


@offered
def test_the_same_bits_every_time() -> None:
    layer, x = of((384, 128, 128))
    with use_gemm("onednn"):
        first, second = both(layer, x), both(layer, x)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_plain_layers_become_quick_ones_and_nothing_else_changes() -> None:
    class Own(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3, bias=False)), Own(3, 3), nn.Bilinear(3, 3, 1))
    before, told = {name: p.clone() for name, p in module.state_dict().items()}, repr(module)
    use_fast_linear(module)
    assert [type(part) for part in module.modules() if isinstance(part, nn.Linear)] == [Linear, Linear, Own]
    assert repr(module) == told
    assert all(torch.equal(p, before[name]) for name, p in module.state_dict().items())


def test_every_part_that_is_built_has_them() -> None:
    built = build("normtr")
    parts = [*built.model.modules(), *built.learning.modules()]
    found = {type(part) for part in parts if isinstance(part, nn.Linear)}
    assert found == {Linear}


def test_who_multiplies_is_the_blocks_then_the_environments_then_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMROBUST_GEMM", raising=False)
    assert linear._standing.__wrapped__() == ("torch" if why_not_onednn() else "onednn")
    with use_gemm("torch"):
        assert gemm() == "torch"
    script = "from mmrobust.accel.linear import *; print(gemm(), '|', explain_gemm())"
    told = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "MMROBUST_GEMM": "torch"}, capture_output=True, text=True
    )
    assert told.stdout.startswith("torch | torch's own choice (")


@pytest.mark.parametrize(
    ("processor", "capability", "reason"),
    [
        (("GenuineIntel", "6"), "AVX512", "MKL makes full use of Intel's processors"),
        (("AuthenticAMD", "25"), "AVX2", "torch has no AVX-512 here, and without it both libraries are equally fast"),
        (("AuthenticAMD", "25"), "AVX512", "oneDNN was measured to be faster on AMD's Zen 5 alone"),
        (("", "0"), "AVX512", "oneDNN was measured to be faster on AMD's Zen 5 alone"),
        (("AuthenticAMD", "26"), "AVX512", None),
    ],
)
def test_which_machines_are_meant(
    processor: tuple[str, str], capability: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "unoffered", lambda: None)
    monkeypatch.setattr(linear, "processor", lambda: {"vendor_id": processor[0], "cpu family": processor[1]})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert why_not_onednn.__wrapped__() == reason


def test_an_impossible_wish_is_told() -> None:
    with pytest.raises(UsageError, match="use_gemm: linear layers multiply with onednn or torch, not with 'mkl'"), (
        use_gemm("mkl")  # pyright: ignore[reportArgumentType]
    ):
        pass
    assert explain_gemm()
