"""What becomes of an error: one clear message, an exit code, and never a traceback unasked."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from mmrobust.cli.text import Guard, paint
from mmrobust.errors import InterruptedRun, MmrobustError, Problem, RecipeError, printable

#: What typer raises for a wrong command line, wherever it keeps its click.
_WrongUsage: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def failed(error: BaseException, args: Sequence[str]) -> int:
    """Says what went wrong on standard error, with `--json` as JSON on standard output too.

    Args:
        error: What was raised.
        args: The command line.

    Returns:
        The exit code.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else _say(str(error.code), 1)
    if type(error).__name__ == "NoArgsIsHelpError":  # `mmrobust recipes`, and no more
        typer.echo(str(error))
        return 0
    interrupted = isinstance(error, KeyboardInterrupt | typer.Abort)
    if os.environ.get("MMROBUST_DEBUG") and not interrupted:
        traceback.print_exception(error, file=sys.stderr)
    message, code = _explained(error)
    if isinstance(error, RecipeError) and (files := dict.fromkeys(p.untrusted for p in error.problems if p.untrusted)):
        allowed = [word for file in files for word in ("--trust", file)]
        message += f"\nonce you have read it: {shlex.join(['mmrobust', *args, *allowed])}"
    if "--json" in args:
        _as_json(error, message, code)
    return _say(message, code)


def _explained(error: BaseException) -> tuple[str, int]:
    """The message of an error, and its exit code."""
    if isinstance(error, InterruptedRun):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", InterruptedRun.exit_code
    if isinstance(error, RecipeError):
        return str(error), error.exit_code
    if isinstance(error, MmrobustError):
        return f"error: {error}", error.exit_code
    if isinstance(error, _WrongUsage):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "mmrobust"
        return f"error: {error.format_message()}\ntry '{path} --help'", 2  # type: ignore[attr-defined]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())[:500]
    return f"internal error: {type(error).__name__}: {text}{place}; run again with --debug to see more", 1


def _as_json(error: BaseException, message: str, code: int) -> None:
    """The error as one JSON document, where nothing else has been printed."""
    if isinstance(sys.stdout, Guard) and sys.stdout.written:
        return
    facts: dict[str, Any] = {"type": type(error).__name__, "message": message, "exit_code": code}
    if isinstance(error, RecipeError):
        facts["problems"] = [problem_facts(problem) for problem in error.problems]
    typer.echo(json.dumps({"error": facts}, indent=2))


def problem_facts(problem: Problem) -> dict[str, Any]:
    """A problem of a recipe as plain data."""
    at = problem.where
    return {
        "file": at.file if at else None,
        "line": at.line if at and at.line else None,
        "column": at.column if at and at.line else None,
        "message": problem.message,
    }


def _say(message: str, code: int) -> int:
    lines = [paint(printable(line), "red", sys.stderr, "error:") for line in message.splitlines()]
    if sys.stderr is not None:
        print("\n".join(lines), file=sys.stderr)
    return code
