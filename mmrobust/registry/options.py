"""The options of a component, read from its source: the keyword-only arguments of its `__init__`."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmrobust.errors import PluginError, nearest
from mmrobust.registry import forms, source
from mmrobust.registry.forms import Form
from mmrobust.registry.spec import KINDS, ComponentSpec, Part

CONTRACTS = "mmrobust.contracts"
RESERVED = {"use"}
_OBJECTIVE_RESERVED = {"weight", "reads"}


class _Unknown:
    """The default of an option that is known only when the code runs."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN = _Unknown()

#: Classes that were registered as objects (`@mmrobust.register` in a notebook), by target.
live: dict[str, type] = {}


@dataclass(frozen=True)
class OptionSpec:
    """One option of a component.

    Attributes:
        name: What recipes call it.
        type: The annotation as written.
        default: A plain value; `UNKNOWN` where the source does not say, None also where it is required.
        required: It has no default.
        doc: Its line of the docstring's `Args:`.
        form: What the annotation allows.
    """

    name: str
    type: str
    default: Any
    required: bool
    doc: str
    form: Form


@dataclass(frozen=True)
class Described:
    """What the source of a component says.

    Attributes:
        options: Its options by name, in the order of the source.
        doc: Its docstring.
        file: Its source file, if any.
        line: Where its class begins.
    """

    options: dict[str, OptionSpec]
    doc: str
    file: str
    line: int


def options_of(spec: ComponentSpec) -> dict[str, OptionSpec]:
    """The options of a component, without importing it.

    Raises:
        PluginError: The target does not exist, is of another kind, or its `__init__` breaks the rules (`**kwargs`,
            options that are not keyword-only, an option with a reserved name).
    """
    return describe(spec).options


def describe(spec: ComponentSpec) -> Described:
    """Options, docstring and place of a component, without importing it.

    Raises:
        PluginError: As for `options_of`.
    """
    key = (spec.kind, spec.target)
    cached = _described.get(key)
    if cached is None or cached[0] is not live.get(spec.target):
        try:
            cached = _described[key] = (live.get(spec.target), _describe(spec))
        except RecursionError:
            raise PluginError(f"{_who(spec)} cannot be read: its source is nested too deeply") from None
    return cached[1]


_described: dict[tuple[str, str], tuple[type | None, Described]] = {}


def forget(target: str | None = None) -> None:
    """Drops what was read of a target that has been defined anew, or of all."""
    for key in [key for key in _described if target in (None, key[1])]:
        del _described[key]


