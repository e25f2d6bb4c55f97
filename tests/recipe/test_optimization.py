"""Promise: optimizers, schedules and clipping are checked without torch, and offer what torch offers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from mmrobust.cli import main
from mmrobust.recipe import load
from mmrobust.recipe.optimization import OPTIMIZERS, SGD, Adam, AdamW, Clip, Cosine, Plateau
from mmrobust.recipe.schema import json_schema


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_and_defaults_are_torch_s(name: str) -> None:
    import torch

    options = OPTIMIZERS[name]
    theirs = inspect.signature(getattr(torch.optim, options.__name__)).parameters
    for f in fields(options):
        assert f.default == theirs[f.name].default, f.name
    assert options.weight_decay == theirs["weight_decay"].default
    machinery = {"params", "lr", "weight_decay", "foreach", "maximize", "differentiable", "fused", "capturable"}
    assert set(theirs) - machinery - {f.name for f in fields(options)} <= {"decoupled_weight_decay"}


def test_bare_names_and_mappings_mean_the_same() -> None:
    train = load("normtr").train
    assert (train.optimizer, train.schedule, train.clip) == (AdamW(), Cosine(), Clip("norm", 1.0))
    assert (train.lr, train.weight_decay) == (1e-3, 0.01)
    assert load("normtr", ["train.optimizer=adam"]).train.optimizer == Adam()
    assert load("normtr", ["train.optimizer={use: sgd, momentum: 0.9}"]).train.optimizer == SGD(momentum=0.9)
    assert load("normtr", ["train.optimizer.betas=[0.5, 0.6]"]).train.optimizer == AdamW(betas=(0.5, 0.6))
    assert load("normtr", ["train.clip=0.8"]).train.clip == Clip("norm", 0.8)
    assert load("normtr", ["train.clip={by: value, at: 0.8}"]).train.clip == Clip("value", 0.8)
    assert load("normtr", ["train.clip=null"]).train.clip is None
    changed = load("normtr", ["train.schedule={use: plateau, factor: 0.5, patience: 3}"]).train.schedule
    assert changed == Plateau(factor=0.5, patience=3)


def test_weight_decay_is_torch_s_default_where_it_is_not_given() -> None:
    assert [load("normtr", [f"train.optimizer={name}"]).train.weight_decay for name in OPTIMIZERS] == [0.01, 0, 0, 0]
    assert load("normtr", ["train.optimizer=adam", "train.weight_decay=0.1"]).train.weight_decay == 0.1


def test_a_rate_in_the_optimizer_is_the_same_as_beside_it(tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("recipe: 1\nextends: normtr\ntrain: {optimizer: {use: adam, lr: 0.25, weight_decay: 0.5}}\n")
    made = load(child).train
    assert (made.lr, made.weight_decay, made.optimizer) == (0.25, 0.5, Adam())  # nearer than normtr's own lr
    assert load(child, ["train.lr=1"]).train.lr == 1
    made = load(child, ["train.optimizer.lr=2"])
    assert made.train.lr == 2 and "lr" not in made.resolved["train"]["optimizer"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.optimizer={use: rmsprop, momentum: 0.5, weight_decay: 0.1}"],
        ["train.clip={by: value, at: 2}", "train.schedule={use: plateau, min_lr: 1e-6}"],
        ["train.clip=null", "train.optimizer={use: sgd, lr: 0.5}"],
    ],
)
def test_the_resolved_recipe_says_all_of_it_again(tmp_path: Path, overrides: list[str]) -> None:
    made = load("normtr", overrides)
    again = tmp_path / "resolved.yaml"
    again.write_text(made.to_yaml())
    assert load(again).train == made.train and load(again).resolved == made.resolved


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimizer: {use: sgd, momentun: 0.9}",
         "5:25: error: train.optimizer 'sgd' has no option 'momentun'; did you mean 'momentum'?"),
        ("optimizer: {use: sgd, lr: 0.1}",
         "5:25: error: train.optimizer.lr is said at {file}:4:3 as train.lr; keep one"),
        ("optimizer: adan",
         "5:14: error: train.optimizer has to be 'adamw' or 'adam' or 'sgd' or 'rmsprop', not 'adan'; did you mean"),
        ("optimizer: {use: sgd, nesterov: true}",
         "5:20: error: train.optimizer: nesterov needs a momentum above 0 and a dampening of 0"),
        ("optimizer: {use: adam, betas: [0.9, 1.0]}",
         "5:39: error: train.optimizer.betas has to be at least 0 and less than 1, not 1"),
        ("optimizer: {use: adam, weight_decay: -1}", "error: train.weight_decay has to be at least 0, not -1"),
        ("clip: {by: norms}",
         "5:14: error: train.clip.by has to be 'norm' or 'value', not 'norms'; did you mean 'norm'?"),
        ("clip: {at: 0}", "5:14: error: train.clip.at has to be greater than 0, not 0"),
        ("clip: big", "5:9: error: train.clip has to be a number or null, or a mapping of by, at, not 'big'"),
        ("schedule: {use: cosine, factor: 0.5}",
         "5:27: error: train.schedule 'cosine' has no option 'factor'; it has no options"),
        ("schedule: {use: plateau, factor: 1}",
         "5:36: error: train.schedule.factor has to be greater than 0 and less than 1, not 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(line: str, said: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"recipe: 1\nextends: normtr\ntrain:\n  lr: 1.0e-3\n  {line}\n")
    assert main(["recipes", "validate", str(file)]) == 2
    assert said.format(file=file) in capsys.readouterr().err


def test_torch_is_not_needed_to_check_them() -> None:
    code = (
        "import sys; from mmrobust.recipe import load; load('normtr', ['train.optimizer=sgd', 'train.clip.by=value']);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_schema_offers_them() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    train = json_schema()["properties"]["train"]
    good = [
        {"optimizer": "sgd", "clip": 0.8, "schedule": "plateau"},
        {"optimizer": {"use": "adam", "betas": [0.5, 0.9], "lr": 0.1}, "clip": {"by": "value"}},
        {"schedule": {"use": "plateau", "factor": 0.5}, "ema": 0.999, "accumulate": 4},
    ]
    for value in good:
        jsonschema.validate(value, train)
    for value in ({"optimizer": {"use": "sgd", "betas": [0, 0]}}, {"clip": -1}, {"schedule": "cosin"}, {"ema": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, train)
