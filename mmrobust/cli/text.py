"""Text for people: aligned tables, and colour where a terminal wants it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

_COLOURS = {"red": "31", "yellow": "33", "bold": "1", "dim": "2"}


def paint(text: str, colour: str, stream: TextIO | None = None, part: str | None = None) -> str:
    """Text in a colour (or only a part of it), where the stream is a terminal and `NO_COLOR` is not set."""
    to = stream if stream is not None else sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not to.isatty():
        return text
    start, end = f"\033[{_COLOURS[colour]}m", "\033[0m"
    return f"{start}{text}{end}" if part is None else text.replace(part, f"{start}{part}{end}", 1)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side; on a terminal the last one is cut to its width."""
    cells = [list(map(str, row)) for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    room = (
        shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(header) - 1) if sys.stdout.isatty() else 10**6
    )

    def line(row: Sequence[str]) -> str:
        last = row[-1] if len(row[-1]) <= max(room, 20) else row[-1][: max(room, 20) - 3] + "..."
        return "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), last]).rstrip()

    return "\n".join([paint(line([h.upper() for h in header]), "bold"), *map(line, cells)])
