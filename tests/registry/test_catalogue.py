"""Names are found, or the answer says what would be right; one-file plugins and notebooks register too."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmrobust
from mmrobust.errors import PluginError
from mmrobust.registry import Catalogue, catalogue, load_file, options_of, reset
from mmrobust.registry.plugin import Plugin


@pytest.fixture(autouse=True)
def fresh():
    reset()
    yield
    reset()


def filled() -> Catalogue:
    made = Catalogue()
    made.add("fusion", "gated", "one.parts:Gated", distribution="one", version="1.0")
    made.add("fusion", "tensor", "one.parts:Tensor", distribution="one", version="1.0")
    made.add("head", "mlp", "two.parts:MLP", distribution="Two_Parts", version="2.0")
    return made


def message(made: Catalogue, kind: str, name: str) -> str:
    with pytest.raises(PluginError) as caught:
        made.find(kind, name)
    return str(caught.value)


def test_nearest_names() -> None:
    made = filled()
    assert made.find("fusion", "gated").target == "one.parts:Gated"
    assert made.find("head", "two-parts/mlp").name == "mlp"
    assert message(made, "fusion", "gatde") == "there is no fusion 'gatde'; did you mean 'gated'?"
    assert message(made, "fusion", "one/gatde") == "there is no fusion 'one/gatde'; did you mean 'gated'?"
    assert message(made, "fusion", "oen/gated") == "there is no fusion 'oen/gated'; did you mean 'one'?"
    assert message(made, "fusion", "mlp") == "there is no fusion 'mlp'; known: gated, tensor ('mlp' is a head)"
    assert message(made, "fusoin", "gated").startswith("there is no kind of component 'fusoin'; did you mean 'fusion'?")


def test_two_distributions_with_one_name() -> None:
    made = filled()
    made.add("fusion", "gated", "three:Gated", distribution="three", version="0.1")
    assert message(made, "fusion", "gated") == (
        "fusion 'gated' is ambiguous: one 1.0 and three 0.1 both offer it; write 'use: one/gated' or 'use: three/gated'"
    )
    assert made.find("fusion", "three/gated").target == "three:Gated"


def test_the_quarantined_plugin_is_named_where_it_is_missed() -> None:
    made = filled()
    made.plugins.append(
        Plugin("x", "four", "1", "four", state="quarantined", cause="it is broken", offers=[("fusion", "lost")])
    )
    made.plugins.append(Plugin("y", "five", "1", "five", state="off", offers=[("fusion", "dark")]))
    assert message(made, "fusion", "lost") == (
        "fusion 'lost' should come from plugin 'x' of four 1, which is quarantined: it is broken"
    )
    assert message(made, "fusion", "dark") == "fusion 'dark' should come from plugin 'y' of five 1, which is turned off"


def test_load_checks_the_class() -> None:
    made = catalogue()
    from mmrobust.contracts import Fusion

    assert issubclass(made.load(made.find("fusion", "concat")), Fusion)
    with pytest.raises(PluginError, match="is a Fusion, but a head has to be a"):
        made.load(made.add("head", "wrong", "mmrobust.components.fusion:Concat", distribution="x"))
    with pytest.raises(PluginError, match=r"there is no module 'mmrobust\.components\.gone'"):
        made.load(made.add("head", "gone", "mmrobust.components.gone:Concat", distribution="x"))


def test_decorator_in_a_notebook() -> None:
    from mmrobust.contracts import Context, Fusion

    def define(gain: float) -> type:
        @mmrobust.register("fusion", "mine")
        class Mine(Fusion):
            """My fusion."""

            def __init__(self, context: Context, *, gain: float = gain, names: list[str] | None = None) -> None:
                super().__init__(context)

        return Mine

    cls = define(1.0)
    spec = catalogue().find("fusion", "mine")
    assert spec.summary == "My fusion."
    assert catalogue().load(spec) is cls
    assert options_of(spec)["gain"].default == 1.0
    assert str(options_of(spec)["names"].form) == "a list, each item text or null"
    again = define(2.0)  # running the cell again replaces the class
    assert catalogue().load(catalogue().find("fusion", "mine")) is again
    assert options_of(catalogue().find("fusion", "mine"))["gain"].default == 2.0


FILE = """
import mmrobust
from mmrobust.contracts import Context, Fusion


@mmrobust.register("fusion", "in_a_file", summary="from a file")
class Mine(Fusion):
    def __init__(self, context: Context, *, gain: float = 1.0) -> None:
        super().__init__(context)
"""


def test_one_file_plugin(tmp_path: Path) -> None:
    file = tmp_path / "my fusion.py"
    file.write_text(FILE)
    plugin = load_file(file)
    assert plugin.offers == [("fusion", "in_a_file")]
    spec = catalogue().find("fusion", "in_a_file")
    assert spec.distribution == "my fusion.py"
    assert options_of(spec)["gain"].default == 1.0
    assert load_file(file) is plugin
    assert len(catalogue().all("fusion")) == len({s.name for s in catalogue().all("fusion")})


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("x = 1", "it registers nothing; write '@mmrobust.register(kind, name)' above a class"),
        ("import sys; sys.exit(2)", "it calls sys.exit(2)"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("1 / 0", "ZeroDivisionError: division by zero (mine.py, line 1)"),
        ("import mmrobust\n@mmrobust.register('fusoin', 'x')\nclass X: ...", "there is no kind of component 'fusoin'"),
    ],
)
def test_a_broken_file_says_why(tmp_path: Path, text: str, cause: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(PluginError) as caught:
        load_file(file)
    assert cause in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file() -> None:
    with pytest.raises(PluginError, match=r"there is no plugin file 'gone\.py'"):
        load_file("gone.py")
