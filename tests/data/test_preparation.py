"""Promise: a preparation survives JSON, and a damaged one gets one precise error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmrobust.contracts import Task
from mmrobust.data import Preparation
from mmrobust.errors import DataError

FULL = Preparation(
    ("text", "audio"),
    Task("classification", 2, "classification", names=("no", "yes")),
    {"text": 2, "audio": 1},
    {"text": 5, "audio": 3},
    reduce={"audio": "segments"},
    mean={"text": [0.1, 1e-9]},
    std={"text": [1.0, 2.5]},
    fill={"audio": [0.0]},
    clip={"text": 5.0},
    groups={"text": "all"},
    together=("text",),
)


@pytest.mark.parametrize(
    "kept", [FULL, Preparation(("a",), Task("regression", 1, "mosi", -3.0, 3.0), {"a": 1}, {"a": 1})]
)
def test_a_preparation_survives_json(kept: Preparation) -> None:
    assert Preparation.from_dict(json.loads(json.dumps(kept.to_dict(), sort_keys=True))) == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": "text"}, "'modalities' has to be a list of names, not 'text'"),
        ({"width": {"text": 2}}, "'width' has to be a value for each of text, audio"),
        ({"length": {"text": True, "audio": 1}}, "'length' has to be a whole number from 1, not True"),
        ({"mean": {"text": [0.0]}}, "'mean.text' has to be a list of 2 numbers"),
        ({"std": {"text": [1.0, float("nan")]}}, "'std.text' has to be a finite number, not nan"),
        ({"std": {}}, "'std' has to be given for the modalities that have a mean"),
        ({"clip": {"vision": 1}}, "'clip' has to be a value for some of text, audio"),
        ({"task": None}, "'task' has to be an object with 'kind', 'outputs' and 'measures'"),
        ({"task": {"kind": "regression", "outputs": 0, "measures": "mosi"}}, "'task.outputs' has to be a whole number"),
    ],
)
def test_a_damaged_preparation_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        Preparation.from_dict(FULL.to_dict() | change)
    assert message in str(error.value)
