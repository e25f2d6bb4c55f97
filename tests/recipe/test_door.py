"""Promise: what people pass as a recipe, an override or a seed is taken, or refused in one clear line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmrobust
from mmrobust.errors import InterruptedRun, MmrobustError, RecipeError, UsageError
from mmrobust.recipe import Part, as_recipe, as_single, load

TINY: dict[str, Any] = {
    "recipe": 1,
    "name": "tiny",
    "extends": "normtr",
    "data": {"train": 16, "valid": 8, "test": 8, "length": 6},
    "model": {"width": 16},
    "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
    "evaluate": {"rates": [0, 0.5, 1], "draws": 1},
}


def seeds(given: Any) -> tuple[int, ...]:
    return as_recipe("normtr", seeds=given).train.seeds


def test_overrides_are_texts_or_dicts_or_both() -> None:
    wanted = load("normtr", ["train.lr=0.01", "train.epochs=3", "~learning.views.type_2"])
    for overrides in (
        {"train.lr": 0.01, "train.epochs": 3, "~learning.views.type_2": None},
        {"train": {"lr": 0.01, "epochs": np.int64(3)}, "~learning.views.type_2": None},
        ["train.lr=0.01", {"train.epochs": 3}, "~learning.views.type_2"],
        ({"train.lr": np.float64(0.01)}, "train.epochs=3", "~learning.views.type_2"),
    ):
        assert load("normtr", overrides).resolved == wanted.resolved
    assert load("normtr", "train.lr=0.01").train.lr == 0.01
    assert load("normtr", {"model.fusion": Part("concat")}).model.fusion == Part("concat")
    assert load("normtr", {"evaluate.rates": np.array([0, 0.5, 1])}).evaluate.rates == (0, 0.5, 1)
    assert load("normtr", {"evaluate.rates": torch.tensor([0, 0.5, 1])}).evaluate.rates == (0, 0.5, 1)
    assert (
        load(TINY, {"data": {"use": "arrays", "path": Path("x.npz")}}).data.options["path"] == Path("x.npz").resolve()
    )


def test_a_recipe_may_be_a_dict_and_a_loaded_one_takes_overrides(tmp_path: Path) -> None:
    loaded = load(TINY)
    assert (loaded.name, loaded.path, loaded.model.width) == ("tiny", None, 16)
    Path(tmp_path, "again.yaml").write_text(loaded.source)
    assert load(tmp_path / "again.yaml").resolved == loaded.resolved
    again = as_recipe(loaded, {"train.lr": 1})
    assert (again.train.lr, again.model.width, again.source) == (1.0, 16, loaded.source)
    assert as_recipe(loaded) is loaded
    with pytest.raises(RecipeError) as caught:
        load({**TINY, "model": {"width": "wide", "widht": 3}})
    assert str(caught.value).splitlines() == [
        "recipe: error: model has no key 'widht'; did you mean 'width'?",
        "recipe: error: model.width has to be a whole number, not 'wide'",
    ]


def test_seeds_are_a_number_or_any_numbers() -> None:
    assert seeds(3) == seeds(np.int64(3)) == seeds(range(1, 4)) == seeds(np.array([1, 2, 3])) == (1, 2, 3)
    assert seeds([7]) == seeds((7,)) == seeds(iter([7])) == seeds(np.array([7.0])) == (7,)
    for wrong in (True, 0, -1, [1, 1], [], "3", 2.5, [1.5], [-1]):
        with pytest.raises(RecipeError, match=r"train\.seeds"):
            seeds(wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load(3), "a recipe is a path, a shipped recipe's name, a dict or a Recipe, not int"),
        (lambda: load("normtr", 3), "overrides are texts like 'a.b.c=value' or a dict, not int"),
        (lambda: load("normtr", [3]), "an override is a text like 'a.b.c=value' or a dict, not 3"),
        (lambda: load("normtr", {3: 3}), "the key of an override is text like 'a.b.c', not 3"),
        (lambda: load("normtr", {"train.lr": object}), "a recipe holds text, numbers, lists and mappings, not type"),
        (lambda: seeds(object()), "a recipe holds text, numbers, lists and mappings, not object"),
        (
            lambda: as_single("studies/depth"),
            "is a study of .* variants, not one recipe; .*: mmrobust study",
        ),
        (lambda: mmrobust.train("studies/depth"), "mmrobust study studies/depth"),
    ],
)
def test_what_cannot_be_is_one_clear_line(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_dict_without_end_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["train"] = endless
    with pytest.raises(UsageError, match="nested at most 50 levels"):
        load("normtr", endless)


def test_build_takes_overrides() -> None:
    built = mmrobust.build(TINY, {"model.fusion": "concat"})
    assert type(built.model.fusion).__name__ == "Concat"
    assert mmrobust.build(built.recipe, "model.width=8").context.width == 8


@pytest.mark.parametrize(
    "text",
    [
        "x #1.npz",
        "#x",
        "[a].npz",
        "{a}_{b}.npz",
        "*.npz",
        "@x.npz",
        "%x.npz",
        "&a",
        "!x",
        "a: b.npz",
        "- a",
        "2024",
        "1e3",
    ],
)
def test_text_is_text_where_text_is_wanted(text: str) -> None:
    assert load("normtr", [f"summary={text}"]).summary == text
    assert load(TINY, ["data.use=arrays", f"data.path={text}"]).data.options["path"].name == text


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs")), min_size=1, max_size=20))
def test_any_word_survives_or_gets_advice_to_quote(text: str) -> None:
    try:
        assert load("normtr", [f"summary={text}"]).summary in (text, text.strip("\"'"))
    except RecipeError as error:
        assert 'if it is text, write summary="' in str(error) or text[0] in "[{", str(error)


def test_half_a_list_gets_advice() -> None:
    with pytest.raises(RecipeError) as caught:
        load("normtr", ["summary=[a"])
    assert str(caught.value).endswith('; if it is text, write summary="[a"')
    assert load("normtr", ['summary="[a"']).summary == "[a"
    with pytest.raises(RecipeError, match=r"train\.seeds has to be a list.*, not '1,2'; write \[1,2\]"):
        load("normtr", ["train.seeds=1,2"])


DIGITS = "9" * 400


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *(
            (f"{key}={DIGITS}", "has to be")
            for key in ("train.lr", "evaluate.rates", "train.warmup", "model.fusion.dropout")
        ),
        (f"evaluate.rates=[0, 1, ..., {DIGITS}]", "has to be|needs two numbers|would stand for"),
        ("evaluate.rates=[0, 1, ..., 1e999]", "needs two numbers"),
        (f"train.seeds={DIGITS}", "is no number of seeds"),
        (f"name={'n' * 201}", "a name has at most 200 letters, and this one has 201"),
        (f"data.path={'x' * 256}", "a name in it is too long"),
        ("name=~", "'~' cannot be a recipe's name"),
        ("data.path=a\0b", "a null byte"),
        ("extends=~data", "there is no shipped recipe '~data'"),
        ("extends=~data/x.yaml", "there is no recipe file"),
        (f"extends={'x' * 300}", "there is no shipped recipe"),
        (f"extends={'x' * 300}.yaml", "cannot be read: File name too long"),
        ("extends=a\0b.yaml", "there is no recipe file|cannot be read"),
        ("extends=/dev/zero.yaml", "there is no recipe file"),
    ],
)
def test_the_internal_errors_that_fuzzing_showed_are_recipe_errors(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(TINY, ["data.use=arrays", "data.path=x.npz", override])


def test_ctrl_c_is_not_swallowed_by_except_exception() -> None:
    assert issubclass(InterruptedRun, KeyboardInterrupt) and not issubclass(InterruptedRun, Exception)
    assert not issubclass(InterruptedRun, MmrobustError)


@pytest.mark.parametrize("stream", [None, object(), io.StringIO()], ids=["none", "no isatty", "text"])
def test_it_trains_without_a_terminal(stream: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Tee:
        def write(self, text: str) -> None: ...
        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stderr", Tee() if type(stream) is object else stream)
    assert mmrobust.train(TINY, runs=tmp_path).states


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"evaluate.split": "dev"},
            "overrides: error: evaluation (evaluate.split) needs a labelled split 'dev'",
        ),
        ({"evaluate.metrics": ["mea"]}, "overrides: error: there is no measure 'mea'; did you mean 'mae'?"),
        (
            {"evaluate.metrics": ["accuracy"]},
            "overrides: error: the measure 'accuracy' cannot be taken",
        ),
        ({"train.select": "maee"}, "overrides: error: there is no measure 'maee'; did you mean 'mae'?"),
        ({"evaluate.noise": ["frame_drop", "frame_drop"]}, "overrides: error: evaluate.noise lists 'frame_drop' twice"),
        ({"evaluate.noise": [{"use": "frame_drop", "modalities": ["txt"]}]}, "overrides: error: noise 'frame_drop'"),
    ],
)
def test_what_needs_only_recipe_and_data_is_checked_before_the_first_step(
    overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for call in (mmrobust.build, lambda *args: mmrobust.train(*args, runs=tmp_path / "runs")):
        with pytest.raises(RecipeError) as caught:
            call(TINY, overrides)
        assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()
