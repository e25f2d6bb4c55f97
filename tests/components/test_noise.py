"""What the built-in noises destroy, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.components.noise import FrameDrop, WindowErase
from mmrobust.contracts import Batch, Context, Noise, Shape, Stream, Task
from mmrobust.errors import OptionError


def context(**features: Shape) -> Context:
    return Context(tuple(features), Task("regression", 1, "regression"), 8, features)


CONTEXT = context(a=Shape(3, 12), b=Shape(2, 7))


def batch(count: int, seed: int = 0, context: Context = CONTEXT) -> Batch:
    g = torch.Generator().manual_seed(seed)
    features = {}
    for m, shape in context.features.items():
        lengths = torch.randint(1, shape.length + 1, (count, 1), generator=g)
        mask = torch.arange(shape.length) < lengths
        x = torch.randn(count, shape.length, shape.width, generator=g) + 5
        features[m] = Stream(x, mask).zeroed()
    return Batch.fresh(features)


NOISES: list[Noise] = [
    WindowErase(CONTEXT),
    WindowErase(CONTEXT, scope="one_modality"),
    FrameDrop(CONTEXT),
    FrameDrop(CONTEXT, modalities=["b"]),
]


@pytest.mark.parametrize("noise", NOISES)
@given(rate=st.floats(0, 1), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_erased_steps_are_zero_and_nothing_else_changes(noise: Noise, rate: float, seed: int) -> None:
    clean = batch(8, seed)
    before = {m: s.x.clone() for m, s in clean.features.items()}
    out = noise(clean, rate, torch.Generator().manual_seed(seed))
    for m, stream in out.features.items():
        gone = out.erased[m]
        assert torch.equal(clean.features[m].x, before[m])
        assert not (gone & ~stream.mask).any()
        assert (stream.x[gone] == 0).all()
        assert torch.equal(stream.x[~gone], before[m][~gone])
        assert torch.equal(stream.mask, clean.features[m].mask)
    assert out.clean is clean


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rate", [0.0, 0.13, 0.5, 0.9, 1.0])
def test_the_mean_share_of_erased_steps_is_the_rate(noise: Noise, rate: float) -> None:
    out = noise(batch(4000), rate, torch.Generator().manual_seed(1))
    for m, expected in noise.expected(rate).items():
        share = float(out.erased[m].sum() / out.features[m].mask.sum())
        assert abs(share - expected) < (0.02 if 0 < expected < 1 else 1e-9), m


def test_a_window_is_one_run_of_successive_real_steps_of_up_to_half() -> None:
    out = WindowErase(CONTEXT)(batch(500), (0.0, 0.5), torch.Generator().manual_seed(2))
    for m, stream in out.features.items():
        gone = out.erased[m].to(torch.int8)
        starts = (torch.diff(gone, prepend=torch.zeros_like(gone[:, :1])) == 1).sum(1)
        assert (starts <= 1).all()
        assert (gone.sum(1) <= torch.ceil(stream.mask.sum(1) / 2)).all()
        assert gone.sum(1).float().std() > 0


def test_one_modality_is_hit_per_sample_and_each_about_equally_often() -> None:
    out = WindowErase(CONTEXT, scope="one_modality")(batch(3000), 1.0, torch.Generator().manual_seed(3))
    hit = torch.stack([out.erased[m].any(1) for m in CONTEXT.modalities], 1)
    assert (hit.sum(1) == 1).all()
    assert (hit.float().mean(0) - 0.5).abs().max() < 0.04


def test_windows_skip_padding_in_front() -> None:
    mask = torch.zeros(200, 10, dtype=torch.bool)
    mask[:, 6:] = True
    shaped = context(a=Shape(1, 10))
    clean = Batch.fresh({"a": Stream(torch.ones(200, 10, 1), mask).zeroed()})
    out = WindowErase(shaped)(clean, 0.5, torch.Generator().manual_seed(0))
    assert (out.erased["a"].sum(1) == 2).all() and not out.erased["a"][:, :6].any()


@pytest.mark.parametrize("noise", NOISES)
def test_noises_compose(noise: Noise) -> None:
    clean = batch(50)
    once = noise(clean, 0.3, torch.Generator().manual_seed(0))
    twice = noise(once, 0.3, torch.Generator().manual_seed(1))
    assert twice.clean is clean
    for m in CONTEXT.modalities:
        assert (twice.erased[m] | ~once.erased[m]).all()


def test_an_unknown_modality_is_told() -> None:
    with pytest.raises(OptionError, match="there is no modality 'c'; known: a, b"):
        FrameDrop(CONTEXT, modalities=["c"])
