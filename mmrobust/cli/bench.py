"""`mmrobust bench`: how fast a recipe is on this machine."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mmrobust.cli.arguments import Overrides, Recipe


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(bench)


def bench(
    recipe: Recipe = "normtr",
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option("--seconds", "-s", help="How long each thing is measured, about.")] = 5.0,
    no_processes: Annotated[
        bool, typer.Option("--no-processes", help="Do not compare seeds in processes of their own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Measure how fast a recipe is here: a step, feeding, attention backends, a sweep, seeds in processes.

    Takes about a minute; what is compared takes turns. Nothing is kept.

    Examples:

      mmrobust bench normtr

      mmrobust bench normtr model.width=256 --seconds 2 --json
    """
    from mmrobust.benchmark import bench as measure

    result = measure(recipe, overrides or [], seconds=seconds, processes=not no_processes, quiet=quiet)
    typer.echo(json.dumps(result.to_dict(), indent=2) if as_json else str(result))
