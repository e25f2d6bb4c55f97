"""`mmrobust build`: assemble a recipe and show what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmrobust.cli.arguments import Overrides, Recipe


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(build)


def build(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the fresh weights and the resolved recipe to this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Assemble a recipe, show the model, and try one training step.

    Prints the parts as a tree with the shapes between them, parameters, FLOPs and the attention backend, and runs one
    forward and backward pass on real samples.

    Examples:

      mmrobust build normtr

      mmrobust build normtr model.fusion.depth=4 --out build/normtr
    """
    from mmrobust import recipe as recipes
    from mmrobust.model.assemble import build as assemble
    from mmrobust.model.assemble import save
    from mmrobust.model.summary import summarize

    built = assemble(recipes.load(recipe, overrides or []))
    summary = summarize(built)
    if out is not None:
        save(built, out)
    if as_json:
        import json

        typer.echo(json.dumps(summary.to_dict(), indent=2))
    else:
        typer.echo(str(summary))
        if out is not None:
            typer.echo(f"\nwritten: {out / 'model.safetensors'}, {out / 'resolved.yaml'}")
