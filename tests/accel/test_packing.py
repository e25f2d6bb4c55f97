"""Promise: real steps go through and come back to their places, and where that cannot be, every step stays."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.accel.packing import IndexedSteps, Packing, join, rounding
from mmrobust.contracts import Stream


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=5))
def test_steps_come_back_to_their_places(lists: list[list[bool]]) -> None:
    mask = torch.tensor(lists)
    x = torch.arange(mask.numel() * 2.0).view(*mask.shape, 2) + 1
    rows = Packing.choose(mask)
    packed = rows.pack(x)
    assert torch.equal(rows.unpack(packed) * mask.unsqueeze(-1), x * mask.unsqueeze(-1))
    if not mask.all():
        assert packed.shape == (mask.sum(), 2)
        assert torch.equal(rows.unpack(packed), x * mask.unsqueeze(-1))


def test_without_padding_nothing_is_moved() -> None:
    x = torch.randn(2, 3, 4)
    rows = Packing.choose(torch.ones(2, 3, dtype=torch.bool))
    assert rows.pack(x) is x and rows.unpack(x) is x


def test_where_tensors_have_no_values_every_step_stays() -> None:
    def shape(mask: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        assert Packing.choose(mask).pack(x) is x
        return x + 1

    mask, x = torch.tensor([[True, False]]), torch.zeros(1, 2, 1)
    torch.func.vmap(shape)(mask.unsqueeze(0), x.unsqueeze(0))
    torch.compile(shape, backend="eager", fullgraph=True)(mask, x)


MASKS = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2)


@given(MASKS, MASKS)
def test_indexed_steps_give_what_a_stream_gives(
    one: list[list[bool]], two: list[list[bool]]
) -> None:
    parts, streams = [], []
    for lists in (one, two):
        stream = Stream(torch.randn(2, 3, 4), torch.tensor(lists)).zeroed()
        rows = Packing(stream.mask)
        indexed = rows.steps(rows.pack(stream.x), stream.mask)
        assert isinstance(indexed, IndexedSteps)
        assert torch.equal(indexed.x, stream.x)
        assert torch.equal(rows.values(indexed), rows.pack(stream.x))
        parts.append(indexed)
        streams.append(stream)
    both, plain = join(parts), join(streams)
    assert torch.equal(both.mask, plain.mask) and torch.equal(both.x, plain.x)
    assert torch.equal(Packing(both.mask).values(both), Packing(both.mask).values(plain))


@given(st.integers(0, 10_000))
def test_few_numbers_of_rows_occur(count: int) -> None:
    added = rounding(count)
    assert 0 <= 16 * added <= count
    assert rounding(count + added) == 0
    # Sixteen numbers between one power of two and the next.
    assert len({n + rounding(n) for n in range(count, 2 * count)}) <= 18


@settings(deadline=None)
@given(st.integers(40, 60), st.integers(0, 2**31))
def test_rows_that_round_the_number_change_nothing(steps: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(3, steps, generator=random) < 0.7
    x = torch.randn(3, steps, 2, generator=random, dtype=torch.float64).requires_grad_()
    rows, stream = Packing(mask), Stream(x, mask).zeroed()
    packed = rows.pack(x)
    assert len(packed) == mask.sum() + rounding(int(mask.sum())) == sum(rows.lengths) + rows.spare
    assert torch.equal(rows.unpack(packed), stream.x)
    assert torch.equal(rows.steps(packed, mask).x, stream.x)
    value = rows.unpack(packed.cos()).square().sum() + rows.steps(packed, mask).x.sum()
    plain = (x.cos() * mask.unsqueeze(-1)).square().sum() + stream.x.sum()
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (value, plain)))
