"""YAML as a recipe may use it: a tree whose every key and value knows where it was written.

Scalars are YAML 1.2's (`1e-3` is a number; `no`, `on` and `yes` are text). Refused: duplicate keys, keys that are not
text, anchors, aliases, tags, several documents, more than 1 MB or 50 levels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from mmrobust.errors import Position, Problem, RecipeError
from mmrobust.registry.forms import spell

LIMIT = 1_000_000
DEPTH = 50

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")


@dataclass(frozen=True, eq=False)
class Node:
    """A value and where it was written.

    Attributes:
        value: A scalar, a list of nodes, or a dict of nodes.
        where: Where the value begins.
        key: Where its key begins, for a value of a mapping; else the same as `where`.
        text: The value as it was typed, for a plain word of the command line: text, where text is wanted.
    """

    value: Any
    where: Position
    key: Position
    text: str | None = None

    @property
    def plain(self) -> Any:
        """The value as plain Python."""
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain for node in self.value]
        return self.value

    def __getitem__(self, key: str) -> Node:
        return self.value[key]

    def get(self, key: str) -> Node | None:
        """The value of a key, where this is a mapping that has it."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def replaced(self, value: Any) -> Node:
        """The same place with another value."""
        return Node(value, self.where, self.key)

    def moved(self, at: Position) -> Node:
        """The same value, written at another place."""
        value = self.value
        if isinstance(value, dict):
            value = {key: inner.moved(at) for key, inner in value.items()}
        elif isinstance(value, list):
            value = [inner.moved(at) for inner in value]
        return Node(value, at, at, self.text)

    def __str__(self) -> str:
        match self.value:
            case dict():
                return "a mapping"
            case list():
                return "a list"
            case value:
                text = spell(value)
                return text if len(text) <= 60 else text[:57] + "..."


def node_of(value: Any, where: Position) -> Node:
    """Plain Python as a tree of nodes that were all written at one place."""
    if isinstance(value, dict):
        value = {str(key): node_of(inner, where) for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        value = [node_of(inner, where) for inner in value]
    return Node(value, where, where)


def scalar(text: str) -> Any:
    """The value of a plain scalar in YAML 1.2's core schema."""
    if _NULL.fullmatch(text):
        return None
    if match := _BOOL.fullmatch(text):
        return match[1] is not None
    if len(text) <= 400:  # Python refuses longer whole numbers
        if _INT.fullmatch(text):
            return int(text)
        if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
    if match := _INF.fullmatch(text):
        return -math.inf if match[1] == "-" else math.inf
    return math.nan if _NAN.fullmatch(text) else text


@lru_cache(maxsize=64)
def parse(text: str, file: str) -> Node:
    """Reads one document; a tree is never changed, so what is extended often is read once.

    Args:
        text: The YAML.
        file: How positions name it; `command line` for an override's value, which then has no lines.

    Raises:
        RecipeError: It is not YAML, or uses what recipes may not.
    """
    return _Parser(text, file).document()


def _events(text: str) -> Iterator[yaml.Event]:
    """What stands in the text, by libyaml where there is one: the other parser takes twenty times as long.

    The other one reads what is wrong, and says what it is; also tabs, on which the two differ.
    """
    if yaml.__with_libyaml__ and "\t" not in text:
        with suppress(yaml.YAMLError, UnicodeError):
            return iter(list(yaml.parse(text, Loader=yaml.CSafeLoader)))
    return yaml.parse(text, Loader=yaml.SafeLoader)


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.events = _events(text)

    def at(self, mark: yaml.Mark | None) -> Position:
        if mark is None or self.file == "command line":
            return Position(self.file)
        return Position(self.file, mark.line + 1, mark.column + 1)

    def next(self) -> yaml.Event:
        try:
            return next(self.events)
        except yaml.MarkedYAMLError as error:
            what = " ".join(filter(None, [error.context, error.problem]))
            raise RecipeError(Problem(f"this is not YAML: {what}", self.at(error.problem_mark))) from None
        except yaml.reader.ReaderError as error:
            what = f"character {chr(int(error.character))!a} is not allowed"
            raise RecipeError(Problem(f"this is not YAML: {what}", Position(self.file))) from None

    def document(self) -> Node:
        self.next()  # the stream's start
        event = self.next()
        if isinstance(event, yaml.StreamEndEvent):
            raise RecipeError(Problem("the file is empty", Position(self.file)))
        if isinstance(event, yaml.DocumentStartEvent) and (event.version or event.tags):
            raise self.refused(event, "YAML directives are not used in recipes")
        root = self.node(self.next(), 1, None)
        self.next()  # the document's end
        after = self.next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self.refused(after, "a recipe is one document; a second one begins here")
        return root

    def node(self, event: yaml.Event, depth: int, key: Position | None) -> Node:
        where = self.at(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            raise self.refused(event, f"aliases (*{event.anchor}) are not used in recipes; write the value out")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.anchor:
                raise self.refused(event, f"anchors (&{event.anchor}) are not used in recipes")
            if event.tag:
                raise self.refused(event, f"tags ({event.tag}) are not used in recipes")
        if depth > DEPTH:
            raise self.refused(event, f"this is nested more than {DEPTH} levels deep")
        match event:
            case yaml.ScalarEvent():
                value: Any = event.value if event.style else scalar(event.value)
            case yaml.SequenceStartEvent():
                value = []
                while not isinstance(item := self.next(), yaml.SequenceEndEvent):
                    value.append(self.node(item, depth + 1, None))
            case _:
                value = self.mapping(depth)
        return Node(value, where, key or where)

    def mapping(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.node(event, depth + 1, None)
            if not isinstance(key.value, str):
                hint = "" if isinstance(key.value, dict | list) else f"; write '{spell(key.value)}' in quotes"
                raise RecipeError(Problem(f"a key has to be text, not {key}{hint}", key.where))
            if key.value in entries:
                first = entries[key.value].key
                line = f" (first in line {first.line})" if first.line else ""
                raise RecipeError(Problem(f"the key '{key.value}' is there twice{line}", key.where))
            entries[key.value] = self.node(self.next(), depth + 1, key.where)
        return entries

    def refused(self, event: yaml.Event, message: str) -> RecipeError:
        return RecipeError(Problem(message, self.at(event.start_mark)))


class _Dumper(yaml.SafeDumper):
    """Writes what `parse` reads back as the same values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern in (("float", _FLOAT), ("int", re.compile(rf"{_OCTAL.pattern}|{_HEX.pattern}"))):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def dump(value: Any) -> str:
    """Plain Python as YAML; innermost mappings and lists stand on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
