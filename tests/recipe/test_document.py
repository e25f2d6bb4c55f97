"""YAML as recipes may use it: 1.2's scalars, a position for everything, and a clear refusal of the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrobust.errors import RecipeError
from mmrobust.recipe.compose import shipped
from mmrobust.recipe.document import Node, dump, parse, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("1.0e-4", 1e-4), (".5", 0.5), ("+1", 1), ("-0.5E+2", -50.0), ("1.", 1.0)),
        *(("no", "no"), ("on", "on"), ("yes", "yes"), ("y", "y"), ("off", "off"), ("True", True), ("false", False)),
        *(("null", None), ("~", None), ("", None), ("nil", "nil"), ("0o17", 15), ("0x1F", 31), ("017", 17)),
        *(("1_000", "1_000"), ("12:30", "12:30"), ("2001-01-01", "2001-01-01"), ("...", "..."), ("1e", "1e")),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalars_are_text() -> None:
    assert parse("a: '1'\nb: \"true\"\nc: |\n  2\n", "f").plain == {"a": "1", "b": "true", "c": "2\n"}


def test_positions_of_keys_and_values() -> None:
    root = parse("a: 1\nb:\n  - x\n  - {c: [1,\n      2]}\n", "f.yaml")
    assert str(root["b"].key) == "f.yaml:2:1"
    assert str(root["b"].where) == "f.yaml:3:3"
    inner = root["b"].value[1]["c"]
    assert (str(inner.key), str(inner.where), str(inner.value[1].where)) == ("f.yaml:4:6", "f.yaml:4:9", "f.yaml:5:7")


BOMB = "a: &a [x, x]\n" + "\n".join(f"{c}: &{c} [*{b}, *{b}]" for b, c in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3:1: error: the key 'a' is there twice (first in line 1)"),
        ("{a: {b: 1, b: 2}}", "f:1:12: error: the key 'b' is there twice (first in line 1)"),
        ("1: x", "f:1:1: error: a key has to be text, not 1; write '1' in quotes"),
        ("true: x", "f:1:1: error: a key has to be text, not true; write 'true' in quotes"),
        ("[a]: x", "f:1:1: error: a key has to be text, not a list"),
        (BOMB, "f:1:4: error: anchors (&a) are not used in recipes"),
        ("a: *b", "f:1:4: error: aliases (*b) are not used in recipes; write the value out"),
        (
            "a: !!python/object:os.system x",
            "f:1:4: error: tags (tag:yaml.org,2002:python/object:os.system) are not used",
        ),
        ("a: 1\n---\nb: 1\n", "f:2:1: error: a recipe is one document; a second one begins here"),
        ("%YAML 1.1\n---\na: 1\n", "f:1:1: error: YAML directives are not used in recipes"),
        ("a: [1, 2\nb: 3", "f:2:2: error: this is not YAML: while parsing a flow sequence expected ',' or ']'"),
        ("a:\n\tb: 1", "f:2:1: error: this is not YAML: while scanning for the next token found character"),
        ("a: \x00", "f: error: this is not YAML: character '\\x00' is not allowed"),
        ("", "f: error: the file is empty"),
        ("# only a comment", "f: error: the file is empty"),
        ("[" * 60 + "]" * 60, "f:1:51: error: this is nested more than 50 levels deep"),
        ("{a: " * 60 + "}" * 60, "nested more than 50 levels deep"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "f")
    assert message in str(caught.value)


texts = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn"]), max_size=12),
    st.from_regex(r"\A[-+.0-9eExoa-f~:]{1,8}\Z"),
    st.sampled_from(
        ["no", "yes", "on", "null", "~", "true", "1e-3", "0o7", "0x1f", ".inf", "...", "---", "1_0", "=", "<<"]
    ),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(texts, values, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    found = parse(dump(value), "f").plain
    assert found == value
    assert repr(found) == repr(value), "types too"


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_word(text: str) -> None:
    try:
        parse(text, "f")
    except RecipeError as error:
        assert str(error).startswith("f")


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="there is one parser here")
@pytest.mark.parametrize(
    "text",
    [
        *(file.read_text(encoding="utf-8") for file in shipped().values()),
        *("a: 'é 漢字 😀'  # c\nb: 😀 x\nc: [1,2 ,3]", "a: |\n  text\nb: >-\n  folded\n  x", "? a\n: b"),
        *("a: b: c", "{a: 1, b}", "a: &x 1\nb: *x", "a: 1\r\nb: ~\nc:\n", "a: {b: 1 c: 2}", "a:\tb", "a: 1\na: 2"),
        *("a: @x", "a: \x07", "a: \ud83d", "", "a: [1,,2]"),
        *("---\na: 1\n...\n", "%YAML 1.2\n---\na: 1", "a: 'no'\nb: no\nc: ''", "a: 0o17\nb: 1:30\nc: 1e-3"),
    ],
)  # fmt: skip
def test_both_parsers_tell_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        parse.cache_clear()
        try:
            return written(parse(text, "f"))
        except RecipeError as error:
            return str(error)

    def written(node: Node) -> str:
        inner = node.value
        if isinstance(inner, dict):
            inner = {key: written(below) for key, below in inner.items()}
        elif isinstance(inner, list):
            inner = [written(below) for below in inner]
        return f"{node.where} {node.key} {inner!r}"

    quick = told()
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert told() == quick
