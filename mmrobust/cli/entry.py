"""Where the command line begins; nothing heavy is imported outside the functions."""

from __future__ import annotations

import gc
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        argv: Its words; those of this process where None.

    Returns:
        The exit code: 0 ok, 1 failure, 2 usage or recipe, 3 data, 4 diverged, 5 some cells failed, 130 interrupted.
    """
    collects = gc.isenabled()
    gc.disable()  # starting makes many objects and no garbage; a long verb turns it on again
    try:
        from mmrobust.cli.app import main as run

        return run(argv)
    finally:
        if collects:
            gc.enable()
