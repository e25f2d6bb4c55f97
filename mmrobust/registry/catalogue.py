"""The catalogue: every registered component, and every plugin with what became of it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from mmrobust.errors import PluginError, nearest
from mmrobust.registry import options
from mmrobust.registry.forms import with_article
from mmrobust.registry.spec import KINDS, ComponentSpec

C = TypeVar("C", bound=type)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass
class Plugin:
    """One entry point (or file) and what became of it.

    Attributes:
        name: The entry point's name, or the file's.
        distribution: The distribution that declares it.
        version: That distribution's version.
        target: The module (or file) that is loaded.
        state: `ok`; `quarantined`, for `cause`; or `off`, where the allow-list or `--no-plugins` leaves it out.
        cause: Why it is quarantined.
        warnings: What is bad about it although it works.
        offers: `(kind, name)` of what it provides, or should have provided as far as its source tells.
    """

    name: str
    distribution: str
    version: str
    target: str
    state: Literal["ok", "quarantined", "off"] = "ok"
    cause: str = ""
    warnings: list[str] = field(default_factory=list)
    offers: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        who = f"{self.distribution} {self.version}".strip()
        return f"plugin '{self.name}' of {who}"


class Registrar:
    """What a plugin's hook is handed: it takes that one plugin's components.

    They reach the catalogue together, after the hook has returned; a plugin that fails leaves nothing behind.
    """

    def __init__(self, distribution: str, version: str = "") -> None:
        self.distribution = distribution
        self.version = version
        self.specs: list[ComponentSpec] = []

    def add(self, kind: str, name: str, target: str, *, summary: str = "") -> None:
        """Offers a component.

        Args:
            kind: One of the nine kinds, e.g. `fusion`.
            name: What recipes will call it: a letter, then letters, digits, `_`, `-` or `.`.
            target: `package.module:Class`, imported only when a recipe uses it.
            summary: One line for lists.

        Raises:
            PluginError: The kind, the name or the target is not of this form, or the name is given twice.
        """
        if kind not in KINDS:
            raise PluginError(f"there is no kind of component '{kind}'{nearest(str(kind), KINDS)}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginError(
                f"'{name}' cannot be the name of {with_article(kind)}: "
                "a name is a letter, then letters, digits, '_', '-' or '.'"
            )
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise PluginError(
                f"the target of {kind} '{name}' has to be text like 'package.module:Class', not {target!r}"
            )
        if any((s.kind, s.name) == (kind, name) for s in self.specs):
            raise PluginError(f"{kind} '{name}' is offered twice by the same plugin")
        line = " ".join(str(summary).split())
        self.specs.append(ComponentSpec(kind, name, target, line, self.distribution, self.version))


class Catalogue:
    """Components by kind and name.

    Attributes:
        plugins: Every plugin that was found, in the order of discovery.
        notices: What the user should be told about the plugins as a whole.
    """

    def __init__(self) -> None:
        self._specs: dict[tuple[str, str], list[ComponentSpec]] = {}
        self.plugins: list[Plugin] = []
        self.notices: list[str] = []

    def add(
        self, kind: str, name: str, target: str, *, summary: str = "", distribution: str = "", version: str = ""
    ) -> ComponentSpec:
        """Registers one component; see `Registrar.add`."""
        registrar = Registrar(distribution, version)
        registrar.add(kind, name, target, summary=summary)
        self.take(registrar)
        return registrar.specs[0]

    def take(self, registrar: Registrar) -> None:
        """Takes what a plugin offered; the same distribution's earlier offer of a name is replaced."""
        for spec in registrar.specs:
            others = [
                s
                for s in self._specs.get((spec.kind, spec.name), [])
                if normal(s.distribution) != normal(spec.distribution)
            ]
            self._specs[spec.kind, spec.name] = [*others, spec]
            options.forget(spec.target)

    def all(self, kind: str | None = None) -> list[ComponentSpec]:
        """Every component, or those of one kind, sorted by kind (in the order of the flow), name and distribution."""
        order = list(KINDS)
        found = [s for (k, _), specs in self._specs.items() if kind in (None, k) for s in specs]
        return sorted(found, key=lambda s: (order.index(s.kind), s.name, s.distribution))

    def find(self, kind: str, name: str) -> ComponentSpec:
        """The component a recipe means.

        Args:
            kind: The slot's kind.
            name: A bare name, or `distribution/name`.

        Raises:
            PluginError: Nobody offers it (the nearest names are told, and who should have), or several do.
        """
        if kind not in KINDS:
            raise PluginError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
        distribution, slash, bare = name.rpartition("/")
        found = self._specs.get((kind, bare), [])
        if slash:
            chosen = [s for s in found if normal(s.distribution) == normal(distribution)]
            if chosen:
                return chosen[0]
        elif len(found) == 1:
            return found[0]
        elif found:
            who = " and ".join(f"{s.distribution} {s.version}".strip() for s in found)
            choose = " or ".join(f"'use: {s.qualified}'" for s in found)
            raise PluginError(f"{kind} '{name}' is ambiguous: {who} both offer it; write {choose}")
        raise PluginError(self._missing(kind, name))

    def _missing(self, kind: str, name: str) -> str:
        distribution, slash, bare = name.rpartition("/")
        for plugin in self.plugins:
            if plugin.state == "ok" or (kind, bare) not in plugin.offers:
                continue
            if slash and normal(plugin.distribution) != normal(distribution):
                continue
            why = f"which is quarantined: {plugin.cause}" if plugin.state == "quarantined" else "which is turned off"
            return f"{kind} '{name}' should come from {plugin}, {why}"
        message = f"there is no {kind} '{name}'"
        if slash:
            offers = [s.name for s in self.all(kind) if normal(s.distribution) == normal(distribution)]
            if not offers:
                return message + nearest(distribution, {s.distribution for s in self.all()})
            return message + nearest(bare, offers)
        message += nearest(bare, {s.name for s in self.all(kind)})
        elsewhere = [k for (k, n) in self._specs if n == name]
        if elsewhere:
            message += f" ('{name}' is a {' and a '.join(elsewhere)})"
        silent = [str(p) for p in self.plugins if p.state == "quarantined" and not p.offers]
        return message + (f" (it may belong to {', '.join(silent)}, quarantined)" if silent else "")

    def load(self, spec: ComponentSpec) -> type[Any]:
        """Imports a component.

        Returns:
            Its class, a subclass of its kind's base in `mmrobust.contracts`.

        Raises:
            PluginError: It cannot be imported, or is something else.
        """
        return load(spec)

    def state(self, spec: ComponentSpec) -> tuple[str, str]:
        """`(state, cause)` of a component without importing it: `ok`, `ambiguous` or `broken`."""
        try:
            options.describe(spec)
        except PluginError as error:
            return "broken", str(error)
        others = [s.distribution for s in self._specs[spec.kind, spec.name] if s is not spec]
        if others:
            return "ambiguous", f"{', '.join(others)} offers it too; write 'use: {spec.qualified}'"
        return "ok", ""


