"""Promise: each number of an analysis is what it is called, by identities that hold for any data."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression

from mmrobust.analysis.attention import erased_mass, layout, relative, shrink
from mmrobust.analysis.probes import fit, probe
from mmrobust.analysis.samples import errors_of
from mmrobust.analysis.similarity import GRID, bandwidth, density, similarities, summarise
from mmrobust.contracts import Stream, Task
from mmrobust.contracts.randomness import generator
from mmrobust.nn.attention import weights as softmax_weights

torch.set_num_threads(1)
RANDOM = lambda *path: generator(0, "tests", "analysis", *path)


# Similarity ------------------------------------------------------------------------------------------------------


def test_pairs_are_of_the_same_sample() -> None:
    x = torch.randn(5, 4, generator=RANDOM("pairs"))
    generic = {"a": x, "b": 2 * x, "c": -x}
    specific = {"a": 3 * x, "b": torch.zeros(5, 7), "d": x}
    found = similarities(generic, specific)
    assert torch.allclose(found["generic_generic"], torch.tensor([1.0, -1, -1]).repeat_interleave(5).double())
    assert torch.allclose(found["generic_specific"], torch.ones(5).double())  # b differs in width, d has no NRGF
    assert similarities({"a": x}, {}) == {}
    orthogonal = similarities({"a": torch.eye(4), "b": torch.eye(4).roll(1, 0)}, {})
    assert orthogonal["generic_generic"].abs().max() == 0


@pytest.mark.parametrize("where", [-1.0, -0.3, 0.999, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.3])
def test_a_density_integrates_to_one(where: float, spread: float) -> None:
    x = (where + spread * torch.randn(5000, generator=RANDOM("density"))).clamp(-1, 1)
    width = bandwidth(x)
    assert width >= 0.01
    found = density(x, GRID, width)
    assert torch.trapezoid(found, GRID).item() == pytest.approx(1, abs=1e-3) and (found >= 0).all()
    told = summarise(x)
    assert torch.trapezoid(torch.tensor(told["density"]), torch.tensor(told["grid"])).item() == pytest.approx(
        1, abs=0.01
    )


def test_a_density_is_scipy_s_away_from_the_ends() -> None:
    x = 0.1 * torch.randn(300, generator=RANDOM("scipy")).double()
    width = bandwidth(x)
    other = stats.gaussian_kde(x.numpy(), bw_method=width / x.std().item())
    assert torch.allclose(density(x, GRID, width), torch.from_numpy(other(GRID.numpy())), atol=1e-9)
    low, high = torch.quantile(x, torch.tensor([0.25, 0.75]).double()).tolist()
    assert width == pytest.approx(0.9 * min(x.std().item(), (high - low) / 1.34) * 300**-0.2, rel=0.03)


# Probes ----------------------------------------------------------------------------------------------------------


def blobs(count: int, distance: float, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(count) % 3
    return torch.randn(count, 6, generator=RANDOM(name)) + distance * torch.eye(3, 6)[y], y


def test_a_probe_separates_what_can_be_separated() -> None:
    found = probe(*blobs(300, 20, "far"), *blobs(150, 20, "far test"))
    assert found.accuracy == found.train == 1 and found.chance == pytest.approx(1 / 3) and found.samples == 150


def test_a_probe_is_at_chance_where_nothing_is() -> None:
    found = probe(*blobs(3000, 0, "none"), *blobs(3000, 0, "none test"))
    assert abs(found.accuracy - 1 / 3) < 4 * math.sqrt(2 / 9 / 3000)


def test_a_probe_is_sklearn_s_and_always_the_same() -> None:
    x, y = blobs(200, 1, "sklearn")
    x = x.double()
    weight, bias = fit(x, y, 3, penalty=0.01)
    again = fit(x, y, 3, penalty=0.01)
    assert torch.equal(weight, again[0]) and torch.equal(bias, again[1])
    other = LogisticRegression(C=1 / (0.01 * 200), tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy())
    mine, theirs = (x @ weight + bias).softmax(-1), torch.from_numpy(other.predict_proba(x.numpy()))
    assert torch.allclose(mine, theirs, atol=1e-4)


def test_a_constant_feature_harms_no_probe() -> None:
    x, y = blobs(90, 20, "constant")
    x = torch.cat([x, torch.ones(90, 1)], -1)
    assert probe(x, y, x, y).accuracy == 1


# Attention -------------------------------------------------------------------------------------------------------


def steps() -> tuple[dict[str, Stream], dict[str, torch.Tensor]]:
    """Two modalities of 3 and 5 steps; the second sample is shorter, the third has nothing real."""
    masks = {"a": torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool(),
             "b": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0] * 5]).bool()}  # fmt: skip
    streams = {m: Stream(torch.zeros(3, mask.shape[1], 2), mask) for m, mask in masks.items()}
    erased = {m: torch.zeros_like(mask) for m, mask in masks.items()}
    erased["a"][0, 1] = erased["b"][0, 4] = erased["b"][1, 0] = erased["b"][1, 4] = True
    return streams, erased


def test_positions_are_found_in_the_streams() -> None:
    streams, erased = steps()
    found = layout(8, [streams], erased)
    assert found is not None and found.lengths == {"a": 3, "b": 5}
    assert found.real.sum(1).tolist() == [8, 4, 0] and found.erased.sum(1).tolist() == [2, 1, 0]  # padding never counts
    both = layout(16, [streams, streams], erased)
    assert both is not None and both.lengths == {"a": 3, "b": 5, "a, again": 3, "b, again": 5}
    assert layout(9, [streams], erased) is None and layout(3, [{"a": streams["a"]}], erased) is None
    assert layout(8, [{"common": streams["a"]}, {}], erased) is None


def test_uniform_attention_gives_erased_steps_their_share() -> None:
    streams, erased = steps()
    keys = layout(8, [streams], erased)
    assert keys is not None
    uniform = softmax_weights(torch.zeros(3, 2, 8, 4), torch.zeros(3, 2, 8, 4), keys.real)
    for queries in (keys, None):
        mass = erased_mass(uniform, keys, queries)
        assert mass[0].item() == pytest.approx(2 / 8) and mass[1].item() == pytest.approx(1 / 4)
        assert mass[2].isnan()
    picture = relative(uniform[:1], layout_of(keys, 0), layout_of(keys, 0))
    assert picture.shape == (8, 8) and torch.allclose(picture, torch.ones(8, 8).double())


def layout_of(keys, i: int):
    return type(keys)(keys.lengths, keys.real[i : i + 1], keys.erased[i : i + 1])


def test_attention_that_turns_away_has_no_mass_there() -> None:
    streams, erased = steps()
    keys = layout(8, [streams], erased)
    assert keys is not None
    away = softmax_weights(torch.zeros(3, 1, 2, 4), torch.zeros(3, 1, 8, 4), keys.real & ~keys.erased)
    assert erased_mass(away, keys)[:2].tolist() == [0, 0]
    toward = softmax_weights(torch.zeros(3, 1, 2, 4), torch.zeros(3, 1, 8, 4), keys.erased)
    assert torch.allclose(erased_mass(toward, keys)[:2], torch.ones(2).double())


def test_a_picture_that_shrinks_keeps_its_mean_and_borders() -> None:
    picture = torch.arange(60.0).reshape(6, 10)
    small, tall, wide = shrink(picture, {"a": 2, "b": 4}, {"a": 4, "b": 6}, 2)
    assert (tall, wide) == ({"a": 2, "b": 2}, {"a": 2, "b": 2}) and small.shape == (4, 4)
    assert small[0, 0] == picture[0, :2].mean() and small[3, 3] == picture[4:, 7:].mean()
    same, _, _ = shrink(picture, {"a": 2, "b": 4, "none": 0}, {"a": 4, "b": 6}, 99)
    assert torch.equal(same, picture)


# Errors ----------------------------------------------------------------------------------------------------------


def test_errors_of_every_kind_of_task() -> None:
    real = errors_of(Task("regression", 1, "mosi"), torch.tensor([[1.0], [-2.0]]), torch.tensor([0.5, 1]))
    assert real.tolist() == [0.5, 3]
    sure = torch.tensor([[50.0, 0, 0], [0, 0, 0]])
    chosen = errors_of(Task("classification", 3, "classification"), sure, torch.tensor([0, 2]))
    assert chosen.tolist() == pytest.approx([0, 2 / 3])
    logits = torch.tensor([[50.0, 0, 0, 50], [50, 0, 50, 0]])  # says no, yes; then no, no
    several = errors_of(Task("multilabel", 4, "iemocap"), logits, torch.tensor([[0, 1], [1, 0]]))
    assert several.tolist() == pytest.approx([0, 0.5])
