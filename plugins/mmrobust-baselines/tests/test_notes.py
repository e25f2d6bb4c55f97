"""Promise: an objective without the part that it reads from is refused before training, at its place in the recipe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mmrobust import recipe as recipes
from mmrobust.cli import main
from mmrobust.model.assemble import build

TINY = ["data.train=16", "data.valid=4", "data.test=4", "data.length=8", "train.epochs=1"]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command line says of a recipe that it refuses."""

    def say(*overrides: str) -> str:
        assert main(["build", *overrides, *TINY]) == 2
        return " ".join(capsys.readouterr().err.split())

    return say


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (["peers/mctn", "model.fusion=concat"], "translation text > vision > audio"),
        (["peers/iccn", "model.fusion=concat"], "cca views"),
        (["peers/lnln", "model.fusion=concat"], "completeness of text"),
    ],
)
def test_an_objective_whose_fusion_is_exchanged_is_refused(
    overrides: list[str], needed: str, refused: Callable[..., str]
) -> None:
    said = refused(*overrides)
    assert f"needs the note '{needed}' from a part of the model, and they write none" in said
    assert ".yaml:" in said


def test_targets_in_another_order_than_the_fusion_s_are_refused(refused: Callable[..., str]) -> None:
    said = refused("peers/mctn", "model.fusion.targets=[audio, vision]")
    assert "needs the note 'translation text > vision > audio'" in said
    assert "they write 'translation text > audio > vision'" in said


def test_each_part_writes_what_it_says() -> None:
    for name in ("mctn", "iccn", "lnln"):
        built = build(recipes.load(f"peers/{name}", TINY))
        out = built.model(built.dataset.splits["train"].batch(torch.arange(4)).features)
        assert set(out.notes) == set(built.model.fusion.writes)
