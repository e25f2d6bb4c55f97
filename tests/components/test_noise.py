"""What the built-in noises do, and what they leave alone. What holds for every noise, the conformance kit checks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrobust import registry
from mmrobust.components.noise import (
    LNLN,
    MMSA,
    Babble,
    FeatureDropout,
    FrameDrop,
    Freeze,
    Gaussian,
    ModalityDrop,
    OneOf,
    Quantization,
    Saturation,
    Sequence,
    Shuffle,
    Spikes,
    TFRNet,
    TimeShift,
    WindowErase,
)
from mmrobust.contracts import Batch, Context, Noise, Part, Rate, Shape, Stream, Task
from mmrobust.data.synthetic import SyntheticAffect
from mmrobust.errors import OptionError
from mmrobust.model.assemble import part_builder


def context(**features: Shape) -> Context:
    return Context(tuple(features), Task("regression", 1, "regression"), 8, features, build=part_builder)


CONTEXT = context(a=Shape(3, 12), b=Shape(2, 7))
NAMES = [spec.name for spec in registry.catalogue().all() if spec.kind == "noise" and spec.distribution == "mmrobust"]


def batch(count: int, seed: int = 0, context: Context = CONTEXT, whole: bool = False) -> Batch:
    g = torch.Generator().manual_seed(seed)
    features = {}
    for m, shape in context.features.items():
        lengths = torch.randint(1, shape.length + 1, (count, 1), generator=g)
        mask = (torch.arange(shape.length) < lengths) | whole
        x = torch.randn(count, shape.length, shape.width, generator=g) + 5
        features[m] = Stream(x, mask).zeroed()
    return Batch.fresh(features)


def run(noise: Noise, clean: Batch, rate: Rate, seed: int = 0) -> Batch:
    return noise(clean, rate, torch.Generator().manual_seed(seed))


def values(x: list[list[float]], real: list[list[int]] | None = None) -> Stream:
    """A stream of one feature."""
    y = torch.tensor(x).unsqueeze(-1)
    return Stream(y, torch.ones(y.shape[:2], dtype=torch.bool) if real is None else torch.tensor(real).bool())


def single(stream: Stream) -> tuple[Context, Batch]:
    """A batch of one modality."""
    shape = Shape(stream.x.shape[2], stream.x.shape[1])
    return context(a=shape), Batch.fresh({"a": stream})


# Erasing

ERASING: list[Noise] = [
    WindowErase(CONTEXT),
    WindowErase(CONTEXT, scope="one_modality"),
    WindowErase(CONTEXT, bursts=3),
    FrameDrop(CONTEXT),
    FrameDrop(CONTEXT, modalities=["b"]),
    ModalityDrop(CONTEXT),
    ModalityDrop(CONTEXT, keep_one=True),
    Sequence(CONTEXT, noises=[Part("window_erase"), Part("frame_drop")]),
    OneOf(CONTEXT, noises=[Part("window_erase"), Part("modality_drop")]),
]


@pytest.mark.parametrize("noise", ERASING)
@given(rate=st.floats(0, 1), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_erased_steps_are_zero_and_nothing_else_changes(noise: Noise, rate: float, seed: int) -> None:
    clean = batch(8, seed)
    before = {m: s.x.clone() for m, s in clean.features.items()}
    out = run(noise, clean, rate, seed)
    assert noise.constant
    for m, stream in out.features.items():
        gone = out.erased[m]
        assert torch.equal(clean.features[m].x, before[m])
        assert not (gone & ~stream.mask).any()
        assert (stream.x[gone] == 0).all()
        assert torch.equal(stream.x[~gone], before[m][~gone])
        assert torch.equal(stream.mask, clean.features[m].mask)
    assert out.clean is clean


@pytest.mark.parametrize("noise", ERASING[:-2])
@pytest.mark.parametrize("rate", [0.0, 0.13, 0.5, 0.9, 1.0])
def test_the_mean_share_of_erased_steps_is_the_rate(noise: Noise, rate: float) -> None:
    out = run(noise, batch(4000), rate, 1)
    for m, expected in (noise.expected(rate) or {}).items():
        share = float(out.erased[m].sum() / out.features[m].mask.sum())
        assert abs(share - expected) < (0.02 if 0 < expected < 1 else 1e-9), m


def runs_of(gone: Tensor) -> Tensor:
    """How many runs of True each row has."""
    x = gone.to(torch.int8)
    return (torch.diff(x, prepend=torch.zeros_like(x[:, :1])) == 1).sum(1)


def test_a_window_is_one_run_of_successive_real_steps_of_up_to_half() -> None:
    out = run(WindowErase(CONTEXT), batch(500), (0.0, 0.5), 2)
    for m, stream in out.features.items():
        gone = out.erased[m]
        assert (runs_of(gone) <= 1).all()
        assert (gone.sum(1) <= stream.mask.sum(1) // 2).all()
        assert gone.sum(1).float().std() > 0


def test_bursts_are_windows_that_hold_the_share_together() -> None:
    shaped = context(a=Shape(1, 60))
    out = run(WindowErase(shaped, bursts=4), batch(500, context=shaped, whole=True), 0.3)
    assert (out.erased["a"].sum(1) - 18).abs().max() <= 1  # 18 steps; float32 may not hold 0.3 * 60 exactly
    count = runs_of(out.erased["a"])
    assert count.max() == 4 and count.float().mean() > 3.5  # sometimes two of them touch
    first = out.erased["a"][:, :30].sum(1).float().mean()
    assert abs(first - 9) < 0.5  # anywhere


def test_draws_that_were_published_have_not_changed() -> None:
    """Results under `window_erase` and `frame_drop` were published with these very draws."""
    whole = batch(2, context=context(a=Shape(1, 10)), whole=True)
    told = lambda noise: ["".join("x" if e else "." for e in row) for row in run(noise, whole, 0.5, 3).erased["a"]]
    assert told(WindowErase(context(a=Shape(1, 10)))) == [".xxxxx....", "xxxxx....."]
    assert told(FrameDrop(context(a=Shape(1, 10)))) == ["xxxxxx....", "x.xxxxx..."]


def test_one_modality_is_hit_per_sample_and_each_about_equally_often() -> None:
    out = run(WindowErase(CONTEXT, scope="one_modality"), batch(3000), 1.0, 3)
    hit = torch.stack([out.erased[m].any(1) for m in CONTEXT.modalities], 1)
    assert (hit.sum(1) == 1).all()
    assert (hit.float().mean(0) - 0.5).abs().max() < 0.04


@pytest.mark.parametrize("scope", ["every_modality", "one_modality"])
@pytest.mark.parametrize("kind", [WindowErase, FrameDrop, ModalityDrop])
def test_modalities_drawn_at_once_lose_what_they_lose_one_by_one(kind: Any, scope: str) -> None:
    alike = context(a=Shape(3, 12), b=Shape(2, 7), c=Shape(1, 12))
    together, apart = kind(alike, scope=scope), kind(alike, scope=scope)
    apart.constant = False
    apart.changed = lambda m, stream, hit, generator: torch.zeros_like(stream.x)
    clean = batch(40, context=alike)
    for rate in (0.3, (0.0, 0.5), 1.0):
        one, other = run(together, clean, rate), run(apart, clean, rate)
        for m in alike.modalities:
            assert torch.equal(one.erased[m], other.erased[m])
            assert torch.equal(one.features[m].x, other.features[m].x)


def test_windows_skip_padding_in_front() -> None:
    mask = torch.zeros(200, 10, dtype=torch.bool)
    mask[:, 6:] = True
    shaped, clean = single(Stream(torch.ones(200, 10, 1), mask).zeroed())
    out = run(WindowErase(shaped), clean, 0.5)
    assert (out.erased["a"].sum(1) == 2).all() and not out.erased["a"][:, :6].any()


def test_dropped_steps_can_be_filled() -> None:
    clean = batch(200)
    out = run(FrameDrop(CONTEXT, fill={"a": [1.0, 2.0, 3.0]}), clean, 0.5)
    assert (out.features["a"].x[out.erased["a"]] == torch.tensor([1.0, 2.0, 3.0])).all()
    assert not out.features["b"].x[out.erased["b"]].any()  # not named: zeros
    shaped, two = single(values([[1.0, 3.0, 8.0, 0.0]], [[1, 1, 1, 0]]))
    seen = {str(run(FrameDrop(shaped, fill="mean"), two, 0.5, s).features["a"].x.flatten().tolist()) for s in range(99)}
    # Every pattern: nothing left gives zeros; padding is nobody's mean.
    assert seen == {
        "[1.0, 3.0, 8.0, 0.0]", "[5.5, 3.0, 8.0, 0.0]", "[1.0, 4.5, 8.0, 0.0]", "[1.0, 3.0, 2.0, 0.0]",
        "[8.0, 8.0, 8.0, 0.0]", "[3.0, 3.0, 3.0, 0.0]", "[1.0, 1.0, 1.0, 0.0]", "[0.0, 0.0, 0.0, 0.0]",
    }  # fmt: skip
    assert FrameDrop(CONTEXT).constant and not FrameDrop(CONTEXT, fill="mean").constant


def test_a_sample_keeps_one_of_the_modalities_that_it_has() -> None:
    clean = batch(1000)
    features = dict(clean.features)
    features["a"] = replace(features["a"], mask=features["a"].mask & (torch.arange(1000) % 2 == 0)[:, None]).zeroed()
    clean = Batch.fresh(features)
    out = run(ModalityDrop(CONTEXT, keep_one=True), clean, 1.0)
    left = torch.stack([(s.mask & ~out.erased[m]).any(1) for m, s in clean.features.items()], 1)
    assert (left.sum(1) == 1).all()
    assert left[1::2, 1].all()  # those without 'a' keep 'b'
    assert abs(left[::2, 0].float().mean() - 0.5) < 0.07
    for m, stream in out.features.items():
        assert torch.equal(stream.x, clean.features[m].x.masked_fill(out.erased[m].unsqueeze(-1), 0))


def test_the_share_of_lost_numbers_is_the_rate() -> None:
    clean = batch(2000)
    for unit in ("value", "feature"):
        out = run(FeatureDropout(CONTEXT, unit=unit), clean, 0.3)
        for stream in out.features.values():
            lost = stream.x[stream.mask] == 0
            assert abs(lost.float().mean() - 0.3) < 0.02
            if unit == "feature":  # in all steps or in none
                gone = (stream.x == 0).logical_or(~stream.mask.unsqueeze(-1))
                whole, some = gone.all(1), (stream.x.eq(0) & stream.mask.unsqueeze(-1)).any(1)
                assert torch.equal(whole, some)


# Additive


def ratio(clean: Batch, out: Batch, m: str) -> Tensor:
    """Signal power over noise power in the struck steps of each sample, in decibels."""
    before, after, hit = clean.features[m], out.features[m], out.erased[m]
    mean = lambda x, w: (x.square().mean(-1) * w).sum(1) / w.sum(1)
    return 10 * (mean(before.x, before.mask) / mean(after.x - before.x, hit)).log10()


@pytest.mark.parametrize("pattern", ["steps", "window", "whole"])
@pytest.mark.parametrize("kind", [Gaussian, Babble])
def test_the_ratio_of_each_modality_is_the_asked_one(kind: Any, pattern: str) -> None:
    shaped = context(a=Shape(40, 60), b=Shape(20, 50))
    clean = batch(100, context=shaped, whole=True)
    out = run(kind(shaped, snr={"a": -7.0, "b": 13.0}, pattern=pattern), clean, 0.8)
    for m, asked in (("a", -7.0), ("b", 13.0)):
        found = ratio(clean, out, m)[out.erased[m].any(1)]
        assert (found - asked).abs().mean() < 0.5, m
        assert out.erased[m].float().mean() == pytest.approx(0.8, abs=0.1)


def test_a_ratio_can_be_drawn_for_each_sample() -> None:
    shaped = context(a=Shape(40, 60))
    clean = batch(400, context=shaped, whole=True)
    found = ratio(clean, run(Gaussian(shaped, snr=(0.0, 20.0)), clean, 1.0), "a")
    assert found.min() > -1 and found.max() < 21 and abs(found.mean() - 10) < 1 and abs(found.std() - 5.8) < 0.5


def test_babble_is_another_sample_repeated_and_at_the_very_ratio() -> None:
    mask = [[1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]
    shaped, clean = single(values([[1.0, 1, 1, 1, 1, 0], [0, 3.0, 4.0, 0, 0, 0]], mask))
    out = run(Babble(shaped, snr=0.0), clean, 1.0)
    voice = torch.tensor([3.0, 4, 3, 4, 3])
    added = out.features["a"].x[0, :5, 0] - 1
    assert torch.allclose(added, voice / voice.square().mean().sqrt())  # power 1, as the signal's
    assert torch.allclose(ratio(clean, out, "a"), torch.zeros(2), atol=1e-5)
    assert torch.equal(out.erased["a"], clean.features["a"].mask)
    assert out.label is clean.label


def test_nobody_is_their_own_background_and_who_is_alone_hears_nothing() -> None:
    shaped = context(a=Shape(1, 1))
    # Samples that can be told apart by the sign of what is added.
    clean = Batch.fresh({"a": Stream(torch.tensor([-1.0, 1.0]).repeat(100)[:, None, None], torch.ones(200, 1).bool())})
    two = Batch.fresh({"a": Stream(clean.features["a"].x[:2], torch.ones(2, 1).bool())})
    for seed in range(20):
        assert not run(Babble(shaped), two, 1.0, seed).features["a"].x.any()  # -1 + 1
    heard = run(Babble(shaped), clean, 1.0).features["a"].x - clean.features["a"].x
    assert 60 < (heard > 0).sum() < 140  # anybody else
    alone = Batch.fresh({"a": Stream(torch.ones(1, 1, 1), torch.ones(1, 1).bool())})
    out = run(Babble(shaped), alone, 1.0)
    assert torch.equal(out.features["a"].x, alone.features["a"].x) and not out.erased["a"].any()


def test_a_silent_partner_is_not_heard() -> None:
    mask = [[1, 1, 1], [0, 0, 0]]
    shaped, clean = single(values([[1.0, 2, 3], [0, 0, 0]], mask))
    out = run(Babble(shaped), clean, 1.0)
    assert torch.equal(out.features["a"].x, clean.features["a"].x) and not out.erased["a"].any()


def test_spikes_have_the_asked_tail() -> None:
    shaped = context(a=Shape(8, 50))
    clean = batch(2000, context=shaped, whole=True)
    size = (clean.features["a"].x.square().mean((1, 2)).sqrt() * 2.0)[:, None]
    out = run(Spikes(shaped, scale=2.0, tail=1.5), clean, 1.0)
    # Divided by its root mean square over the features, a Gaussian vector is nearly of one length.
    pareto = (out.features["a"].x - clean.features["a"].x).square().mean(-1).sqrt() / size
    chi = torch.randn(100_000, 8).square().mean(-1).sqrt()
    for above in (3.0, 10.0, 30.0):
        expected = float((above / chi).clamp(min=1).pow(-1.5).mean())
        assert float((pareto > above).float().mean()) == pytest.approx(expected, rel=0.1)


# Time


def test_steps_stay_in_their_window_and_none_is_lost() -> None:
    mask = torch.zeros(300, 14, dtype=torch.bool)
    mask[:, 2:13] = True  # 11 real steps: windows of 4, 4 and 3
    shaped, clean = single(Stream(torch.arange(14.0).expand(300, 14).unsqueeze(-1), mask).zeroed())
    out = run(Shuffle(shaped, window=4), clean, 0.5)
    x = out.features["a"].x[..., 0]
    for low, high in ((2, 6), (6, 10), (10, 13)):
        part = x[:, low:high]
        assert torch.equal(part.sort(1).values, torch.arange(float(low), high).expand(300, -1))
        marked = out.erased["a"][:, low:high]
        assert torch.equal(marked.all(1), marked.any(1))  # windows as a whole
        assert abs(marked.float().mean() - 0.5) < 0.1
        kept = ~marked.any(1)
        assert torch.equal(part[kept], torch.arange(float(low), high).expand(int(kept.sum()), -1))
        moved = (part[~kept] != torch.arange(float(low), high)).float().mean()
        assert abs(moved - (1 - 1 / (high - low))) < 0.07  # every order is as likely


@pytest.mark.parametrize(("direction", "expected"), [("late", [0.0, 0, 1, 2, 3]), ("early", [3.0, 4, 5, 0, 0])])
def test_a_shift_moves_and_loses_steps(direction: Any, expected: list[float]) -> None:
    mask = [[0, 1, 1, 1, 1, 1, 0]]
    shaped, clean = single(values([[0.0, 1, 2, 3, 4, 5, 0]], mask))
    noise = TimeShift(shaped, direction=direction)
    out = run(noise, clean, 0.4)
    assert out.features["a"].x[0, 1:6, 0].tolist() == expected
    assert torch.equal(out.erased["a"], clean.features["a"].mask)
    assert not run(noise, clean, 1.0).features["a"].x.any()
    assert run(noise, clean, 0.01).features["a"].x[0, 1:6, 0].tolist() == (
        [0.0, 1, 2, 3, 4] if direction == "late" else [2.0, 3, 4, 5, 0]
    )
    assert not run(noise, clean, 0.0).erased["a"].any()


def test_either_direction_is_as_likely_and_modalities_come_apart() -> None:
    shaped = context(a=Shape(1, 10), b=Shape(1, 10))
    line = torch.arange(1.0, 11).expand(400, 10).unsqueeze(-1)
    clean = Batch.fresh({m: Stream(line, torch.ones(400, 10).bool()) for m in "ab"})
    out = run(TimeShift(shaped, scope="every_modality"), clean, 0.3)
    late = {m: out.features[m].x[:, 0, 0] == 0 for m in "ab"}
    assert abs(late["a"].float().mean() - 0.5) < 0.1
    assert abs((late["a"] == late["b"]).float().mean() - 0.5) < 0.1
    assert torch.equal(out.features["a"].x[late["a"]][0, :, 0], torch.tensor([0.0, 0, 0, 1, 2, 3, 4, 5, 6, 7]))


def test_stuck_steps_repeat_the_last_good_one() -> None:
    shaped, clean = single(values([[9.0, 1, 2, 3, 4, 5]] * 300, [[0, 1, 1, 1, 1, 1]] * 300))
    out = run(Freeze(shaped, pattern="steps"), clean, 0.5)
    for x, hit in zip(out.features["a"].x[..., 0].tolist(), out.erased["a"].tolist(), strict=True):
        last = 0.0
        for step in range(1, 6):
            last = last if hit[step] else float(step)
            assert x[step] == last
    assert not run(Freeze(shaped), clean, 1.0).features["a"].x[:, 1:].any()


# Sensors


def test_a_saturated_feature_stays_within_its_range() -> None:
    mask = [[1, 1, 1, 1, 0]]
    shaped, clean = single(values([[-3.0, -1, 1, 3, 99]], mask))  # mean 0, standard deviation sqrt(5)
    half = math.sqrt(5) / 2
    out = run(Saturation(shaped, limit=0.5), clean, 1.0)
    assert out.features["a"].x[0, :, 0].tolist() == pytest.approx([-half, -1, 1, half, 99])
    assert torch.equal(out.erased["a"], clean.features["a"].mask)
    assert not run(Saturation(shaped, limit=0.0), clean, 1.0).features["a"].x[0, :4].any()


def test_levels_lie_evenly_between_smallest_and_largest() -> None:
    mask = [[1, 1, 1, 1, 1, 0]]
    shaped, clean = single(values([[0.0, 1, 1.6, 2.4, 3, 99]], mask))
    assert run(Quantization(shaped, levels=4), clean, 1.0).features["a"].x[0, :, 0].tolist() == [0, 1, 2, 2, 3, 99]
    assert run(Quantization(shaped, levels=2), clean, 1.0).features["a"].x[0, :, 0].tolist() == [0, 0, 3, 3, 3, 99]


# Composition


@pytest.mark.parametrize("noise", ERASING)
def test_noises_compose(noise: Noise) -> None:
    clean = batch(50)
    once = run(noise, clean, 0.3)
    twice = run(noise, once, 0.3, 1)
    assert twice.clean is clean
    for m in CONTEXT.modalities:
        assert (twice.erased[m] | ~once.erased[m]).all()


def test_a_sequence_is_one_noise_after_the_other() -> None:
    clean = batch(200)
    noise = Sequence(
        CONTEXT,
        noises=[Part("gaussian", {"snr": {"a": 0.0}}), Part("frame_drop", {"modalities": ["b"]})],
        factors=[1.0, 0.25],
    )
    out = run(noise, clean, 0.8, 4)
    g = torch.Generator().manual_seed(4)
    by_hand = FrameDrop(CONTEXT, modalities=["b"])(Gaussian(CONTEXT, snr={"a": 0.0})(clean, 0.8, g), 0.2, g)
    for m in CONTEXT.modalities:
        assert torch.equal(out.features[m].x, by_hand.features[m].x) and torch.equal(out.erased[m], by_hand.erased[m])
    assert noise.expected(0.8) == {"a": 0.8, "b": pytest.approx(0.2)}
    assert not noise.constant and not noise.fixed
    assert Sequence(CONTEXT, noises=[Part("frame_drop"), Part("window_erase")]).expected(0.5) is None


def test_one_of_gives_each_sample_one_of_its_noises_or_none() -> None:
    clean = batch(4000)
    noise = OneOf(
        CONTEXT,
        noises=[Part("modality_drop", {"modalities": ["a"]}), Part("gaussian", {"modalities": ["b"]})],
        weights=[1.0, 3.0],
        clean=0.2,
    )
    out = run(noise, clean, 1.0)
    a, b = out.erased["a"].any(1), out.erased["b"].any(1)
    assert not (a & b).any()
    shares = [float(x.float().mean()) for x in (a, b, ~a & ~b)]
    assert shares == pytest.approx([0.2, 0.6, 0.2], abs=0.03)
    assert out.clean is clean
    assert noise.expected(1.0) == pytest.approx({"a": 0.2, "b": 0.6})


def test_noises_nest() -> None:
    inner = Part("sequence", {"noises": [Part("frame_drop"), Part("gaussian", {"snr": 3.0})]})
    noise = OneOf(CONTEXT, noises=[inner, Part("freeze")])
    out = run(noise, batch(50), 0.5)
    assert all(out.erased[m].any() for m in CONTEXT.modalities)


# What the data knows


def test_the_limit_is_known_where_steps_become_zero_and_nowhere_else() -> None:
    data = SyntheticAffect(train=4, valid=4, test=40, length=12, text=6, audio=5, vision=4)
    shaped = Context(tuple(data.modalities), data.task, 8, data.modalities, build=part_builder)
    clean = data.splits["test"].batch(torch.arange(40))
    for name in NAMES:
        options = {"noises": [Part("frame_drop"), Part("window_erase")]} if name in ("sequence", "one_of") else {}
        noise = part_builder(Noise, Part(name, options), shaped)
        assert (data.posterior("test", run(noise, clean, 0.5)) is not None) == noise.constant, name
    for fill in ("mean", {"text": [1.0] * 6}):
        assert data.posterior("test", run(FrameDrop(shaped, fill=fill), clean, 0.5)) is None


# What is refused

WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (FrameDrop, {"modalities": ["c"]}, "option 'modalities': there is no modality 'c'; known: a, b"),
    (Gaussian, {"modalities": []}, "option 'modalities': names no modality; leave it out for all of a, b"),
    (WindowErase, {"bursts": 0}, "option 'bursts': 0 windows cannot hold anything; give at least 1"),
    (FrameDrop, {"fill": {"a": [1.0]}}, "option 'fill': a step of 'a' has 3 numbers, and its vector has 1"),
    (FrameDrop, {"fill": {"bb": [1.0]}}, "option 'fill': there is no modality 'bb'; did you mean 'b'?"),
    (Gaussian, {"snr": 120.0}, "option 'snr': 120 is no signal-to-noise ratio; give decibels between -100 and 100"),
    (Gaussian, {"snr": math.nan}, "option 'snr': nan is no signal-to-noise ratio"),
    (Babble, {"snr": (10.0, 5.0)}, "option 'snr': [10, 5] is no signal-to-noise ratio; give decibels between -100"),
    (Babble, {"snr": {"c": 5.0}}, "option 'snr': there is no modality 'c'; known: a, b"),
    (Babble, {"snr": {"a": 5.0}, "modalities": ["b"]}, "option 'snr': says nothing of 'b'; it names a"),
    (Spikes, {"scale": 0.0}, "option 'scale': a spike of 0 times the signal is none; give a number above 0"),
    (Spikes, {"tail": 0.5}, "option 'tail': with 0.5 spikes have no mean size; give 1 or more"),
    (Shuffle, {"window": 1}, "option 'window': a window of 1 cannot be shuffled; give at least 2 steps"),
    (
        TimeShift,
        {"scope": "every_modality", "direction": "late"},
        "'late' shifts every modality alike, so that",
    ),
    (Saturation, {"limit": -1.0}, "option 'limit': a range of -1 standard deviations is none; give 0 or more"),
    (Quantization, {"levels": 1}, "option 'levels': with 1 nothing is left to tell apart; give at least 2"),
    (TFRNet, {"seeds": {"c": 1}}, "option 'seeds': there is no modality 'c'; known: a, b"),
    (TFRNet, {"seeds": {"a": -1}}, "option 'seeds': -1 is no seed of NumPy's; give 0 to 4294967295"),
    (MMSA, {"seed": 2**32}, "option 'seed': 4294967296 is no seed of NumPy's; give 0 to 4294967295"),
    (MMSA, {"text": "c"}, "option 'text': there is no modality 'c'; known: a, b"),
    (LNLN, {"clean": 1.5}, "option 'clean': 1.5 is no share of samples; give 0 to 1"),
    (Sequence, {"noises": []}, "option 'noises': names no noise"),
    (Sequence, {"noises": [Part("freeze")], "factors": [1.0, 1.0]}, "there are 1 noises and 2 factors; give one for e"),
    (Sequence, {"noises": [Part("freeze")], "factors": [2.0]}, "option 'factors': 2 times the rate would leave 0 to 1"),
    (
        Sequence,
        {"noises": [Part("gaussian", {"snr": 500.0})]},
        "option 'noises': 'gaussian', option 'snr': 500 is no signal-to-noise ratio",
    ),
    (
        OneOf,
        {"noises": [Part("freeze")], "weights": [0.0]},
        "option 'weights': [0] are no weights; give numbers",
    ),
    (OneOf, {"noises": [Part("freeze")], "clean": -0.5}, "option 'clean': -0.5 is no share of samples; give 0 to 1"),
]


@pytest.mark.parametrize(("kind", "options", "told"), WRONG)
def test_a_wrong_option_is_told(kind: type[Any], options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError) as error:
        kind(CONTEXT, **options)
    assert told in str(error.value)


def test_a_range_of_windows_is_a_whole_number_of_steps_each_as_likely() -> None:
    """NORM-TR, section 3.5.1: windows of 0 to T/2 steps, T the real steps of each sample; none where there is one."""
    longest = 7
    context = Context(("a",), CONTEXT.task, 4, {"a": Shape(1, longest)})
    count = 6000
    for real in range(1, longest + 1):
        mask = (torch.arange(longest) < real).expand(count, longest)
        batch = Batch.fresh({"a": Stream(torch.ones(count, longest, 1), mask)})
        noisy = WindowErase(context)(batch, (0.0, 0.5), torch.Generator().manual_seed(real))
        lengths = noisy.erased["a"].sum(1)
        share = torch.bincount(lengths, minlength=longest) / count
        most = real // 2
        assert lengths.max() <= most
        torch.testing.assert_close(share[: most + 1], torch.full((most + 1,), 1 / (most + 1)), atol=0.03, rtol=0)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.7, 1.0])
def test_a_fixed_rate_of_windows_keeps_its_mean(rate: float) -> None:
    context = Context(("a",), CONTEXT.task, 4, {"a": Shape(1, 7)})
    batch = Batch.fresh({"a": Stream(torch.ones(20000, 7, 1), torch.ones(20000, 7, dtype=torch.bool))})
    erased = WindowErase(context)(batch, rate, torch.Generator().manual_seed(1)).erased["a"]
    assert erased.float().mean().item() == pytest.approx(rate, abs=0.01)
