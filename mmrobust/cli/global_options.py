"""The options that may stand anywhere in a command line; they go where child processes see them too."""

from __future__ import annotations

import os

import typer

_FLAGS = {
    "--debug": "MMROBUST_DEBUG",
    "-v": "MMROBUST_DEBUG",
    "--no-plugins": "MMROBUST_NO_PLUGINS",
    "--strict-plugins": "MMROBUST_STRICT_PLUGINS",
}
_FILES = ("--plugin", "--trust")


def taken(args: list[str]) -> list[str]:
    """Takes the global options out of a command line and does what they say.

    Args:
        args: Its words.

    Returns:
        The words that are left.

    Raises:
        PluginError: A file of `--plugin` or `--trust` cannot be read.
    """
    rest: list[str] = []
    files: dict[str, list[str]] = {option: [] for option in _FILES}
    pending = iter(args)
    for arg in pending:
        option, equals, file = arg.partition("=")
        if arg == "--":
            rest += [arg, *pending]
        elif arg in _FLAGS:
            os.environ[_FLAGS[arg]] = "1"
        elif option in _FILES:
            file = file if equals else next(pending, "")
            if not file:
                raise typer.BadParameter(f"{option} needs a Python file")
            files[option].append(file)
        else:
            rest.append(arg)
    if files["--plugin"] and "--no-plugins" in args:
        raise typer.BadParameter("--plugin and --no-plugins contradict each other")
    _trust(files["--trust"])
    _run_once(files["--plugin"])
    return rest


def _trust(files: list[str]) -> None:
    """Remembers that the person trusts these files."""
    if files:
        from mmrobust.registry import trust

        for file in files:
            trust(file)


def _run_once(files: list[str]) -> None:
    """Names these files, and the bytes that they are now, to this process and its children."""
    if files:
        from mmrobust.registry import one_file
        from mmrobust.registry.trust_store import read, sha256

        contents = [read(file) for file in files]
        named = one_file.pinned((str(path), sha256(data)) for path, data in contents)
        os.environ[one_file.VARIABLE] = os.pathsep.join(filter(None, [os.environ.get(one_file.VARIABLE), named]))
