"""Arguments that several verbs share, with their completion in a shell."""

from __future__ import annotations

from typing import Annotated

import typer


def kinds(incomplete: str) -> list[str]:
    """Kinds, for completion in a shell."""
    from mmrobust.registry.spec import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def components(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Components of the kind that was typed, for completion in a shell."""
    from mmrobust.registry import catalogue

    found = catalogue().all(ctx.params.get("kind"))
    return [(spec.name, spec.summary) for spec in found if spec.name.startswith(incomplete)]


Kind = Annotated[str, typer.Argument(help="Its kind, e.g. fusion.", autocompletion=kinds)]
Name = Annotated[str, typer.Argument(help="Its name, or distribution/name.", autocompletion=components)]
