"""The processor that this runs on, as far as the system tells."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_TOLD = Path("/proc/cpuinfo")


@functools.cache
def processor() -> Mapping[str, str]:
    """What Linux says of the first processor: `vendor_id`, `cpu family`, `flags`, ...; empty elsewhere."""
    with suppress(OSError):
        first, _, _ = _TOLD.read_text(encoding="utf-8", errors="replace").partition("\n\n")
        lines = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in lines}
    return {}
