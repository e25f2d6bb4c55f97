"""Finds plugins and loads each one alone; what fails is quarantined with its cause and does not harm the others.

A plugin is an entry point of the group `mmrobust`. For each one, sorted by (distribution, name):

- its module's `MMROBUST_API` is read from the source, or from the module where there is no source, and has to equal
  `mmrobust.registry.hooks.API`;
- the module is imported and its hook called under a time limit (`MMROBUST_PLUGIN_SECONDS`, 10 by default), with
  standard output sent to standard error, so that `--json` stays clean;
- the hook runs in a `pluggy` manager of the plugin's own, so that nothing half registered can remain, and
  `check_pending()` names a misspelt hook.

The limit is an alarm signal that raises in the main thread. It therefore stops Python code, sleeps and waits, but not
C code that never returns to the interpreter, and is not there on Windows or when discovery runs in another thread; in
those cases one line on standard error names the plugin that is being waited for. The alarm waits while torch or
numpy is being imported, because stopping that import halfway would spoil it for the whole process.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType

import mmrobust
from mmrobust.errors import PluginError, nearest
from mmrobust.registry import builtins, hooks, source
from mmrobust.registry.hook_call import call_hook
from mmrobust.registry.lookup import Catalogue
from mmrobust.registry.plugin import Plugin, Registrar, collecting, failure, normal, place, warn

GROUP = "mmrobust"
HEAVY = ("torch", "numpy", "timm")
_OFFER = re.compile(r"""\badd\(\s*(?:kind\s*=\s*)?["'](\w+)["']\s*,\s*(?:name\s*=\s*)?["']([\w.-]+)["']""")


def discover() -> Catalogue:
    """Registers the built-ins, then every installed plugin.

    Raises:
        PluginError: A plugin cannot be loaded, and `MMROBUST_STRICT_PLUGINS=1`.
    """
    catalogue = Catalogue()
    registrar = Registrar("mmrobust", mmrobust.__version__)
    call_hook(builtins, registrar)
    catalogue.take(registrar)
    for plugin, entry in _wanted(catalogue):
        if plugin.state == "ok":
            _load(catalogue, plugin, entry)
        if plugin.state == "off":
            plugin.offers = _guess(entry)
        catalogue.plugins.append(plugin)
    _report(catalogue)
    return catalogue


@dataclass(frozen=True)
class _Entry:
    """An entry point as a distribution declares it."""

    name: str
    value: str
    editable: str = ""  # the folder of an editable installation

    @property
    def module(self) -> str:
        return self.value.partition(":")[0].strip()


def _wanted(catalogue: Catalogue) -> list[tuple[Plugin, _Entry]]:
    """Every entry point, with those turned off marked."""
    if "MMROBUST_PLUGINS" in os.environ:
        allowed = {normal(n) for n in re.split(r"[,\s]+", os.environ["MMROBUST_PLUGINS"]) if n}
    else:
        allowed = None
    none = flag("MMROBUST_NO_PLUGINS")
    entries = sorted(_entries(), key=lambda pair: (normal(pair[0].distribution), pair[0].name))
    for plugin, _ in entries:
        if none or (allowed is not None and normal(plugin.distribution) not in allowed):
            plugin.state = "off"
    if allowed and not none:
        installed = {normal(plugin.distribution) for plugin, _ in entries}
        for name in sorted(allowed - installed):
            catalogue.notices.append(
                f"MMROBUST_PLUGINS allows '{name}', which is not installed{nearest(name, installed)}"
            )
    return entries


def _entries() -> Iterator[tuple[Plugin, _Entry]]:
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except Exception:  # an unreadable file of one distribution
            continue
        lines = list(_section(text, GROUP))
        if not lines:
            continue
        name, version, editable = _identity(distribution)
        if normal(name) in seen or normal(name) == "mmrobust":  # a second copy further down the path is shadowed
            continue
        seen.add(normal(name))
        for line in lines:
            key, equals, value = (piece.strip() for piece in line.partition("="))
            plugin = Plugin(key, name, version, value.partition(":")[0].strip())
            value = value.partition("[")[0].strip()
            if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?", value):
                plugin.state = "quarantined"
                plugin.cause = f"its entry point '{line}' has to look like 'name = package.module'"
            yield plugin, _Entry(key, value, editable)


def _section(text: str, group: str) -> Iterator[str]:
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line.strip("[]").strip() == group
        elif inside and line and not line.startswith(("#", ";")):
            yield line


def _identity(distribution: metadata.Distribution) -> tuple[str, str, str]:
    """Name, version and, for an editable installation, the folder; from the folder's name where metadata is damaged."""
    folder = Path(str(getattr(distribution, "_path", "")))
    stem, _, tail = folder.name.removesuffix(".dist-info").removesuffix(".egg-info").partition("-")
    try:
        name, version = distribution.metadata["Name"] or stem, distribution.metadata["Version"] or tail
    except Exception:  # no METADATA, or a damaged one
        name, version = stem, tail
    editable = ""
    try:
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
        if direct.get("dir_info", {}).get("editable"):
            from urllib.parse import urlparse
            from urllib.request import url2pathname

            editable = url2pathname(urlparse(direct["url"]).path)
    except Exception:  # no such file, or a damaged one: it only helps the message
        pass
    return str(name or "unknown"), str(version or ""), editable


def _load(catalogue: Catalogue, plugin: Plugin, entry: _Entry) -> None:
    registrar = Registrar(plugin.distribution, plugin.version)
    before = {name for name in HEAVY if name in sys.modules}
    try:
        with contextlib.redirect_stdout(sys.stderr), _limit(plugin), collecting(registrar):
            _check_api(_declared(entry.module))
            module = importlib.import_module(entry.module)
            if source.locate(entry.module) is None:
                _check_api(getattr(module, "MMROBUST_API", None))
            call_hook(
                functools.reduce(getattr, filter(None, entry.value.partition(":")[2].split(".")), module), registrar
            )
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a third party's code may raise anything, sys.exit included
        plugin.state, plugin.cause = "quarantined", _cause(error, plugin, entry)
        plugin.offers = [(s.kind, s.name) for s in registrar.specs] or _guess(entry)
        _trace(error)
        return
    heavy = [name for name in HEAVY if name in sys.modules and name not in before]
    if heavy:
        plugin.warnings.append(
            f"imports {heavy[0]} while it registers, which slows every command down; import it only in the modules "
            "that targets name"
        )
    plugin.offers = [(s.kind, s.name) for s in registrar.specs]
    catalogue.take(registrar)


def _declared(module: str) -> object:
    """`MMROBUST_API` as the source states it; `hooks.API` where there is no source to read."""
    try:
        parsed = source.read(module)
    except SyntaxError:  # the import explains it better
        return hooks.API
    if parsed is None:
        return hooks.API
    value = parsed.values.get("MMROBUST_API")
    if value is None:
        return None
    return value.value if isinstance(value, ast.Constant) else ast.unparse(value)


def _check_api(declared: object) -> None:
    if declared is None:
        raise PluginError(
            f"it does not say which version of the plugin interface it was written for; "
            f"write 'MMROBUST_API = {hooks.API}' in its entry point's module"
        )
    if declared != hooks.API or isinstance(declared, bool):
        todo = "update mmrobust" if isinstance(declared, int) and declared > hooks.API else "update the plugin"
        raise PluginError(
            f"it was written for version {declared} of the plugin interface, but mmrobust "
            f"{mmrobust.__version__} has version {hooks.API}; {todo}"
        )


def _cause(error: BaseException, plugin: Plugin, entry: _Entry) -> str:
    top = entry.module.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and f"{entry.module}.".startswith(f"{error.name}."):
        if entry.editable and not Path(entry.editable).exists():
            return (
                f"it is an editable installation of {entry.editable}, which is gone; install it again, or "
                f"'pip uninstall {plugin.distribution}'"
            )
        if error.name == top:
            return (
                f"its entry point names the module '{entry.module}', but nothing of that name is installed; "
                f"install it again, or 'pip uninstall {plugin.distribution}'"
            )
        return f"its entry point names the module '{entry.module}', but there is no '{error.name}'"
    if isinstance(error, _TimeLimit):
        return f"it did not finish registering within {_seconds():g} s{place(error)}"
    if isinstance(error, PluginError | SyntaxError):
        return failure(error)
    return failure(error) + place(error)


def _guess(entry: _Entry) -> list[tuple[str, str]]:
    """What a plugin that could not be run says that it offers."""
    path = source.locate(entry.module)
    try:
        text = path.read_text("utf-8", errors="replace") if path else ""
    except OSError:
        return []
    return [(kind, name) for kind, name in _OFFER.findall(text)]


class _TimeLimit(BaseException):
    """Raised by the alarm; no `Exception`, so that a plugin's own handlers do not swallow it."""


def _seconds() -> float:
    try:
        return max(0.1, float(os.environ.get("MMROBUST_PLUGIN_SECONDS", "10")))
    except ValueError:
        return 10.0


@contextlib.contextmanager
def _limit(plugin: Plugin) -> Iterator[None]:
    seconds = _seconds()
    waiting = threading.Timer(
        seconds + 2, warn, [f"still waiting for {plugin} to load; --no-plugins starts without third parties"]
    )
    waiting.daemon = True
    waiting.start()
    alarm = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    try:
        if not alarm:
            yield
            return

        def ring(number: int, frame: FrameType | None) -> None:
            if any(_importing(name) for name in HEAVY):
                signal.setitimer(signal.ITIMER_REAL, 0.5)
            else:
                signal.setitimer(signal.ITIMER_REAL, 1.0)  # again, should a bare `except:` swallow this one
                raise _TimeLimit

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    finally:
        waiting.cancel()


def _importing(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _report(catalogue: Catalogue) -> None:
    """Names every broken plugin once, on stderr; in strict mode as an error."""
    broken = [f"{p} is quarantined: {p.cause}" for p in catalogue.plugins if p.state == "quarantined"]
    if broken and flag("MMROBUST_STRICT_PLUGINS"):
        raise PluginError("\n".join(broken))
    warned = [f"{p} {warning}" for p in catalogue.plugins for warning in p.warnings]
    if "_MMROBUST_COMPLETE" in os.environ:  # a shell completes, and would show it on every key
        return
    if "multiprocessing" in sys.modules:
        import multiprocessing

        if multiprocessing.parent_process() is not None:  # the parent has said it
            return
    for line in [*broken, *warned, *catalogue.notices]:
        warn(line)


def _trace(error: BaseException) -> None:
    if flag("MMROBUST_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)


def flag(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "").strip().lower() not in ("", "0", "no", "false", "off")
