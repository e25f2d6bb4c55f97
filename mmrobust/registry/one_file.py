"""One-file plugins: a Python file that registers components with `@mmrobust.register`, or has the hook.

A file is read once. What is hashed, compared and run are the same bytes, so that nothing can change in between, and
no compiled file beside it is looked at.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmrobust.errors import PluginError
from mmrobust.registry import source, trust_store
from mmrobust.registry.hook_call import call_hook
from mmrobust.registry.lookup import Catalogue
from mmrobust.registry.plugin import Plugin, Registrar, collecting, failure, place

VARIABLE = "MMROBUST_PLUGIN_FILES"
_HASH = re.compile(r"(?P<path>.+)#sha256=(?P<digest>[0-9a-f]{64})")


def load(catalogue: Catalogue, path: str | os.PathLike[str], *, ask: bool, digest: str | None = None) -> Plugin:
    """Loads a one-file plugin into a catalogue; a file that is loaded already, and has not changed, is left alone.

    Args:
        catalogue: Takes its components.
        path: The file.
        ask: Run it only if it is trusted: a recipe names it, and not the person.
        digest: The SHA-256 that it must have.

    Raises:
        PluginError: The file is missing, fails, registers nothing, or is another one than `digest` says.
        UntrustedError: The person has not allowed it.
    """
    absolute, data = trust_store.read(path)
    known = trust_store.sha256(data)
    for plugin in catalogue.plugins:
        if plugin.target == str(absolute) and plugin.digest == known:
            return plugin
    if digest is not None and digest != known:
        raise PluginError(f"plugin file '{path}' has changed since this command began; nothing of it was run")
    if ask:
        trust_store.require(absolute, known)
    registrar = Registrar(absolute.name)
    _run(absolute, data, str(path), registrar)
    plugin = Plugin(absolute.name, absolute.name, "", str(absolute), digest=known)
    plugin.offers = [(s.kind, s.name) for s in registrar.specs]
    catalogue.take(registrar)
    catalogue.plugins[:] = [p for p in catalogue.plugins if p.target != plugin.target]
    catalogue.plugins.append(plugin)
    return plugin


def _run(path: Path, data: bytes, shown: str, registrar: Registrar) -> None:
    """Runs the bytes of a file as a module of its own."""
    name = module_name(path)
    before = sys.modules.get(name)
    spec = importlib.machinery.ModuleSpec(name, None, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr), collecting(registrar):
            exec(compile(data, str(path), "exec", dont_inherit=True), module.__dict__)
            if hasattr(module, "mmrobust_register"):
                call_hook(module, registrar)
            elif not registrar.specs:
                raise PluginError("it registers nothing; write '@mmrobust.register(kind, name)' above a class")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the file raises, sys.exit included
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        where = "" if isinstance(error, PluginError | SyntaxError) else place(error)
        raise PluginError(f"plugin file '{shown}' cannot be loaded: {failure(error)}{where}") from error


def declared(path: str | os.PathLike[str]) -> Registrar:
    """What a file would register, as far as its source says; nothing of it is run.

    Args:
        path: The file.

    Returns:
        Its components; none where it cannot be read.
    """
    registrar = Registrar(Path(path).name)
    try:
        absolute, data = trust_store.read(path)
        tree = ast.parse(data)
    except (PluginError, SyntaxError, ValueError, RecursionError, MemoryError):
        return registrar
    name = module_name(absolute)
    source.files[name] = absolute
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for kind, component in _offers(node):
                with contextlib.suppress(PluginError):  # a kind or a name that cannot be
                    registrar.add(kind, component, f"{name}:{node.name}")
    return registrar


def _offers(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """`(kind, name)` of each `@mmrobust.register(kind, name)` above a class."""
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Attribute(attr="register") | ast.Name(id="register"),
                args=[ast.Constant(value=str(kind)), ast.Constant(value=str(name))],
            ):
                yield kind, name


def module_name(path: Path) -> str:
    """The name of the module that a file becomes."""
    digest = hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()
    return f"mmrobust_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"


def listed() -> list[tuple[str, str | None]]:
    """`(path, SHA-256 or None)` of each file that `MMROBUST_PLUGIN_FILES` names."""
    pieces = [piece for piece in os.environ.get(VARIABLE, "").split(os.pathsep) if piece]
    matches = [(_HASH.fullmatch(piece), piece) for piece in pieces]
    return [(match["path"], match["digest"]) if match else (piece, None) for match, piece in matches]


def pinned(files: Iterable[tuple[str, str]]) -> str:
    """Files and their SHA-256 as `MMROBUST_PLUGIN_FILES` takes them, so that a child runs these bytes or none."""
    return os.pathsep.join(f"{path}#sha256={digest}" for path, digest in files)
