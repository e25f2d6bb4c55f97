"""`mmrobust analyze`: what a trained model has learned."""

from __future__ import annotations

from typing import Annotated

import typer

from mmrobust.cli.arguments import Run


def register(app: typer.Typer) -> None:
    """Adds the verb."""
    app.command()(analyze)


def analyze(
    run: Run,
    seed: Annotated[int | None, typer.Option("--seed", help="Which seed's model; the first by default.")] = None,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="ID", help="Whose attention is drawn; a random one by default.")
    ] = None,
    rate: Annotated[float, typer.Option("--rate", help="Of the noise, for what is shown at one rate.")] = 0.5,
    against: Annotated[
        str | None, typer.Option("--against", metavar="RUN", help="A run to hold it against, side by side.")
    ] = None,
    changed_data: Annotated[
        bool, typer.Option("--changed-data", help="Go on although a data file is not the one of the training.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print analysis.json instead of a summary.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Look into a trained model: features, attention, what can be read from them, worst samples.

    Writes analysis.json into the run and adds a section to its report.html.

    Examples:

      mmrobust analyze normtr

      mmrobust analyze runs/normtr --seed 1 --rate 0.3 --json
    """
    from mmrobust.pipeline import analyze as look
    from mmrobust.training.folder import to_json

    result = look(run, seed=seed, sample=sample, rate=rate, against=against, changed_data=changed_data, quiet=quiet)
    typer.echo(to_json(result, indent=1) if as_json else f"{result}\n\nreport: {result.report}")
