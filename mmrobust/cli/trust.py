"""`mmrobust plugins trust`: which Python files may run when a recipe or a run names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(family: typer.Typer) -> None:
    """Adds the verbs."""
    verbs = typer.Typer(
        help="Say which Python files recipes and runs may run.", no_args_is_help=True, rich_markup_mode=None
    )
    verbs.command()(add)
    verbs.command("list")(list_)
    verbs.command()(forget)
    family.add_typer(verbs, name="trust")


def add(file: Annotated[Path, typer.Argument(help="The Python file; read it first.")]) -> None:
    """Let recipes and runs that name this file run it, as it is now; after a change it has to be trusted again.

    Examples:

      mmrobust plugins trust add mine.py

      mmrobust plugins trust add fusions/gated.py
    """
    from mmrobust.registry import trust

    typer.echo(f"trusted: {trust(file)}")


def list_(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the trusted files, and say which of them have changed since.

    Examples:

      mmrobust plugins trust list

      mmrobust plugins trust list --json
    """
    from mmrobust.cli.text import table
    from mmrobust.registry import trusted

    rows = [{"file": file, **facts, "state": _state(file, facts["sha256"])} for file, facts in trusted().items()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        typer.echo(table(["file", "state", "since"], [[row["file"], row["state"], row["since"]] for row in rows]))
    else:
        typer.echo("no file is trusted; 'mmrobust plugins trust add FILE' trusts one")


def _state(file: str, digest: str) -> str:
    from mmrobust.errors import PluginError
    from mmrobust.registry.trust_store import read, sha256

    try:
        return "trusted" if sha256(read(file)[1]) == digest else "changed"
    except PluginError:
        return "gone"


def forget(file: Annotated[Path, typer.Argument(help="The Python file; it need not exist any more.")]) -> None:
    """Take back what 'plugins trust add' or '--trust' allowed.

    Examples:

      mmrobust plugins trust forget mine.py

      mmrobust plugins trust forget fusions/gated.py
    """
    from mmrobust.registry import forget as take_back

    typer.echo(f"forgotten: {take_back(file)}")
