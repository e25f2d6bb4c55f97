"""Promise: MulT's pairs are what the paper draws, and attention to oneself is self-attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from small import context, streams

from mmrobust_baselines.layers import Transformer, last, sinusoids
from mmrobust_baselines.mult import CrossmodalPairs

SHAPES = {"a": Shape(8, 5), "b": Shape(8, 3), "c": Shape(8, 6)}


def test_a_crossmodal_transformer_over_itself_is_self_attention() -> None:
    stream = streams(SHAPES)["a"]
    network = Transformer(8, 6, 1, 2)  # in the first block the source is the query
    torch.testing.assert_close(network(stream, stream).x, network(stream).x)


@pytest.mark.parametrize("crossmodal", [True, False])
def test_padding_changes_neither_values_nor_gradients(crossmodal: bool) -> None:
    network = Transformer(8, 9, 2, 2).double()
    stream, other = (streams(SHAPES, full=True)[m].map(torch.Tensor.double) for m in "ac")
    results = []
    for steps in (0, 3):
        network.zero_grad()
        padded = [Stream(F.pad(s.x, (0, 0, 0, steps), value=7.0), F.pad(s.mask, (0, steps))) for s in (stream, other)]
        out = network(padded[0], padded[1] if crossmodal else None).x[:, :5]
        out.sin().sum().backward()
        results.append([out, *(p.grad for p in network.parameters())])
    for short, long in zip(*results, strict=True):
        torch.testing.assert_close(short, long)


def test_the_last_real_steps_come_out_and_zero_where_there_are_none() -> None:
    fusion = CrossmodalPairs(context(SHAPES), depth=1, self_depth=2, heads=2)
    given = streams(SHAPES)
    given["b"] = replace(given["b"], mask=given["b"].mask & torch.tensor([[False], [True], [True], [True]])).zeroed()
    result = fusion({}, given, {}).x.view(4, 3, 16)
    assert not result[0, 1].any() and result[1:, 1].any(-1).all()
    attended = torch.cat([fusion.pairs["a"][b](given["a"], given[b]).x for b in "bc"], -1)  # type: ignore[index,operator]
    whole = fusion.selves["a"](replace(given["a"], x=attended)).x
    torch.testing.assert_close(result[:, 0], last(replace(given["a"], x=whole)))


def test_each_modality_attends_to_every_other_and_the_widths_add_up() -> None:
    fusion = CrossmodalPairs(context(SHAPES), depth=1, self_depth=1, heads=2)
    assert {a: tuple(bs) for a, bs in fusion.pairs.items()} == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}  # type: ignore[arg-type]
    assert fusion.shape == Shape(3 * 2 * 8, 1)
    given = streams(SHAPES)
    before = fusion({}, given, {}).x.view(4, 3, 16)
    after = fusion({}, {**given, "c": given["c"].map(lambda x: -x)}, {}).x.view(4, 3, 16)
    assert ((before - after).abs().amax(-1) > 0).all()


def test_in_normtrs_slot_the_generic_features_are_the_query() -> None:
    fusion = CrossmodalPairs(context(SHAPES, generic=SHAPES), depth=1, self_depth=1, heads=2, query="generic")
    specific, generic = streams(SHAPES), streams(SHAPES, seed=1)
    out = fusion(generic, specific, {}).x
    assert not torch.equal(out, fusion(streams(SHAPES, seed=2), specific, {}).x)
    # What a attends to are the others' specific features, never from its own.
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
