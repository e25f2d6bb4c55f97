"""The types that options can have, read from annotations as written, without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmrobust.registry.spec import KINDS

_SLOTS = {base: kind for kind, base in KINDS.items()}
_SCALARS = {"int": "int", "float": "float", "bool": "bool", "str": "str", "Path": "path", "None": "none"}
_LISTS = {"list": "list", "List": "list", "Sequence": "list", "tuple": "tuple", "Tuple": "tuple"}


@dataclass(frozen=True)
class Form:
    """What a value may look like.

    Attributes:
        kind: `int`, `float`, `bool`, `str`, `path`, `none`, `literal`, `list`, `tuple`, `dict`, `slot`, `union` or
            `any`. A `list` has one item form and a `tuple` one for each place; `tuple[X, ...]` is a `list` that
            becomes a tuple.
        items: The forms inside.
        values: The values of a `literal`.
        slot: The kind of component of a `slot`.
        frozen: A `list` that becomes a tuple.
    """

    kind: str
    items: tuple[Form, ...] = ()
    values: tuple[Any, ...] = ()
    slot: str = ""
    frozen: bool = False

    def __str__(self) -> str:
        """What to write in a recipe, in words."""
        match self.kind:
            case "literal":
                return " or ".join(f"'{v}'" if isinstance(v, str) else spell(v) for v in self.values)
            case "list":
                return f"a list, each item {self.items[0]}"
            case "tuple":
                return "a list of " + ", ".join(map(str, self.items))
            case "dict":
                return f"a mapping of names to {self.items[0]}"
            case "slot":
                return with_article(self.slot)
            case "union":
                return " or ".join(dict.fromkeys(map(str, self.items)))
            case kind:
                return _WORDS[kind]

    def written(self) -> str:
        """The same, short: `float, [low, high] or {modality: float}`."""
        *most, last = dict.fromkeys(self._alternatives())
        return f"{', '.join(most)} or {last}" if most else last

    def _alternatives(self) -> list[str]:
        match self.kind:
            case "union":
                return [text for form in self.items for text in form._alternatives()]
            case "literal":
                return [v if isinstance(v, str) else spell(v) for v in self.values]
            case "list":
                return [f"[{self.items[0].written()}, ...]"]
            case "tuple":
                numbers = len(self.items) == 2 and {form.kind for form in self.items} <= {"int", "float"}
                return ["[low, high]" if numbers else f"[{', '.join(form.written() for form in self.items)}]"]
            case "dict":
                return [f"{{modality: {self.items[0].written()}}}"]
            case "slot":
                return [with_article(self.slot)]
            case "int" | "float" | "any":
                return ["anything" if self.kind == "any" else self.kind]
            case kind:
                return [_WORDS[kind].removeprefix("a ")]


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "path": "a path",
    "none": "null",
    "any": "anything",
}

ANY = Form("any")


def with_article(kind: str) -> str:
    """`an encoder`, `a fusion`."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def spell(value: object) -> str:
    """A plain value as a recipe writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(spell, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {spell(v)}" for k, v in value.items()) + "}"
    return f"'{value}'" if isinstance(value, str) else str(value)


def parse(
    annotation: ast.expr | str, alias: Callable[[str], ast.expr | None] = lambda name: None, depth: int = 0
) -> Form:
    """Reads an annotation.

    Args:
        annotation: As an expression, or its source.
        alias: What a name that is no known type stands for, if anything (`Rate = float | tuple[float, float]`).
        depth: How many aliases led here; they may run in a circle.

    Returns:
        `any` for what is not understood.
    """
    if isinstance(annotation, str):
        try:
            annotation = ast.parse(annotation.strip(), mode="eval").body
        except SyntaxError:
            return ANY

    def read(node: ast.expr) -> Form:
        match node:
            case ast.Constant(value=None):
                return Form("none")
            case ast.Constant(value=str(text)):
                return parse(text, alias, depth)
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                return union(read(left), read(right))
            case ast.Name() | ast.Attribute():
                name = node.id if isinstance(node, ast.Name) else node.attr
                if name in _SCALARS:
                    return Form(_SCALARS[name])
                if name in _LISTS:
                    return Form("list", (ANY,), frozen=_LISTS[name] == "tuple")
                if name in ("dict", "Dict", "Mapping"):
                    return Form("dict", (ANY,))
                target = alias(ast.unparse(node)) if depth < 8 else None
                return ANY if target is None else parse(target, alias, depth + 1)
            case ast.Subscript(value=base, slice=inner):
                name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
                inside = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                return subscript(name, inside)
        return ANY

    def subscript(name: str, inside: list[ast.expr]) -> Form:
        if name == "Literal":
            try:
                return Form("literal", values=tuple(ast.literal_eval(v) for v in inside))
            except ValueError:
                return ANY
        if name == "Optional":
            return union(read(inside[0]), Form("none"))
        if name == "Union":
            return union(*map(read, inside))
        if name == "Part":
            base = ast.unparse(inside[0]).strip("'\"").rsplit(".", 1)[-1]
            return Form("slot", slot=_SLOTS[base]) if base in _SLOTS else ANY
        if name in _LISTS:
            frozen = _LISTS[name] == "tuple"
            if not frozen:
                return Form("list", (read(inside[0]),))
            if len(inside) == 2 and isinstance(inside[1], ast.Constant) and inside[1].value is ...:
                return Form("list", (read(inside[0]),), frozen=True)
            return Form("tuple", tuple(map(read, inside)))
        if name in ("dict", "Dict", "Mapping") and len(inside) == 2:
            return Form("dict", (read(inside[1]),))
        if name in ("Annotated", "Final", "ClassVar"):
            return read(inside[0])
        return ANY

    return read(annotation)


def union(*forms: Form) -> Form:
    """Any of several forms, flat."""
    flat = tuple(dict.fromkeys(f for form in forms for f in (form.items if form.kind == "union" else (form,))))
    return ANY if ANY in flat else flat[0] if len(flat) == 1 else Form("union", flat)
