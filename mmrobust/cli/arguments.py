"""Arguments that several verbs share, with their completion in a shell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def kinds(incomplete: str) -> list[str]:
    """Kinds, for completion in a shell."""
    from mmrobust.registry.spec import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def components(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Components of the kind that was typed, for completion in a shell."""
    from mmrobust.registry import catalogue

    specs = catalogue().all(ctx.params.get("kind"))
    return [(spec.name, spec.summary) for spec in specs if spec.name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Shipped recipes and recipe files, for completion in a shell."""
    from mmrobust.recipe.compose import shipped

    folder, _, start = incomplete.rpartition("/")
    here = f"{folder}/" if folder else ""
    with contextlib.suppress(OSError):
        files = [f"{here}{path.name}" for path in Path(folder or ".").iterdir() if path.suffix in (".yaml", ".yml")]
        files += [f"{here}{path.name}/" for path in Path(folder or ".").iterdir() if start and path.is_dir()]
        return [name for name in (*shipped(), *sorted(files)) if name.startswith(incomplete)]
    return [name for name in shipped() if name.startswith(incomplete)]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Recipes that have runs, and the runs' folders, for completion in a shell."""
    root = Path(ctx.params.get("runs") or "runs")
    files = sorted(root.glob("*/*/resolved.yaml"))
    names = [*dict.fromkeys(path.parents[1].name for path in files), *(str(path.parent) for path in files)]
    return [name for name in names if name.startswith(incomplete)]


def complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys of the recipe, or of the run's, that was typed, for completion in a shell."""
    from mmrobust.errors import MmrobustError
    from mmrobust.recipe import load

    ref = ctx.params.get("recipe") or ctx.params.get("run") or "normtr"
    resolved = [*sorted(Path("runs", ref).glob("*/resolved.yaml"))[-1:], Path(ref, "resolved.yaml")]
    file = next((path for path in resolved if path.is_file()), None)
    deletes = incomplete.startswith("~")
    try:
        keys = list(_keys(load(ref if file is None else file).resolved))
    except MmrobustError:
        return []
    if ctx.params.get("run"):  # what was trained stays as it is
        keys = [key for key in keys if key.startswith(("evaluate.", "data.", "train.device"))]
    typed = incomplete.removeprefix("~")
    return [f"~{key}" if deletes else f"{key}=" for key in keys if key.startswith(typed)]


def _keys(value: Any, before: str = "") -> Iterator[str]:
    """The dotted keys of a recipe's values; a component in a list goes by its name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if before or key not in ("recipe", "variants", "paper", "plugins", "needs"):
                yield from _keys(inner, f"{before}.{key}" if before else key)
        return
    yield before
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and "use" in item:
                yield from _keys(item, f"{before}.{item['use']}")


_RECIPE = "A recipe's path, or the bare name of a shipped one."

Kind = Annotated[str, typer.Argument(help="Its kind, e.g. fusion.", autocompletion=kinds)]
Name = Annotated[str, typer.Argument(help="Its name, or distribution/name.", autocompletion=components)]
Recipe = Annotated[str, typer.Argument(help=_RECIPE, autocompletion=complete_recipe)]
RecipeOrNone = Annotated[str | None, typer.Argument(help=_RECIPE, show_default=False, autocompletion=complete_recipe)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes: a.b.c=value, or ~a.b.c to delete.", show_default=False, autocompletion=complete_override
    ),
]
Run = Annotated[
    str, typer.Argument(help="The folder of a run, or a recipe's name for its latest run.", autocompletion=complete_run)
]
RunOrStudy = Annotated[
    str,
    typer.Argument(
        help="The folder of a run or study, or a recipe's name for its latest.", autocompletion=complete_run
    ),
]
