"""`mmrobust evaluate`, `report`, `predict`: what a trained run is worth, and what it says of new data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmrobust.cli.arguments import Run, RunOrStudy, complete_override


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    app.command()(evaluate)
    app.command()(report)
    app.command()(predict)


def evaluate(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes of the evaluation: evaluate.draws=10, data.path=..., ...", autocompletion=complete_override
        ),
    ] = None,
    changed_data: Annotated[
        bool, typer.Option("--changed-data", help="Go on although a data file is not the one of the training.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Measure a trained run, clean and under noise.

    Every trained seed's best checkpoint meets the same noise; writes evaluation.json and predictions/ into the run.

    Examples:

      mmrobust evaluate normtr

      mmrobust evaluate normtr evaluate.draws=10 'evaluate.rates=[0, 0.5, 1]' --json
    """
    from mmrobust.robustness import evaluate as measure
    from mmrobust.training.folder import to_json

    result = measure(run, overrides or [], changed_data=changed_data, quiet=quiet)
    typer.echo(to_json(result, indent=1) if as_json else str(result))


def report(
    run: RunOrStudy,
    latex: Annotated[
        bool, typer.Option("--latex", help="For a paper: write the figures as PDF too, and name the LaTeX tables.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Write the report of a run or a study: one HTML page that opens from disk alone.

    Its figures are in figures/ and its tables, as LaTeX, in tables/. A study's tables are computed anew from what its
    variants predicted, and their pages with them; nothing is trained.

    Examples:

      mmrobust report normtr

      mmrobust report runs/normtr --latex
    """
    from mmrobust.reports import report as write
    from mmrobust.studies import is_study, render

    page = render(run, quiet=as_json, latex=latex).report if is_study(run) else write(run, latex=latex)
    written = lambda folder, kind: sorted(str(path) for path in (page.parent / folder).glob(f"*.{kind}"))
    figures, tables = written("figures", "pdf" if latex else "svg"), written("tables", "tex")
    if as_json:
        typer.echo(json.dumps({"report": str(page), "figures": figures, "tables": tables}, indent=2))
        return
    typer.echo(f"report: {page}")
    for path in [*tables, *figures] if latex else []:
        typer.echo(f"  {path}")


def predict(
    run: Run,
    file: Annotated[Path, typer.Argument(help="New features, in the layout of the run's data; labels are not read.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes of the recipe: data.path=..., ...", autocompletion=complete_override),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The CSV file; FILE's name with .csv in the run's predictions/.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", "--seed", help="Whose model: best (on the validation split), all, or one seed.")
    ] = "best",
    force: Annotated[bool, typer.Option("--force", help="Replace the CSV file if it exists.")] = False,
    enrolment: Annotated[
        Path | None,
        typer.Option("--enrolment", help="More clips of the same speakers, for a model that standardises by group."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the predictions as JSON as well.")] = False,
) -> None:
    """Predict new features with a trained run, and write a CSV file.

    The training data is not needed. What is missing in the new features is masked, with a note.

    Examples:

      mmrobust predict normtr_mosi new.pkl

      mmrobust predict normtr_rml new.npz --out predictions.csv --seeds all
    """
    from mmrobust.inference.predict import predict as apply
    from mmrobust.training.folder import to_json

    result = apply(run, file, seeds=seeds, out=out, force=force, enrolment=enrolment, overrides=overrides or [])
    typer.echo(to_json(result.to_dict(), indent=1) if as_json else str(result))
