"""The command line: one file for each family of verbs; nothing heavy is imported outside the functions."""

from __future__ import annotations

import gc
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code (0 ok, 1 failure, 2 usage or recipe, 3 data, ..., 130)."""
    collects = gc.isenabled()
    gc.disable()  # starting makes many objects and no garbage; what works for long turns it on again
    try:
        from mmrobust.cli.app import main as run

        return run(argv)
    finally:
        if collects:
            gc.enable()
