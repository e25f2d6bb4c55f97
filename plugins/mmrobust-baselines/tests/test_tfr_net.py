"""Promise: TFR-Net's reconstruction counts erased steps alone, and its parts read what the paper says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from mmrobust.contracts import Shape, Stream
from mmrobust.errors import OptionError
from small import PROGRESS, context, outputs, pooled, streams

from mmrobust_baselines.tfr_net import FeatureReconstruction, GateEncoder, IntraInter

SHAPES = {"a": Shape(4, 5), "b": Shape(6, 3)}


def test_only_what_was_erased_counts() -> None:
    objective = FeatureReconstruction(context(SHAPES, generic=SHAPES), reading="paper")
    clean = streams(SHAPES)
    out = outputs(clean, generic=streams(SHAPES, seed=1))
    assert out.batch is not None
    assert objective(out, {}, PROGRESS).item() == 0  # nothing is erased
    erased = {m: torch.zeros_like(s.mask) for m, s in clean.items()}
    erased["a"][1, 2] = erased["a"][3, 0] = True
    noisy = {m: Stream(s.x.masked_fill(erased[m].unsqueeze(-1), 0), s.mask) for m, s in clean.items()}
    out = replace(out, batch=out.batch.noisy(noisy, erased))
    decoded = objective.layers["a"](out.generic["a"].x)
    expected = F.smooth_l1_loss(decoded[erased["a"]], clean["a"].x[erased["a"]])
    torch.testing.assert_close(objective(out, {}, PROGRESS), expected, atol=1e-4, rtol=1e-4)


def test_every_modality_attends_to_all() -> None:
    encoder = IntraInter(replace(context(SHAPES), width=6), depth=1, heads=2, kernel=1)
    given = streams(SHAPES)
    out = encoder(given, {})
    assert {m: s.x.shape[-1] for m, s in out.items()} == {"a": 12, "b": 12}
    other = encoder({**given, "b": given["b"].map(lambda x: -x)}, {})
    before, after = out["a"].x.chunk(2, -1), other["a"].x.chunk(2, -1)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


def test_the_gate_encoder_keeps_the_maximum_over_real_steps() -> None:
    fusion = GateEncoder(context(SHAPES), hidden=3)
    given = streams(SHAPES)
    nothing = {m: replace(s, mask=torch.zeros_like(s.mask)) for m, s in given.items()}
    assert (fusion({}, nothing, {}).x == 0).all()
    assert fusion({}, given, {}).x.abs().max() < 1


def test_reconstruction_needs_a_step_for_each_step() -> None:
    with pytest.raises(OptionError, match="each step of a"):
        FeatureReconstruction(context(SHAPES, generic=pooled(4, 6)))
