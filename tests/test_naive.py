"""The naive NORM-TR that benchmarks divide by is the same model: a ratio to anything else would say nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import naive
from benchmarks.sizes import MadeUp, Size, gradients, naive_of, ours, renamed, samples
from mmrobust.contracts import Batch, Progress
from mmrobust.contracts.randomness import generator
from mmrobust.model.assemble import Built
from mmrobust.robustness.sweep import Grid, sweep

PAIR = Size({"audio": (8, 6), "vision": (8, 4)}, 6, 24, 12)
UNALIGNED = Size({"text": (6, 7), "audio": (11, 3), "vision": (9, 5)}, None, 24, 12, aligned=False)
SMALL = ["model.width=16", "model.fusion.heads=8"]
FLATTEN = ["learning.views.type_1.objectives=[task, {use: modality_adversary, explain: after}]",
           "learning.views.type_2.objectives=[task, noise_adversary]"]  # fmt: skip
CASES = {"regression, unaligned": (UNALIGNED, []), "classes, all steps in a row": (PAIR, FLATTEN)}


def made(size: Size, overrides: list[str]) -> Built:
    built = ours("mosi", [*SMALL, *overrides], MadeUp(size))
    torch.manual_seed(0)
    for module in (built.model, built.learning):
        module.double()
        for parameter in module.parameters():  # biases and norms as well, which begin at zero and one
            parameter.data += 0.1 * torch.randn_like(parameter)
    return built


def double(batch: Batch) -> Batch:
    label = batch.label if batch.label is None or not batch.label.is_floating_point() else batch.label.double()
    features = {m: stream.map(torch.Tensor.double) for m, stream in batch.features.items()}
    return Batch.fresh(features, label, batch.index)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_ours(case: str) -> None:
    built = made(*CASES[case])
    reference = naive_of(built)
    batch = double(built.dataset.splits["train"].batch(torch.arange(16)))
    total, _, views = built.learning.losses(built.model, batch, generator(3), Progress(0, torch.zeros(())))
    total.backward()

    masks = {m: s.mask for m, s in batch.features.items()}
    first, second = (views[name].batch.erased for name in ("type_1", "type_2"))
    assert all(first[m].any() for m in masks) and any(second[m].any() for m in masks)
    features = {m: s.x for m, s in batch.features.items()}
    told = naive.loss(reference, features, masks, batch.label, first, second)
    told.backward()
    torch.testing.assert_close(told, total, rtol=1e-12, atol=1e-12)
    expected = renamed(gradients(built.model), gradients(built.learning))
    assert set(expected) == set(gradients(reference))
    for name, gradient in gradients(reference).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        # A bias of the keys moves all of a query's scores alike, and softmax does not see it.
        assert name.endswith("key.bias") or gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("case", CASES)
def test_predictions_of_a_sweep_are_ours(case: str) -> None:
    built = made(*CASES[case])
    built.model.float()
    split = built.dataset.splits["test"]

    class Same:
        """The naive loop's own draws, handed to our sweep."""

        constant = True
        fixed = False

        def __call__(self, batch: Batch, rate: float, generator: torch.Generator) -> Batch:
            erased = {m: draws[rate][m][batch.index] for m in batch.features}
            features = naive.erase({m: s.x for m, s in batch.features.items()}, erased)
            return batch.noisy({m: s.map(lambda _, m=m: features[m]) for m, s in batch.features.items()}, erased)

    rates = (0.0, 0.3, 1.0)
    data = samples(split)
    torch.manual_seed(1)
    draws = {rate: naive.frame_drop(data.masks, rate) for rate in rates}
    seen = dict.fromkeys(rates, 0)

    def again(masks: naive.Sequences, rate: float) -> naive.Sequences:
        start = seen[rate] % len(data)
        seen[rate] += len(next(iter(masks.values())))
        return {m: draws[rate][m][start : start + len(mask)] for m, mask in masks.items()}

    told = naive.sweep(naive_of(built), data, rates, 2, 5, again)
    found = sweep(built.model, split, Grid({"same": Same()}, rates, 2), batch_size=5)["same"]
    assert told.shape == found.shape and not torch.allclose(told[0], told[2])
    torch.testing.assert_close(told, found, rtol=1e-5, atol=1e-5)


def test_naive_windows_are_the_papers() -> None:
    mask = torch.ones(200, 12, dtype=torch.bool)
    mask[:, 10:] = False
    masks = {"a": mask, "b": mask.clone()}
    naive.random.seed(0)
    first, second = naive.type_1(masks), naive.type_2(masks)
    for erased in (*first.values(), *second.values()):
        assert not (erased & ~mask).any() and erased.sum(1).max() == 5
        starts = (erased[:, 1:] & ~erased[:, :-1]).sum(1) + erased[:, 0]
        assert starts.max() == 1  # one window, nowhere two
    assert not (second["a"].any(1) & second["b"].any(1)).any()
    assert first["a"].sum(1).float().mean() == pytest.approx(2.5, abs=0.4)
