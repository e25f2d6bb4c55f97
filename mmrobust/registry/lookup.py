"""The catalogue: every registered component by kind and name, and every plugin."""

from __future__ import annotations

import importlib
from typing import Any

from mmrobust.errors import PluginError, nearest
from mmrobust.registry import options
from mmrobust.registry.plugin import Plugin, Registrar, failure, normal
from mmrobust.registry.spec import KINDS, ComponentSpec


class Catalogue:
    """Components by kind and name.

    Attributes:
        plugins: Every plugin, in the order of discovery.
        notices: What the user should know about the plugins as a whole.
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

    def with_offers(self, registrar: Registrar) -> Catalogue:
        """A copy that has the components of one more plugin."""
        copy = Catalogue()
        copy._specs, copy.plugins, copy.notices = dict(self._specs), self.plugins, self.notices
        copy.take(registrar)
        return copy

    def all(self, kind: str | None = None) -> list[ComponentSpec]:
        """Every component, or those of one kind, sorted by kind (in the order of the flow), name and distribution."""
        order = list(KINDS)
        offers = [s for (k, _), specs in self._specs.items() if kind in (None, k) for s in specs]
        return sorted(offers, key=lambda s: (order.index(s.kind), s.name, s.distribution))

    def find(self, kind: str, name: str) -> ComponentSpec:
        """The component a recipe means.

        Args:
            kind: The slot's kind.
            name: A bare name, or `distribution/name`.

        Raises:
            PluginError: No distribution offers it (the message has the nearest names), or several do.
        """
        if kind not in KINDS:
            raise PluginError(f"there is no kind of component '{kind}'{nearest(kind, KINDS)}")
        distribution, slash, bare = name.rpartition("/")
        offers = self._specs.get((kind, bare), [])
        if slash:
            chosen = [s for s in offers if normal(s.distribution) == normal(distribution)]
            if chosen:
                return chosen[0]
        elif len(offers) == 1:
            return offers[0]
        elif offers:
            who = " and ".join(f"{s.distribution} {s.version}".strip() for s in offers)
            choose = " or ".join(f"'use: {s.qualified}'" for s in offers)
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
