"""Finds the source of a module and reads it with `ast`; no module and no parent package is ever imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType


def locate(module: str) -> Path | None:
    """The source file of a module, or None where it is not installed or has no Python source."""
    loaded = sys.modules.get(module)
    if loaded is None and module in files:
        return files[module]
    if isinstance(loaded, ModuleType):
        origin = getattr(loaded, "__file__", None)
        return Path(origin) if origin and origin.endswith(".py") else None
    key = (module, tuple(sys.path))
    known = _located.get(key)
    if known is None or not known.is_file():
        known = _search(module)
        if known is not None:
            _located[key] = known
    return known


_located: dict[tuple[str, tuple[str, ...]], Path] = {}

#: One-file plugins that were read and not run, by the name of the module that each would be.
files: dict[str, Path] = {}


def _search(module: str) -> Path | None:
    paths: Sequence[str] | None = None
    spec = None
    name = ""
    for piece in module.split("."):
        name = f"{name}.{piece}" if name else piece
        if name != piece and paths is None:
            return None
        parent = sys.modules.get(name)
        spec = getattr(parent, "__spec__", None) or _find(name, paths)
        if spec is None:
            return None
        paths = spec.submodule_search_locations
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin and origin.endswith(".py") and Path(origin).is_file() else None


def _find(name: str, paths: Sequence[str] | None):
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec = find(name, paths) if find else None
        except Exception:  # a third party's finder must not break reading
            continue
        if spec is not None:
            return spec
    return None


class Module:
    """What a module's source says at its top level.

    Attributes:
        name: The module's dotted name.
        path: Its file.
        classes: The classes it defines.
        values: The names it assigns.
        imports: What each imported name is: `(module, name)`, or `(module, "")` for a module itself.
    """

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name = name
        self.path = path
        self.doc = ast.get_docstring(tree) or ""
        self.classes: dict[str, ast.ClassDef] = {}
        self.values: dict[str, ast.expr] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self._collect(tree.body)

    def _collect(self, body: list[ast.stmt]) -> None:
        for statement in body:
            match statement:
                case ast.ClassDef(name=name):
                    self.classes[name] = statement
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.values[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self.values[name] = value
                case ast.Import(names=names):
                    for alias in names:
                        self.imports[alias.asname or alias.name] = (alias.name, "")
                case ast.ImportFrom(module=module, names=names, level=level):
                    origin = self._absolute(module or "", level)
                    for alias in names:
                        self.imports[alias.asname or alias.name] = (origin, alias.name)
                case ast.If(body=inner, orelse=other):
                    self._collect(inner)
                    self._collect(other)
                case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=final):
                    self._collect([*inner, *other, *final, *(s for handler in handlers for s in handler.body)])

    def _absolute(self, module: str, level: int) -> str:
        if not level:
            return module
        package = self.name.split(".")
        cut = level - (1 if self.path.name == "__init__.py" else 0)
        base = package[: len(package) - cut] if cut else package
        return ".".join([*base, *([module] if module else [])])


def read(module: str) -> Module | None:
    """The module's source, parsed; None where there is no source to read.

    Raises:
        SyntaxError: The source is not Python.
    """
    path = locate(module)
    if path is None:
        return None
    try:
        return _parse(module, path, path.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=512)
def _parse(module: str, path: Path, stamp: int) -> Module:
    return Module(module, path, ast.parse(path.read_bytes(), filename=str(path)))


def find_class(module: str, name: str) -> tuple[Module, ast.ClassDef] | None:
    """The definition of a class, followed through re-exports."""
    target = _follow(module, name)
    if target is None or not isinstance(target[1], ast.ClassDef):
        return None
    return target[0], target[1]


def find_value(module: Module, name: str) -> ast.expr | None:
    """What a name (or `module.name`) of a module stands for, followed through imports."""
    target = _resolve(module, name)
    return target[1] if target is not None and isinstance(target[1], ast.expr) else None


def bases(module: Module, definition: ast.ClassDef) -> list[tuple[str, str]]:
    """`(module, class)` of each base class, as far as the source says."""
    named = []
    for base in definition.bases:
        name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        target = _origin(module, name)
        if target is not None:
            named.append(target)
    return named


def _origin(module: Module, name: str) -> tuple[str, str] | None:
    if name in module.classes or name in module.values:
        return module.name, name
    if name in module.imports:
        return module.imports[name]
    prefix, _, last = name.rpartition(".")
    if prefix in module.imports:
        owner, inner = module.imports[prefix]
        return (f"{owner}.{inner}" if inner else owner), last
    return None


def _resolve(module: Module, name: str, depth: int = 0) -> tuple[Module, ast.ClassDef | ast.expr] | None:
    if name in module.classes:
        return module, module.classes[name]
    if name in module.values:
        value = module.values[name]
        if isinstance(value, ast.Name | ast.Attribute) and depth < 8:  # `Alias = Other`
            return _resolve(module, ast.unparse(value), depth + 1) or (module, value)
        return module, value
    target = _origin(module, name)
    return _follow(*target, depth + 1) if target is not None and depth < 8 else None


def _follow(module: str, name: str, depth: int = 0) -> tuple[Module, ast.ClassDef | ast.expr] | None:
    try:
        parsed = read(module)
    except SyntaxError:
        return None
    return None if parsed is None else _resolve(parsed, name, depth)