def load(spec: ComponentSpec) -> type[Any]:
    """Imports a component's class; see `Catalogue.load`."""
    who = f"{spec.kind} '{spec.name}' of {spec.distribution} {spec.version}".rstrip()
    options.options_of(spec)  # its rules hold for those who build without a recipe, too
    if spec.target in options.live:
        cls = options.live[spec.target]
    else:
        module, _, path = spec.target.partition(":")
        try:
            value: Any = importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PluginError(f"{who} cannot be imported: {failure(error)}") from error
        for piece in path.split("."):
            if not hasattr(value, piece):
                raise PluginError(
                    f"{who} points at '{spec.target}', which has no '{piece}'{nearest(piece, dir(value))}"
                )
            value = getattr(value, piece)
        cls = value
    contracts = importlib.import_module("mmrobust.contracts")
    base = getattr(contracts, KINDS[spec.kind])
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise PluginError(f"{who}: '{spec.target}' has to be a subclass of mmrobust.contracts.{base.__name__}")
    return cls


def failure(error: BaseException) -> str:
    """A third party's exception in one line."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({'' if error.code is None else error.code})"
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename).name}, line {error.lineno})" if error.filename else ""
        return f"{type(error).__name__}: {error.msg}{where}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the module '{error.name}', which is not installed"
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    text = text if len(text) <= 300 else text[:297] + "..."
    return (
        text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}" if text else type(error).__name__
    )


def normal(distribution: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


_catalogue: Catalogue | None = None
_current: Registrar | None = None


def catalogue() -> Catalogue:
    """The process's catalogue; plugins are discovered on the first call."""
    global _catalogue
    if _catalogue is None:
        from mmrobust.registry.discovery import discover

        _catalogue = discover()
    return _catalogue


def reset() -> None:
    """Forgets everything, so that the next `catalogue()` discovers anew (for tests, and after an installation)."""
    global _catalogue
    _catalogue = None
    options.live.clear()
    options.forget()
    importlib.invalidate_caches()


class collecting:
    """While it is entered, `@mmrobust.register` offers to this registrar."""

    def __init__(self, registrar: Registrar) -> None:
        self.registrar = registrar

    def __enter__(self) -> Registrar:
        global _current
        self.outer, _current = _current, self.registrar
        return self.registrar

    def __exit__(self, *_: object) -> None:
        global _current
        _current = self.outer


def register(kind: str, name: str, *, summary: str = "") -> Callable[[C], C]:
    """Registers the decorated class as a component, for notebooks and one-file experiments.

    Example:
        >>> @mmrobust.register("fusion", "mine")
        ... class Mine(Fusion): ...

    Args:
        kind: One of the nine kinds.
        name: What recipes will call it.
        summary: One line for lists; the docstring's first line by default.
    """

    def decorate(cls: C) -> C:
        lines = (cls.__doc__ or "").strip().splitlines()
        line = summary or (lines[0] if lines else "")
        target = f"{cls.__module__}:{cls.__qualname__.replace('<locals>.', '')}"
        registrar = _current or Registrar(cls.__module__ if cls.__module__ != "__main__" else "notebook")
        registrar.add(kind, name, target, summary=line)
        options.live[target] = cls
        options.forget(target)
        if registrar is not _current:
            catalogue().take(registrar)
        return cls

    if kind not in KINDS:
        raise PluginError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    return decorate


def load_file(path: str | Path) -> Plugin:
    """Loads a one-file plugin: a Python file that uses `@mmrobust.register`, or has the hook.

    Loading the same file again changes nothing.

    Raises:
        PluginError: The file is missing, fails, or registers nothing.
    """
    from mmrobust.registry.discovery import load_file as load_into

    return load_into(catalogue(), Path(path))


def stderr(line: str) -> None:
    """One line for the user that is no result."""
    print(f"mmrobust: {line}", file=sys.stderr)
