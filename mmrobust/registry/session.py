"""The catalogue of this process, and what adds to it: `@mmrobust.register` and one-file plugins."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TypeVar

from mmrobust.errors import PluginError, nearest
from mmrobust.registry import one_file, options
from mmrobust.registry.discovery import discover, flag
from mmrobust.registry.lookup import Catalogue
from mmrobust.registry.plugin import Plugin, Registrar, current
from mmrobust.registry.spec import KINDS

C = TypeVar("C", bound=type)

_catalogue: Catalogue | None = None


def catalogue() -> Catalogue:
    """The process's catalogue; plugins are discovered on the first call.

    Raises:
        PluginError: A file of `MMROBUST_PLUGIN_FILES` cannot be loaded; or, where `MMROBUST_STRICT_PLUGINS=1`, a
            plugin cannot.
    """
    global _catalogue
    if _catalogue is None:
        new = discover()
        for path, digest in [] if flag("MMROBUST_NO_PLUGINS") else one_file.listed():
            one_file.load(new, path, ask=False, digest=digest)
        _catalogue = new
    return _catalogue


def reset() -> None:
    """Forgets everything, so that the next `catalogue()` discovers anew (for tests, and after an installation)."""
    global _catalogue
    _catalogue = None
    options.live.clear()
    options.forget()
    importlib.invalidate_caches()


def register(kind: str, name: str, *, summary: str = "") -> Callable[[C], C]:
    """Registers the decorated class as a component, for notebooks and one-file experiments.

    Example:
        >>> @mmrobust.register("fusion", "mine")
        ... class Mine(Fusion): ...

    Args:
        kind: A kind of component, e.g. `fusion`.
        name: What recipes will call it.
        summary: One line for lists; the docstring's first line by default.
    """

    def decorate(cls: C) -> C:
        lines = (cls.__doc__ or "").strip().splitlines()
        line = summary or (lines[0] if lines else "")
        target = f"{cls.__module__}:{cls.__qualname__.replace('<locals>.', '')}"
        outer = current.get()
        registrar = outer or Registrar(cls.__module__ if cls.__module__ != "__main__" else "notebook")
        registrar.add(kind, name, target, summary=line)
        options.live[target] = cls
        options.forget(target)
        if outer is None:
            catalogue().take(registrar)
        return cls

    if kind not in KINDS:
        raise PluginError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
    return decorate


def load_file(path: str | os.PathLike[str]) -> Plugin:
    """Runs a one-file plugin: a Python file that uses `@mmrobust.register`, or has the hook.

    Loading the same file again changes nothing, unless its content has changed.

    Args:
        path: The file; naming it here allows it to run, this once.

    Raises:
        PluginError: The file is missing, fails, or registers nothing.
    """
    return one_file.load(catalogue(), path, ask=False)


def load_trusted_file(path: str | os.PathLike[str]) -> Plugin:
    """Runs a one-file plugin that a recipe names, if the person has allowed it.

    Args:
        path: The file.

    Raises:
        UntrustedError: It is not trusted, or has changed since.
        PluginError: Plugins are turned off, or the file is missing, fails, or registers nothing.
    """
    if flag("MMROBUST_NO_PLUGINS"):
        raise PluginError(f"plugin file '{path}' is needed here, and --no-plugins (MMROBUST_NO_PLUGINS) loads none")
    return one_file.load(catalogue(), path, ask=True)


def loaded_files() -> str:
    """The one-file plugins of this process, as `MMROBUST_PLUGIN_FILES` hands them to a child process."""
    return one_file.pinned((p.target, p.digest) for p in catalogue().plugins if p.digest)
