"""Text for people: tables that fit, colour where a terminal wants it, and no control characters of strangers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from mmrobust.errors import printable

_COLOURS = {"red": "31", "yellow": "33", "bold": "1", "dim": "2"}
#: What this program itself sends to a terminal: its colours, and a line that is drawn anew.
_OWN = re.compile(rf"\033\[(?:0|{'|'.join(_COLOURS.values())})m|\033\[K|\A\r")
_NARROWEST = 8  # characters of a column that is narrowed


class Guard:
    """A stream that lets no control character and no direction mark through, but for this program's own colours.

    Args:
        stream: Where the text goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.written = False

    def write(self, text: str) -> int:
        """Writes text; see `TextIOBase.write`."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        self.written = self.written or bool(text)
        own = _OWN.findall(text) if is_terminal(self.stream) else []
        parts = _OWN.split(text) if own else [text]
        safe = [printable(part, keep="\n\t") for part in parts]
        self.stream.write(safe[0] + "".join(code + part for code, part in zip(own, safe[1:], strict=True)))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Writes several; see `TextIOBase.writelines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """While it is entered, standard output and standard error are guarded; one that is not there is left alone."""
    before = sys.stdout, sys.stderr
    for stream in filter(None, before):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout, sys.stderr = (_guard(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _guard(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, Guard) else Guard(stream)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; one that is None, or has no `isatty`, is not."""
    return stream is not None and bool(getattr(stream, "isatty", lambda: False)())


def paint(text: str, colour: str, stream: TextIO | None = None, part: str | None = None) -> str:
    """Text in a colour (or only a part of it), where the stream is a terminal and `NO_COLOR` is not set."""
    to = stream if stream is not None else sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal(to):
        return text
    start, end = f"\033[{_COLOURS[colour]}m", "\033[0m"
    return f"{start}{text}{end}" if part is None else text.replace(part, f"{start}{part}{end}", 1)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Columns side by side, as wide as the terminal at most: the widest columns are wrapped.

    Args:
        header: The titles.
        rows: A text for each column.
        width: In characters; that of the terminal where None, and no limit where there is none.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    titles = [title.upper() for title in header]
    if width is None and (is_terminal(sys.stdout) or os.environ.get("COLUMNS", "").isdigit()):
        width = shutil.get_terminal_size().columns
    widths = [max(len(row[i]) for row in [titles, *cells]) for i in range(len(titles))]
    if width is not None:
        widths = _narrowed(widths, width - 2 * (len(widths) - 1))
    lines = [line for row in cells for line in _wrapped(row, widths)]
    return "\n".join([*(paint(line, "bold") for line in _wrapped(titles, widths)), *lines])


def _narrowed(widths: list[int], room: int) -> list[int]:
    """The widths, the largest reduced until all fit."""
    widths = list(widths)
    while sum(widths) > room and max(widths) > _NARROWEST:
        order = sorted(widths, reverse=True)
        least = max([w for w in order if w < order[0]] + [_NARROWEST])
        same = [i for i, w in enumerate(widths) if w == order[0]]
        excess = sum(widths) - room
        for i in same:
            widths[i] = max(least, order[0] - -(-excess // len(same)))
    return widths


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row as lines."""
    columns = [textwrap.wrap(cell, max(width, 1)) or [""] for cell, width in zip(row, widths, strict=True)]
    lines = []
    for i in range(max(map(len, columns))):
        pieces = [column[i] if i < len(column) else "" for column in columns]
        lines.append("  ".join(piece.ljust(width) for piece, width in zip(pieces, widths, strict=True)).rstrip())
    return lines
