"""The one hook of a plugin, and the marker that makes a function an implementation of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mmrobust.registry.plugin import Registrar

#: The version of what a plugin may rely on: the hook, `Registrar.add`, and `mmrobust.contracts`. A plugin's entry
#: point module states the one it was written for as `MMROBUST_API = 1`.
API = 1

hookspec = pluggy.HookspecMarker("mmrobust")
hookimpl = pluggy.HookimplMarker("mmrobust")


@hookspec
def mmrobust_register(registry: Registrar) -> None:
    """Offers components: one `registry.add(kind, name, "package.module:Class", summary="...")` for each.

    Targets are strings, so that listing plugins imports nothing heavy.
    """
