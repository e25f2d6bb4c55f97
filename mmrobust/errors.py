"""Every error a user can meet: what is wrong, where, and what would be right.

This file belongs to the light half: it imports nothing but the standard library. Each class fixes the exit code
of the command line; `mmrobust.cli` prints the message and hides the traceback unless `--debug` is given.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Control characters, line and paragraph separators, marks that turn the direction of text, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, keep: str = "") -> str:
    """Text that a terminal shows as it is: control characters and direction marks are escaped, e.g. as `\\x1b`.

    Args:
        text: What may come from a stranger: a name, a path, a value of a recipe.
        keep: Control characters that stay, e.g. line ends.
    """
    escape = lambda match: match[0] if match[0] in keep else match[0].encode("unicode_escape", "replace").decode()
    return _UNPRINTABLE.sub(escape, str(text))


@dataclass(frozen=True)
class Position:
    """Where a value of a recipe was written.

    Attributes:
        file: The file as the user named it, or `command line` for an override.
        line: Line, from 1; 0 where there is none (an override, a default).
        column: Column, from 1; 0 where there is none.
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a recipe, and where.

    Attributes:
        message: What is wrong, and what would be right.
        where: Where it was written.
        untrusted: The Python file that the recipe names and the person has not allowed to run, if that is it.
    """

    message: str
    where: Position | None = None
    untrusted: str = ""

    def __str__(self) -> str:
        return printable(f"{self.where}: error: {self.message}" if self.where else f"error: {self.message}")


class MmrobustError(Exception):
    """A failure that the user can understand and act on.

    Args:
        message: What is wrong, where, and what would be right.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")

    def add(self, line: str) -> None:
        """Adds a line to the message: what is saved all the same, and how to go on."""
        self.args = (f"{self}\n  {line}",)


class UsageError(MmrobustError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class RecipeError(MmrobustError):
    """A recipe is wrong; it holds all its problems at once, in the order of the file."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


class OptionError(MmrobustError):
    """A component refuses the value of one of its options.

    The builder turns it into a `RecipeError` that points at the option's line.

    Args:
        option: The option's name.
        message: What is wrong with the value and what would be right.
    """

    exit_code = 2

    def __init__(self, option: str, message: str) -> None:
        self.option = option
        self.message = message
        super().__init__(f"option '{option}': {message}")


class PluginError(MmrobustError):
    """A plugin, or what it should have provided, cannot be used."""

    exit_code = 2


class UntrustedError(PluginError):
    """A recipe or a run names a Python file that the person has not allowed to run; nothing of it was run."""


class DataError(MmrobustError):
    """A data file is missing, damaged, hostile, or not what the recipe says it is."""

    exit_code = 3


class DivergedError(MmrobustError):
    """Training met a loss that is not finite."""

    exit_code = 4


class CellsFailedError(MmrobustError):
    """Some cells of a sweep or study failed; the others are kept."""

    exit_code = 5


class CheckpointError(MmrobustError):
    """A checkpoint is missing or damaged."""


class DamagedError(MmrobustError):
    """A file of a run is not as it was written."""


class ReadError(MmrobustError):
    """A file is there but cannot be read: no permission, an error of the disk. That is not damage."""


class WriteError(MmrobustError):
    """A file cannot be written: a full disk, no permission. What was there before is unharmed."""


class InterruptedRun(KeyboardInterrupt):
    """The user interrupted; what was finished is kept, and the message says how to go on.

    A `KeyboardInterrupt`, so that a loop's `except Exception` does not take it for a failure and go on.
    """

    exit_code = 130

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Says which right name was probably meant.

    Returns:
        `; did you mean 'x'?`, or a list of the choices where none is near, or nothing where there are none.
    """
    known = sorted({str(choice) for choice in choices})
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not known:
        return ""
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"; known: {shown}"
