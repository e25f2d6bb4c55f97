"""Promise: in the message hub every modality reads every other through the message."""

from __future__ import annotations

import torch
from mmrobust.contracts import Shape
from small import context, streams

from mmrobust_baselines.pmr import MessageHub, MessageUpdate

SHAPES = {"a": Shape(8, 5), "b": Shape(8, 3), "c": Shape(8, 6)}


def test_news_travel_through_the_message() -> None:
    fusion = MessageHub(context(SHAPES), depth=1, heads=2)
    given = streams(SHAPES)
    before = fusion({}, given, {}).x.view(4, 3, 8)
    after = fusion({}, {**given, "c": given["c"].map(lambda x: -x)}, {}).x.view(4, 3, 8)
    assert ((before - after).abs().amax(-1) > 0).all()


def test_a_closed_gate_leaves_self_attention() -> None:
    fusion = MessageHub(context(SHAPES), depth=1, heads=2)
    with torch.no_grad():
        for layer in fusion.layers:
            for unit in layer.values():  # type: ignore[operator]
                unit.gate.bias.fill_(-1e4)
    given = streams(SHAPES)
    before = fusion({}, given, {}).x.view(4, 3, 8)
    after = fusion({}, {**given, "c": given["c"].map(lambda x: -x)}, {}).x.view(4, 3, 8)
    assert torch.equal(before[:, :2], after[:, :2])


def test_a_message_that_no_modality_reads_is_not_computed() -> None:
    fusion = MessageHub(context(SHAPES), depth=2, heads=2)
    assert [len(layer) for layer in fusion.layers] == [6, 3]  # type: ignore[arg-type]


def test_a_message_is_weighed_by_attention() -> None:
    torch.manual_seed(0)
    fusion = MessageHub(context(SHAPES), depth=2, heads=2, update="attention")
    assert len(fusion.updates) == 1
    given = streams(SHAPES)
    fusion({}, given, {}).x.square().sum().backward()
    assert all(p.grad is not None for p in fusion.updates.parameters())
    update = MessageUpdate(8, 2.0, 0.0)
    with torch.no_grad():
        update.score[2].weight.zero_()  # type: ignore[operator]
        update.feed[3].weight.zero_()  # type: ignore[operator]
        update.feed[3].bias.zero_()  # type: ignore[operator]
    messages, mask = [torch.randn(4, 5, 8) for _ in range(3)], torch.ones(4, 5, dtype=torch.bool)
    torch.testing.assert_close(update(messages, mask), torch.stack(messages).mean(0))  # equal scores: the mean
