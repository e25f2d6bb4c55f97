"""Views, their shared pass, and the contracts under models that are nothing like NORM-TR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mmrobust
from mmrobust import recipe as recipes
from mmrobust.contracts import Batch, Outputs, Progress, Stream
from mmrobust.contracts.randomness import generator
from mmrobust.errors import RecipeError
from mmrobust.model.assemble import Built, build

UNLIKE = Path(__file__).parent / "unlike.py"
SMALL = """
recipe: 1
name: small
summary: for tests
data: {use: synthetic_affect, train: 40, valid: 10, test: 10, length: 12}
"""
NORMTR = SMALL + """
model:
  width: 16
  encoder: linear
  generic_extractor: shared_mlp
  specific_extractor: per_modality_mlp
  fusion: {use: cross_attention, depth: 1, heads: 2}
  head: mean_pool_linear
learning:
  views:
    type_1: {noise: window_erase, rate: [0, 0.5], objectives: [task, {use: modality_adversary, weight: 0.5}]}
    type_2: {noise: {use: window_erase, scope: one_modality}, rate: [0, 0.5], objectives: [task, noise_adversary]}
"""
SELF_MM = SMALL + f"""
plugins: [{UNLIKE}]
model:
  width: 4
  encoder: pooled_gru
  generic_extractor: none
  specific_extractor: identity
  fusion: tiny_tensor
  head: mean_pool_linear
learning:
  views:
    noisy: {{noise: frame_drop, rate: [0, 1], objectives: [task, {{use: unimodal_labels, momentum: 0.5}}]}}
"""
MCTN = SMALL + f"""
plugins: [{UNLIKE}]
model:
  width: 4
  encoder: none
  generic_extractor: none
  specific_extractor: identity
  fusion: translation
  head: last_step
learning:
  views:
    clean: {{noise: null, objectives: [task]}}
    noisy: {{noise: frame_drop, rate: 0.5, objectives: [translation_error]}}
