"""`mmrobust data`: info, convert."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    family = typer.Typer(help="Look into data files, and convert them.", no_args_is_help=True, rich_markup_mode=None)
    family.command()(info)
    family.command()(convert)
    app.add_typer(family, name="data")


class Task(StrEnum):
    """Which labels of an MMSA file."""

    regression = "regression"
    classification = "classification"


def info(
    file: Annotated[Path, typer.Argument(help="A pickle of MMSA or MulT, or an arrays file (.npz, .safetensors).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is in a data file: splits, shapes, lengths, labels, what is missing, and a recipe that runs on it.

    Nothing in the file is executed.

    Examples:

      mmrobust data info data/mosi/aligned_50.pkl

      mmrobust data info mine.npz --json
    """
    from mmrobust.data import info as data

    summary = data.info(file)
    typer.echo(json.dumps(summary, indent=2) if as_json else data.show(summary))


def convert(
    source: Annotated[Path, typer.Argument(help="A pickle of MMSA or MulT, or an arrays file.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .npz or .safetensors.")],
    task: Annotated[Task, typer.Option("--task", help="Which labels of an MMSA file.")] = Task.regression,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Convert a data file to the arrays layout (docs/data.md); values stay what they are.

    Examples:

      mmrobust data convert data/mosi/aligned_50.pkl mosi.npz

      mmrobust data convert data/mosi/aligned_50.pkl mosi3.safetensors --task classification
    """
    from mmrobust.data import info as data
    from mmrobust.errors import UsageError

    if out.exists() and not force:
        raise UsageError(f"'{out}' is there already; give another name, or --force to replace it")
    typer.echo(f"written: {data.convert(source, out, task.value)}")
