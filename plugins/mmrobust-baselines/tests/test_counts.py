"""Promise: a peer has as many parameters as the public code of it, but for what is named here.

The public numbers are those of MMSA 2.2.1, whose models are the authors' releases or follow them: its own models, built
with its `config_regression.json` for aligned CMU-MOSI and counted, BERT left out. Ours are built with the same sizes.
"""

from __future__ import annotations

import math

import pytest
from mmrobust import recipe as recipes
from mmrobust.contracts import Shape
from mmrobust.model.assemble import Built, build
from small import REGRESSION, random_data

MOSI = {"text": Shape(768, 50), "audio": Shape(5, 50), "vision": Shape(20, 50)}


# name: the number in MMSA 2.2.1; what gives our recipe MMSA's sizes; what MMSA has more (or less) than we, by reason.
MMSA: dict[str, tuple[int, dict[str, object], dict[str, int]]] = {
    "lmf": (
        505_071,
        {
            "encoder.parts.audio": "{use: pooled_mlp, hidden: 16}",
            "encoder.parts.vision": "{use: pooled_mlp, hidden: 128}",
        },
        {},
    ),
    "tfn": (
        9_497_045,
        {
            "encoder.parts.text.out": 32,
            "encoder.parts.audio": "{use: pooled_mlp, hidden: 32}",
            "encoder.parts.vision": "{use: pooled_mlp, hidden: 128}",
            "head.hidden": 64,
        },
        {"the range of the labels and its beginning, kept as parameters that are never trained": 2},
    ),
    "mult": (2_571_551, {"width": 50, "encoder.kernel": 5}, {}),
    "misa": (
        1_138_033,
        {},
        {
            "a discriminator that is not used with CMD, 128 to 4": 128 * 4 + 4,
            "a layer norm for an LSTM over text, which BERT took the place of": 2 * (2 * 768),
        },
    ),
    "self_mm": (
        159_332,
        {"encoder.parts.audio": "{use: lstm, hidden: 16, out: 16}"},
        {
            "our hidden layer of audio is as wide as the others', 32 instead of 16": -16 * 16 - 16,
            "and so is the layer after it": -(32 * 32 + 32 - 16 * 16 - 16),
            "and the output layer": -16,
        },
    ),
    "tfr_net": (
        936_345,
        {},
        {
            "Transformers of three blocks over the 50 steps, where we have attention (see the module's docstring)": 3
            * (3 * (12 * 50**2 + 13 * 50) + 2 * 50 - 4 * (90 * 90 + 90)),
        },
    ),
}


def built_from(name: str, changes: dict[str, object]) -> Built:
    settings = [f"model.{key}={value}" for key, value in changes.items()]
    return build(recipes.load(f"peers/{name}", settings), dataset=random_data(REGRESSION, MOSI, True))


def count(built: Built) -> int:
    return sum(p.numel() for module in (built.model, built.learning) for p in module.parameters())


@pytest.mark.parametrize("name", MMSA)
def test_the_parameters_are_those_of_the_public_code_but_for_what_is_named(name: str) -> None:
    theirs, changes, more = MMSA[name]
    assert count(built_from(name, changes)) + sum(more.values()) == theirs


def test_lmf_has_far_fewer_parameters_than_tfn_where_they_differ() -> None:
    """The reason for LMF: its weights grow with the sum of the widths, TFN's with their product."""
    widths = [33, 33, 129]
    tfn, lmf = (built_from(name, MMSA[name][1]) for name in ("tfn", "lmf"))
    assert tfn.model.head.hidden[1].weight.numel() == math.prod(widths) * 64  # type: ignore[union-attr,index]
    assert sum(p.numel() for p in lmf.model.fusion.parameters()) == 3 * (17 + 65 + 129) + 3 + 1
