"""From a recipe to a model: what is built, what is told, what is refused and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrobust import recipe as recipes
from mmrobust.errors import RecipeError
from mmrobust.model.assemble import Built, build
from mmrobust.model.summary import summarize

TEXT = """\
recipe: 1
name: small
summary: for tests
data: {use: synthetic_affect, train: 32, valid: 8, test: 8, length: 10}
model:
  width: 16
  encoder: linear
  generic_extractor: shared_mlp
  specific_extractor: per_modality_mlp
  fusion: {use: cross_attention, depth: 1, heads: 2}
  head: mean_pool_linear
learning:
  views:
    type_1: {noise: window_erase, rate: [0, 0.5], objectives: [task, modality_adversary]}
    type_2: {noise: {use: window_erase, scope: one_modality}, rate: [0, 0.5], objectives: [task, noise_adversary]}
"""


def made(folder: Path, text: str = TEXT, *overrides: str, seed: int | None = None) -> Built:
    path = folder / "small.yaml"
    path.write_text(text)
    return build(recipes.load(path, overrides), seed=seed)


def test_the_same_seed_gives_the_same_weights_and_the_global_state_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two, other = made(tmp_path), made(tmp_path), made(tmp_path, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in built.model.parameters()]) for built in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_another_fusion_leaves_the_other_slots_weights_alone(tmp_path: Path) -> None:
    one, two = made(tmp_path), made(tmp_path, TEXT, "model.fusion=concat")
    for part in ("encoder", "generic", "specific"):
        for a, b in zip(one.model.parts[part].parameters(), two.model.parts[part].parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.fusion.heads=3"], "command line: error: fusion 'cross_attention', option 'heads': 3 does not divide"),
        (["model.modalities=[text, sound]"], "command line: error: the data has no modality 'sound'; known: audio"),
        (["model.attention=flahs"], "command line: error: there is no attention backend 'flahs'"),
        (
            ["model.attention=efficient", "train.device=cpu"],
            "command line: error: attention backend 'efficient', which the recipe asks for, cannot be used: it is a "
            "kernel of NVIDIA GPUs, and this runs on 'cpu'; use auto, manual, sdpa",
        ),
        (
            ["model.generic_extractor=none", "model.specific_extractor=none", "model.fusion=concat",
             "~learning.views.type_2", "learning.views.type_1.objectives=[task]"],
            "both extractors are 'none', so the fusion would get nothing; make one of them 'identity'",
        ),
        (["data.train=0"], "command line: error: dataset 'synthetic_affect', option 'train': 0 is too small"),
        (["model.encoder=none"], "small.yaml:8:3: error: generic_extractor 'shared_mlp': needs one common width, but"),
        (
            ["model.modalities=[text]"],
            "small.yaml:14:70: error: objective 'modality_adversary': needs at least 2 modalities, and there is 1",
        ),
        (
            ["model.encoder={use: each, parts: {texd: linear}}"],
            "encoder 'each', option 'parts': there is no modality 'texd'; did you mean 'text'?",
        ),
        (
            ["learning.views.type_1.objectives=[task, task]"],
            "command line: error: view 'type_1' lists the objective 'task' twice",
        ),
    ],
)  # fmt: skip
def test_what_a_component_refuses_is_told_with_its_place(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        made(tmp_path, TEXT, *overrides)
    assert message in str(caught.value)


def test_modalities_can_be_chosen_and_ordered(tmp_path: Path) -> None:
    built = made(tmp_path, TEXT, "model.modalities=[vision, text]")
    assert built.context.modalities == ("vision", "text")
    features = built.dataset.splits["train"].batch(torch.arange(3)).features
    out = built.model(features)
    assert list(out.generic) == ["vision", "text"]


def test_an_encoder_for_each_modality(tmp_path: Path) -> None:
    built = made(tmp_path, TEXT, "model.encoder={use: each, parts: {text: {use: linear, bias: false}}}")
    parts = built.model.encoder.encoders
    assert parts["text"].layers["text"].bias is None and parts["audio"].layers["audio"].bias is not None


def test_the_summary_counts_what_is_there(tmp_path: Path) -> None:
    built = made(tmp_path)
    weights = [p.clone() for p in built.model.parameters()]
    summary = summarize(built)
    assert summary.parameters == sum(p.numel() for p in built.model.parameters())
    # One sample's linear encoder: two operations for each weight and step.
    assert summary.model[0].flops == 2 * 10 * 16 * (64 + 16 + 24)
    # Two MLPs of 16 -> 8 -> 8 over 30 steps.
    assert summary.model[1].flops == summary.model[2].flops == 2 * 30 * (16 * 8 + 8 * 8)
    # q, k, v, out of 8 x 8, a feed-forward of 8 -> 32 -> 8, and the attention itself, over 30 x 30 tokens.
    assert summary.model[3].flops == 2 * 30 * (4 * 64 + 2 * 256) + 2 * 2 * 30 * 30 * 8
    assert summary.idle == ()
    assert set(summary.losses) == {
        "type_1.task", "type_1.modality_adversary", "type_2.task", "type_2.noise_adversary", "total",
    }  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(weights, built.model.parameters(), strict=True))
    assert all(p.grad is None for p in built.model.parameters())
    text = str(summary)
    assert "fast: tokens: computed once for 2 views" in text
    assert "cross_attention" in text and "attention: sdpa (auto) for 30 queries x 30 keys, heads 4 wide" in text


def test_a_step_is_tried_in_the_precision_of_the_recipe(tmp_path: Path) -> None:
    tried = (made(tmp_path, TEXT, "train.device=cpu", f"train.precision={p}") for p in ("fp32", "bf16"))
    full, half = (summarize(built).losses["total"] for built in tried)
    assert full != half and half == pytest.approx(full, rel=0.02)


def test_the_summary_says_why_views_share_no_tokens(tmp_path: Path) -> None:
    built = made(tmp_path, TEXT, "model.generic_extractor={use: shared_mlp, dropout: 0.1}")
    why = "tokens: computed anew for each view: the generic extractor (SharedMLP) has dropout, which each view draws"
    assert why in str(summarize(built))


def test_a_part_that_no_gradient_reaches_is_named(tmp_path: Path) -> None:
    built = made(tmp_path, TEXT, "model.fusion.query=specific", "~learning.views.type_2",
                 "learning.views.type_1.objectives=[task]")  # fmt: skip
    assert any(name.startswith("model.generic.") for name in summarize(built).idle)


def test_one_word_sets_the_dropout_of_every_part_that_leaves_its_own_at_the_default(tmp_path: Path) -> None:
    built = made(tmp_path, TEXT, "model.dropout=0.3", "model.head={use: mean_pool_linear, dropout: 0.1}")
    shares = {
        slot: {module.p for module in part.modules() if isinstance(module, torch.nn.Dropout)}
        for slot, part in built.model.parts.items()
    }
    assert shares == {"encoder": set(), "generic": {0.3}, "specific": {0.3}, "fusion": {0.3}, "head": {0.1}}
    assert built.recipe.model.dropout == 0.3
    with pytest.raises(RecipeError, match=r"model\.dropout has to be"):
        made(tmp_path, TEXT, "model.dropout=1.5")
