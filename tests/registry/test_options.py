"""Options are read from source exactly as Python would see them, and nothing is imported to read them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from mmrobust.errors import PluginError
from mmrobust.registry import ComponentSpec, catalogue, options_of, reset
from mmrobust.registry.forms import Form, parse
from mmrobust.registry.options import UNKNOWN, describe


def test_every_kind_of_annotation() -> None:
    assert parse("int | None") == Form("union", (Form("int"), Form("none")))
    assert parse("Optional[float]") == Form("union", (Form("float"), Form("none")))
    assert parse("Literal['pre', 'post']") == Form("literal", values=("pre", "post"))
    assert parse("tuple[int, ...]") == Form("list", (Form("int"),), frozen=True)
    assert parse("tuple[float, float]") == Form("tuple", (Form("float"), Form("float")))
    assert parse("dict[str, Part[Encoder]]") == Form("dict", (Form("slot", slot="encoder"),))
    assert parse("Sequence[Path]") == Form("list", (Form("path"),))
    assert parse("contracts.Part['contracts.Discriminator']") == Form("slot", slot="discriminator")
    assert parse("np.ndarray") == Form("any")
    assert parse("int | Whatever") == Form("any")
    assert parse("Rate", {"Rate": ast.parse("float | None", mode="eval").body}.get) == parse("float | None")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must never be imported, on the path."""
    folder = tmp_path / "bomb_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reset()
    return folder


def fusion(package: Path, source: str, name: str = "Mine") -> ComponentSpec:
    reset()
    (package / "parts.py").write_text("from mmrobust.contracts import Context, Fusion, Part\n" + source)
    return ComponentSpec("fusion", "mine", f"bomb_package.parts:{name}", "", "bomb", "1")


def test_options_without_importing_the_package(package: Path) -> None:
    spec = fusion(
        package,
        """
import math
from typing import Literal
from .kinds import Side, WIDTH

class Mine(Fusion):
    '''Does it.

    Args:
        depth: Number of blocks,
            counted from one.
        side: Which side.
    '''
    def __init__(self, context: Context, *, depth: int = 2, ratio: float = 1 / 4, side: Side = "left",
                 width: int = WIDTH, cut: float = math.inf, inner: Part[Discriminator] = Part("mlp", {"hidden": 8}),
                 names: list[str] | None = None, must: bool, pair: tuple[int, int] = (1, 2), odd=None):
        ...
""",
    )
    (package / "kinds.py").write_text("from typing import Literal\nSide = Literal['left', 'right']\nWIDTH = 3\n")
    options = options_of(spec)
    assert "bomb_package" not in sys.modules
    assert list(options) == ["depth", "ratio", "side", "width", "cut", "inner", "names", "must", "pair", "odd"]
    assert options["depth"].doc == "Number of blocks, counted from one."
    assert options["ratio"].default == 0.25
    assert options["side"].form == Form("literal", values=("left", "right"))
    assert options["width"].default == 3
    assert options["cut"].default is UNKNOWN
    assert options["inner"].default == {"use": "mlp", "hidden": 8}
    assert options["must"].required
    assert options["pair"].default == [1, 2]
    assert options["odd"].form == Form("any")


def test_options_of_a_base_class_in_another_module(package: Path) -> None:
    (package / "base.py").write_text(
        "from mmrobust.contracts import Fusion, Context\n"
        "class Base(Fusion):\n    def __init__(self, context: Context, *, gain: float = 1.0): ...\n"
    )
    (package / "public.py").write_text("from bomb_package.base import Base as Renamed\n")
    spec = fusion(package, "from bomb_package import public\nclass Mine(public.Renamed):\n    pass\n")
    assert options_of(spec)["gain"].default == 1.0


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("class Mine(Fusion):\n    def __init__(self, context, **kw): ...", "takes **kw"),
        ("class Mine(Fusion):\n    def __init__(self, context, *more): ...", "takes *more"),
        ("class Mine(Fusion):\n    def __init__(self, context, depth=2): ...", "takes 'depth' by position"),
        ("class Mine(Fusion):\n    def __init__(self, *, depth=2): ...", "does not take the context"),
        (
            "class Mine(Fusion):\n    def __init__(self, context, *, use=2): ...",
            "has an option 'use', a word that recip",
        ),
        ("class Mime(Fusion): ...", "has no class 'Mine'; did you mean 'Mime'?"),
        ("from mmrobust.contracts import Head\nclass Mine(Head): ...", "is a Head, but a fusion has to be a"),
        ("class Mine(Fusion:", "cannot be read: "),
    ],
)
def test_rules_are_told(package: Path, source: str, cause: str) -> None:
    with pytest.raises(PluginError) as caught:
        options_of(fusion(package, source))
    assert cause in str(caught.value)
    assert "fusion 'mine' of bomb" in str(caught.value)


def test_circles_in_source_do_not_hang(package: Path) -> None:
    (package / "a.py").write_text("from bomb_package.b import X\n")
    (package / "b.py").write_text("from bomb_package.a import X\n")
    spec = fusion(package, "from bomb_package.a import X\nA = B\nB = A\nclass Mine(X, Mine):\n    pass\n")
    assert options_of(spec) == {}
    spec = fusion(package, "A = B\nB = A\nclass Mine(Fusion):\n    def __init__(self, context, *, a: A = A): ...\n")
    assert options_of(spec)["a"].default is UNKNOWN


def test_every_built_in_can_be_described_and_documents_its_options() -> None:
    for spec in catalogue().all():
        found = describe(spec)
        assert spec.summary, spec
        assert found.doc, spec
        for option in found.options.values():
            assert option.doc, f"{spec.kind} '{spec.name}' does not document '{option.name}'"
            assert option.form.kind != "any", (
                f"{spec.kind} '{spec.name}': the type of '{option.name}' is not understood"
            )


def test_source_and_signature_agree() -> None:
    """What `ast` reads of the built-ins is what Python has, defaults included."""
    import inspect

    from mmrobust.registry.options import plain_default

    for spec in catalogue().all():
        cls = catalogue().load(spec)
        expected = {
            p.name: p.default
            for p in inspect.signature(cls.__init__).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        options = options_of(spec)
        assert list(options) == list(expected), spec
        for name, default in expected.items():
            assert options[name].required == (default is inspect.Parameter.empty), (spec, name)
            if not options[name].required:
                assert options[name].default == plain_default(default), (spec, name)
