"""`mmrobust recipes`: list, show, copy, validate, schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from mmrobust.cli.arguments import Overrides, Recipe, complete_recipe


def register(app: typer.Typer) -> None:
    """Adds the verbs."""
    family = typer.Typer(help="Find, read, copy and check recipes.", no_args_is_help=True, rich_markup_mode=None)
    family.command("list")(list_)
    family.command()(show)
    family.command()(copy)
    family.command()(validate)
    family.command()(schema)
    app.add_typer(family, name="recipes")


def list_(
    pattern: Annotated[str, typer.Argument(help="Only names that begin with this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the shipped recipes.

    Examples:

      mmrobust recipes list

      mmrobust recipes list normtr --json
    """
    from mmrobust.cli.text import table
    from mmrobust.recipe.compose import shipped

    rows = [
        {"name": name, "summary": _summary(file), "path": str(file)}
        for name, file in shipped().items()
        if name.startswith(pattern)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        typer.echo(table(["name", "summary"], [[row["name"], row["summary"]] for row in rows]))


def _summary(file: Path) -> str:
    """The recipe's summary, without parsing all of it."""
    from mmrobust.errors import RecipeError
    from mmrobust.recipe.document import parse

    match = re.search(r"^summary:.*(?:\n[ \t]+.*)*", file.read_text("utf-8", errors="replace"), re.MULTILINE)
    try:
        return "" if match is None else " ".join(str(parse(match[0], str(file))["summary"].value).split())
    except RecipeError as error:
        return f"(broken: {error.problems[0].message})"


def show(
    recipe: Recipe,
    overrides: Overrides = None,
    variant: Annotated[str | None, typer.Option("--variant", help="Show one variant of a study.")] = None,
    source: Annotated[bool, typer.Option("--source", help="Show the file as written instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a recipe with everything it extends and every default filled in.

    Examples:

      mmrobust recipes show normtr

      mmrobust recipes show normtr model.fusion.depth=4 --json
    """
    from mmrobust import recipe as recipes

    loaded = recipes.load(recipe, overrides or [])
    loaded = loaded if variant is None else loaded.variant(variant)
    if source:
        typer.echo(loaded.source.rstrip("\n"))
    elif as_json:
        typer.echo(json.dumps(loaded.resolved, indent=2))
    else:
        typer.echo(loaded.to_yaml().rstrip("\n"))


def copy(
    recipe: Recipe,
    to: Annotated[Path | None, typer.Argument(help="A file or folder; the current folder by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a shipped recipe to a file of your own.

    Examples:

      mmrobust recipes copy normtr mine.yaml

      mmrobust recipes copy normtr_mosi
    """
    from mmrobust.errors import UsageError
    from mmrobust.files import write_atomic
    from mmrobust.recipe import find

    file = find(recipe)
    target = to or Path()
    target = target / file.name if target.is_dir() else target
    if target.exists() and not force:
        raise UsageError(f"'{target}' is there already; give another name, or --force to replace it")
    write_atomic(target, file.read_bytes())
    typer.echo(f"written: {target}")


def validate(
    recipes: Annotated[
        list[str],
        typer.Argument(
            help="Recipes, and changes (a.b.c=value, ~a.b.c) that hold for all of them.", autocompletion=complete_recipe
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print what is wrong as JSON.")] = False,
) -> None:
    """Check recipes, and say everything that is wrong with them at once.

    Exits with 2 if anything is.

    Examples:

      mmrobust recipes validate normtr

      mmrobust recipes validate normtr normtr_mosi model.width=64
    """
    from mmrobust import recipe as loader
    from mmrobust.cli.failures import problem_facts
    from mmrobust.errors import Problem, RecipeError, UsageError

    files = [text for text in recipes if "=" not in text and not text.startswith("~")]
    overrides = [text for text in recipes if text not in files]
    if not files:
        raise UsageError("name at least one recipe to validate")
    problems: list[Problem] = []
    for file in files:
        try:
            loaded = loader.load(file, overrides)
            if not as_json:
                also = f" ({len(loaded.variants)} variants)" if loaded.variants else ""
                typer.echo(f"{file}: ok{also}")
        except RecipeError as error:
            problems += error.problems
    problems = list(dict.fromkeys(problems))
    if as_json:
        typer.echo(json.dumps([problem_facts(p) for p in problems], indent=2))
    elif problems:
        raise RecipeError(problems)
    if problems:
        raise typer.Exit(2)


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead.")] = None,
) -> None:
    """Write the JSON Schema of recipes, with every installed component and its options.

    Editors complete and check recipes with it, when the recipe begins with
    `# yaml-language-server: $schema=recipe.schema.json`.

    Examples:

      mmrobust recipes schema

      mmrobust recipes schema --out recipe.schema.json
    """
    from mmrobust.files import write_atomic
    from mmrobust.recipe.schema import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text)
        typer.echo(f"written: {out}")
