"""Calls the hook of one plugin, in a `pluggy` manager of its own, so that nothing half registered can remain."""

from __future__ import annotations

from typing import Any

import pluggy

from mmrobust.errors import PluginError
from mmrobust.registry import hooks
from mmrobust.registry.plugin import Registrar


def call_hook(plugin: Any, registrar: Registrar) -> None:
    """Calls the hook of one plugin, in a manager of its own.

    Raises:
        PluginError: It has no hook, a misspelt one, one with a wrong signature, or one that registers nothing.
    """
    manager = pluggy.PluginManager("mmrobust")
    manager.add_hookspecs(hooks)
    marker = "from mmrobust import hookimpl"
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        callers = manager.get_hookcallers(plugin) or []
        unknown = next((c.name for c in callers if not c.has_spec()), None)
        if unknown is not None:
            raise PluginError(f"there is no hook '{unknown}'; the one hook is 'mmrobust_register'") from None
        raise PluginError(
            f"its hook has a wrong signature; write 'def mmrobust_register(registry)' ({str(error).splitlines()[-1]})"
        ) from None
    if not manager.get_hookcallers(plugin):
        has = "its function 'mmrobust_register' is not marked" if hasattr(plugin, "mmrobust_register") else "no hook is"
        raise PluginError(f"{has} marked as one; write '@hookimpl' above 'def mmrobust_register(registry)' ({marker})")
    manager.hook.mmrobust_register(registry=registrar)
    if not registrar.specs:
        raise PluginError("its hook registers nothing; call 'registry.add(kind, name, \"package.module:Class\")' in it")
