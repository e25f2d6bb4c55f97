"""The made-up data keeps its promises: its posterior is exact, calibrated, and a limit that nothing passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmrobust.contracts import Batch, Part, Posterior, Stream
from mmrobust.data import open_dataset
from mmrobust.data.synthetic import SyntheticAffect
from mmrobust.errors import OptionError


@pytest.fixture(scope="module")
def data() -> SyntheticAffect:
    return SyntheticAffect(train=1500, valid=50, test=2500, length=20, text=24, audio=8, vision=12, informative=0.3)


def whole(data: SyntheticAffect, split: str = "test") -> Batch:
    return data.splits[split].batch(torch.arange(len(data.splits[split])))


def erase(batch: Batch, rate: float, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    erased = {m: (torch.rand(s.mask.shape, generator=random) < rate) & s.mask for m, s in batch.features.items()}
    features = {m: Stream(s.x.masked_fill(erased[m].unsqueeze(-1), 0), s.mask) for m, s in batch.features.items()}
    return batch.noisy(features, erased)


def known(data: SyntheticAffect, batch: Batch, split: str = "test") -> Posterior:
    posterior = data.posterior(split, batch)
    assert posterior is not None
    return posterior


def mean(posterior: Posterior) -> Tensor:
    return posterior.weights @ posterior.values.double()


def squared(data: SyntheticAffect, batch: Batch) -> float:
    assert batch.label is not None
    return (mean(known(data, batch)) - batch.label).square().mean().item()


@pytest.mark.parametrize("rate", [0.0, 0.4, 0.8])
def test_the_posterior_is_calibrated(data: SyntheticAffect, rate: float) -> None:
    batch = erase(whole(data), rate)
    posterior = known(data, batch)
    assert batch.label is not None
    n = len(batch)
    values, weights = posterior.values, posterior.weights
    # Randomised probability integral transform: uniform if and only if the posterior is the label's distribution.
    at = (values - batch.label.unsqueeze(-1)).abs().argmin(-1)
    below = weights.cumsum(-1).gather(1, at.unsqueeze(-1)).squeeze(-1)
    here = weights.gather(1, at.unsqueeze(-1)).squeeze(-1)
    pit = (below - torch.rand(n, generator=torch.Generator().manual_seed(1)) * here).sort().values
    distance = (pit - (torch.arange(n) + 0.5) / n).abs().max().item()
    assert distance < 1.63 / math.sqrt(n)  # Kolmogorov-Smirnov at 1 %
    # Of all cases said to be positive with a probability of about p, p are.
    p = weights[:, values > 0].sum(-1)
    positive = (batch.label > 0).double()
    for low in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        chosen = (p >= low) & (p <= low + 0.2)
        if chosen.sum() > 30:
            expected = p[chosen].mean()
            deviation = (p[chosen] * (1 - p[chosen])).sum().sqrt() / chosen.sum()
            assert abs(positive[chosen].mean() - expected) < 4 * deviation + 1e-9
    # The expected squared error is the observed one.
    variance = weights @ values.square() - mean(posterior).square()
    error = (mean(posterior) - batch.label).square()
    assert abs((error - variance).mean()) < 4 * (error - variance).std() / math.sqrt(n)


def test_the_posterior_of_classes_is_calibrated() -> None:
    data = SyntheticAffect(train=1, valid=1, test=2000, length=20, text=16, audio=8, vision=8, classes=4)
    batch = erase(whole(data), 0.3)
    posterior = known(data, batch)
    assert batch.label is not None and batch.label.dtype == torch.int64
    best, chosen = posterior.weights.max(-1)
    right = (chosen == batch.label).double()
    assert abs(right.mean() - best.mean()) < 4 * (best * (1 - best)).sum().sqrt() / len(batch)
    assert 0.4 < right.mean() < 0.98


def test_no_one_beats_the_limit(data: SyntheticAffect) -> None:
    """Neither averages, nor the evidence that each step gives in truth, nor a second look at the posterior itself."""

    def means(split: str) -> np.ndarray:
        return np.concatenate([s.mean().numpy() for s in data.splits[split].features.values()], 1)

    def evidence(split: str) -> np.ndarray:
        streams = data.splits[split].features.items()
        sums = [(data._vocabularies[m].evidence(s.x) * s.mask.unsqueeze(-1)).sum(1).numpy() for m, s in streams]
        return np.concatenate(sums, 1)

    def second_look(split: str) -> np.ndarray:
        return known(data, whole(data, split), split).weights.numpy()

    train, test = (data.splits[split].label for split in ("train", "test"))
    assert train is not None and test is not None
    limit = (mean(known(data, whole(data))) - test).square().numpy()
    ratio = {}
    for features in (means, evidence, second_look):
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
        model.fit(features("train"), train.numpy())
        error = np.square(model.predict(features("test")) - test.numpy())
        margin = error - limit  # on the same samples
        assert margin.mean() > -3 * margin.std() / math.sqrt(len(margin)), features.__name__
        ratio[features.__name__] = error.mean() / limit.mean()
    assert ratio["means"] > 1.5  # averages do not suffice
    assert ratio["second_look"] < 1.05  # and the limit is one that can be reached


def test_evidence_is_the_likelihood(data: SyntheticAffect) -> None:
    """Against the density of the mixture written out word by word."""
    vocabulary = data._vocabularies["audio"]
    x = data.splits["test"].features["audio"].x[:3, :2]
    expected = torch.zeros(3, 2, len(vocabulary.weights), dtype=torch.float64)
    for centre, weights in zip(vocabulary.centres, vocabulary.weights.T, strict=True):
        density = torch.exp(-(x - centre).double().square().sum(-1) / 2)
        expected += density.unsqueeze(-1) * weights
    expected = expected.log()
    got = vocabulary.evidence(x)
    torch.testing.assert_close(got - got[..., :1], expected - expected[..., :1])


def test_all_erased_leaves_the_prior(data: SyntheticAffect) -> None:
    posterior = known(data, erase(whole(data), 1.0))
    torch.testing.assert_close(posterior.weights, data._prior.expand_as(posterior.weights))


def test_the_limit_worsens_with_the_rate(data: SyntheticAffect) -> None:
    errors = [squared(data, erase(whole(data), r)) for r in (0, 0.25, 0.5, 0.75, 1)]
    assert errors == sorted(errors)
    assert errors[-1] > 3 * errors[0]


def test_no_single_modality_suffices(data: SyntheticAffect) -> None:
    batch = whole(data)
    assert batch.label is not None
    everything = squared(data, batch)
    polarity, size = {}, {}
    for m, stream in batch.features.items():
        one = Batch.fresh({m: stream}, batch.label, batch.index)
        assert squared(data, one) > 1.4 * everything
        posterior = known(data, one)
        values = posterior.values
        polarity[m] = ((posterior.weights @ values.sign()).sign() == batch.label.sign()).double().mean()
        size[m] = (posterior.weights @ values.abs() - batch.label.abs()).square().mean()
    assert polarity["text"] > polarity["vision"] > polarity["audio"]
    assert size["audio"] < size["vision"] < size["text"]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.floats(0, 1), st.booleans())
def test_any_pattern_of_erased_steps(seed: int, rate: float, reverse: bool) -> None:
    data = open_dataset(Part("synthetic_affect", {"train": 9, "valid": 2, "test": 2, "length": 7, "text": 5}))
    assert isinstance(data, SyntheticAffect)
    index = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:4]
    batch = erase(data.splits["train"].batch(index), rate, seed)
    if reverse:
        features = dict(reversed(batch.features.items()))
        batch = Batch(features, batch.label, batch.index, batch.erased, batch.clean)
    posterior = known(data, batch, "train")
    torch.testing.assert_close(posterior.weights.sum(-1), torch.ones(4, dtype=torch.float64))
    for row, i in enumerate(index.tolist()):
        total = data._prior.log().clone()
        for m, stream in data.splits["train"].features.items():
            for t in range(7):
                if stream.mask[i, t] and not batch.erased[m][row, t]:
                    total += data._vocabularies[m].evidence(stream.x[i, t].view(1, 1, -1))[0, 0]
        torch.testing.assert_close(posterior.weights[row], total.softmax(-1), atol=1e-6, rtol=1e-4)


def test_other_noise_has_no_limit(data: SyntheticAffect) -> None:
    batch = whole(data)
    features = {m: Stream(s.x + 1, s.mask) for m, s in batch.features.items()}
    assert data.posterior("test", batch.noisy(features, {m: s.mask for m, s in features.items()})) is None


def test_lengths_say_nothing_of_the_label(data: SyntheticAffect) -> None:
    label = data.splits["test"].label
    assert label is not None
    lengths = torch.stack([s.mask.sum(1) for s in data.splits["test"].features.values()]).float()
    both = torch.cat([label.unsqueeze(0), label.abs().unsqueeze(0), lengths])
    assert both.corrcoef()[:2, 2:].abs().max() < 4 / math.sqrt(label.shape[0])
    assert lengths.max() == 20 and (lengths[0] != lengths[1]).any()


def test_the_seed_fixes_everything() -> None:
    def make(seed: int, train: int = 5) -> SyntheticAffect:
        return SyntheticAffect(train=train, valid=3, test=4, seed=seed)

    a, b, c, d = make(1), make(1), make(2), make(1, train=6)
    for name in ("train", "valid", "test"):
        for m, stream in a.splits[name].features.items():
            assert torch.equal(stream.x, b.splits[name].features[m].x)
            assert not torch.equal(stream.x, c.splits[name].features[m].x)
    # The size of one split does not touch another.
    assert torch.equal(a.splits["test"].features["text"].x, d.splits["test"].features["text"].x)


def test_shapes_and_padding() -> None:
    data = SyntheticAffect()
    assert {m: str(s) for m, s in data.modalities.items()} == {"text": "50x64", "audio": "50x16", "vision": "50x24"}
    assert {name: len(s) for name, s in data.splits.items()} == {"train": 1200, "valid": 300, "test": 600}
    label = data.splits["train"].label
    assert label is not None and label.dtype == torch.float32
    assert label.min() >= -3 and label.max() <= 3 and 1.4 < label.std() < 1.8  # MOSI: 1.6
    for split in data.splits.values():
        for m, stream in split.features.items():
            assert stream.x.shape == (len(split), 50, data.modalities[m].width)
            assert stream.mask.any(1).all() and not stream.x[~stream.mask].any() and stream.x[stream.mask].all(-1).all()


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("train", 0, "0 is too small; at least 1 is needed"),
        ("audio", 0, "0 is too small; at least 1 is needed"),
        ("length", 3, "3 is too small; at least 4 is needed"),
        ("frames", 51, "51 steps cannot be kept of 50; give 2 to 50"),
        ("classes", 1, "1 is too few; give at least 2, or leave it out for a regression"),
        ("informative", 0.0, "0.0 is no share of steps; give more than 0 and at most 1"),
    ],
)
def test_refused_options(option: str, value: object, text: str) -> None:
    with pytest.raises(OptionError) as info:
        open_dataset(Part("synthetic_affect", {option: value}))
    assert (info.value.option, info.value.message, info.value.exit_code) == (option, text, 2)


def test_frames_are_taken_from_all_of_a_sample_and_the_posterior_knows_them() -> None:
    sizes = {"train": 4, "valid": 4, "test": 300, "length": 20, "text": 8, "audio": 8, "vision": 8}
    whole, few = SyntheticAffect(**sizes), SyntheticAffect(**sizes, frames=5)
    all_of_them = SyntheticAffect(**sizes, frames=20)
    before, after = whole.splits["test"], few.splits["test"]
    assert torch.equal(before.label, after.label) and few.modalities["text"].length == 5
    for m, stream in after.features.items():
        old = before.features[m]
        assert torch.equal(all_of_them.splits["test"].features[m].x, old.x)
        real = old.mask.sum(1)
        assert torch.equal(stream.mask.sum(1), real.clamp(max=5))
        i = int(real.argmax())
        steps = [int((0.5 + k) * real[i] / 5) for k in range(5)]
        assert torch.equal(stream.x[i], old.x[i, steps]) and steps[0] < 3 and steps[-1] > real[i] - 4
        short = int(real.argmin())
        if real[short] <= 5:
            assert torch.equal(stream.x[short][stream.mask[short]], old.x[short][old.mask[short]])
    index = torch.arange(300)
    entropy = []
    for data in (whole, few):
        known = data.posterior("test", data.splits["test"].batch(index))
        assert known is not None
        entropy.append(-(known.weights * known.weights.clamp(min=1e-12).log()).sum(1).mean())
    assert entropy[1] > entropy[0] + 0.1  # fewer steps, less is known
