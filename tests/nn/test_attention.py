"""Every backend gives what the reference gives, and never a NaN; and each says when it cannot run, and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap

from mmrobust.errors import UsageError
from mmrobust.nn import attention as module
from mmrobust.nn.attention import (
    BACKENDS,
    Case,
    Unusable,
    attention,
    check,
    expected,
    explain,
    passed_over,
    record,
    resolve,
    use_attention,
    watch,
    weights,
)
from mmrobust.nn.attention.backends import block_mask, masked_by_a_feature

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
#: The kernels of a GPU and the trainable FlexAttention stand here as well, and say why they are skipped.
EVERYWHERE = [(name, device) for name in sorted(BACKENDS) for device in ("cpu", "cuda")]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMROBUST_ATTENTION", raising=False)


def inputs(
    s: int, t: int, d: int, dtype: torch.dtype = torch.float64, device: str = "cpu", backward: bool = True
) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    made = [torch.randn(3, 2, n, d, generator=g, dtype=torch.float64) for n in (s, t, t)]
    return [x.to(device, dtype).requires_grad_(backward) for x in made]


def masks(t: int) -> Tensor:
    """All keys, the first half, none."""
    mask = torch.ones(3, t, dtype=torch.bool)
    mask[1, t // 2 :] = False
    mask[2] = False
    return mask


def truth(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients by the formula, sample by sample, in float64, with a loss that is no plain sum."""
    exact = [x.detach().cpu().double().requires_grad_() for x in (query, key, value)]
    rows = []
    for i, (q, k, v) in enumerate(zip(*exact, strict=True)):
        seen = slice(None) if mask is None else mask[i].cpu()
        k, v = k[:, seen], v[:, seen]
        rows.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v if k.shape[1] else 0 * q)
    out = torch.stack(rows)
    gradients = torch.autograd.grad(out.square().sum(), exact, allow_unused=True)
    return out.detach(), [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, exact, strict=True)]


def usable(name: str, case: Case) -> None:
    if case.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    if reason := BACKENDS[name].why_not(case):
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize(("backend", "device"), EVERYWHERE)
@pytest.mark.parametrize(("s", "t", "d"), [(5, 5, 8), (1, 7, 5), (6, 2, 3), (40, 130, 16), (33, 33, 33)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_agrees_with_the_formula_forward_and_backward(
    backend: str, device: str, s: int, t: int, d: int, dtype: torch.dtype, masked: bool
) -> None:
    computed = torch.float32 if device == "cpu" and dtype == torch.bfloat16 else dtype
    usable(backend, Case(device, computed, s, t, d, masked))
    tried = inputs(s, t, d, dtype, device)
    mask = masks(t).to(device) if masked else None
    out = attention(tried[0], tried[1], tried[2], mask, backend)
    assert out.dtype == dtype
    gradients = torch.autograd.grad(out.square().sum(), tried)
    expected_out, expected_gradients = truth(tried[0], tried[1], tried[2], mask)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.cpu().double(), expected_out, atol=tolerance, rtol=tolerance)
    for found, right in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found.cpu().double(), right, atol=4 * tolerance, rtol=4 * tolerance)


@pytest.mark.parametrize(("backend", "device"), EVERYWHERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=lambda d: str(d)[6:])
def test_a_sample_without_keys_gives_zero_and_no_gradient(backend: str, device: str, dtype: torch.dtype) -> None:
    usable(backend, Case(device, torch.float32 if device == "cpu" else dtype, 6, 6, 16))
    tried = inputs(6, 6, 16, dtype, device)
    out = attention(tried[0], tried[1], tried[2], masks(6).to(device), backend)
    assert (out[2] == 0).all() and (out[:2] != 0).any()
    for gradient in torch.autograd.grad(out.sum(), tried):
        assert gradient.isfinite().all() and (gradient[2] == 0).all()


