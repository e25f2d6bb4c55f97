"""Progress with the time left, on stderr.

On a terminal one live line is redrawn; elsewhere (a file, CI, a notebook) plain lines are written, one per call of
`Meter.say` at most. `NO_COLOR` and `TERM=dumb` are honoured.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from typing import TextIO

__all__ = ["Meter", "duration"]

_REDRAW = 0.1  # seconds between two drawings of the live line


def duration(seconds: float) -> str:
    """A length of time as people write it: `0.4 s`, `42 s`, `3:07`, `1:02:33`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class Meter:
    """Shows how far some work has come and when it will be done.

    Args:
        label: What is being done.
        total: How many units of work there are.
        stream: Where to write; None for stderr.
        quiet: Write nothing at all.
    """

    def __init__(self, label: str, total: int, *, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.label = label
        self.total = max(total, 1)
        self.done = self._first = 0
        to = sys.stderr if stream is None else stream
        self.quiet = quiet or to is None  # a program without a console has no stderr
        self._stream: TextIO = io.StringIO() if to is None else to
        is_terminal = getattr(to, "isatty", lambda: False)()  # what stands in for stderr may have no `isatty`
        self.live = not quiet and is_terminal and os.environ.get("TERM") != "dumb"
        self._colour = self.live and not os.environ.get("NO_COLOR")
        encoding = (getattr(self._stream, "encoding", None) or "ascii").lower().replace("-", "")
        self._full, self._rest = ("━", "─") if encoding.startswith("utf") else ("#", "-")
        self._start = time.monotonic()
        self._drawn = 0.0
        self._note = ""

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._erase()

    def update(self, done: int, note: str | None = None, label: str | None = None) -> None:
        """Tells the units done so far, what may be said of them, and what is being done now."""
        self.done = done
        self._note = self._note if note is None else note
        self.label = self.label if label is None else label
        now = time.monotonic()
        if self.live and (now - self._drawn >= _REDRAW or done >= self.total):
            self._drawn = now
            self._draw()

    def start(self) -> None:
        """Begins to count the time, where getting ready has taken some."""
        self._start = time.monotonic()

    def skip(self, count: int) -> None:
        """Counts units as done that took no time: those of a resumed run, or those that early stopping saves."""
        self.done += count
        self._first += count

    @property
    def left(self) -> str:
        """The time left, `?` before anything is known."""
        worked = self.done - self._first
        if worked <= 0:
            return "?"
        return duration((time.monotonic() - self._start) / worked * (self.total - self.done))

    def say(self, text: str, *, plain_only: bool = False, timed: bool = False) -> None:
        """Writes a line that stays.

        Args:
            text: The line.
            plain_only: Only where there is no live line that says the same.
            timed: Add the time left, where anything is.
        """
        if self.quiet or (plain_only and self.live):
            return
        left = f"  {self.left} left" if timed and self.done < self.total else ""
        self._erase()
        print(f"{text}{left}", file=self._stream, flush=True)

    def _draw(self) -> None:
        share = min(self.done / self.total, 1.0)
        filled = round(share * 24)
        bar, rest = self._full * filled, self._rest * (24 - filled)
        room = max(shutil.get_terminal_size().columns - 1, 20)
        head, tail = f"{self.label} ", f" {share:4.0%}  {self.left} left"
        if self._note:
            tail += f"  {self._note}"
        if len(head) + 24 + len(tail) > room:  # what matters most comes first: a narrow terminal loses the notes
            tail = tail[: max(room - len(head) - 24, 0)]
            head = head[: max(room - 24 - len(tail), 0)]
        if self._colour:
            bar, rest = f"\x1b[36m{bar}\x1b[0m", f"\x1b[2m{rest}\x1b[0m"
        self._stream.write(f"\r\x1b[K{head}{bar}{rest}{tail}")
        self._stream.flush()

    def _erase(self) -> None:
        if self.live and self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
