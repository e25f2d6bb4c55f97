"""The app: which verbs there are, and how one command line is run."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import mmrobust
from mmrobust.cli.coercion import lighten
from mmrobust.cli.failures import failed
from mmrobust.cli.global_options import taken
from mmrobust.cli.text import guarded

#: The verbs by the file that holds them, in the order of `--help`.
_FAMILIES = {
    "build": ("build",),
    "train": ("run", "train"),
    "evaluate": ("evaluate", "report", "predict"),
    "analyze": ("analyze",),
    "study": ("study",),
    "bench": ("bench",),
    "recipes": ("recipes",),
    "plugins": ("plugins",),
    "data": ("data",),
    "doctor": ("doctor",),
}
#: Verbs that are done in a moment; all others have their garbage collected.
_SHORT = ("build", "recipes", "list", "show", "doctor")
_HELP = ["-h", "--help"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; see `mmrobust.cli.entry.main`."""
    args = list(sys.argv[1:] if argv is None else argv)
    with guarded():
        try:
            return _run(taken(args))
        except BrokenPipeError:  # `mmrobust ... | head`: the reader has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        except BaseException as error:
            return failed(error, args)


def _run(args: list[str]) -> int:
    verbs = [arg for arg in args if not arg.startswith("-")][:2]
    if not any(verb in _SHORT for verb in verbs):
        gc.enable()
    command = typer.main.get_command(app(verbs[0] if verbs else None))
    lighten(command, _HELP)
    _summarise(command)
    if "_MMROBUST_COMPLETE" in os.environ:  # a shell completes a line
        command.main(args=args, prog_name="mmrobust")
    with _terminable():
        try:  # not `command.main`, which makes an exit code of ctrl-C and drops what it says
            with command.make_context("mmrobust", args or ["--help"]) as context:
                command.invoke(context)
        except typer.Exit as error:
            return error.exit_code
    sys.stdout.flush()
    return 0


def _summarise(command: Any) -> None:
    """Lets the list of verbs say the first sentence of each, wrapped, where it would be cut."""
    for below in getattr(command, "commands", {}).values():
        below.short_help = (below.help or "").partition("\n\n")[0].replace("\n", " ")
        _summarise(below)


def app(verb: str | None = None) -> typer.Typer:
    """The app, with the family of one verb, or with every verb where there is no such one."""
    root = typer.Typer(
        name="mmrobust",
        help="Build, train and attack models that fuse noisy modalities, from recipes.",
        epilog="Start with: mmrobust run normtr",
        rich_markup_mode=None,  # rich would triple the time to start
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": _HELP, "max_content_width": 100},
    )
    root.callback()(_globals)
    families = [family for family, verbs in _FAMILIES.items() if verb in verbs]
    for family in families or _FAMILIES:
        importlib.import_module(f"mmrobust.cli.{family}").register(root)
    return root


def _version(value: bool) -> None:
    if value:
        typer.echo(f"mmrobust {mmrobust.__version__}")
        raise typer.Exit


def _globals(
    debug: Annotated[bool, typer.Option("--debug", "-v", help="Show the traceback of an error.")] = False,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Load no plugin: neither installed ones nor a recipe's files.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict-plugins", help="A broken plugin is an error (for CI).")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="FILE", help="Run this one-file plugin, this once; may be repeated."),
    ] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", metavar="FILE", help="Let recipes and runs run this file, as it is now, from now on."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """The global options; they may also stand behind a verb, and have been taken out before typer sees them."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes TERM, which schedulers and `timeout` send, what ctrl-C is: work stops where it can go on later.

    Only the first counts. They send it more than once, and a second ctrl-C would stop at once what is being saved; who
    means it sends KILL next.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def request(number: int, frame: Any) -> None:
        nonlocal requested
        if requested:
            return
        requested = True
        interrupt = signal.getsignal(signal.SIGINT)  # training has one of its own, which waits for the step
        if not callable(interrupt):  # a shell's script has its jobs in the background ignore ctrl-C
            raise KeyboardInterrupt
        interrupt(number, frame)

    requested = False
    before = signal.signal(signal.SIGTERM, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