TRAINABLE = [name for name in sorted(BACKENDS) if BACKENDS[name].why_not(Case("cpu")) is None]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_mask_and_any_shape_gives_the_same_from_all(data: st.DataObject) -> None:
    b, h, s, t, d = (
        data.draw(st.integers(1, high), label) for label, high in zip("bhstd", (3, 3, 9, 9, 9), strict=True)
    )
    mask = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=t, max_size=t), min_size=b, max_size=b)))
    scale = data.draw(st.sampled_from([0.0, 1.0, 30.0]))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    tried = [torch.randn(b, h, n, d, generator=g, dtype=torch.float64) * scale for n in (s, t, t)]
    tried = [x.requires_grad_() for x in tried]
    right, right_gradients = truth(tried[0], tried[1], tried[2], mask)
    for name in TRAINABLE:
        if BACKENDS[name].why_not(Case("cpu", torch.float64, s, t, d)):
            continue
        out = attention(tried[0], tried[1], tried[2], mask, name)
        torch.testing.assert_close(out, right, atol=1e-9, rtol=1e-9)
        for found, wanted in zip(torch.autograd.grad(out.square().sum(), tried), right_gradients, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("d", [3, 16, 64])
def test_a_mask_as_a_feature_is_a_mask(d: int, dtype: torch.dtype) -> None:
    """What `flash` does on a GPU, where its kernel takes no mask; the arithmetic is the same on a CPU."""
    tried = inputs(5, 9, d, dtype)
    out = masked_by_a_feature(tried[0], tried[1], tried[2], masks(9))
    right, right_gradients = truth(tried[0], tried[1], tried[2], masks(9))
    torch.testing.assert_close(out.double(), right, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert (out[2] == 0).all()
    for found, wanted in zip(torch.autograd.grad(out.square().sum(), tried), right_gradients, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=4 * TOLERANCE[dtype], rtol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("backend", TRAINABLE)
def test_values_of_masked_keys_leave_no_trace(backend: str) -> None:
    query, key, value = inputs(6, 6, 8, torch.float32)
    mask = masks(6)
    out = attention(query, key, value, mask, backend)
    hidden = ~mask[:, None, :, None]
    moved = attention(query, key.masked_fill(hidden, 50.0), value.masked_fill(hidden, -1e4), mask, backend)
    torch.testing.assert_close(moved, out, atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------------------ flex


def test_the_block_mask_is_the_mask_and_leaves_masked_blocks_out() -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    mask = torch.ones(4, 300, dtype=torch.bool)
    mask[1, 100:] = False  # blocks 1 and 2 are padding
    mask[2] = False
    mask[3, :256] = False  # two wholly erased blocks, then a part of the last
    ours = block_mask(mask, 200)
    torchs = create_block_mask(lambda b, h, q, k: mask[b, k], 4, None, 200, 300, device="cpu")
    assert (ours.to_dense() == torchs.to_dense()).all()
    assert ours.kv_num_blocks[:, 0, 0].tolist() == [1, 1, 0, 1]
    assert ours.full_kv_num_blocks[:, 0, 0].tolist() == [2, 0, 0, 0]
    assert ours.kv_indices[3, 0, 0, 0] == 2
    assert ours.sparsity() == pytest.approx(torchs.sparsity())


def test_flex_agrees_where_no_gradient_is_asked_for() -> None:
    usable("flex", Case("cpu", torch.float32, 60, 300, 16, True, False))
    query, key, value = inputs(60, 300, 16, torch.float32, backward=False)
    out = attention(query, key, value, masks(300), "flex")
    torch.testing.assert_close(out.double(), truth(query, key, value, masks(300))[0], atol=1e-5, rtol=1e-5)
    assert (out[2] == 0).all()


# ------------------------------------------------------------------------------------------------------------ timm


def kernels(out: Tensor) -> set[str]:
    """Names of the steps that a gradient of `out` goes back through."""
    seen: set[str] = set()
    todo = [out.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            seen.add(node.name())
            todo += [parent for parent, _ in node.next_functions]
    return seen


@pytest.fixture
def timm_switch() -> Iterator[None]:
    layers = pytest.importorskip("timm.layers", exc_type=Exception)
    before = layers.use_fused_attn()
    yield
    layers.set_fused_attn(before)


def test_timm_s_switch_is_obeyed_and_changes_nothing_else(timm_switch: None) -> None:
    from timm.layers import set_fused_attn  # pyright: ignore

    query, key, value = inputs(6, 6, 8)
    outs = {}
    for fused in (True, False, True):
        set_fused_attn(fused)
        out = attention(query, key, value, masks(6), "timm")
        assert any("ScaledDotProduct" in name for name in kernels(out)) is fused
        assert any("Softmax" in name for name in kernels(out)) is not fused
        outs[fused] = out
    torch.testing.assert_close(outs[True], outs[False], atol=1e-12, rtol=0)
    assert (outs[False][2] == 0).all()


def test_timm_without_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    from mmrobust.nn.attention import backends

    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("timm"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    backends._timm_missing.cache_clear()
    module.choice._insist.cache_clear()
    try:
        with pytest.raises(Unusable, match=r"nms does not exist\); pip install timm; use auto, manual"):
            resolve("timm", Case("cpu", queries=3, keys=3))
    finally:
        backends._timm_missing.cache_clear()
        module.choice._insist.cache_clear()


# -------------------------------------------------------------------------------------------- what runs, and why


def test_a_block_wins_over_the_environment_and_that_over_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("cpu")
    assert resolve("manual", case) == "manual" and resolve("auto", case) in BACKENDS
    monkeypatch.setenv("MMROBUST_ATTENTION", "sdpa")
    assert resolve("manual", case) == "sdpa"
    with use_attention("manual"):
        assert resolve("sdpa", case) == "manual"
    assert resolve("manual", case) == "sdpa"


def test_an_unknown_backend_is_told_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"there is no attention backend 'sdqa'; did you mean 'sdpa'\?"):
        check("sdqa", Case("cpu"))
    monkeypatch.setenv("MMROBUST_ATTENTION", "manuel")
    with pytest.raises(UsageError, match="did you mean 'manual'"):
        resolve("auto", Case("cpu"))


CUDA = Case("cuda", torch.bfloat16, 50, 50, 32)


@pytest.mark.parametrize(
    ("name", "case", "reason"),
    [
        ("efficient", Case("cpu"), "it is a kernel of NVIDIA GPUs, and this runs on 'cpu'"),
        ("cudnn", Case("mps"), "it is a kernel of NVIDIA GPUs, and this runs on 'mps'"),
        ("flash", Case("mps"), "it is a kernel of NVIDIA GPUs, and this runs on 'mps'"),
        ("flash", CUDA._replace(dtype=torch.float32), "no kernel for float32 on a GPU, only for bf16 and fp16"),
        ("flash", CUDA._replace(width=256), "at most 256 wide, one less with a mask; here they are 256"),
        ("efficient", CUDA._replace(dtype=torch.float64), "it has no kernel for float64"),
        ("cudnn", CUDA._replace(width=5), "a multiple of 8; here it is 5"),
        ("timm", Case("cpu", queries=3, keys=5), "self-attention, and here 3 queries meet 5 keys"),
        ("flex", Case("cpu"), "no backward pass on a CPU; it serves evaluation alone"),
        ("flex", Case("cpu", torch.float64, backward=False), "no kernel for float64"),
        ("flex", CUDA._replace(width=8), "at least 16 wide on a GPU; here they are 8"),
        ("flex", Case("mps"), "used on CPUs and NVIDIA GPUs, and this runs on 'mps'"),
    ],
)
def test_a_backend_that_cannot_run_says_why_and_what_can(name: str, case: Case, reason: str) -> None:
    if name == "timm":
        pytest.importorskip("timm.layers", exc_type=Exception)
    with pytest.raises(Unusable) as told:
        resolve(name, case)
    text = str(told.value)
    assert (
        text.startswith(f"attention backend '{name}', which the recipe asks for, cannot be used: ") and reason in text
    )
    assert "; use auto, manual" in text and f" {name}," not in text.rpartition("; use")[2]


def test_the_call_itself_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs(4, 4, 8, torch.float32)
    monkeypatch.setenv("MMROBUST_ATTENTION", "flex")
    with pytest.raises(Unusable, match=r"'flex', which MMROBUST_ATTENTION asks for, cannot be used: .* on a CPU"):
        attention(query, key, value)
    with use_attention("cudnn"), pytest.raises(Unusable, match="'cudnn', which a use_attention block asks for"):
        attention(query, key, value)


def test_a_recipe_is_refused_only_where_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unusable):
        check("efficient", Case("cpu"))
    check("timm" if BACKENDS["timm"].why_not(Case("cpu")) is None else "sdpa", Case("cpu"))
    monkeypatch.setenv("MMROBUST_ATTENTION", "auto")
    check("efficient", Case("cpu"))


def test_settings_tell_the_case() -> None:
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    assert expected("auto", "fp32") == Case(kind)
    assert expected("cuda:1", "bf16") == Case("cuda", torch.bfloat16)
    assert expected("cpu", "bf16") == Case("cpu", torch.float32)  # attention stays in fp32 there


def test_auto_can_always_run_and_says_why_not_another() -> None:
    for device in DEVICES:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for t in (1, 8, 32, 33, 500, 3000):
                for masked in (True, False):
                    for backward in (True, False):
                        case = Case(device, dtype, t, t, 16, masked, backward)
                        name = resolve("auto", case)
                        assert BACKENDS[name].why_not(case) is None
                        reasons = passed_over(case)
                        assert set(reasons) == set(BACKENDS) - {name} and all(reasons.values())


def test_what_ran_can_be_watched_and_explained() -> None:
    query, key, value = inputs(4, 150, 16, torch.float32)
    with watch() as calls:
        attention(query, key, value, masks(150))
        with torch.no_grad():
            attention(query, key, value, masks(150))
            attention(query, key[:, :, :9], value[:, :, :9], masks(9), "manual")
    attention(query, key, value)
    cases = list(calls)
    assert [(case.keys, case.masked, case.backward) for case in cases] == [
        (150, True, True),
        (150, True, False),
        (9, True, False),
    ]
    assert list(calls.values()) == ["sdpa", "sdpa", "manual"]
    lines = explain("auto", cases[:1])
    assert lines[0] == "sdpa (auto) for 4 queries x 150 keys, heads 16 wide, float32, cpu"
    assert "   not flash: is what sdpa takes on a CPU" in lines
    assert "   not efficient, cudnn: it is a kernel of NVIDIA GPUs, and this runs on 'cpu'" in lines
    assert explain("manual", cases)[0].startswith("manual (the recipe) for 4 queries x 150 keys")
    assert explain("manual", cases)[0].endswith(", and 2 smaller")
    assert explain("auto", []) == ["none is computed"]


def test_halves_are_computed_in_fp32_on_a_cpu_also_under_autocast() -> None:
    query, key, value = inputs(5, 40, 8, torch.bfloat16, backward=False)
    right = attention(query.float(), key.float(), value.float())
    with watch() as calls, torch.autocast("cpu", torch.bfloat16):
        assert (attention(query, key, value) == right.bfloat16()).all()
        # fp32 stays fp32: autocast would have rounded it.
        assert (attention(query.float(), key.float(), value.float()) == right).all()
    assert {case.dtype for case in calls} == {torch.float32}


# --------------------------------------------------------------------------------------------- under torch's tools


@pytest.mark.parametrize("backend", ["auto", "manual", "sdpa", "flash"])
def test_stacked_models_get_what_each_gets_alone(backend: str) -> None:
    g = torch.Generator().manual_seed(0)
    stacked = [torch.randn(4, 3, 2, n, 8, generator=g, dtype=torch.float64, requires_grad=True) for n in (5, 40, 40)]
    mask = torch.rand(4, 3, 40, generator=g) > 0.4
    mask[0, 1] = False

    def one(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        return attention(q, k, v, m, backend)

    alone = torch.stack([attention(*(x[i] for x in stacked), mask[i], "manual") for i in range(4)])
    right = torch.autograd.grad(alone.square().sum(), stacked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where it loops over the models
        out = vmap(one)(*stacked, mask)
        outside = torch.autograd.grad(out.square().sum(), stacked)
        inside = vmap(grad(lambda *x: one(*x).square().sum(), argnums=(0, 1, 2)))(*stacked, mask)
        shared = vmap(one, in_dims=(0, None, 0, None))(stacked[0], stacked[1][0], stacked[2], mask[0])
    torch.testing.assert_close(out, alone, atol=1e-12, rtol=0)
    for found in (outside, inside):
        for x, y in zip(found, right, strict=True):
            torch.testing.assert_close(x, y, atol=1e-12, rtol=0)
    torch.testing.assert_close(shared[0], attention(*(x[0] for x in stacked), mask[0]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("backend", ["auto", "manual", "sdpa", "flash"])
def test_it_compiles_as_one_graph_for_any_length(backend: str) -> None:
    compiled = torch.compile(attention, backend="eager", fullgraph=True, dynamic=True)
    for s, t in ((5, 9), (7, 60)):
        query, key, value = inputs(s, t, 8)
        found = compiled(query, key, value, masks(t), backend)
        torch.testing.assert_close(found, attention(query, key, value, masks(t), "manual"), atol=1e-12, rtol=0)


def test_weights_are_a_distribution_over_the_real_keys() -> None:
    query, key, _ = inputs(4, 6, 8)
    told = weights(query, key, masks(6))
    torch.testing.assert_close(told.sum(-1)[:2], torch.ones_like(told.sum(-1)[:2]))
    assert (told[1, ..., 3:] == 0).all() and (told[2] == 0).all()


@pytest.mark.parametrize("backend", TRAINABLE)
def test_weights_are_recorded_inside_a_block_alone_and_make_the_output(backend: str) -> None:
    query, key, value = inputs(6, 6, 8)
    with record() as outer:
        first = attention(query, key, value, masks(6), backend)
        with record() as inner:
            attention(query, key, value, None, backend)
    attention(query, key, value, None, backend)
    assert len(outer) == 2 and len(inner) == 1
    assert not outer[0].requires_grad
    torch.testing.assert_close(outer[0] @ value, first)
    torch.testing.assert_close(inner[0], weights(query, key, None))