def _describe(spec: ComponentSpec) -> Described:
    if spec.target in live:
        return _from_class(spec, live[spec.target])
    module, _, name = spec.target.partition(":")
    path = source.locate(module)
    if path is None:
        raise PluginError(
            f"{_who(spec)} points at '{spec.target}', but there is no module '{module}' with Python source"
        )
    try:
        parsed = source.read(module)
    except SyntaxError as error:
        raise PluginError(f"{_who(spec)} cannot be read: {path}:{error.lineno}: {error.msg}") from error
    located = source.find_class(module, name)
    if located is None:
        known = parsed.classes if parsed is not None else ()
        raise PluginError(
            f"{_who(spec)} points at '{spec.target}', but {path} has no class '{name}'{nearest(name, known)}"
        )
    owner, definition = located
    chain = _chain(owner, definition)
    base = next((c for m, _, c in chain if m is None), None)
    if base is not None and base in KINDS.values() and base != KINDS[spec.kind]:
        raise PluginError(
            f"{_who(spec)} is a {base}, but a {spec.kind} has to be a mmrobust.contracts.{KINDS[spec.kind]}"
        )
    docs = ast.get_docstring(definition) or ""
    for where, node, _ in chain:
        if where is None or node is None:
            continue
        init = next((s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)
        if init is not None:
            texts = "\n\n".join(filter(None, [docs, ast.get_docstring(init) or "", ast.get_docstring(node) or ""]))
            read = _Reader(spec, texts, lambda name, where=where: source.find_value(where, name))
            return Described(read.arguments(init.args), docs, str(owner.path), definition.lineno)
    return Described({}, docs, str(owner.path), definition.lineno)


def _chain(
    owner: source.Module, definition: ast.ClassDef, seen: frozenset[str] = frozenset()
) -> list[tuple[source.Module | None, ast.ClassDef | None, str]]:
    """A class and its bases in source order; a class of the contracts ends a branch, as (None, None, name)."""
    chain: list[tuple[source.Module | None, ast.ClassDef | None, str]] = [(owner, definition, definition.name)]
    for module, name in source.bases(owner, definition):
        label = f"{module}:{name}"
        if _of_contracts(module):
            chain.append((None, None, name))
        elif label not in seen:
            located = source.find_class(module, name)
            if located is not None:
                chain += _chain(*located, seen | {label})
    return chain


def _of_contracts(module: str) -> bool:
    """Whether a module is that of the contracts, or one inside."""
    return module == CONTRACTS or module.startswith(f"{CONTRACTS}.")


class _Reader:
    """Turns the arguments of an `__init__` into options."""

    def __init__(self, spec: ComponentSpec, doc: str, value: Callable[[str], ast.expr | None]) -> None:
        self.spec = spec
        self.docs = documented(doc)
        self.value = value

    def arguments(self, args: ast.arguments) -> dict[str, OptionSpec]:
        if args.kwarg is not None:
            raise self.refused(f"takes **{args.kwarg.arg}; every option has to be named, typed and given a default")
        if args.vararg is not None:
            raise self.refused(f"takes *{args.vararg.arg}; options are keyword-only arguments, after a bare '*'")
        allowed = 1 if self.spec.kind == "dataset" else 2
        extra = [*args.posonlyargs, *args.args][allowed:]
        if extra:
            takes = "self" if allowed == 1 else "self and context"
            raise self.refused(
                f"takes '{extra[0].arg}' by position; only {takes} may be, options come after a bare '*'"
            )
        if len([*args.posonlyargs, *args.args]) < allowed:
            raise self.refused("does not take the context; write 'def __init__(self, context: Context, *, ...)'")
        pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
        return {arg.arg: self.option(arg.arg, arg.annotation, default) for arg, default in pairs}

    def option(self, name: str, annotation: ast.expr | None, default: ast.expr | None) -> OptionSpec:
        reserved = RESERVED | (_OBJECTIVE_RESERVED if self.spec.kind == "objective" else set())
        if name in reserved:
            raise self.refused(f"has an option '{name}', a word that recipes reserve")
        form = forms.ANY if annotation is None else forms.parse(annotation, self.value)
        return OptionSpec(
            name=name,
            type="" if annotation is None else ast.unparse(annotation).replace("'", '"'),
            default=None if default is None else self.constant(default),
            required=default is None,
            doc=self.docs.get(name, ""),
            form=form,
        )

    def constant(self, node: ast.expr, depth: int = 0) -> Any:
        """The plain value of a default, or `UNKNOWN`."""
        try:
            return _plain(ast.literal_eval(node))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            pass
        match node:
            case ast.Call(func=function, args=[first, *rest], keywords=[]) if len(rest) <= 1:
                called = ast.unparse(function).rsplit(".", 1)[-1]
                name = self.constant(first, depth)
                if called == "Path" and not rest and isinstance(name, str):
                    return name
                options = self.constant(rest[0], depth) if rest else {}
                if called == "Part" and isinstance(name, str) and isinstance(options, dict):
                    return {"use": name, **options} if options else name
            case ast.Name() | ast.Attribute() if depth < 8:
                value = self.value(ast.unparse(node))
                if value is not None and ast.dump(value) != ast.dump(node):
                    return self.constant(value, depth + 1)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                a, b = self.constant(left, depth), self.constant(right, depth)
                if all(isinstance(v, int | float) and abs(v) < 1e6 for v in (a, b)) and (
                    b or not isinstance(op, ast.Div)
                ):
                    return _ARITHMETIC[type(op)](a, b)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                values = [self.constant(e, depth) for e in elements]
                return UNKNOWN if UNKNOWN in values else values
            case ast.Dict(keys=keys, values=inner):
                names = [None if k is None else self.constant(k, depth) for k in keys]
                values = [self.constant(v, depth) for v in inner]
                if all(isinstance(n, str) for n in names) and UNKNOWN not in values:
                    return dict(zip(names, values, strict=True))
        return UNKNOWN

    def refused(self, message: str) -> PluginError:
        return PluginError(f"{_who(self.spec)} {message}")


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def _plain(value: Any) -> Any:
    """Tuples as lists, as a recipe has them."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else UNKNOWN


def plain_default(value: Any) -> Any:
    """A default that is a live object, as plain data."""
    if isinstance(value, Part):
        return {"use": value.use, **value.options} if value.options else value.use
    return str(value) if hasattr(value, "__fspath__") else _plain(value)


def _from_class(spec: ComponentSpec, cls: type) -> Described:
    """The options of a class that exists in this process and may have no source file."""
    doc = inspect.getdoc(cls) or ""
    init = cls.__init__
    try:
        file, line = inspect.getsourcefile(cls) or "", inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        file, line = "", 0
    if init is object.__init__ or _of_contracts(getattr(init, "__module__", "")):
        return Described({}, doc, file, line)
    scope = getattr(init, "__globals__", {})
    signature = inspect.signature(init)
    reader = _Reader(spec, "\n\n".join(filter(None, [doc, inspect.getdoc(init) or ""])), lambda name: None)
    empty = inspect.Parameter.empty

    def annotation(parameter: inspect.Parameter) -> ast.expr | None:
        value = parameter.annotation
        if value is empty:
            return None
        text = value if isinstance(value, str) else inspect.formatannotation(value)
        known = scope.get(text)
        if isinstance(value, str) and known is not None and not isinstance(known, type):  # an alias such as Rate
            text = inspect.formatannotation(known)
        try:
            return ast.parse(text, mode="eval").body
        except SyntaxError:
            return None

    args = ast.arguments(posonlyargs=[], args=[], vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[])
    defaults: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        argument = ast.arg(parameter.name, annotation(parameter))
        match parameter.kind:
            case inspect.Parameter.VAR_KEYWORD:
                args.kwarg = argument
            case inspect.Parameter.VAR_POSITIONAL:
                args.vararg = argument
            case inspect.Parameter.KEYWORD_ONLY:
                args.kwonlyargs.append(argument)
                args.kw_defaults.append(None if parameter.default is empty else ast.Constant(None))
                if parameter.default is not empty:
                    defaults[parameter.name] = plain_default(parameter.default)
            case _:
                args.args.append(argument)
    options = reader.arguments(args)
    from dataclasses import replace

    options = {name: replace(o, default=defaults[name]) if name in defaults else o for name, o in options.items()}
    return Described(options, doc, file, line)


_ENTRY = re.compile(r"^(?P<indent>\s+)(?P<name>\w+)(?:\s*\([^)]*\))?:\s*(?P<text>.*)$")


def documented(doc: str) -> dict[str, str]:
    """The entries of every `Args:` section of a Google docstring."""
    entries: dict[str, str] = {}
    inside, indent, name = False, 0, ""
    for line in doc.splitlines():
        if line.strip() in ("Args:", "Options:", "Arguments:"):
            inside, indent, name = True, 0, ""
            continue
        if not inside:
            continue
        if line.strip() and not line[0].isspace():
            inside = False
            continue
        entry = _ENTRY.match(line)
        if entry and (not indent or len(entry["indent"]) <= indent):
            indent, name = len(entry["indent"]), entry["name"]
            if name in entries:
                name = ""
            else:
                entries[name] = entry["text"].strip()
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries


def _who(spec: ComponentSpec) -> str:
    return f"{spec.kind} '{spec.name}'" + (f" of {spec.distribution}" if spec.distribution else "")
