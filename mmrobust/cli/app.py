"""The app, its global options, and what becomes of errors."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import mmrobust
from mmrobust.cli.coercion import lighten
from mmrobust.errors import InterruptedRun, MmrobustError, RecipeError

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
_FLAGS = {
    "--debug": "MMROBUST_DEBUG",
    "-v": "MMROBUST_DEBUG",
    "--no-plugins": "MMROBUST_NO_PLUGINS",
    "--strict-plugins": "MMROBUST_STRICT_PLUGINS",
}
#: What typer raises for a wrong command line, wherever it keeps its click.
_WrongUsage: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; see `mmrobust.cli.main`."""
    args = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        args = _take_globals(args)
        verbs = [arg for arg in args if not arg.startswith("-")][:2]
        if not any(verb in _SHORT for verb in verbs):
            gc.enable()
        command = typer.main.get_command(app(verbs[0] if verbs else None))
        lighten(command, _HELP)
        with _terminable():
            code = command.main(args=args, prog_name="mmrobust", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", InterruptedRun.exit_code)
    except BrokenPipeError:  # `mmrobust ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except _WrongUsage as error:
        _trace()
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "mmrobust"
        return _say(f"error: {error.format_message()}\ntry '{path} --help'", 2)  # type: ignore[attr-defined]
    except RecipeError as error:
        _trace()
        return _say(str(error), error.exit_code)
    except MmrobustError as error:
        _trace()
        return _say(str(error) if isinstance(error, InterruptedRun) else f"error: {error}", error.exit_code)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0 if error.code is None else _say(str(error.code), 1)
    except Exception as error:
        if _debug():
            _trace()
            return 1
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        text = " ".join(str(error).split())[:500]
        return _say(f"internal error: {type(error).__name__}: {text}{place}; run again with --debug to see more", 1)


def app(verb: str | None = None) -> typer.Typer:
    """The app, with the family of one verb, or with every verb where there is no such one."""
    made = typer.Typer(
        name="mmrobust",
        help="Build, train and attack models that fuse noisy modalities, from recipes.",
        epilog="Start with: mmrobust run normtr",
        rich_markup_mode=None,  # rich would triple the time to start
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": _HELP, "max_content_width": 100},
    )
    made.callback()(_globals)
    families = [family for family, verbs in _FAMILIES.items() if verb in verbs]
    for family in families or _FAMILIES:
        importlib.import_module(f"mmrobust.cli.{family}").register(made)
    return made


def _version(value: bool) -> None:
    if value:
        typer.echo(f"mmrobust {mmrobust.__version__}")
        raise typer.Exit


def _globals(
    debug: Annotated[bool, typer.Option("--debug", "-v", help="Show the traceback of an error.")] = False,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Leave third parties' plugins out.")] = False,
    strict: Annotated[bool, typer.Option("--strict-plugins", help="A broken plugin is an error (for CI).")] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Load a one-file plugin; may be repeated.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """The global options; they may also stand behind a verb, and have been taken out before typer sees them."""


def _take_globals(args: list[str]) -> list[str]:
    """Moves the global options, wherever they stand, into the environment, where child processes see them too."""
    rest: list[str] = []
    files: list[str] = []
    pending = iter(args)
    for arg in pending:
        if arg == "--":
            return [*rest, arg, *pending]
        if arg in _FLAGS:
            os.environ[_FLAGS[arg]] = "1"
        elif arg == "--plugin":
            file = next(pending, None)
            if file is None:
                raise typer.BadParameter("--plugin needs a Python file")
            files.append(file)
        elif arg.startswith("--plugin="):
            files.append(arg.partition("=")[2])
        else:
            rest.append(arg)
    if files:
        before = [f for f in os.environ.get("MMROBUST_PLUGIN_FILES", "").split(os.pathsep) if f]
        here = [str(Path(f).expanduser().absolute()) for f in files]
        os.environ["MMROBUST_PLUGIN_FILES"] = os.pathsep.join([*before, *here])
    return rest


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
        nonlocal heard
        if heard:
            return
        heard = True
        interrupt = signal.getsignal(signal.SIGINT)  # training has one of its own, which waits for the step
        if not callable(interrupt):  # a shell's script has its jobs in the background ignore ctrl-C
            raise KeyboardInterrupt
        interrupt(number, frame)

    heard = False
    before = signal.signal(signal.SIGTERM, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _debug() -> bool:
    return bool(os.environ.get("MMROBUST_DEBUG"))


def _trace() -> None:
    if _debug():
        traceback.print_exc(file=sys.stderr)


def _say(message: str, code: int) -> int:
    from mmrobust.cli.text import paint

    lines = [paint(line, "red", sys.stderr, "error:") for line in message.splitlines()]
    print("\n".join(lines), file=sys.stderr)
    return code
