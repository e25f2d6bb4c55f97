"""`mmrobust study`: the variants of a recipe against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmrobust.cli.arguments import Overrides, RecipeOrNone
from mmrobust.cli.train import Json, Quiet, Runs, Seeds, seed_numbers


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(study)


def study(
    recipe: RecipeOrNone = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="STUDY", help="Go on with a study: its folder, or its name for the latest."),
    ] = None,
    runs: Runs = Path("runs"),
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", help="Variants at a time; one for each core by default."),
    ] = None,
    seeds: Seeds = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, evaluate and compare every variant of a recipe.

    Each variant becomes a whole run in runs/<name>/<time>-<id>/variants/; report.html beside them says which
    differences to the first variant are more than luck. What is interrupted or killed goes on with --resume.

    Examples:

      mmrobust study studies/ablation

      mmrobust study studies/depth train.epochs=10 --seeds 3 --jobs 2
    """
    from mmrobust.studies import run_study
    from mmrobust.training import Job

    numbers = None if seeds is None else seed_numbers(seeds)
    job = Job(recipe, overrides or [], runs=runs, seeds=numbers, resume=resume, jobs=jobs, quiet=quiet)
    result = run_study(job)
    if as_json:
        from mmrobust.training.folder import to_json

        typer.echo(to_json(result.to_dict(), indent=2))
    elif len(result.failed) < len(result.record["variants"]):
        typer.echo(str(result))
    result.check()
