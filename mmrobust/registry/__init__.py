"""Which components there are, who brought them, and what options they take; nothing heavy is imported to know it.

`catalogue()` is the process's `Catalogue`, discovered once. Environment variables steer it, so that child processes
see the same plugins: `MMROBUST_PLUGINS` (allow-list of distributions), `MMROBUST_NO_PLUGINS=1`,
`MMROBUST_PLUGIN_FILES` (one-file plugins), `MMROBUST_STRICT_PLUGINS=1` (a broken plugin is an error) and
`MMROBUST_PLUGIN_SECONDS` (the time limit of each plugin).
"""

from __future__ import annotations

from mmrobust.registry.lookup import Catalogue, load
from mmrobust.registry.one_file import declared
from mmrobust.registry.options import OptionSpec, options_of
from mmrobust.registry.plugin import Plugin, Registrar, normal
from mmrobust.registry.session import catalogue, load_file, load_trusted_file, loaded_files, register, reset
from mmrobust.registry.spec import KINDS, ComponentSpec, Part
from mmrobust.registry.trust_store import forget, trust, trusted

__all__ = [
    "KINDS",
    "Catalogue",
    "ComponentSpec",
    "OptionSpec",
    "Part",
    "Plugin",
    "Registrar",
    "catalogue",
    "declared",
    "forget",
    "load",
    "load_file",
    "load_trusted_file",
    "loaded_files",
    "normal",
    "options_of",
    "register",
    "reset",
    "trust",
    "trusted",
]
