"""Promise: every model meets the very same noise, whatever it is, and the area under its curve is the paper's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmrobust import recipe as recipes
from mmrobust.components.noise import MMSA, FrameDrop, WindowErase
from mmrobust.contracts import Batch, Noise, Outputs, Rate, Split, Stream, Streams
from mmrobust.contracts.randomness import generator
from mmrobust.model.assemble import Built, build
from mmrobust.model.model import Model
from mmrobust.robustness import Grid, auilc, auilc_mean, sweep, sweep_limit
from mmrobust.robustness.sweep import BLOCK, restrict

RATES = (0.0, 0.3, 1.0)


class Echo(Model):
    """Says exactly what it sees: the sum of each modality's features."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, features: Streams) -> Outputs:
        seen = torch.stack([stream.x.double().sum((1, 2)) for stream in features.values()], -1)
        return Outputs({}, {}, {}, Stream.pooled(seen), seen)


@pytest.fixture(scope="module")
def built(tiny: list[str]) -> Built:
    return build(recipes.load("normtr", [*tiny, f"data.test={BLOCK + 30}"]))


def grid(built: Built, rates: tuple[float, ...] = RATES, seed: int = 0) -> Grid:
    noises: dict[str, Noise] = {"frame_drop": FrameDrop(built.context), "window_erase": WindowErase(built.context)}
    return Grid(noises, rates, draws=2, seed=seed)


def test_shapes_and_rates(built: Built) -> None:
    split, model = built.dataset.splits["test"], built.model.train()
    ticks: list[int] = []
    found = sweep(model, split, grid(built), batch_size=50, tick=ticks.append)
    assert model.training  # left as it was found
    assert sum(ticks) == len(split) * grid(built).cells == len(split) * (1 + 2 * 2 * 2)
    assert found["clean"].shape == (len(split), 1) and found["clean"].dtype == torch.float32
    for name in ("frame_drop", "window_erase"):
        assert found[name].shape == (3, 2, len(split), 1)
        assert torch.equal(found[name][0, 0], found["clean"]) and torch.equal(found[name][0, 1], found["clean"])
    # At rate 1 nothing is left in either, so that only the lengths speak.
    assert torch.allclose(found["frame_drop"][2, 0], found["window_erase"][2, 1], atol=1e-5)


def test_same_noise_for_every_model_batch_size_and_set_of_rates(built: Built) -> None:
    split = built.dataset.splits["test"]
    first = sweep(Echo(), split, grid(built), batch_size=64)
    again = sweep(Echo(), split, grid(built), batch_size=7)
    alone = sweep(Echo(), split, grid(built, (0.3,)), batch_size=64)
    other = sweep(Echo(), split, grid(built, seed=1), batch_size=64)
    for name in ("frame_drop", "window_erase"):
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name][1], alone[name][0])
        assert not torch.equal(first[name][1], other[name][1])
        assert not torch.equal(first[name][1, 0], first[name][1, 1])  # two draws are two
    named = Grid({"frame_drop (modalities=all)": FrameDrop(built.context)}, RATES, draws=2)
    assert torch.equal(first["frame_drop"], sweep(Echo(), split, named)["frame_drop (modalities=all)"])
    bits = [sweep(built.model, split, grid(built))["frame_drop"] for _ in range(2)]
    assert torch.equal(*bits)


def test_batch_size_changes_no_prediction(built: Built) -> None:
    split = built.dataset.splits["test"]
    one, other = (sweep(built.model, split, grid(built), batch_size=size) for size in (9, 300))
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-5)


def one_by_one(model: nn.Module, split: Split, grid: Grid) -> dict[str, torch.Tensor]:
    """What `sweep` gives, written without any haste: noise in the features, the whole model, one draw at a time."""
    model.eval()
    blocks = [split.batch(index) for index in torch.arange(len(split)).split(BLOCK)]
    result = {}
    for name, noise in grid.noises.items():
        values = []
        for rate in grid.rates:
            for draw in range(grid.draws):
                random = generator(grid.seed, "evaluate", name, f"{rate:.6g}", draw)
                noisy = [noise(block, rate, random).features if rate else block.features for block in blocks]
                with torch.no_grad():
                    values.append(torch.cat([model(features).prediction for features in noisy]))
        result[name] = torch.stack(values).unflatten(0, (len(grid.rates), grid.draws))
    return result


