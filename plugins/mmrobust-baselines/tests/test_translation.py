"""Promise: MCTN needs the source alone, and decodes its targets from its joint representations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmrobust.contracts import Shape
from mmrobust.errors import OptionError
from small import PROGRESS, context, outputs, streams

from mmrobust_baselines.mctn import Decoder, Translation, TranslationChain

SHAPES = {"a": Shape(4, 5), "b": Shape(6, 3), "c": Shape(2, 4)}


def test_a_prediction_reads_the_source_alone() -> None:
    fusion = TranslationChain(context(SHAPES), hidden=3)
    given = streams(SHAPES)
    out = fusion({}, given, {}).x
    other = {m: s if m == "a" else s.map(lambda x: x + 1) for m, s in given.items()}
    assert torch.equal(out, fusion({}, other, {}).x)
    assert len(fusion.encoders) == 2  # two targets, two joint representations


def test_the_loss_adds_translations_and_the_way_back() -> None:
    around = replace(context(SHAPES), fused=Shape(3, 1))
    fusion, objective = TranslationChain(around, hidden=3), Translation(around, hidden=4, cycle=0.5)
    given = streams(SHAPES)
    out = outputs(given)
    fusion({}, given, out.notes)
    joints = out.notes["translation a > b > c"]
    assert list(joints) == ["b", "c"]
    decoded = {m: d(joints[m], SHAPES[m].length) for m, d in objective.decoders.items()}
    expected = sum((decoded[m] - given[m].x)[given[m].mask].square().mean() for m in decoded)
    back, _ = objective.back(replace(given["b"], x=decoded["b"]))
    expected = expected + 0.5 * (objective.home(back, 5) - given["a"].x)[given["a"].mask].square().mean()
    loss = objective(out, {}, PROGRESS)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in fusion.encoders.parameters())


def test_a_decoder_reads_its_own_output() -> None:
    decoder = Decoder(3, 4, 2, "auto")
    joint = streams({"j": Shape(3, 5)})["j"]
    three, five = decoder(joint, 3), decoder(joint, 5)
    torch.testing.assert_close(three, five[:, :3])
    assert not torch.allclose(five[:, 3], five[:, 4])


def test_targets_come_in_the_order_of_the_option() -> None:
    around = replace(context(SHAPES), fused=Shape(3, 1))
    fusion, objective = (
        TranslationChain(around, hidden=3, targets=["c", "b"]),
        Translation(around, targets=["c", "b"]),
    )
    out = outputs(streams(SHAPES))
    fusion({}, streams(SHAPES), out.notes)
    assert list(out.notes["translation a > c > b"]) == list(objective.decoders) == ["c", "b"]
    assert objective.back.ahead[0].input_size == SHAPES["c"].width
    with pytest.raises(OptionError, match="other modalities"):
        TranslationChain(around, targets=["c"])


def test_both_directions_are_added_and_the_states_are_weighed() -> None:
    fusion = TranslationChain(context(SHAPES), hidden=3, bidirectional=True, read="attention")
    given, notes = streams(SHAPES), {}
    out = fusion({}, given, notes)
    joints = list(notes["translation a > b > c"].values())
    both = fusion.encoders[0](given["a"])[0].x
    torch.testing.assert_close(joints[0].x, both[..., :3] + both[..., 3:])
    assert fusion.weigh is not None
    states = fusion.reader(joints[1])[0]
    for i in range(4):
        x = states.x[i][states.mask[i]]
        torch.testing.assert_close(out.x[i, 0], (fusion.weigh(x).softmax(0) * x).sum(0))
