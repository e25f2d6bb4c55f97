"""Promise: samples that attend one after the other give what they give side by side, and only where that is faster."""

from __future__ import annotations

import copy

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.accel.cross_attention import FastCrossAttention
from mmrobust.accel.packing import Packing
from mmrobust.accel.varlen_attention import pays, varlen_attention
from mmrobust.components.fusion import CrossAttention
from mmrobust.contracts import Context, Shape, Stream, Task
from mmrobust.nn.attention import attention, record, use_attention

LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 3), st.sampled_from(["auto", "manual", "sdpa", "flash"]))
def test_values_and_gradients_are_those_of_one_call(lengths: list[tuple[int, int]], heads: int, backend: str) -> None:
    queries, keys = torch.tensor(lengths).unbind(1)
    real, known = torch.arange(4) < queries.unsqueeze(1), torch.arange(5) < keys.unsqueeze(1)
    random = torch.Generator().manual_seed(0)
    values = [torch.randn(len(lengths), t, heads, 3, dtype=torch.float64, generator=random) for t in (4, 5, 5)]
    q, k, v = (x.requires_grad_() for x in values)
    packed = (
        Packing(mask).pack(x.flatten(2)).unflatten(1, (heads, 3)) for mask, x in ((real, q), (known, k), (known, v))
    )
    attended = varlen_attention(*packed, queries.tolist(), keys.tolist(), backend)
    side = rearrange(attention(*(x.transpose(1, 2) for x in (q, k, v)), known, "manual"), "b h s d -> b s h d")
    expected = Packing(real).pack(side.flatten(2)).unflatten(1, (heads, 3))
    torch.testing.assert_close(attended, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=random)
    for one, other in zip(
        torch.autograd.grad((attended * weight).sum() + 0 * (q.sum() + k.sum() + v.sum()), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("queries", "keys"), [((20, 15), (40, 27)), ((20, 15), (20, 12)), ((20, 12), (20, 15))])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_fusion_without_padding_gives_what_the_plain_one_gives(
    queries: list[int], keys: list[int], norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of packed steps, with rows added to round their number: queries and keys, queries alone, keys alone."""
    monkeypatch.setattr("mmrobust.accel.cross_attention.pays", lambda *_: True)
    shapes = {"a": Shape(8, 20)}, {"a": Shape(8, 40)}
    task = Task("regression", 1, "mosi")
    context = Context(("a",), task, 8, {}, generic=shapes[0], specific=shapes[1])
    plain = CrossAttention(context, heads=2, norm=norm).double()  # type: ignore[arg-type]
    fast = copy.deepcopy(plain)
    fast.__class__ = FastCrossAttention
    streams = []
    for lengths, length in ((queries, 20), (keys, 40)):
        mask = torch.arange(length) < torch.tensor(lengths).unsqueeze(1)
        streams.append(Stream(torch.randn(2, length, 8, dtype=torch.float64).requires_grad_(), mask))
    results = []
    for part in (fast, plain):
        out = part({"a": streams[0].zeroed()}, {"a": streams[1].zeroed()}, {}).zeroed()
        wanted = [*(stream.x for stream in streams), *part.parameters()]
        results.append([out.x, *torch.autograd.grad(out.x.cos().sum(), wanted)])
        assert out.segments == (("a", 20),)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_it_pays_where_there_is_much_padding() -> None:
    full, half = torch.ones(4, 150, dtype=torch.bool), (torch.arange(150) < 75).expand(4, 150)
    assert pays(half, half, 8) and pays(full, half, 8)
    assert not pays(full, full, 8)  # nothing is spared
    assert not pays(half[:, 67:83], half[:, 67:83], 8)  # sequences so short that a call costs more


@pytest.mark.parametrize("backend", ["timm", "flex"])
def test_it_is_not_asked_of_a_backend_that_wants_one_length(backend: str) -> None:
    half = (torch.arange(150) < 75).expand(4, 150)
    assert not pays(half, half, 8, backend)
    with use_attention(backend):
        assert not pays(half, half, 8)


def test_weights_are_recorded_of_whole_batches() -> None:
    half = (torch.arange(150) < 75).expand(4, 150)
    with record():
        assert not pays(half, half, 8)
    assert pays(half, half, 8)