@pytest.mark.parametrize("batch_size", [40, 1000])
@pytest.mark.parametrize("reused", [True, False])
def test_predictions_are_those_of_one_pass_after_the_other(
    built: Built, batch_size: int, reused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = built.dataset.splits["test"]
    lengths = {m: s.mask.sum(1) for m, s in split.features.items()}
    assert all(len(steps.unique()) > 3 for steps in lengths.values())
    tokens = [0]
    hook = built.model.encoder.layers["text"].register_forward_hook(  # type: ignore[index]
        lambda _, args, out: tokens.append(tokens.pop() + out.shape[0] * out.shape[1])
    )
    with monkeypatch.context() as patch, hook:
        patch.setattr(type(built.model.generic), "positionwise", reused)
        found = sweep(built.model, split, grid(built), batch_size=batch_size)
    for name, plain in one_by_one(built.model, split, grid(built)).items():
        torch.testing.assert_close(found[name], plain, atol=1e-5, rtol=0)
    # Tokens are made once for the clean predictions and once for each noise, not for each rate and draw.
    passes = tokens[0] / int(lengths["text"].sum())
    assert passes < 2 * (1 + 2) if reused else passes > 1 + 2 * 2 * 2


def fused_samples(built: Built, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each call of the head gets."""
    rows: list[int] = []
    built.model.head.register_forward_hook(lambda _, args, out: rows.append(len(out)))
    return rows


def test_a_sample_that_lost_everything_is_predicted_once(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, rows, ticks = built.dataset.splits["test"], fused_samples(built, monkeypatch), list[int]()
    seen = grid(built, (0, 1.0))
    noisy = sweep(built.model, split, seen, batch_size=len(split), tick=ticks.append)["frame_drop"]
    assert sum(rows) == 2 * len(split) and sum(ticks) == len(split) * seen.cells
    assert torch.equal(noisy[1], noisy[1, :1].expand_as(noisy[1]))


class EveryOther(Noise):
    """Erases every other step, whatever the rate and the draw."""

    constant = True

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        gone = {m: s.mask & (torch.arange(s.mask.shape[1]) % 2 == 0) for m, s in batch.features.items()}
        return batch.noisy({m: s.without(gone[m]) for m, s in batch.features.items()}, gone)


def test_what_a_sample_lost_is_predicted_once_however_often_it_is_drawn(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, rows = built.dataset.splits["test"], fused_samples(built, monkeypatch)
    noises = {"one": EveryOther(built.context), "other": EveryOther(built.context)}
    found = sweep(built.model, split, Grid(noises, (0.3, 0.6), draws=3))
    assert sum(rows) == 2 * len(split)  # clean, and without every other step
    assert torch.equal(found["one"], found["other"]) and len(found["one"].flatten(0, 1).unique(dim=0)) == 1
    assert not torch.equal(found["one"][0, 0], found["clean"])


def test_a_model_that_looks_across_samples_meets_them_in_their_order(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, seen = built.dataset.splits["test"], []
    monkeypatch.setattr(type(built.model.fusion), "samplewise", False)
    hook = built.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]["text"].mask.sum(1)))
    with hook:
        sweep(built.model, split, grid(built, (0,)), batch_size=50)
    assert torch.equal(torch.cat(seen), split.features["text"].mask.sum(1))


def test_a_noise_that_every_draw_repeats_is_drawn_once(built: Built) -> None:
    split, noise, ticks = built.dataset.splits["test"], FrameDrop(built.context), []
    noise.fixed = True
    once = Grid({"frame_drop": noise}, RATES, draws=3)
    found = sweep(built.model, split, once, tick=ticks.append)
    assert sum(ticks) == len(split) * once.cells == len(split) * (1 + 2)
    assert found["frame_drop"].shape[:2] == (3, 3)
    assert torch.equal(found["frame_drop"][1, 0], found["frame_drop"][1, 2])
    noise.fixed = False
    torch.testing.assert_close(found["frame_drop"][:, 0], sweep(built.model, split, once)["frame_drop"][:, 0])


class Shifted(Noise):
    """Adds a number instead of erasing."""

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        by = max(rate) if isinstance(rate, tuple) else rate
        features = {m: s.map(lambda x: x + by) for m, s in batch.features.items()}
        return batch.noisy(features, {m: torch.zeros_like(s.mask) for m, s in features.items()})


def test_noise_that_is_not_erasure_reaches_the_model(built: Built) -> None:
    split = built.dataset.splits["test"]
    found = sweep(Echo(), split, Grid({"shift": Shifted(built.context)}, (0, 0.5), draws=1))
    assert not torch.allclose(found["shift"][1], found["shift"][0])
    # Nothing is known of the limit of such a noise; of the clean data it is.
    limits = sweep_limit(built.dataset, "test", Grid({"shift": Shifted(built.context)}, (0, 0.5), draws=1))
    assert limits is not None and set(limits) == {"clean"}


class Counted(MMSA):
    """Counts how often it is called."""

    calls = 0

    def __call__(self, batch: Batch, rate: Rate, generator: torch.Generator) -> Batch:
        self.calls += 1
        return super().__call__(batch, rate, generator)


def test_a_fixed_noise_is_drawn_once_and_stands_for_every_draw(built: Built) -> None:
    split, noise = built.dataset.splits["test"], Counted(built.context)
    both = Grid({"mmsa": noise, "frame_drop": FrameDrop(built.context)}, RATES, draws=3)
    ticks: list[int] = []
    found = sweep(Echo(), split, both, tick=ticks.append)
    blocks = -(-len(split) // BLOCK)
    assert noise.calls == 2 * blocks and sum(ticks) == len(split) * both.cells == len(split) * (1 + 2 + 2 * 3)
    assert found["mmsa"].shape == found["frame_drop"].shape == (3, 3, len(split), 3)
    assert torch.equal(found["mmsa"][1, 0], found["mmsa"][1, 2])
    assert torch.equal(found["mmsa"], sweep(Echo(), split, replace(both, seed=5))["mmsa"])
    limits = sweep_limit(built.dataset, "test", both, ["mae"])
    assert limits is not None and limits["mmsa"]["mae"].shape == (3, 3) and noise.calls == 6 * blocks


def test_limit_falls_with_the_rate_and_with_fewer_modalities(built: Built) -> None:
    both = sweep_limit(built.dataset, "test", grid(built), ["mae", "corr"])
    alone = replace(built, context=replace(built.context, modalities=("text",)))
    text = sweep_limit(built.dataset, "test", grid(alone), ["mae", "corr"], ["text"])
    assert both is not None and text is not None
    mae = both["frame_drop"]["mae"].mean(-1)
    assert mae[0] == both["clean"]["mae"] and torch.all(mae.diff() > 0)
    assert text["clean"]["mae"] > both["clean"]["mae"]
    assert both["frame_drop"]["corr"][-1].abs().max() == 0  # the prior is the same for all


def test_padding_reaches_no_model(built: Built) -> None:
    split = built.dataset.splits["test"]
    dirty = {m: Stream(s.x.masked_fill(~s.mask.unsqueeze(-1), torch.nan), s.mask) for m, s in split.features.items()}
    tidy = restrict(type(split)(dirty, split.label, split.ids), ["audio", "text"])
    assert list(tidy.features) == ["audio", "text"]
    assert sweep(Echo(), tidy, grid(built, (0,)))["clean"].isfinite().all()


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=12, unique=True), st.integers(0, 1000))
def test_auilc_is_the_trapezoid(rates: list[float], seed: int) -> None:
    rates = sorted(rates)
    values = torch.randn(3, len(rates), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = np.trapezoid(values.numpy(), rates, axis=-1)
    assert auilc(rates, values).numpy() == pytest.approx(expected, abs=1e-12)
    assert auilc_mean(rates, values).numpy() == pytest.approx(expected / (rates[-1] - rates[0]), rel=1e-9)


@given(st.floats(-5, 5), st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=12, unique=True))
def test_a_flat_curve_is_as_high_as_its_mean(height: float, rates: list[float]) -> None:
    rates = sorted(rates)
    flat = torch.full((len(rates),), height, dtype=torch.float64)
    assert auilc_mean(rates, flat).item() == pytest.approx(height, abs=1e-9)


def test_auilc_of_nothing() -> None:
    assert auilc([0.5], torch.ones(2, 1)).isnan().all()
    assert auilc([0, 1], torch.tensor([1.0, torch.nan])).isnan()
    # Equation 10 by hand: (1 + 3) / 2 * 0.5 + (3 + 2) / 2 * 0.25.
    assert auilc([0, 0.5, 0.75], torch.tensor([1.0, 3.0, 2.0])).item() == pytest.approx(1.625)
