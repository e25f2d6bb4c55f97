"""Promise: each variant of the studies that need these components learns, on the same data, under the same noise."""

from __future__ import annotations

import pytest
import torch
from mmrobust import recipe as recipes
from mmrobust.contracts import Progress
from mmrobust.model.assemble import build
from mmrobust.studies.paper import figures_of
from small import need_timm

TINY = [
    "data.train=12", "data.valid=6", "data.test=6", "data.length=8", "data.text=6", "data.audio=4", "data.vision=4",
]  # fmt: skip


@pytest.mark.parametrize("name", ["robustness", "fusions"])
def test_every_variant_learns(name: str) -> None:
    study = recipes.load(f"studies/{name}", TINY)
    variants = {variant: study.variant(variant) for variant in study.variants}
    assert study.variants[0] == "normtr" and len(study.train.seeds) == 5
    assert len({str(v.evaluate) for v in variants.values()}) == len({str(v.data) for v in variants.values()}) == 1
    for variant, recipe in variants.items():
        if variant == "vit":
            need_timm()
        built = build(recipe)
        batch = built.dataset.splits["train"].batch(torch.arange(6))
        total, _, _ = built.learning.losses(
            built.model, batch, torch.Generator().manual_seed(1), Progress(1, torch.tensor(0.5))
        )
        total.backward()
        assert total.isfinite(), variant


def test_the_paper_s_figures_are_beside_every_model() -> None:
    robustness, fusions = recipes.load("studies/robustness"), recipes.load("studies/fusions")
    assert [one.table for one in robustness.paper] == ["5", "1"] and [one.table for one in fusions.paper] == [
        "section 4.7.4"
    ]
    assert all(figures_of(robustness.paper[0], variant) for variant in robustness.variants)
    assert {variant: figures_of(fusions.paper[0], variant)[0].value for variant in fusions.variants} == {
        "normtr": "88.89", "pairs": "88.75", "vit": "88.19",
    }  # fmt: skip
    on_mosi = recipes.load("studies/robustness_mosi")
    assert on_mosi.paper == robustness.paper and on_mosi.variant("normtr").model.width == 256
