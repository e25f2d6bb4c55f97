"""Promise: MulT's pairs are what the paper draws, and hearing oneself is self-attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmrobust.contracts import Shape
from mmrobust.errors import OptionError
from small import context, streams

from mmrobust_baselines.layers import Transformer, last, sinusoids
from mmrobust_baselines.mult import CrossmodalPairs

SHAPES = {"a": Shape(8, 5), "b": Shape(8, 3), "c": Shape(8, 6)}


def test_a_crossmodal_transformer_that_hears_itself_is_self_attention() -> None:
    stream = streams(SHAPES)["a"]
    one = Transformer(8, 6, 1, 2)  # in the first block the source is what the query is
    crossmodal = one(stream.x, stream.x, stream.mask, real=stream.mask)
    torch.testing.assert_close(crossmodal, one(stream.x, None, stream.mask))


@pytest.mark.parametrize("wanted", [None, [[4], [2], [0], [1]]])
@pytest.mark.parametrize("crossmodal", [True, False])
def test_packed_steps_and_padded_ones_give_the_same_values_and_gradients(
    crossmodal: bool, wanted: list[list[int]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Transformer(8, 6, 2, 2).double()
    stream, other = streams(SHAPES)["a"], streams(SHAPES)["c"]
    steps = None if wanted is None else torch.tensor(wanted)
    results = []
    for packed in (True, False):
        monkeypatch.setattr("mmrobust_baselines.layers.eager", lambda packed=packed: packed)
        network.zero_grad()
        x, source = (s.x.double().requires_grad_() for s in (stream, other))
        if crossmodal:
            out = network(x, source, other.mask, steps, stream.mask)
        else:
            out = network(x, None, stream.mask, steps)
        real = stream.mask if steps is None else stream.mask.gather(1, steps)
        out = out.masked_fill(~real.unsqueeze(-1), 0)
        out.sin().sum().backward()
        results.append([out, x.grad, source.grad if crossmodal else None, *(p.grad for p in network.parameters())])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_only_the_wanted_steps_come_out() -> None:
    stream = streams(SHAPES, full=True)["c"]
    wanted = torch.tensor([[5, 0], [2, 2], [0, 1], [3, 4]])
    network = Transformer(8, 6, 2, 2)
    everything = network(stream.x, None, stream.mask)
    torch.testing.assert_close(
        network(stream.x, None, stream.mask, wanted),
        torch.stack([everything[i, steps] for i, steps in enumerate(wanted)]),
    )


def test_the_last_real_steps_come_out_and_zero_where_there_are_none() -> None:
    fusion = CrossmodalPairs(context(SHAPES), depth=1, self_depth=2, heads=2)
    given = streams(SHAPES)
    given["b"] = replace(given["b"], mask=given["b"].mask & torch.tensor([[False], [True], [True], [True]])).zeroed()
    found = fusion({}, given, {}).x.view(4, 3, 16)
    assert not found[0, 1].any() and found[1:, 1].any(-1).all()
    heard = torch.cat([fusion.pairs["a"][b](given["a"].x, given[b].x, given[b].mask) for b in "bc"], -1)  # type: ignore[index,operator]
    whole = fusion.selves["a"](heard, None, given["a"].mask)
    torch.testing.assert_close(found[:, 0], last(replace(given["a"], x=whole)))


def test_each_modality_hears_every_other_and_the_widths_add_up() -> None:
    fusion = CrossmodalPairs(context(SHAPES), depth=1, self_depth=1, heads=2)
    assert {a: tuple(bs) for a, bs in fusion.pairs.items()} == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}  # type: ignore[arg-type]
    assert fusion.shape == Shape(3 * 2 * 8, 1)
    given = streams(SHAPES)
    before = fusion({}, given, {}).x.view(4, 3, 16)
    after = fusion({}, {**given, "c": given["c"].map(lambda x: -x)}, {}).x.view(4, 3, 16)
    assert ((before - after).abs().amax(-1) > 0).all()


def test_in_normtrs_slot_the_generic_features_ask() -> None:
    fusion = CrossmodalPairs(context(SHAPES, generic=SHAPES), depth=1, self_depth=1, heads=2, query="generic")
    specific, generic = streams(SHAPES), streams(SHAPES, seed=1)
    out = fusion(generic, specific, {}).x
    assert not torch.equal(out, fusion(streams(SHAPES, seed=2), specific, {}).x)
    # What a hears comes from the others' specific features, never from its own.
    changed = fusion(generic, {**specific, "a": specific["a"].map(lambda x: -x)}, {}).x
    assert torch.equal(out[..., :16], changed[..., :16]) and not torch.equal(out[..., 16:], changed[..., 16:])


def test_positions_are_vaswanis() -> None:
    table = sinusoids(5, 6)
    assert table[3, 0] == pytest.approx(torch.sin(torch.tensor(3.0)).item())
    assert table[3, 5] == pytest.approx(torch.cos(torch.tensor(3.0) / 10000 ** (4 / 6)).item())


def test_one_modality_and_wrong_heads_are_refused() -> None:
    with pytest.raises(OptionError, match="another modality"):
        CrossmodalPairs(context({"a": Shape(8, 5)}))
    with pytest.raises(OptionError, match="3 does not divide"):
        CrossmodalPairs(context(SHAPES), heads=3)
