"""`mmrobust run` and `mmrobust train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrobust.cli.arguments import Overrides, RecipeOrNone, complete_run
from mmrobust.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


def register(app: typer.Typer) -> None:
    """Adds both verbs."""
    app.command()(run)
    app.command()(train)


Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="RUN",
        help="Go on with a run: its folder, or a recipe's name for its latest.",
        autocompletion=complete_run,
    ),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of all runs.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's own folder, instead of a new one.")
]
Seeds = Annotated[
    str | None, typer.Option("--seeds", metavar="N", help="Instead of the recipe's: 5 for 1 to 5, or a list: 3,7,9.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", metavar="N", help="Seeds at a time, each in a process; on a CPU one for each core by default."
    ),
]
ChangedData = Annotated[
    bool, typer.Option("--changed-data", help="Resume although a data file is not the one that the run began on.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def run(
    recipe: RecipeOrNone = None,
    overrides: Overrides = None,
    resume: Resume = None,
    runs: Runs = Path("runs"),
    out: Out = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    changed_data: ChangedData = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build, train, evaluate and report a recipe: the main job.

    Leaves everything in runs/<name>/<time>-<id>/, the report as report.html. What is interrupted or killed goes on
    with --resume and ends with the same bits.

    Examples:

      mmrobust run normtr

      mmrobust run normtr train.epochs=5 model.fusion.depth=4 --seeds 3
    """
    from mmrobust.pipeline import run as do

    _do(do, recipe, overrides, resume, runs, out, seeds, jobs, changed_data, as_json, quiet)


def train(
    recipe: RecipeOrNone = None,
    overrides: Overrides = None,
    resume: Resume = None,
    runs: Runs = Path("runs"),
    out: Out = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    changed_data: ChangedData = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train every seed of a recipe and keep the best checkpoint of each.

    Several seeds are trained at a time: on a CPU as processes (--jobs), on a GPU together as one stacked model.

    Examples:

      mmrobust train normtr train.epochs=5

      mmrobust train normtr train.epochs=2 --seeds 4 --jobs 2 --json
    """
    from mmrobust.training import train as do

    _do(do, recipe, overrides, resume, runs, out, seeds, jobs, changed_data, as_json, quiet)


def _do(
    do: Callable[..., Any],
    recipe: str | None,
    overrides: list[str] | None,
    resume: str | None,
    runs: Path,
    out: Path | None,
    seeds: str | None,
    jobs: int | None,
    changed_data: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    numbers = None if seeds is None else seed_numbers(seeds)
    result = do(
        recipe,
        overrides or [],
        runs=runs,
        out=out,
        seeds=numbers,
        resume=resume,
        jobs=jobs,
        changed_data=changed_data,
        quiet=quiet,
    )
    if as_json:
        from mmrobust.training.folder import to_json

        typer.echo(to_json(result.to_dict(), indent=2))
    else:
        typer.echo(str(result))


def seed_numbers(text: str) -> int | list[int]:
    """`5` is a count, `3,7` and `3,` are the seeds themselves."""
    try:
        numbers = [int(piece) for piece in text.split(",") if piece.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or ("," not in text and numbers[0] < 1):
        raise UsageError(f"--seeds {text}: give how many, e.g. 5 for the seeds 1 to 5, or the seeds, e.g. 3,7,9")
    return numbers if "," in text else numbers[0]
