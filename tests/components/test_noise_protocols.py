"""Promise: the published protocols give the very masks that their authors' code gives.

The masks on the other side are written with NumPy as the protocols are described (Yuan et al., 2021; Mao et al., 2022;
Zhang et al., 2024): a whole split at once, from a seed, the text's first and last token kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrobust.components.noise import LNLN, MMSA, TFRNet
from mmrobust.contracts import Batch, Context, Noise, Shape, Split, Stream, Task

COUNT = 300
SHAPES = {"text": Shape(4, 50), "audio": Shape(3, 375), "vision": Shape(2, 50)}
CONTEXT = Context(tuple(SHAPES), Task("regression", 1, "regression"), 8, SHAPES)
RATES = [0.0, 0.1, 0.3, 0.5, 0.9, 1.0]
SEEDS: list[tuple[type[Any], dict[str, int]]] = [
    (TFRNet, {"text": 111, "audio": 1111, "vision": 11111}),
    (MMSA, {"text": 1111, "audio": 1111, "vision": 1111}),
    (LNLN, {"text": 1111, "audio": 1111, "vision": 1111}),
]


@pytest.fixture(scope="module")
def split() -> Split:
    """Padded at the end, some samples to the full length, one with a single step."""
    random = np.random.default_rng(0)
    features = {}
    for m, shape in SHAPES.items():
        length = random.integers(1, shape.length + 1, COUNT)
        length[:3] = (shape.length, 1, 2)
        mask = np.arange(shape.length) < length[:, None]
        x = random.normal(size=(COUNT, shape.length, shape.width)).astype("f4") * mask[..., None]
        features[m] = Stream(torch.from_numpy(x), torch.from_numpy(mask))
    return Split(features, None, [str(i) for i in range(COUNT)])


def missing(x: np.ndarray, mask: np.ndarray, rate: float | np.ndarray, seed: int, text: bool) -> np.ndarray:
    """One modality of a split with its steps missing; the text's unknown token is zero."""
    np.random.seed(seed)  # noqa: NPY002
    keep = (np.random.uniform(size=mask.shape) > rate) * mask.astype(int)  # noqa: NPY002
    if text:
        length = np.argmin(mask, axis=1)  # 0 where there is no padding, so that the last step is at -1
        for i, row in enumerate(keep):
            row[0] = row[length[i] - 1] = 1
    return keep[..., None] * x


def run(noise: Noise, batch: Batch, rate: float, seed: int = 0) -> Batch:
    return noise(batch, rate, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("kind", "seeds"), SEEDS)
def test_the_same_bits_as_the_published_code(
    kind: type[Noise], seeds: dict[str, int], rate: float, split: Split
) -> None:
    out = run(kind(CONTEXT), split.batch(torch.arange(COUNT)), rate)
    for m, stream in split.features.items():
        expected = missing(stream.x.numpy(), stream.mask.numpy(), rate, seeds[m], m == "text")
        assert np.array_equal(out.features[m].x.numpy(), expected), m
        gone = stream.mask.numpy() & ~expected.any(-1)
        assert np.array_equal(out.erased[m].numpy(), gone), m


@pytest.mark.parametrize(("kind", "seeds"), SEEDS)
def test_the_same_bits_in_batches_of_any_order(kind: type[Noise], seeds: dict[str, int], split: Split) -> None:
    whole, noise = run(kind(CONTEXT), split.batch(torch.arange(COUNT)), 0.4), kind(CONTEXT)
    for index in torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).split(17):
        out = run(noise, split.batch(index), 0.4, int(index[0]))
        for m in SHAPES:
            assert torch.equal(out.features[m].x, whole.features[m].x[index])


def test_a_part_of_the_modalities_and_shorter_batches_have_the_same_masks(split: Split) -> None:
    whole = run(TFRNet(CONTEXT), split.batch(torch.arange(COUNT)), 0.4)
    names = ("vision", "text")
    context = Context(names, CONTEXT.task, 8, {m: SHAPES[m] for m in names})
    features = {m: Stream(split.features[m].x[:, :40], split.features[m].mask[:, :40]) for m in names}
    out = run(TFRNet(context, modalities=["vision"]), Batch.fresh(features), 0.4)
    assert torch.equal(out.features["vision"].x, whole.features["vision"].x[:, :40])
    assert not out.erased["text"].any()


def test_aligned_modalities_lose_the_same_steps_under_mmsa(split: Split) -> None:
    same = Stream(split.features["vision"].x, split.features["text"].mask)
    context = Context(("vision", "face"), CONTEXT.task, 8, dict.fromkeys(("vision", "face"), SHAPES["vision"]))
    out = run(MMSA(context), Batch.fresh({"vision": same, "face": same}), 0.4)
    assert torch.equal(out.erased["vision"], out.erased["face"]) and out.erased["face"].any()


@pytest.mark.parametrize(("kind", "seeds"), SEEDS)
def test_at_rate_one_two_tokens_survive(kind: type[Noise], seeds: dict[str, int], split: Split) -> None:
    out = run(kind(CONTEXT), split.batch(torch.arange(COUNT)), 1.0)
    real = split.features["text"].mask
    assert torch.equal((real & ~out.erased["text"]).sum(1), real.sum(1).clamp(max=2))
    for m in ("audio", "vision"):
        assert not out.features[m].x.any() and torch.equal(out.erased[m], split.features[m].mask)


def test_dropped_tokens_can_become_a_vector(split: Split) -> None:
    unknown = [1.0, 2.0, 3.0, 4.0]
    noise = MMSA(CONTEXT, fill={"text": unknown})
    out = run(noise, split.batch(torch.arange(COUNT)), 0.5)
    assert (out.features["text"].x[out.erased["text"]] == torch.tensor(unknown)).all()
    assert not out.features["audio"].x[out.erased["audio"]].any()
    assert not noise.constant and MMSA(CONTEXT).constant


def test_training_as_lnln_leaves_half_alone_and_draws_a_rate_for_the_others(split: Split) -> None:
    noise = LNLN(CONTEXT, clean=0.5)
    batch = split.batch(torch.arange(COUNT))
    assert not noise.fixed and LNLN(CONTEXT).fixed
    out = noise(batch, (0.0, 1.0), torch.Generator().manual_seed(1))
    share = {m: out.erased[m].sum(1) / s.mask.sum(1) for m, s in batch.features.items()}
    long = batch.features["audio"].mask.sum(1) > 30
    alone = {m: share[m][long] == 0 for m in ("audio", "vision")}
    for m in alone:
        assert alone[m].float().mean() == pytest.approx(0.5, abs=0.1)
    assert (alone["audio"] & alone["vision"]).float().mean() == pytest.approx(0.25, abs=0.1)  # each modality by itself
    others = share["audio"][long][~alone["audio"]]
    assert others.mean() == pytest.approx(0.5, abs=0.08) and others.std() == pytest.approx(12**-0.5, abs=0.05)
    # The numbers that a rate is compared with stay: of two draws, the one with the higher rate drops the same and more.
    again = noise(batch, (0.0, 1.0), torch.Generator().manual_seed(2))
    for m in SHAPES:
        one, other = out.erased[m], again.erased[m]
        assert (~(one & ~other).any(1) | ~(other & ~one).any(1)).all()
        assert not torch.equal(one, other)
