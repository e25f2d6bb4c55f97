"""A plugin and what became of it, and the registrar that takes the components of one plugin."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmrobust.errors import PluginError, nearest, printable
from mmrobust.registry.forms import with_article
from mmrobust.registry.spec import KINDS, ComponentSpec

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
        offers: `(kind, name)` of what it provides, or should have provided as far as its source says.
        digest: The SHA-256 of a one-file plugin's bytes; empty for an installed one.
    """

    name: str
    distribution: str
    version: str
    target: str
    state: Literal["ok", "quarantined", "off"] = "ok"
    cause: str = ""
    warnings: list[str] = field(default_factory=list)
    offers: list[tuple[str, str]] = field(default_factory=list)
    digest: str = ""

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
            kind: A kind of component, e.g. `fusion`.
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


#: The registrar to which `@mmrobust.register` offers at the moment; None outside of a plugin.
current: ContextVar[Registrar | None] = ContextVar("current", default=None)


@contextmanager
def collecting(registrar: Registrar) -> Iterator[Registrar]:
    """While it is entered, `@mmrobust.register` offers to this registrar."""
    token = current.set(registrar)
    try:
        yield registrar
    finally:
        current.reset(token)


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


def place(error: BaseException) -> str:
    """Where a third party's own code raised an error, as ` (file, line n)`."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "importlib" not in f.filename and Path(f.filename).parent != Path(__file__).parent
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def normal(distribution: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def warn(line: str) -> None:
    """Writes one line for the user to standard error, where there is one."""
    if sys.stderr is not None:
        print(f"mmrobust: {printable(line)}", file=sys.stderr)
