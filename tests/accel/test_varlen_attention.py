"""Promise: samples that attend one after the other give what they give side by side, and only where that is faster."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.accel.packing import Rows
from mmrobust.accel.varlen_attention import pays, ragged
from mmrobust.nn.attention import attention, record, use_attention
from mmrobust.nn.layers import MultiheadAttention

LENGTHS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 3), st.sampled_from(["auto", "manual", "bmm", "sdpa", "flash"]))
def test_values_and_gradients_are_those_of_one_call(lengths: list[tuple[int, int]], heads: int, backend: str) -> None:
    queries, keys = torch.tensor(lengths).unbind(1)
    asks, answers = torch.arange(4) < queries.unsqueeze(1), torch.arange(5) < keys.unsqueeze(1)
    random = torch.Generator().manual_seed(0)
    made = [torch.randn(len(lengths), t, heads, 3, dtype=torch.float64, generator=random) for t in (4, 5, 5)]
    q, k, v = (x.requires_grad_() for x in made)
    packed = (
        Rows(mask).pack(x.flatten(2)).unflatten(1, (heads, 3)) for mask, x in ((asks, q), (answers, k), (answers, v))
    )
    found = ragged(*packed, queries.tolist(), keys.tolist(), backend)
    side = rearrange(attention(*(x.transpose(1, 2) for x in (q, k, v)), answers, "manual"), "b h s d -> b s h d")
    expected = Rows(asks).pack(side.flatten(2)).unflatten(1, (heads, 3))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=random)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum() + 0 * (q.sum() + k.sum() + v.sum()), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_layer_gives_packed_steps_what_it_gives_padded_ones() -> None:
    layer = MultiheadAttention(8, 6, heads=2).double()
    asks, answers = torch.tensor([[True, True, False], [False, True, False]]), torch.tensor([[True, False]] * 2)
    x, source = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 2, 6, dtype=torch.float64)
    rows, keys = Rows(asks), Rows(answers)
    found = layer.attend(rows.pack(layer.query(x)), keys.pack(layer.key_value(source)), rows, keys)
    torch.testing.assert_close(found, rows.pack(layer(x, source, answers)))


@pytest.mark.parametrize(("asking", "answering"), [((20, 15), (40, 27)), ((20, 15), (20, 12)), ((20, 12), (20, 15))])
def test_steps_that_nobody_has_change_nothing(asking: list[int], answering: list[int]) -> None:
    """Of packed steps, rounded up: spare queries and keys, spare queries alone, spare keys alone."""
    layer = MultiheadAttention(8, 6, heads=2).double()
    asks = torch.arange(20) < torch.tensor(asking).unsqueeze(1)
    answers = torch.arange(40) < torch.tensor(answering).unsqueeze(1)
    x, source = torch.randn(2, 20, 8, dtype=torch.float64), torch.randn(2, 40, 6, dtype=torch.float64)
    x, source = x.requires_grad_(), source.requires_grad_()
    rows, keys = Rows(asks), Rows(answers)
    assert rows.spare + keys.spare > 0
    found = rows.unpack(layer.attend(rows.pack(layer.query(x)), keys.pack(layer.key_value(source)), rows, keys))
    expected = layer(x, source, answers) * asks.unsqueeze(-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = [x, source, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(found.cos().sum(), wanted),
        torch.autograd.grad(expected.cos().sum(), wanted),
        strict=True,
    ):
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