"""


def made(text: str, folder: Path) -> Built:
    path = folder / "recipe.yaml"
    path.write_text(text)
    mmrobust.trust(UNLIKE)
    return build(recipes.load(path))


def first(built: Built, count: int = 8) -> Batch:
    return built.dataset.splits["train"].batch(torch.arange(count))


PROGRESS = Progress(0, torch.tensor(0.5))


@pytest.mark.parametrize("text", [NORMTR, SELF_MM, MCTN], ids=["normtr", "self_mm", "mctn"])
def test_every_model_learns_a_small_batch_by_heart(text: str, tmp_path: Path) -> None:
    built = made(text, tmp_path)
    batch = first(built)
    modules = torch.nn.ModuleList([built.model, built.learning])
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.01)
    history = []
    for step in range(60):
        total, parts, views = built.learning.losses(built.model, batch, generator(1, step), PROGRESS)
        optimizer.zero_grad()
        total.backward()
        built.learning.update(views, PROGRESS)
        optimizer.step()
        assert total.isfinite() and total.ndim == 0
        history.append(sum(loss.item() for key, loss in parts.items() if key.endswith(".task")))
    assert sum(history[-10:]) < 0.7 * sum(history[:10])
    assert all(p.grad is not None for p in modules.parameters())


@pytest.mark.parametrize("text", [NORMTR, SELF_MM, MCTN], ids=["normtr", "self_mm", "mctn"])
def test_nan_in_padding_reaches_neither_a_loss_nor_a_gradient(text: str, tmp_path: Path) -> None:
    built = made(text, tmp_path)
    modules = torch.nn.ModuleList([built.model, built.learning])
    clean = first(built)
    padding = {m: ~s.mask.unsqueeze(-1) for m, s in clean.features.items()}
    features = {m: Stream(s.x.masked_fill(padding[m], torch.nan), s.mask) for m, s in clean.features.items()}
    spoilt = replace(clean, features=features)
    assert any(s.x.isnan().any() for s in spoilt.features.values())
    results = []
    for batch in (clean, spoilt):
        modules.zero_grad()
        total, _, _ = built.learning.losses(built.model, batch, generator(1), PROGRESS)
        total.backward()
        results.append([total.detach(), *(p.grad.clone() for p in modules.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_views_in_one_pass_give_what_separate_passes_give(tmp_path: Path) -> None:
    built = made(NORMTR, tmp_path)
    model, batch = built.model.double(), first(built)
    batch = replace(batch, features={m: s.map(torch.Tensor.double) for m, s in batch.features.items()})
    views = built.learning.double().draw(batch.zeroed(), generator(3))
    together = built.learning.run(model, views)
    for name, view in views.items():
        alone: Outputs = model(view.features)
        torch.testing.assert_close(together[name].prediction, alone.prediction, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(together[name].fused.x, alone.fused.x, atol=1e-12, rtol=1e-12)


def test_parts_that_look_across_samples_get_a_pass_for_each_view(tmp_path: Path) -> None:
    built = made(MCTN, tmp_path)
    batch = first(built)
    out = built.learning.run(built.model, {"a": batch, "b": batch})
    torch.testing.assert_close(out["a"].prediction, built.model(batch.features).prediction)


def test_a_memory_changes_in_update_alone_and_by_sample(tmp_path: Path) -> None:
    built = made(SELF_MM, tmp_path)
    objective = built.learning.objectives["noisy/unimodal_labels"]
    batch = built.dataset.splits["train"].batch(torch.tensor([3, 7]))
    _, _, views = built.learning.losses(built.model, batch, generator(1), PROGRESS)
    assert (objective.memory == 0).all()
    built.learning.update(views, PROGRESS)
    assert torch.equal(objective.seen.nonzero().flatten(), torch.tensor([3, 7]))
    assert batch.label is not None
    torch.testing.assert_close(objective.memory[[3, 7], 0], 0.5 * batch.label)


def test_the_weight_scales_an_objective_in_the_sum(tmp_path: Path) -> None:
    built = made(NORMTR, tmp_path)
    total, parts, _ = built.learning.losses(built.model, first(built), generator(1), PROGRESS)
    weights = {"type_1.modality_adversary": 0.5}
    torch.testing.assert_close(total, sum(weights.get(key, 1.0) * loss for key, loss in parts.items()))


def test_a_view_that_an_objective_reads_runs_and_one_that_nobody_reads_does_not(tmp_path: Path) -> None:
    text = NORMTR.replace("noise_adversary]", "{use: noise_adversary, negatives: clean}]")
    built = made(text + "    clean: {noise: null, objectives: []}\n    idle: {noise: null, objectives: []}\n", tmp_path)
    _, _, views = built.learning.losses(built.model, first(built), generator(1), PROGRESS)
    assert set(views) == {"type_1", "type_2", "clean"}


def test_reading_a_view_that_is_not_there_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+:\d+: error: it reads the view 'cleen', which is not there"):
        made(NORMTR.replace("noise_adversary]", "{use: noise_adversary, negatives: cleen}]"), tmp_path)


def test_adversaries_reach_the_generic_extractor_backwards_and_leave_the_specific_one_alone(tmp_path: Path) -> None:
    built = made(NORMTR, tmp_path)
    _, parts, _ = built.learning.losses(built.model, first(built), generator(1), PROGRESS)
    specific = list(built.model.specific.parameters())
    generic = list(built.model.generic.parameters())
    for key in ("type_1.modality_adversary", "type_2.noise_adversary"):
        assert all(g is None for g in torch.autograd.grad(parts[key], specific, allow_unused=True, retain_graph=True))
        forwards = torch.autograd.grad(parts[key], generic, retain_graph=True)
        assert any(g.abs().max() > 0 for g in forwards)
        objective = built.learning.objectives[key.replace(".", "/")]
        objective.grl = 0.0
        _, still, _ = built.learning.losses(built.model, first(built), generator(1), PROGRESS)
        assert all((g == 0).all() for g in torch.autograd.grad(still[key], generic))
        objective.grl = 2.0
        _, twice, _ = built.learning.losses(built.model, first(built), generator(1), PROGRESS)
        for one, two in zip(forwards, torch.autograd.grad(twice[key], generic), strict=True):
            torch.testing.assert_close(two, 2 * one)
